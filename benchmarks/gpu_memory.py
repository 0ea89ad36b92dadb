"""The papers' table of memory: peak memory of each implementation of the attention beyond q, k, v and the graph.

An implementation's own preparation counts (its mask, its list of neighbours), and its output. The windows of every line
have the same number of nodes in total, as if one image were cut in different ways. "triton-like" is what a fused kernel
over a list of neighbours, as in the papers, keeps: the list in int64, as topk makes it, and the output. Its kernel is
keygraph's.
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
    """Prepare keygraph's attention together with a list of neighbours, as the module says."""
    nodes = inputs.k.shape[2]
    index = unpack_graph(inputs.graph, nodes).nonzero()[:, -1].view(-1, nodes, inputs.neighbours)
    ours = implementations.our_attention(inputs)

    def call() -> torch.Tensor:
        kept = index.clone()  # without what it took to make the list
        output = ours()
        del kept
        return output

    return call


IMPLEMENTATIONS: dict[str, implementations.Implementation] = {
    "ours": implementations.our_attention,
    "triton-like": triton_like,
    "flex": implementations.flex,
    "sdpa": implementations.sdpa,
    "mask": implementations.mask,
    "gather": implementations.gather(None),
}
#: Implementations whose preparation does not count.
PREPARED = ("triton-like",)
#: The project's target: peak memory, inputs included, over the memory of inputs and output.
TARGET = 1.05


def measured(name: str, problem: Problem, place: torch.device) -> dict[str, Any]:
    """Return the peak bytes beyond the inputs, also as a multiple of inputs and output, or why there are none.

    Parameters
    ----------
    name
        A key of `IMPLEMENTATIONS`.
    problem
        The sizes.
    place
        The GPU.
    """
    inputs = random_inputs(problem, place)
    implementation = IMPLEMENTATIONS[name]
    if name in PREPARED:
        call = implementation(inputs)
        implementation = lambda _inputs: call  # noqa: E731
    try:
        peak = peak_extra(implementation, inputs)
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
    """Return a cell of the table."""
    if result["peak_bytes"] is None:
        return str(result["reason"])
    return f"{result['peak_bytes'] / 2**20:,.0f} MiB ({result['of_inputs_and_output']:.2f})"


def main() -> int:
    """Run the step from the command line; return its exit code."""
    parser = options(__doc__, rounds=1)
    parser.add_argument("--nodes", type=int, nargs="*", default=NODES)
    parser.add_argument("--neighbours", type=int, nargs="*", default=NEIGHBOURS)
    parser.add_argument("--without", nargs="*", default=[], choices=list(IMPLEMENTATIONS))
    arguments = parser.parse_args()
    place = require_gpu()
    report = Report(arguments)
    report.values["cases"] = []
    names = [name for name in IMPLEMENTATIONS if name not in arguments.without]
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
