"""A first check: one KeyGraph and one KeyGraphAttention per type against float64, by Triton and by the C library."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import torch
from gpu_lost import is_lost
from gpu_script import Report, options, reason, require_gpu
from keygraph.bench.operators import OUR_LINKS, OUR_TOLERANCE
from keygraph.bench.problem import DTYPES, Inputs, Problem, random_inputs
from keygraph.bench.reference import attention_error, graph_agreement
from keygraph.plugins.torch import unpack_graph
from keygraph.plugins.triton import jit
from torch import Tensor

#: (KeyGraph, KeyGraphAttention) of some inputs.
Host = tuple[Callable[[], Tensor], Callable[[], Tensor]]


def just_in_time(inputs: Inputs) -> Host:
    """Return calls of the kernels through Triton."""
    k = torch.tensor([inputs.neighbours], device=inputs.q.device)
    return (
        lambda: jit.key_graph(inputs.nodes, inputs.nodes, k),
        lambda: jit.key_graph_attention(inputs.q, inputs.k, inputs.v, inputs.graph, None, inputs.scale, False),
    )


def c_library(inputs: Inputs) -> Host:
    """Return calls of the kernels through the C library."""
    from cuda_host import CudaLibrary

    k = torch.tensor([inputs.neighbours], device=inputs.q.device)
    host = CudaLibrary()
    return (
        lambda: host.key_graph(inputs.nodes, inputs.nodes, k),
        lambda: host.key_graph_attention(inputs.q, inputs.k, inputs.v, inputs.graph, None, inputs.scale),
    )


def checked(inputs: Inputs, host: Host, tolerance: float) -> tuple[str, list[str]]:
    """Return a cell of the table, and what is wrong.

    Parameters
    ----------
    inputs
        Of both operators.
    host
        What runs them.
    tolerance
        Largest norm-wise relative error of the attention.
    """
    graph = unpack_graph(host[0](), inputs.nodes.shape[2])
    links = int((graph.sum(-1) != inputs.neighbours).sum())
    share = graph_agreement(inputs, graph)
    error = attention_error(inputs, host[1]())
    wrong = []
    if links or not share >= OUR_LINKS:
        wrong.append(f"KeyGraph: {links} rows have another number of links than k, {share:.2%} are float64's")
    if not error <= tolerance:
        wrong.append(f"KeyGraphAttention: {error:.2g} of its size from float64")
    return f"{share:.2%} of links, error {error:.1e}", wrong


def main() -> int:
    """Run the step from the command line; return its exit code."""
    parser = options(__doc__, rounds=1)
    parser.add_argument("--dtype", nargs="*", choices=list(DTYPES), default=list(DTYPES))
    arguments = parser.parse_args()
    place = require_gpu()
    report = Report(arguments)
    if shutil.which("nvidia-smi"):
        said = subprocess.run(["nvidia-smi", "-q", "-d", "CLOCK,POWER"], capture_output=True, text=True, check=False)
        print(said.stdout)
    rows: list[list[str]] = []
    for dtype in arguments.dtype:
        problem = Problem(2, 2, 64, 16, 9, dtype, 32) if arguments.tiny else Problem(4, 6, 1024, 30, 128, dtype)
        inputs = random_inputs(problem, place)
        row = [str(problem)]
        for name, host in (("just in time", just_in_time), ("C library", c_library)):
            try:
                cell, wrong = checked(inputs, host(inputs), OUR_TOLERANCE[dtype])
            except Exception as error:  # A kernel that does not start or compile must not hide the other ones.
                cell, wrong = "failed", [reason(error)]
            row.append(cell if not wrong else "wrong: " + "; ".join(wrong))
            report.errors += [f"{name}, {problem}: {what}" for what in wrong]
            header = ["windows x heads x N x D, k", "just in time", "C library"]
            report.table("against float64", header, [*rows, [*row, *["-"] * (len(header) - len(row))]])
            if is_lost():
                report.errors.append("the GPU is lost to this process: nothing else was tried")
                return report.finish()
        rows.append(row)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
