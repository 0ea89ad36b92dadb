"""Share of empty blocks in a trained network's key graphs: the most that skipping them could save. No GPU is needed.

    python benchmarks/block_occupancy.py

The graphs are those of the demo's denoiser on a noisy photograph that it was not trained on. A dense kernel can skip a
block of rows and nodes without a selected pair. The nodes are taken in the window's order, and sorted once a stage so
that similar ones are adjacent: by their first principal component, or by recursive halving along principal components.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from keygraph.models import load_checkpoint
from keygraph.plugins.torch import unpack_graph
from keygraph.plugins.torch.operators import graph_observer
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from photos import add_noise, unseen_photo

CHECKPOINT = Path(__file__).parent.parent / "examples" / "kgt-denoise-tiny.ckpt"
#: Pixels of the photograph.
_SIDE = 256
#: Rows and nodes of a block.
BLOCKS = ((128, 64), (64, 64), (64, 32), (16, 16))


def key_graphs(k: int) -> list[tuple[Tensor, Tensor]]:
    """Return nodes [W, N, C] and selection bool[W, N, N] of every stage."""
    found = []

    def note(query: Tensor, _key: Tensor, graph: Tensor) -> Tensor:
        found.append((query.flatten(0, 1), unpack_graph(graph, query.shape[2]).flatten(0, 1)))
        return graph

    image = add_noise(unseen_photo(), 25.0, seed=0)[:_SIDE, :_SIDE].astype(np.float32) / 255
    token = graph_observer.set(note)
    try:
        with torch.inference_mode():
            load_checkpoint(CHECKPOINT).module(torch.from_numpy(image).movedim(2, 0)[None], torch.tensor([k]))
    finally:
        graph_observer.reset(token)
    return found


def by_component(nodes: Tensor) -> Tensor:
    """Return the order int64[N] of the nodes T[N, C] by their first principal component."""
    centred = nodes - nodes.mean(0)
    component: Tensor = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    return (centred @ component).argsort()


def by_halves(nodes: Tensor, least: int = 16) -> Tensor:
    """Return the order int64[N] in which every half of every half is similar, down to `least` nodes."""
    order = by_component(nodes)
    if len(order) <= least:
        return order
    middle = len(order) // 2
    return torch.cat([part[by_halves(nodes[part], least)] for part in (order[:middle], order[middle:])])


ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "as they lie": lambda nodes: torch.arange(len(nodes)),
    "first component": by_component,
    "halves": by_halves,
}


def empty_share(selected: Tensor, rows: int, nodes: int) -> float:
    """Return the share of blocks without a selected pair.

    Parameters
    ----------
    selected
        bool[N, N].
    rows, nodes
        Size of a block.
    """
    blocks = selected.view(len(selected) // rows, rows, -1, nodes)
    return 1 - float(blocks.any(3).any(1).float().mean())


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", nargs="+", type=int, default=[32, 64, 128])
    parser.add_argument("--windows", type=int, default=12, help="of each stage, taken evenly")
    given = parser.parse_args()
    header = " | ".join(f"{rows} x {nodes}" for rows, nodes in BLOCKS)
    print(f"| k | order | {header} |\n|---|---|{'---|' * len(BLOCKS)}")
    for k in given.k:
        graphs = key_graphs(k)
        windows = [
            (nodes[i], selected[i])
            for nodes, selected in graphs
            for i in range(0, len(nodes), max(1, len(nodes) // given.windows))
        ]
        for name, order in ORDERS.items():
            orders = [order(nodes) for nodes, _ in windows]
            sorted_ = [s[o][:, o] for (_, s), o in zip(windows, orders, strict=True)]
            shares = [sum(empty_share(s, *block) for s in sorted_) / len(sorted_) for block in BLOCKS]
            print(f"| {k} | {name} | {' | '.join(f'{share:.1%}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    main()
