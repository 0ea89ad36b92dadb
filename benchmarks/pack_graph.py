"""PackGraph and TopKGraph on the CPU, against their functions in plain ONNX Runtime and against copying the mask.

    python benchmarks/pack_graph.py --alone

A copy reads the mask or the scores as the operators do, and writes as much: half of its time is about what reading
alone takes. Prints a Markdown table, in milliseconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from keygraph.bench import onnx_runtime
from keygraph.bench.timing import cpu_times
from keygraph.export.functions import pack_graph_function, top_k_graph_function
from timing import INSTRUCTION_SETS, THREADS, features, instruction_set

#: B, G, M, N.
SHAPE = (16, 1, 1024, 1024)
NEIGHBOURS = 256


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", choices=INSTRUCTION_SETS, help="force an instruction set upon our operators")
    parser.add_argument("--alone", action="store_true", help="one thread, least processor time: for a busy machine")
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    threads = 1 if arguments.alone else THREADS
    torch.set_num_threads(threads)
    print(f"{features(threads)['processor']}, {threads} thread{'s' * (threads > 1)}, {instruction_set(arguments.isa)}")
    scores = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    threshold = scores.topk(NEIGHBOURS).values[..., -1:].contiguous()
    selected = scores >= threshold
    print("\n| mask | ours | function | copy | GB/s | function / ours |\n|---|---|---|---|---|---|")
    for name, mask, least in (
        ("bool", selected, None),
        ("float32", selected.float(), None),
        ("float32, threshold", scores, threshold),
        ("float16, threshold", scores.half(), threshold.half()),
        ("float32, top-k", scores, NEIGHBOURS),
    ):
        copied = torch.empty_like(mask)
        calls: dict[str, Callable[[], Any]] = {"copy": partial(copied.copy_, mask)}
        if isinstance(least, int):
            calls["ours"] = onnx_runtime.our_top_k(mask, least)
            calls["function"] = onnx_runtime.our_top_k(mask, least, [top_k_graph_function()])
        else:
            calls["ours"] = onnx_runtime.our_pack(mask, least)
            calls["function"] = onnx_runtime.our_pack(mask, least, [pack_graph_function(least is not None)])
        if not torch.equal(calls["ours"](), calls["function"]()):
            raise SystemExit(f"{name}: the function's graph is another one")
        times = cpu_times(calls, arguments.rounds, arguments.alone)
        speed = mask.nbytes / times["ours"] / 1e6
        cells = [f"{times[each]:.2f}" for each in ("ours", "function", "copy")]
        print(f"| {name} | {' | '.join(cells)} | {speed:.1f} | {times['function'] / times['ours']:.0f} |")


if __name__ == "__main__":
    main()
