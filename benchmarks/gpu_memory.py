"""The papers' table of memory: what each way of computing the attention needs at its peak beyond q, k, v and the graph.

A way's own preparations count (its mask, its list of neighbours), and its output. The windows of every line make up the
same number of nodes, as if one image were cut in different ways. "triton-like" is what a fused kernel over a list of
neighbours keeps, as the papers': the list in int64, as topk makes it, and the output; the kernel is ours.
"""

from __future__ import annotations

from typing import Any

import torch
from gpu_script import Report, options, reason, require_gpu
from keygraph.bench import implementations
from keygraph.bench.memory import peak_extra
from keygraph.bench.problem import Inputs, Problem, random_inputs
from keygraph.plugins.torch import unpack_graph

NODES = (1024, 512, 2304, 4096)
NEIGHBOURS = (64, 128, 256, 512)
ALL_NODES = 64 * 1024


def triton_like(inputs: Inputs) -> implementations.Call:
    """See the module."""
    nodes = inputs.k.shape[2]
    index = unpack_graph(inputs.graph, nodes).nonzero()[:, -1].view(-1, nodes, inputs.neighbours)
    ours = implementations.our_attention(inputs)

    def call() -> torch.Tensor:
        kept = index.clone()  # without what it took to make the list
        output = ours()
        del kept
        return output

    return call


WAYS: dict[str, implementations.Implementation] = {
    "ours": implementations.our_attention,
    "triton-like": triton_like,
    "flex": implementations.flex,
    "sdpa": implementations.sdpa,
    "mask": implementations.mask,
    "gather": implementations.gather(None),
}
#: Whose preparations are not what is compared.
PREPARED = ("triton-like",)
#: Ours may need so many times inputs and output, all together.
TARGET = 1.05


def measured(name: str, problem: Problem, place: torch.device) -> dict[str, Any]:
    """Peak bytes beyond the inputs, and as a multiple of inputs and output; or why there are none."""
    inputs = random_inputs(problem, place)
    way = WAYS[name]
    if name in PREPARED:
        call = way(inputs)
        way = lambda _inputs: call  # noqa: E731
    try:
        peak = peak_extra(way, inputs)
    except torch.OutOfMemoryError:
        return {"peak_bytes": None, "reason": "out of memory"}
    except (RuntimeError, NotImplementedError) as error:
        return {"peak_bytes": None, "reason": reason(error)}
    output = inputs.q.nbytes
    return {
        "peak_bytes": peak,
        "of_inputs_and_output": (problem.attention_bytes - output + peak) / problem.attention_bytes,
    }


def cell(result: dict[str, Any]) -> str:
    if result["peak_bytes"] is None:
        return str(result["reason"])
    return f"{result['peak_bytes'] / 2**20:,.0f} MiB ({result['of_inputs_and_output']:.2f})"


def main() -> int:
    parser = options(__doc__, rounds=1)
    parser.add_argument("--nodes", type=int, nargs="*", default=NODES)
    parser.add_argument("--neighbours", type=int, nargs="*", default=NEIGHBOURS)
    parser.add_argument("--without", nargs="*", default=[], choices=list(WAYS))
    arguments = parser.parse_args()
    place = require_gpu()
    report = Report(arguments)
    report.values["cases"] = []
    names = [name for name in WAYS if name not in arguments.without]
    all_nodes, heads = (64, 2) if arguments.tiny else (ALL_NODES, 6)
    rows = []
    for nodes in (32,) if arguments.tiny else arguments.nodes:
        for k in (8,) if arguments.tiny else arguments.neighbours:
            problem = Problem(max(1, all_nodes // nodes), heads, nodes, 30, k, "float16")
            results = {}
            for name in names:
                results[name] = measured(name, problem, place)
                torch.cuda.empty_cache()
            report.values["cases"].append({"problem": vars(problem), "ways": results})
            rows.append([f"{problem.windows} x {heads} x {nodes} x 30, {k}", *(cell(results[name]) for name in names)])
            print(" | ".join(rows[-1]), flush=True)
            report.table(
                "peak beyond the inputs",
                ["windows x heads x N x D, k", *names],
                rows,
                f"In brackets: inputs and peak over inputs and output; ours wants at most {TARGET}.",
            )
            ours = results["ours"]
            if ours["peak_bytes"] is None:
                report.errors.append(f"ours on {problem}: {ours['reason']}")
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
