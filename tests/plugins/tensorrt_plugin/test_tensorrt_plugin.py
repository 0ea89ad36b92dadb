"""The TensorRT plugin's whole life without TensorRT: over the CPU kernels to the numbers, and on a GPU where one is."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import operator_oracle as oracle
import pytest
from bad_calls import BAD_CALLS, BadCall
from harness import Answers, built, play
from operator_cases import (
    ATTENTION_CASES,
    GRAPH_CASES,
    PACK_CASES,
    TOP_K_CASES,
    AttentionCase,
    GraphCase,
    PackCase,
    TopKCase,
    attention_inputs,
    graph_inputs,
    pack_inputs,
    top_k_inputs,
)
from operator_hosts import four_sizes, three_sizes

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
#: `KEYGRAPH_NO_DRIVER` and `KEYGRAPH_BAD_ALIGNMENT` in plugins/include/keygraph/types.h.
NO_DRIVER, BAD_ALIGNMENT = "8", "11"
#: The variants of host_driver.cpp for float32.
GRAPH_FEW_NODES, GRAPH_ANY, ATTENTION_BY_TWO, ATTENTION_ANY, ATTENTION_BIAS = "1", "2", "3", "4", "5"
PACK_WIDE, PACK_ANY, PACK_THRESHOLD = "6", "7", "8"

built("keygraph_trt_harness")  # or none of these tests runs

every_dtype = pytest.mark.parametrize("dtype", TOLERANCE)
every_graph_case = pytest.mark.parametrize("case", GRAPH_CASES, ids=lambda case: case.name)
every_attention_case = pytest.mark.parametrize("case", ATTENTION_CASES, ids=lambda case: case.name)


@dataclass(frozen=True)
class Host:
    """A plugin library and where its tensors are."""

    file: str
    memory: str

    def play(self, *arguments: Any, **more: Any) -> Answers:
        answers = play(*arguments, library=built(self.file), memory=self.memory, **more)
        if self.memory == "device" and answers.one("device") != "yes":
            pytest.skip(f"no GPU: {answers.one('device')}")
        return answers


CPU_KERNELS = Host("libkeygraph_trt_host.so", "host")
GPU = Host("libkeygraph_trt.so", "device")
every_host = pytest.mark.parametrize(
    "host", [pytest.param(CPU_KERNELS, id="cpu-kernels"), pytest.param(GPU, id="gpu", marks=pytest.mark.gpu)]
)


Output = tuple[tuple[int, ...], type]  # shape and type


def stored(array: np.ndarray, dtype: str) -> np.ndarray:
    """As the operator stores it; bfloat16 rounded to nearest even, in uint16."""
    if dtype != "bfloat16":
        return array.astype(dtype)
    bits = array.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)


def loaded(array: np.ndarray) -> np.ndarray:
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def graph_of(nodes: int = 33, rows: int = 33, channels: int = 8) -> tuple[list[np.ndarray], Output]:
    """Inputs and output of a small KeyGraph."""
    random = np.random.default_rng(0)
    query = random.standard_normal((2, 1, rows, channels)).astype(np.float32)
    key = random.standard_normal((2, 1, nodes, channels)).astype(np.float32)
    return [query, key, np.array([7])], ((2, 1, rows, (nodes + 31) // 32), np.int32)


def pack_of(dtype: type = np.float32, threshold: bool = False, nodes: int = 48) -> tuple[list[np.ndarray], Output]:
    """Inputs and output of a small PackGraph."""
    made = pack_inputs(PackCase("small", batch=2, nodes=nodes, threshold=threshold), dtype).values()
    return [array for array in made if array is not None], ((2, 1, 9, (nodes + 31) // 32), np.int32)


def top_k_of(dtype: type = np.float32) -> tuple[list[np.ndarray], Output]:
    """Inputs and output of a small TopKGraph."""
    return [top_k_inputs(TopKCase("small", batch=2), dtype), np.array([7])], ((2, 1, 9, 3), np.int32)


def attention_of(heads_last: bool = False, bias: bool = False) -> tuple[list[np.ndarray], Output]:
    """Inputs and output of a small KeyGraphAttention: 2 heads of 8 channels, 40 nodes, values of 6 channels."""
    case = AttentionCase("small", value_channels=6, bias=bias)
    inputs = [array for array in attention_inputs(case, np.float32).values() if array is not None]
    shape: tuple[int, ...] = (1, 2, 33, 6)
    if heads_last:
        inputs[:3] = [three_sizes(array) for array in inputs[:3]]
        shape = (1, 33, 12)
    return inputs, (shape, np.float32)


def check_run(answers: Answers, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """All that the plugin computed, after a look at everything else that it must say when all is well."""
    for key in ("output type", "output shape", "configure", "tactics", "set tactic", "shape", "enqueue"):
        assert set(answers.all(f"{key} status")) == {"0"}, key
    for key in ("set tactic", "shape", "enqueue"):
        assert set(answers.all(f"build {key} status")) == {"0"}, key
    assert set(answers.all("output sizes")) == {",".join(map(str, sizes))}
    tactics = answers.all("tactic")
    assert len(set(tactics)) == len(tactics) > 0
    assert "0" not in tactics
    assert {"run", *tactics} == set(answers.outputs) - {"replayed"}
    assert set(answers.all("loads of a launch")) <= {"0"}
    return list(answers.outputs.values())


# ---- the numbers ----


@every_host
@every_dtype
@every_graph_case
def test_key_graph(host: Host, dtype: str, case: GraphCase, tmp_path: Path) -> None:
    """The default, every tactic and the replayed CUDA graph select the oracle's nodes."""
    query, key = (stored(array, dtype) for array in graph_inputs(case, np.float32))
    sizes = (*query.shape[:3], (case.nodes + 31) // 32)
    answers = host.play(tmp_path, "KeyGraph", [query, key, np.array([case.k])], (sizes, np.int32))
    for graph in check_run(answers, sizes):
        oracle.check_graph(graph, loaded(query), loaded(key), case.k, case.exact)


@every_host
@pytest.mark.parametrize("dtype", [*TOLERANCE, "bool"])
@pytest.mark.parametrize("case", PACK_CASES, ids=lambda case: case.name)
def test_pack_graph(host: Host, dtype: str, case: PackCase, tmp_path: Path) -> None:
    """The default, every tactic and the replayed CUDA graph are the mask's bits."""
    if case.threshold and dtype == "bool":
        pytest.skip("a mask of bool takes no threshold")
    made = pack_inputs(case, np.float16 if dtype == "float16" else np.float32).values()
    mask, *threshold = (stored(array, dtype) for array in made if array is not None)
    expected = oracle.pack(oracle.pack_graph(loaded(mask), *map(loaded, threshold)))
    answers = host.play(tmp_path, "PackGraph", [mask, *threshold], (expected.shape, np.int32))
    for graph in check_run(answers, expected.shape):
        np.testing.assert_array_equal(graph, expected)


@every_host
@every_dtype
@pytest.mark.parametrize("case", TOP_K_CASES, ids=lambda case: case.name)
def test_top_k_graph(host: Host, dtype: str, case: TopKCase, tmp_path: Path) -> None:
    """The default, every tactic and the replayed CUDA graph select the oracle's nodes."""
    scores = stored(top_k_inputs(case, np.float16 if dtype == "float16" else np.float32), dtype)
    sizes = (*scores.shape[:3], (case.nodes + 31) // 32)
    answers = host.play(tmp_path, "TopKGraph", [scores, np.array([case.k])], (sizes, np.int32))
    for graph in check_run(answers, sizes):
        oracle.check_top_k(graph, loaded(scores), case.k)


@every_host
@pytest.mark.parametrize("heads_last", [False, True], ids=["heads-first", "heads-last"])
@every_dtype
@every_attention_case
def test_key_graph_attention(host: Host, heads_last: bool, dtype: str, case: AttentionCase, tmp_path: Path) -> None:
    """The default, every tactic and the replayed CUDA graph are the oracle's numbers."""
    made = attention_inputs(case, np.float32)
    graph = made.pop("graph")
    q, k, v = (stored(made[name], dtype) for name in ("q", "k", "v"))
    bias = None if made["bias"] is None else stored(made["bias"], dtype)
    expected = oracle.key_graph_attention(
        loaded(q), loaded(k), loaded(v), oracle.unpack(graph, case.nodes),
        None if bias is None else loaded(bias), case.scale,
    )  # fmt: skip
    fields = {} if case.scale is None else {"scale": ("kFLOAT32", case.scale)}
    sizes = expected.shape
    if heads_last:
        q, k, v = (three_sizes(array) for array in (q, k, v))
        fields["heads"] = ("kINT32", case.heads)
        sizes = (case.batch, case.rows, case.heads * case.value_channels)
    inputs = [q, k, v, graph] + ([] if bias is None else [bias])
    answers = host.play(tmp_path, "KeyGraphAttention", inputs, (sizes, q.dtype.type), fields=fields)
    for output in check_run(answers, sizes):
        result = four_sizes(output, case.heads) if heads_last else output
        oracle.check_attention(loaded(result), expected, TOLERANCE[dtype])


def test_a_bias_of_one_number_is_none(tmp_path: Path) -> None:
    inputs, (sizes, dtype) = attention_of()
    outputs = []
    for name, bias in (("without", []), ("constant", [np.full((1, 1, 1), np.nan, np.float32)])):
        (tmp_path / name).mkdir()
        answers = CPU_KERNELS.play(tmp_path / name, "KeyGraphAttention", [*inputs, *bias], (sizes, dtype))
        assert ATTENTION_ANY in answers.all("tactic")
        outputs.append(check_run(answers, sizes))
    for one, other in zip(*outputs, strict=True):
        np.testing.assert_array_equal(one, other)


# ---- what the plugin says about itself ----


def test_creators(tmp_path: Path) -> None:
    answers = CPU_KERNELS.play(tmp_path, "KeyGraph", *graph_of())
    assert answers.all("creator") == [
        "keygraph::KeyGraph:1",
        "keygraph::PackGraph:1",
        "keygraph::TopKGraph:1",
        "keygraph::KeyGraphAttention:1 scale heads",
    ]
    assert answers.one("core") == "keygraph::KeyGraph:1"


@pytest.mark.parametrize("bias", [False, True])
def test_formats(bias: bool, tmp_path: Path) -> None:
    """Every storage type, the same for all but the graph and k; only dense."""
    types = ["float32", "float16", "bfloat16"]
    answers = CPU_KERNELS.play(tmp_path, "KeyGraphAttention", *attention_of(bias=bias))
    more = 2 if bias else 1
    assert answers.all("format") == [" ".join([t] * 3 + ["int32"] + [t] * more) for t in types]
    assert answers.one("output type") == "float32"
    assert answers.one("workspace") == "0"
    answers = CPU_KERNELS.play(tmp_path, "KeyGraph", *graph_of())
    assert answers.all("format") == [f"{t} {t} int64 int32" for t in types]
    assert answers.one("output type") == "int32"
    assert int(answers.one("format limit")) >= len(types)
    answers = CPU_KERNELS.play(tmp_path, "TopKGraph", *top_k_of())
    assert answers.all("format") == [f"{t} int64 int32" for t in types]
    answers = CPU_KERNELS.play(tmp_path, "PackGraph", *pack_of(threshold=bias))
    expected = [f"{t} {t} int32" for t in types] if bias else [f"{t} int32" for t in (*types, "bool")]
    assert sorted(answers.all("format")) == sorted(expected)
    assert int(answers.one("format limit")) >= len(expected)


def test_output_shapes_are_expressions_of_the_inputs(tmp_path: Path) -> None:
    answers = CPU_KERNELS.play(tmp_path, "KeyGraph", *graph_of())
    assert answers.one("output shape") == "0.0 0.1 0.2 ceil_div(1.2,32)"
    answers = CPU_KERNELS.play(tmp_path, "PackGraph", *pack_of())
    assert answers.one("output shape") == "0.0 0.1 0.2 ceil_div(0.3,32)"
    answers = CPU_KERNELS.play(tmp_path, "TopKGraph", *top_k_of())
    assert answers.one("output shape") == "0.0 0.1 0.2 ceil_div(0.3,32)"
    answers = CPU_KERNELS.play(tmp_path, "KeyGraphAttention", *attention_of())
    assert answers.one("output shape") == "0.0 0.1 0.2 2.3"
    heads = {"heads": ("kINT32", 2)}
    answers = CPU_KERNELS.play(tmp_path, "KeyGraphAttention", *attention_of(heads_last=True), fields=heads)
    assert answers.one("output shape") == "0.0 0.1 2.2"


def test_timing_cache_id_is_of_the_attributes_and_the_library(tmp_path: Path) -> None:
    def key(**changes: Any) -> str:
        answers = CPU_KERNELS.play(tmp_path, "KeyGraphAttention", *attention_of(), **changes)
        identity: str = answers.one("timing cache id")
        return identity

    plain = key()
    assert "keygraph=" in plain
    assert "targets=80" in plain
    assert key(node="another") == plain
    assert key(fields={"heads": ("kINT32", 2)}) != plain
    # 0.1 and the next float32
    assert key(fields={"scale": ("kFLOAT32", 0.1)}) != key(fields={"scale": ("kFLOAT32", 0.10000001)})


# ---- tactics ----


@pytest.mark.parametrize(
    ("nodes", "tactic", "launched"),
    [
        (33, 0, GRAPH_FEW_NODES),
        (33, int(GRAPH_ANY), GRAPH_ANY),
        (33, int(GRAPH_FEW_NODES), GRAPH_FEW_NODES),
        (100, int(GRAPH_FEW_NODES), GRAPH_ANY),
        (100, 12345, GRAPH_ANY),
    ],
    ids=["default", "chosen", "chosen, first", "chosen for other sizes", "of another library"],
)
def test_a_tactic_is_used_where_it_fits(nodes: int, tactic: int, launched: str, tmp_path: Path) -> None:
    inputs, output = graph_of(nodes)
    answers = CPU_KERNELS.play(tmp_path, "KeyGraph", inputs, output, tactic=tactic)
    assert answers.all("launched")[-1] == launched
    assert answers.all("launched")[:-1] == answers.all("tactic")
    oracle.check_graph(answers.outputs["run"], inputs[0], inputs[1], 7, exact=False)


def test_tactics_know_whether_there_is_a_bias(tmp_path: Path) -> None:
    answers = CPU_KERNELS.play(tmp_path, "KeyGraphAttention", *attention_of())
    assert answers.all("tactic") == [ATTENTION_BY_TWO, ATTENTION_ANY]
    answers = CPU_KERNELS.play(tmp_path, "KeyGraphAttention", *attention_of(bias=True), tactic=int(ATTENTION_ANY))
    assert answers.all("tactic") == [ATTENTION_BIAS]
    assert answers.all("launched")[-1] == ATTENTION_BIAS


def test_tactics_know_whether_there_is_a_threshold(tmp_path: Path) -> None:
    answers = CPU_KERNELS.play(tmp_path, "PackGraph", *pack_of())
    assert answers.all("tactic") == [PACK_WIDE, PACK_ANY]
    answers = CPU_KERNELS.play(tmp_path, "PackGraph", *pack_of(nodes=49))
    assert answers.all("tactic") == [PACK_ANY]
    answers = CPU_KERNELS.play(tmp_path, "PackGraph", *pack_of(threshold=True), tactic=int(PACK_ANY))
    assert answers.all("tactic") == [PACK_THRESHOLD]
    assert answers.all("launched")[-1] == PACK_THRESHOLD


@every_host
def test_addresses_that_a_tactic_does_not_take_are_computed_all_the_same(host: Host, tmp_path: Path) -> None:
    """Nobody knows addresses before the launch: a slice of a tensor may lie where the tactic's wide loads fail."""
    inputs, output = graph_of()
    answers = host.play(tmp_path, "KeyGraph", inputs, output, tactic=int(GRAPH_FEW_NODES), offset=4)
    assert set(answers.all("build enqueue status") + answers.all("enqueue status")) == {"0"}
    oracle.check_graph(answers.outputs["run"], inputs[0], inputs[1], 7, exact=False)
    if host is CPU_KERNELS:
        assert set(answers.all("launched")) == {GRAPH_ANY}
    (mask,), output = pack_of()
    answers = host.play(tmp_path, "PackGraph", [mask], output, offset=4)
    np.testing.assert_array_equal(answers.outputs["run"], oracle.pack(oracle.pack_graph(mask)))
    if host is CPU_KERNELS:
        assert set(answers.all("launched")) == {PACK_ANY}
    attention, output = attention_of()
    answers = host.play(tmp_path, "KeyGraphAttention", attention, output, offset=4)
    q, k, v, graph = attention
    expected = oracle.key_graph_attention(q, k, v, oracle.unpack(graph, k.shape[2]), None, None)
    oracle.check_attention(answers.outputs["run"], expected, TOLERANCE["float32"])
    if host is CPU_KERNELS:
        assert set(answers.all("launched")) == {ATTENTION_ANY}


def test_addresses_between_two_elements_are_an_error(tmp_path: Path) -> None:
    answers = CPU_KERNELS.play(tmp_path, "KeyGraphAttention", *attention_of(), offset=2)
    assert answers.one("enqueue status") == BAD_ALIGNMENT
    assert "KeyGraphAttention node 'layers.3/the node': a tensor's address" in answers.all("log")[-1]


def over_fake_driver(folder: Path, op: str, inputs: list[np.ndarray], output: Output, offset: int = 0) -> Answers:
    """Play with the library itself over a driver that computes nothing and writes down what it is asked."""
    source = Path(__file__).parents[1] / "fake_driver.c"
    library = folder / "libcuda.so.1"
    command: list[str | Path] = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source]
    subprocess.run(command, check=True)
    answers = play(
        folder, op, inputs, output, library=built(GPU.file), memory="host", offset=offset,
        environment={"LD_LIBRARY_PATH": str(folder), "FAKE_CAPABILITY": "90"},
    )  # fmt: skip
    if not answers.all("tactic"):
        pytest.skip(f"not built for compute capability 9.0: {answers.all('log')}")
    return answers


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize("op", ["KeyGraph", "PackGraph", "TopKGraph", "KeyGraphAttention"])
def test_what_the_driver_is_asked(op: str, tmp_path: Path) -> None:
    """The library itself over a driver that writes down its calls: every tactic is launched, its kernel loaded once."""
    problems = {
        "KeyGraph": graph_of(256, 256, 32),
        "PackGraph": pack_of(),
        "TopKGraph": top_k_of(),
        "KeyGraphAttention": attention_of(),
    }
    inputs, output = problems[op]
    answers = over_fake_driver(tmp_path, op, inputs, output)
    check_run(answers, output[0])
    calls = [line.split()[0] for line in answers.all("driver")]
    tactics = len(answers.all("tactic"))
    assert calls.count("launch") == tactics + 1  # the builder's and the engine's
    assert calls.count("load") == tactics
    # The engine's, of what the builder has loaded: nothing to load while a graph is captured.
    assert calls[-1] == "launch"


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_the_library_itself_takes_a_slice(tmp_path: Path) -> None:
    """The embedded variants' own demands: channels in eights make loads of 16 bytes, which this address forbids."""
    variants = pytest.importorskip("keygraph.plugins.triton.variants", reason="needs Triton").VARIANTS
    made = attention_inputs(AttentionCase("eights", value_channels=8), np.float16).values()
    inputs = [array for array in made if array is not None]
    output = ((1, 2, 33, 8), np.float16)
    answers = over_fake_driver(tmp_path, "KeyGraphAttention", inputs, output, offset=4)
    wide = {str(variant.number) for variant in variants if variant.channel_multiple == 8}
    assert wide & set(answers.all("tactic"))
    check_run(answers, output[0])


# ---- errors ----


@pytest.mark.parametrize(
    "host",
    [pytest.param(Host("libkeygraph_trt_host.so", "host"), id="cpu-kernels"), pytest.param(GPU, id="library")],
)
@pytest.mark.parametrize("op", ["KeyGraph", "PackGraph", "TopKGraph", "KeyGraphAttention"])
def test_without_a_gpu_all_goes_well_up_to_the_launch(host: Host, op: str, tmp_path: Path) -> None:
    """An engine is built without a GPU, then; only running it is an error, which names the node."""
    problems = {
        "KeyGraph": graph_of(),
        "PackGraph": pack_of(),
        "TopKGraph": top_k_of(),
        "KeyGraphAttention": attention_of(),
    }
    inputs, output = problems[op]
    environment = {"CUDA_VISIBLE_DEVICES": "", "KEYGRAPH_TEST_NO_DEVICE": "1"}
    answers = play(
        tmp_path, op, inputs, output, library=built(host.file), memory=host.memory, environment=environment, tactic=1
    )
    assert answers.one("configure status") == "0"
    assert answers.all("tactic") == []
    assert answers.one("set tactic status") == "0"
    assert answers.one("shape status") == "0"
    assert answers.one("build enqueue status") == answers.one("enqueue status") == NO_DRIVER
    assert answers.outputs == {}
    last = answers.all("log")[-1]
    assert last.startswith(f"error: keygraph: {op} node 'layers.3/the node': ")


def test_enqueue_before_sizes_are_known_is_an_error(tmp_path: Path) -> None:
    answers = CPU_KERNELS.play(tmp_path, "KeyGraph", *graph_of())
    assert answers.one("early enqueue status") != "0"
    (line,) = answers.all("log")
    assert "KeyGraph node 'layers.3/the node': enqueue was called without a successful onShapeChange" in line


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": ("kINT32", 1)}, "attribute scale must be one float32"),
        ({"heads": ("kFLOAT32", 2.0)}, "attribute heads must be one int32"),
        ({"heads": ("kCHAR", "two")}, "attribute heads must be one int32"),
        ({"heads": ("kINT32", 0)}, "attribute heads is 0; it must be at least 1"),
    ],
)
def test_bad_attributes(fields: dict[str, tuple[str, object]], message: str, tmp_path: Path) -> None:
    answers = CPU_KERNELS.play(tmp_path, "KeyGraphAttention", *attention_of(), fields=fields)
    assert answers.one("created") == "no"
    assert f"KeyGraphAttention node 'layers.3/the node': {message}" in answers.all("log")[0]


