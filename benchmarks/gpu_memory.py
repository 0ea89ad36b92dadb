"""The papers' table of memory: what each way of computing the attention needs at its peak beyond q, k, v and the graph.

A way's own preparations count (its mask, its list of neighbours), and its output. The windows of every line make up the
same number of nodes, as if one image were cut in different ways. "triton-like" is what a fused kernel over a list of
neighbours keeps, as the papers': the list in int64, as topk makes it, and the output; the kernel is ours.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from gpu_table import RESULTS, machine, markdown, write
from keygraph.bench import ways
from keygraph.bench.memory import peak_extra
from keygraph.bench.problem import Inputs, Problem, random_inputs
from keygraph.plugins.torch import unpack_graph

NODES = (512, 1024, 2304, 4096)
NEIGHBOURS = (64, 128, 256, 512)
ALL_NODES = 64 * 1024


def triton_like(inputs: Inputs) -> ways.Call:
    """See the module."""
    nodes = inputs.k.shape[2]
    index = unpack_graph(inputs.graph, nodes).nonzero()[:, -1].view(-1, nodes, inputs.neighbours)
    ours = ways.our_attention(inputs)

    def call() -> torch.Tensor:
        kept = index.clone()  # without what it took to make the list
        output = ours()
        del kept
        return output

    return call


WAYS: dict[str, ways.Way] = {
    "ours": ways.our_attention,
    "triton-like": triton_like,
    "flex": ways.flex,
    "sdpa": ways.sdpa,
    "mask": ways.mask,
    "gather": ways.gather(None),
}
#: Whose preparations are not what is compared.
PREPARED = ("triton-like",)
#: Ours may need so many times inputs and output, all together.
TARGET = 1.05


def measured(name: str, problem: Problem, device: torch.device) -> dict[str, Any]:
    """Peak bytes beyond the inputs, and as a multiple of inputs and output; or why there are none."""
    inputs = random_inputs(problem, device)
    way = WAYS[name]
    if name in PREPARED:
        call = way(inputs)
        way = lambda _inputs: call  # noqa: E731
    try:
        peak = peak_extra(way, inputs)
    except torch.OutOfMemoryError:
        return {"peak_bytes": None, "reason": "out of memory"}
    except (RuntimeError, NotImplementedError) as error:
        return {"peak_bytes": None, "reason": (str(error).splitlines() or [type(error).__name__])[0]}
    output = inputs.q.nbytes
    return {
        "peak_bytes": peak,
        "of_inputs_and_output": (problem.attention_bytes - output + peak) / problem.attention_bytes,
    }


def cell(result: dict[str, Any]) -> str:
    if result["peak_bytes"] is None:
        return str(result["reason"])
    return f"{result['peak_bytes'] / 2**20:,.0f} MiB ({result['of_inputs_and_output']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, help="also write the table here")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu_memory.json")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device, whose allocator this measures")
    device = torch.device("cuda")
    report: dict[str, Any] = {"machine": machine(device), "cases": []}
    rows = []
    for nodes in NODES:
        for k in NEIGHBOURS:
            problem = Problem(max(1, ALL_NODES // nodes), 6, nodes, 30, k, "float16")
            results = {}
            for name in WAYS:
                results[name] = measured(name, problem, device)
                torch.cuda.empty_cache()
            report["cases"].append({"problem": vars(problem), "ways": results})
            rows.append([f"{problem.windows} x 6 x {nodes} x 30, {k}", *(cell(results[name]) for name in WAYS)])
            print(" | ".join(rows[-1]), flush=True)
    table = markdown(["windows x heads x N x D, k", *WAYS], rows)
    print(f"\n{table}\n\nIn brackets: inputs and peak over inputs and output; ours wants at most {TARGET}.")
    write(arguments.output, report)
    if arguments.markdown:
        arguments.markdown.write_text(table + "\n")


if __name__ == "__main__":
    main()
