"""The two operators on the CPU against what PyTorch and plain ONNX Runtime offer.

One process, two threads, float32; every round runs each contender once (see `timing`); the medians' ratios are what
counts, not the times. Masks, index lists and whatever else a rival needs are made beforehand: only the operator itself
is timed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from timing import THREADS, add_options, features, instruction_set, measure, target


@dataclass(frozen=True)
class Case:
    """Windows, heads, nodes per window, channels per head, neighbours per node; the graph sees 180 channels."""

    windows: int
    heads: int
    nodes: int
    channels: int
    k: int
    graph_channels: int = 180

    def __str__(self) -> str:
        return f"{self.windows} x {self.heads} x {self.nodes} x {self.channels}, k = {self.k}"


CASES = [Case(16, 6, 256, 30, 64), Case(4, 6, 1024, 30, 128), Case(4, 6, 1024, 30, 256), Case(4, 6, 1024, 30, 512)]
#: What the project wants on AVX-512, as ratios of the rival's time to ours; on AVX2 half of it.
TARGETS = {
    64: {"sdpa": 3, "mask": 8, "gather": 80, "topk": 2.5},
    128: {"sdpa": 4.5, "mask": 20, "gather": 90, "topk": 2.5},
    256: {"sdpa": 2.8, "mask": 12, "gather": 90, "topk": 2.5},
    512: {"sdpa": 1.6, "mask": 7, "gather": 120, "topk": 2.5},
}
ATTENTION_RIVALS = ("sdpa", "mask", "gather", "functions")
GRAPH_RIVALS = ("topk", "topk+scatter", "functions")


def onnx_runtime(
    op: str, inputs: str, feeds: dict[str, np.ndarray], functions: bool, threads: int, **attributes: Any
) -> Callable[[], Any]:
    """One inference of one node, with bound inputs: our library's kernel, or the function of standard operators."""
    import keygraph.plugins
    import onnx
    import onnxruntime
    from keygraph.export.functions import operator_functions

    element = onnx.helper.np_dtype_to_tensor_dtype
    values = [onnx.helper.make_tensor_value_info(n, element(a.dtype), list(a.shape)) for n, a in feeds.items()]
    output = onnx.helper.make_tensor_value_info(
        "output", onnx.TensorProto.INT32 if op == "KeyGraph" else onnx.TensorProto.FLOAT, None
    )
    node = onnx.helper.make_node(op, inputs.split(), ["output"], domain="keygraph", **attributes)
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], op, values, [output]),
        opset_imports=[onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("keygraph", 1)],
        functions=operator_functions() if functions else [],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if not functions:
        options.register_custom_ops_library(str(keygraph.plugins.library("onnxruntime")))
    run = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = run.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    binding.bind_output("output")

    def call() -> Any:
        run.run_with_iobinding(binding)
        return binding

    return call


def array(result: Any) -> np.ndarray:
    """What a contender returned, as an array."""
    return result.numpy() if hasattr(result, "numpy") else result.get_outputs()[0].numpy()


def contenders(case: Case, threads: int) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]]]:
    """The attention's and the graph's contenders, "ours" first; every result has been compared with ours."""
    import torch
    from keygraph.plugins.torch import unpack_graph

    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(case.windows, case.heads, case.nodes, case.channels, generator=generator) for _ in range(3))
    nodes = torch.randn(case.windows, 1, case.nodes, case.graph_channels, generator=generator)
    graph_feeds = {"query": nodes.numpy(), "k": np.array([case.k])}
    scale = case.channels**-0.5

    # One tensor for query and key, as in a KGT.
    graph: dict[str, Callable[[], Any]] = {
        name: onnx_runtime("KeyGraph", "query query k", graph_feeds, name == "functions", threads)
        for name in ("ours", "functions")
    }
    words = torch.from_numpy(array(graph["ours"]()))
    selected = unpack_graph(words, case.nodes)
    index = selected.nonzero()[:, -1].view(case.windows, case.nodes, case.k)
    feeds = {"q": q.numpy(), "k": k.numpy(), "v": v.numpy(), "graph": words.numpy()}
    attention: dict[str, Callable[[], Any]] = {
        name: onnx_runtime("KeyGraphAttention", "q k v graph", feeds, name == "functions", threads, scale=scale)
        for name in ("ours", "functions")
    }

    def sdpa() -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=selected, scale=scale)

    def mask() -> torch.Tensor:
        scores = (q @ k.mT) * scale
        return scores.masked_fill(~selected, -torch.inf).softmax(-1) @ v

    def gather_windows(start: int, stop: int) -> torch.Tensor:
        flat = index[start:stop].view(stop - start, 1, -1, 1).expand(-1, case.heads, -1, case.channels)
        chosen_k, chosen_v = (t[start:stop].gather(2, flat).unflatten(2, (case.nodes, case.k)) for t in (k, v))
        weights = (torch.einsum("bhmd,bhmjd->bhmj", q[start:stop], chosen_k) * scale).softmax(-1)
        return torch.einsum("bhmj,bhmjd->bhmd", weights, chosen_v)

    # As many windows at a time as make copies of at most a gigabyte.
    fitting = max(1, (1 << 30) // (case.heads * case.nodes * case.k * case.channels * 4))

    def gather() -> torch.Tensor:
        starts = range(0, case.windows, fitting)
        return torch.cat([gather_windows(start, min(case.windows, start + fitting)) for start in starts])

    def topk() -> torch.Tensor:
        return (nodes @ nodes.mT).topk(case.k, dim=-1, sorted=False).indices

    def topk_scatter() -> torch.Tensor:
        mask = torch.zeros(case.windows, 1, case.nodes, case.nodes, dtype=torch.bool)
        return mask.scatter_(-1, topk(), True)

    attention |= {"sdpa": sdpa, "mask": mask, "gather": gather}
    graph |= {"topk": topk, "topk+scatter": topk_scatter}
    ours = array(attention["ours"]())
    for name, call in attention.items():
        difference = np.abs(array(call()) - ours).max()
        if not difference < 1e-4:
            raise SystemExit(f"{case}: {name} and ours differ by {difference:.2g}")
    return attention, graph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, 25, "operators.json")
    arguments = parser.parse_args()

    import torch

    threads = 1 if arguments.alone else THREADS
    torch.set_num_threads(threads)
    isa = instruction_set(arguments.isa)
    report: dict[str, Any] = {"machine": features(threads), "isa": isa, "cases": []}
    print(f"{report['machine']['processor']}, {threads} thread{'s' * (threads > 1)}, {isa}")
    for number, case in enumerate(CASES):
        if arguments.only and number not in arguments.only:
            continue
        attention, graph = contenders(case, threads)
        times = {
            op: measure(calls, arguments.rounds, arguments.alone)
            for op, calls in {"attention": attention, "graph": graph}.items()
        }
        ratios = {op: {n: t / each["ours"] for n, t in each.items() if n != "ours"} for op, each in times.items()}
        report["cases"].append({"case": asdict(case), "milliseconds": times, "ratios": ratios})
        print(f"\n{case}")
        for op, rivals in (("attention", ATTENTION_RIVALS), ("graph", GRAPH_RIVALS)):
            print(f"  {op:10s} ours {times[op]['ours']:8.2f} ms")
            for rival in rivals:
                goal = target(TARGETS[case.k].get(rival), isa)
                print(f"    {rival:14s} {times[op][rival]:8.2f} ms   {ratios[op][rival]:7.2f} x{goal}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{arguments.output}")


if __name__ == "__main__":
    main()