def test_unknown_attributes_are_ignored(tmp_path: Path) -> None:
    """A parser may hand over all that a node has, and one cannot pose as an engine's."""
    fields = {
        "plugin_namespace": ("kCHAR", "keygraph"),
        "plugin_version": ("kCHAR", "1"),
        "keygraph_format": ("kINT32", 99),
        "keygraph_node": ("kCHAR", "another"),
    }
    answers = CPU_KERNELS.play(tmp_path, "KeyGraph", *graph_of(), fields=fields)
    assert answers.one("enqueue status") == "0"
    assert "'layers.3/the node'" in answers.all("log")[0]
    assert answers.all("serialized") == ["keygraph_format", "keygraph_node"]


def test_all_attributes_are_serialized(tmp_path: Path) -> None:
    fields = {"heads": ("kINT32", 2), "scale": ("kFLOAT32", 0.25)}
    answers = CPU_KERNELS.play(tmp_path, "KeyGraphAttention", *attention_of(heads_last=True), fields=fields)
    assert answers.all("serialized") == ["keygraph_format", "keygraph_node", "scale", "heads"]


@pytest.mark.parametrize("call", [call for call in BAD_CALLS if not call.value_is_bad], ids=lambda call: call.name)
def test_bad_calls_are_refused_while_building(call: BadCall, tmp_path: Path) -> None:
    """The message is that of the other hosts (test_operator_errors.py), in every build step that sees the shapes."""
    fields = {} if call.heads is None else {"heads": ("kINT32", call.heads)}
    output = ((1,), np.float32 if call.op == "KeyGraphAttention" else np.int32)
    created = call.heads is None or call.heads >= 1
    inputs = list(call.inputs().values())
    answers = CPU_KERNELS.play(tmp_path, call.op, inputs, output, fields=fields, ends=not created)
    if not created:
        assert answers.one("created") == "no"
    prefix = f"{call.op} node 'layers.3/the node': "
    refused = [line for line in answers.all("log") if prefix in line]
    ranks_fit = "0" in answers.all("output shape status")
    assert len(refused) == 1 if not created else len(refused) == 2
    assert refused[0].endswith(call.message)
    # Then either the sizes that are run-time ones in the network, or the unknown ones, of which only the rank is known.
    assert refused[-1].endswith(call.message) or not ranks_fit
    assert created == bool(answers.all("configure status") if ranks_fit else answers.all("output shape status"))


# ---- the library ----


@pytest.mark.skipif(not shutil.which("nm"), reason="needs nm")
def test_the_library_needs_neither_tensorrt_nor_cuda() -> None:
    library = built("libkeygraph_trt.so")

    def symbols(*options: str) -> set[str]:
        text = subprocess.run(["nm", "-D", *options, library], capture_output=True, text=True, check=True).stdout
        return {line.split(maxsplit=1 if options[0] == "--undefined-only" else 2)[-1] for line in text.splitlines()}

    exported = symbols("--defined-only")
    assert {"getCreators", "setLoggerFinder"} <= exported
    assert all(name.startswith("keygraph_") for name in exported - {"getCreators", "setLoggerFinder"})
    known = re.compile(r".*@(GLIBC|CXXABI|GCC).*|_ITM_.*|__gmon_start__|uncompress")  # the last one is zlib's
    assert [name for name in symbols("--undefined-only") if not known.fullmatch(name)] == []
