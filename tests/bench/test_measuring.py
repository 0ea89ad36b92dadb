"""Measuring: the roofline's arithmetic, what is compared with what, and the scripts. No test asserts a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from keygraph.bench import implementations, onnx_runtime
from keygraph.bench.data_sheets import GPUS, known_gpu, measured_gpu
from keygraph.bench.operators import Times, measure
from keygraph.bench.problem import Problem, random_inputs
from keygraph.bench.roofline import attention_roofline, graph_roofline
from keygraph.bench.timing import cpu_times
from keygraph.cli import main
from keygraph.errors import InputError
from keygraph.plugins.torch import key_graph

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
CPU = torch.device("cpu")
TINY = Problem(2, 3, 40, 5, 7, "float32", 15)


def test_the_roofline_is_what_the_formulas_say() -> None:
    gpu = GPUS["H200"]
    problem = Problem(64, 6, 1024, 30, 256)
    roofline = attention_roofline(problem, gpu)
    scores = 64 * 6 * 1024 * 1024
    # Two products of 2 operations on heads of 32; the exponentials of 132 x 16 units.
    assert roofline.products == pytest.approx(scores * 2 * 2 * 32 / 989.4e12 * 1e3)
    assert roofline.exponentials == pytest.approx(scores / (132 * 16 * 1.83e9) * 1e3)
    assert roofline.memory == pytest.approx((4 * 64 * 6 * 1024 * 30 * 2 + 64 * 1024 * 128) / 4800e9 * 1e3)
    assert (roofline.limit, roofline.milliseconds) == ("exponentials", roofline.exponentials)
    graph = graph_roofline(problem, gpu)
    assert graph.products == pytest.approx(2 * 64 * 1024 * 1024 * 180 / 989.4e12 * 1e3)
    assert graph.memory == pytest.approx((64 * 1024 * 180 * 2 + 64 * 1024 * 128) / 4800e9 * 1e3)
    single = graph_roofline(Problem(64, 6, 1024, 30, 256, "float32"), gpu)
    assert single.limit == "products"
    assert single.products == pytest.approx(2 * 64 * 1024 * 1024 * 180 / 66.9e12 * 1e3)


def test_a_measured_gpu_has_the_clock_that_its_exponentials_tell() -> None:
    measured = measured_gpu(700.0, 50.0, 3000.0, 132, 3e12)
    assert measured.exponentials == pytest.approx(3e12)
    assert attention_roofline(Problem(64, 6, 1024, 30, 256), measured).exponentials == pytest.approx(
        64 * 6 * 1024**2 / 3e9
    )


def test_gpus_are_known_by_their_names() -> None:
    assert known_gpu("NVIDIA H200") is GPUS["H200"]
    assert known_gpu("NVIDIA H100 80GB HBM3") is GPUS["H100"]
    assert known_gpu("NVIDIA H100 PCIe") is GPUS["H100 PCIe"]
    assert known_gpu("NVIDIA A100-SXM4-40GB") is GPUS["A100"]
    assert known_gpu("NVIDIA A100 80GB PCIe") is GPUS["A100 80GB PCIe"]
    assert known_gpu("NVIDIA L40") is GPUS["L40"]
    assert known_gpu("NVIDIA GeForce RTX 4090") is GPUS["RTX 4090"]
    assert known_gpu("NVIDIA GeForce GT 1030") is None
    assert known_gpu("x86_64") is None


def test_problems_that_cannot_be_are_errors() -> None:
    with pytest.raises(InputError, match="heads is 0; give at least 1"):
        Problem(1, 0, 8, 4, 2)
    with pytest.raises(InputError, match="k is 9; give at most the 8 nodes"):
        Problem(1, 1, 8, 4, 9)
    with pytest.raises(InputError, match="choose one of float32, float16, bfloat16"):
        Problem(1, 1, 8, 4, 2, "int8")


@pytest.mark.slow
def test_everyone_is_measured_and_agrees() -> None:
    times = measure(TINY, CPU, rounds=1)
    attention, graph = times["KeyGraphAttention"], times["KeyGraph"]
    assert not attention.failures
    assert not graph.failures
    assert list(attention.milliseconds) == ["ours", "sdpa", "flex", "sdpa, padded", "flex, padded", "mask", "gather"]
    assert list(graph.milliseconds) == ["ours", "topk + scatter", "topk"]
    assert all(value > 0 for each in times.values() for value in each.milliseconds.values())
    assert json.loads(json.dumps(attention.as_json()))["ratios"].keys() == attention.milliseconds.keys() - {"ours"}


def test_a_alternative_that_is_wrong_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        implementations,
        "attention_alternatives",
        lambda *_: {"wrong": lambda inputs: lambda: inputs.v, "sdpa": implementations.sdpa},
    )
    nothing = torch.zeros(2, 1, 40, 7).long()
    monkeypatch.setattr(
        implementations, "GRAPH_ALTERNATIVES", {"wrong": lambda inputs: lambda: nothing, "topk": implementations.topk}
    )
    times = measure(TINY, CPU, rounds=1)
    attention, graph = times["KeyGraphAttention"], times["KeyGraph"]
    assert list(attention.milliseconds) == ["ours", "sdpa"]
    assert attention.failures["wrong"].startswith("differs from float64 by")
    assert list(graph.milliseconds) == ["ours", "topk"]
    assert graph.failures["wrong"].endswith("of its links are float64's")
    assert attention.error is graph.error is None


def test_ours_that_is_wrong_is_an_error_and_everyone_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dead(_inputs: object) -> implementations.Call:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(onnx_runtime, "our_attention", lambda inputs: lambda: inputs.v)
    monkeypatch.setattr(onnx_runtime, "our_graph", dead)
    monkeypatch.setattr(implementations, "attention_alternatives", lambda *_: {"sdpa": implementations.sdpa})
    times = measure(TINY, CPU, rounds=1)
    attention, graph = times["KeyGraphAttention"], times["KeyGraph"]
    assert attention.error is not None
    assert attention.error.startswith("differs from float64 by")
    assert list(attention.milliseconds) == ["ours", "sdpa"]
    assert graph.error == "no such kernel"
    assert list(graph.milliseconds) == ["topk + scatter", "topk"]
    assert graph.ratio("topk") is None
    words = ["--windows", "1", "--heads", "2", "--nodes", "40", "--channels", "5", "--k", "7", "--rounds", "1"]
    assert main(["bench", "operators", "--device", "cpu", *words]) == 1
    said = capsys.readouterr()
    assert "error: our KeyGraph: no such kernel" in said.err
    assert "sdpa" in said.out


def test_each_sdpa_backend_is_forced_and_says_why_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    alternatives = implementations.attention_alternatives(TINY.channels, "cuda")
    for backend in implementations.SDPA_BACKENDS:
        for mask in ("bool", "additive"):
            assert f"sdpa {backend}, {mask} mask" in alternatives
            assert (f"sdpa {backend}, {mask} mask, padded" in alternatives) == (backend != "math")
    monkeypatch.setattr(
        implementations,
        "attention_alternatives",
        lambda *_: {n: w for n, w in alternatives.items() if n.startswith("sdpa")},
    )
    times = measure(TINY, CPU, rounds=1)["KeyGraphAttention"]
    # On the CPU there are these two, with either mask.
    for name in ("sdpa flash, bool mask", "sdpa math, additive mask"):
        assert times.milliseconds[name] > 0
    assert "No viable backend" in times.failures["sdpa cudnn, bool mask"]


def test_what_is_left_out_is_not_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_inputs: object) -> implementations.Call:
        raise AssertionError

    monkeypatch.setattr(
        implementations, "attention_alternatives", lambda *_: {"flex, padded": never, "sdpa": implementations.sdpa}
    )
    assert list(measure(TINY, CPU, 1, without=["flex"])["KeyGraphAttention"].milliseconds) == ["ours", "sdpa"]


def test_a_alternative_that_cannot_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(_inputs: object) -> implementations.Call:
        raise torch.OutOfMemoryError("out of memory: tried to allocate everything\nand more")

    monkeypatch.setattr(implementations, "attention_alternatives", lambda *_: {"greedy": greedy})
    times = measure(TINY, CPU, rounds=1)["KeyGraphAttention"]
    assert times.failures == {"greedy": "out of memory: tried to allocate everything"}
    assert times.ratio("greedy") is None


def test_inputs_need_no_kernel_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A KeyGraph that fails or hangs must not take along what measures the attention alone."""
    inputs = random_inputs(TINY, CPU)
    assert torch.equal(inputs.graph, key_graph(inputs.nodes, inputs.nodes, torch.tensor([TINY.k])))
    monkeypatch.delattr("keygraph.plugins.torch.operators._largest")
    assert torch.equal(random_inputs(TINY, CPU).graph, inputs.graph)


