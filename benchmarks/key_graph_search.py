"""Steps of KeyGraph's search for the k-th similarity, counted in the kernel by Triton's interpreter. No GPU is needed.

    python benchmarks/key_graph_search.py
    git show 215fdff:plugins/triton/key_graph.py > old.py && python benchmarks/key_graph_search.py --kernel old.py

A step reads all similarities of a block of rows once: from registers in the resident form, by computing them again in
the streamed form. A block continues until its last row is done, so a cell is the mean and the maximum over blocks.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from keygraph.models import load_checkpoint
from keygraph.plugins.torch.operators import graph_observer

os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel's module is imported
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "plugins"))
from keygraph.plugins.triton.variants import VARIANTS, Variant
from load_module import load_module
from photos import add_noise, unseen_photo
from search_steps import steps

CHECKPOINT = Path(__file__).parent.parent / "examples" / "kgt-denoise-tiny.ckpt"
#: Nodes -> the variants that are counted: two sizes of blocks, or the two forms.
COUNTED = {256: (220, 213), 1024: (222, 215), 2048: (223, 218)}
#: Rows that are made for each case.
ROWS = 128
#: Rows of similarities that are given instead of computed; see `given`.
GIVEN_ROWS = 64
CHANNELS = 180

Inputs = tuple[np.ndarray, np.ndarray]


def normal(nodes: int) -> Inputs:
    """Return independent features, query and key being the same: each row has itself as an outlier."""
    return same(np.random.default_rng(0).standard_normal((1, nodes, CHANNELS)))


def low_rank(nodes: int) -> Inputs:
    """Return correlated features: four directions, a common mean and noise."""
    random = np.random.default_rng(1)
    features = random.standard_normal((nodes, 4)) @ random.standard_normal((4, CHANNELS))
    return same((features + 0.5 * random.standard_normal(features.shape) + 1)[None])


def flat(nodes: int) -> Inputs:
    """Return features of which half are equal, as in a flat region of an image."""
    features = np.random.default_rng(2).standard_normal((1, nodes, CHANNELS))
    features[:, ::2] = features[:, :1]
    return same(features)


def trained(stage: int) -> Callable[[int], Inputs]:
    """Return the features that a stage of the trained demo network compares, on a noisy photograph."""

    def inputs(nodes: int) -> Inputs:
        seen: list[np.ndarray] = []

        def observe(query: torch.Tensor, key: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
            seen.append(key[:, 0].numpy())
            return graph

        image = add_noise(unseen_photo(), 25.0, seed=0)[:256, :256].astype(np.float32) / 255
        token = graph_observer.set(observe)
        try:
            with torch.no_grad():
                network = load_checkpoint(CHECKPOINT).module
                network(torch.from_numpy(image).movedim(2, 0)[None], torch.tensor([64]))
        finally:
            graph_observer.reset(token)
        # The network's windows have 256 nodes: several beside each other make a larger one.
        windows = seen[stage].reshape(-1, nodes, seen[stage].shape[-1])
        return same(windows[:: max(1, len(windows) // 4)][:4])

    return inputs


def given(make: Callable[[np.random.Generator, tuple[int, int]], np.ndarray]) -> Callable[[int], Inputs]:
    """Return exact similarities: row r has the query e_r, and channel r of node n is their similarity."""

    def inputs(nodes: int) -> Inputs:
        similarity = make(np.random.default_rng(3), (GIVEN_ROWS, nodes))
        query = np.eye(GIVEN_ROWS, dtype=np.float32)
        return query[None, None], np.ascontiguousarray(similarity.T, dtype=np.float32)[None, None]

    return inputs


def with_node_7(value: float) -> Callable[[np.random.Generator, tuple[int, int]], np.ndarray]:
    """Return random similarities in which node 7 has this value in every row."""

    def make(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        similarity = random.standard_normal(shape)
        similarity[:, 7] = value
        return similarity

    return make


def same(features: np.ndarray) -> Inputs:
    """Return float16 [B, 1, N, C] as key, and some rows of each window as query, `ROWS` in all."""
    key = features.astype(np.float16)[:, None]
    rows = np.random.default_rng(4).permutation(key.shape[2])[: ROWS // key.shape[0]]
    return key[:, :, rows], key


CASES: dict[str, Callable[[int], Inputs]] = {
    "normal": normal,
    "low rank": low_rank,
    "trained, stage 0": trained(0),
    "trained, stage 1": trained(1),
    "trained, stage 2": trained(2),
    "trained, stage 3": trained(3),
    "half of the nodes equal": flat,
    "integers": given(lambda random, shape: random.integers(-9, 10, shape)),
    "two clusters": given(lambda random, shape: random.standard_normal(shape) + 100 * (random.random(shape) > 0.9)),
    "Cauchy": given(lambda random, shape: random.standard_cauchy(shape)),
    "powers of two": given(
        lambda random, shape: np.exp2(random.integers(-60, 60, shape)) * random.choice([-1, 1], shape)
    ),
    "one is 1e30": given(with_node_7(1e30)),
    "one is NaN": given(with_node_7(np.nan)),
}


def cell(variant: Variant, inputs: Inputs, k: int, module: ModuleType | None) -> str:
    """Return the mean and the maximum of the steps.

    Parameters
    ----------
    variant
        Of the kernel.
    inputs
        Query and key.
    k
        Neighbours of each node.
    module
        Another version of the kernel's module, or None.
    """
    counts = steps(variant, *inputs, k, module)
    return f"{np.mean(counts):.1f} / {max(counts)}"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", choices=COUNTED, default=[256, 1024])
    parser.add_argument("--k", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--kernel", type=Path, help="another version of plugins/triton/key_graph.py")
    options = parser.parse_args()
    module = load_module(options.kernel, "other_key_graph") if options.kernel else None
    warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of infinities and NaN
    numbered = {variant.number: variant for variant in VARIANTS}
    for nodes in options.nodes:
        ks = [k for k in options.k if k < nodes]
        variants = [numbered[number] for number in COUNTED[nodes]]
        titles = [f"{'streamed, ' * (not v.max_nodes)}{v.block_rows} rows, k = {k}" for v in variants for k in ks]
        print(f"| N = {nodes} | {' | '.join(titles)} |")
        print("|---" * (len(titles) + 1) + "|")
        for name in options.cases:
            inputs = CASES[name](nodes)
            cells = [cell(variant, inputs, k, module) for variant in variants for k in ks]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
