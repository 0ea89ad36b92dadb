"""The two operators on the CPU, against PyTorch and the functions in plain ONNX Runtime.

One process, two threads, float32; every round runs each call once (see `keygraph.bench.timing`). The ratios of the
medians are the result, not the times. Masks, index lists and whatever else an alternative needs are made beforehand:
only the operator itself is timed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

import torch
from keygraph.bench import implementations, onnx_runtime
from keygraph.bench.implementations import Call
from keygraph.bench.problem import Problem, random_inputs
from keygraph.bench.timing import cpu_times
from keygraph.export.functions import operator_functions
from timing import THREADS, add_options, features, instruction_set, target

SIZES = ((16, 256, 64), (4, 1024, 128), (4, 1024, 256), (4, 1024, 512))
CASES = [
    Problem(windows, heads=6, nodes=nodes, channels=30, k=k, dtype="float32", graph_channels=180)
    for windows, nodes, k in SIZES
]
#: The project's targets on AVX-512, as ratios of the alternative's time to ours; half of it on AVX2.
TARGETS = {
    64: {"sdpa": 3, "mask": 8, "gather": 80, "topk": 2.5},
    128: {"sdpa": 4.5, "mask": 20, "gather": 90, "topk": 2.5},
    256: {"sdpa": 2.8, "mask": 12, "gather": 90, "topk": 2.5},
    512: {"sdpa": 1.6, "mask": 7, "gather": 120, "topk": 2.5},
}
ATTENTION_ALTERNATIVES = ("sdpa", "mask", "gather", "functions")
GRAPH_ALTERNATIVES = ("topk", "topk + scatter", "functions")


def contenders(case: Problem) -> tuple[dict[str, Call], dict[str, Call]]:
    """Return the calls of the attention and of the graph, "ours" first, after checking every attention against it."""
    inputs = random_inputs(case, torch.device("cpu"), seed=1)
    functions = operator_functions()
    attention = {
        "ours": onnx_runtime.our_attention(inputs),
        "functions": onnx_runtime.our_attention(inputs, functions),
        "sdpa": implementations.sdpa(inputs),
        "mask": implementations.mask(inputs),
        "gather": implementations.gather()(inputs),
    }
    graph = {
        "ours": onnx_runtime.our_graph(inputs),
        "functions": onnx_runtime.our_graph(inputs, functions),
        "topk": implementations.topk(inputs),
        "topk + scatter": implementations.topk_scatter(inputs),
    }
    ours = attention["ours"]()
    for name, call in attention.items():
        difference = (call() - ours).abs().max()
        if not difference < 1e-4:
            raise SystemExit(f"{case}: {name} and ours differ by {difference:.2g}")
    return attention, graph


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, 25, "operators.json")
    arguments = parser.parse_args()

    threads = 1 if arguments.alone else THREADS
    torch.set_num_threads(threads)
    isa = instruction_set(arguments.isa)
    report: dict[str, Any] = {"machine": features(threads), "isa": isa, "cases": []}
    print(f"{report['machine']['processor']}, {threads} thread{'s' * (threads > 1)}, {isa}")
    for number, case in enumerate(CASES):
        if arguments.only and number not in arguments.only:
            continue
        attention, graph = contenders(case)
        times = {
            op: cpu_times(calls, arguments.rounds, arguments.alone)
            for op, calls in {"attention": attention, "graph": graph}.items()
        }
        ratios = {op: {n: t / each["ours"] for n, t in each.items() if n != "ours"} for op, each in times.items()}
        report["cases"].append({"case": asdict(case), "milliseconds": times, "ratios": ratios})
        print(f"\n{case}")
        for op, names in (("attention", ATTENTION_ALTERNATIVES), ("graph", GRAPH_ALTERNATIVES)):
            print(f"  {op:10s} ours {times[op]['ours']:8.2f} ms")
            for name in names:
                goal = target(TARGETS[case.k].get(name), isa)
                print(f"    {name:14s} {times[op][name]:8.2f} ms   {ratios[op][name]:7.2f} x{goal}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{arguments.output}")


if __name__ == "__main__":
    main()