def test_chunks_do_not_change_what_is_gathered() -> None:
    inputs = random_inputs(TINY, CPU)
    torch.testing.assert_close(implementations.gather(1)(inputs)(), implementations.gather(None)(inputs)())


def test_the_fastest_alternative_counts() -> None:
    times = Times({"ours": 2.0, "slow": 9.0, "quick": 3.0})
    assert times.ratio("slow", "quick", "gone") == 1.5
    assert times.ratio("gone") is None


def test_the_slow_run_in_a_few_rounds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now, count = [0.0], {"quick": 0, "slow": 0}
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda _seconds: None)

    def call(name: str, seconds: float) -> None:
        now[0] += seconds
        count[name] += 1

    found = cpu_times({"quick": lambda: call("quick", 0.001), "slow": lambda: call("slow", 0.5)}, 10)
    assert found == {"quick": pytest.approx(1.0), "slow": pytest.approx(500.0)}
    assert count == {"quick": 10, "slow": 3}


def run(script: str, *arguments: str, gpu: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a script with tiny problems on a GPU that is pretended, or as it is."""
    pretended = {"KEYGRAPH_PRETEND_GPU": "1", "TRITON_INTERPRET": "1"} if gpu else {}
    command = [sys.executable, str(BENCHMARKS / script), *(["--tiny", "--rounds", "1"] if gpu else []), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | pretended)


@pytest.mark.slow
def test_the_script_for_the_operators_writes_its_tables(tmp_path: Path) -> None:
    words = ["--dtype", "float32", "--without", "flex", "--json", str(tmp_path / "o.json")]
    done = run("gpu_operators.py", *words)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "o.json").read_text())
    assert [case["problem"]["k"] for case in report["cases"]] == [8, 5]
    assert report["cases"][0]["operators"]["KeyGraph"]["milliseconds"]["ours"] > 0
    assert "sdpa flash, bool mask" in report["cases"][0]["operators"]["KeyGraphAttention"]["milliseconds"]
    titles = ["KeyGraph, float32", "KeyGraphAttention, float32"]
    assert [table["title"] for table in report["tables"]] == [
        title + words for title in titles for words in ("", ", everyone")
    ]
    for table in report["tables"]:
        assert {len(row) for row in table["rows"]} == {len(table["header"])}
    assert "fastest of SDPA and Flex / ours" in report["tables"][2]["header"]


@pytest.mark.slow
def test_the_script_for_channel_attention_writes_its_table(tmp_path: Path) -> None:
    done = run("gpu_channel_attention.py", "--dtype", "float32", "--json", str(tmp_path / "c.json"))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "c.json").read_text())
    assert len(report["tables"][0]["rows"]) == 2
    restormer, mst = report["networks"]
    # Every block once: 4 levels down to the latent one, 3 up, refinement, which shares its shape with the level above.
    assert [layer["layers"] for layer in restormer["by shape"]] == [1, 2, 2, 1, 2]
    assert [layer["layers"] for layer in mst["by shape"]] == [2, 2, 1]
    assert restormer["attention"] == pytest.approx(
        sum(layer["layers"] * layer["milliseconds"] for layer in restormer["by shape"])
    )


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="it would measure")
def test_without_a_gpu_the_scripts_say_so() -> None:
    for script in ("gpu_operators.py", "gpu_memory.py", "gpu_channel_attention.py"):
        done = run(script, gpu=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert "there is no CUDA device" in done.stderr
