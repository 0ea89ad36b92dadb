"""``keygraph bench MODEL``: what is measured, what it prints, and what it refuses. No test asserts a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from keygraph.bench.configurations import RunConfiguration, run_configurations
from keygraph.bench.models import Measurement, measure
from keygraph.cli import main
from keygraph.errors import InputError

ModelFile = Callable[..., Path]
K = {"default": 64, "maximum": 256, "trained": (), "runtime": True}
QUICK = ["--tile", "16", "--batch", "1,3", "--rounds", "1", "--threads", "1"]


def run(*arguments: object) -> int:
    return main(["bench", *map(str, arguments)])


def test_every_form_of_a_network_is_a_configuration() -> None:
    found = run_configurations(["a.onnx", "b.plan", "c.ckpt"], "d.ckpt", "cpu", threads=2)
    assert [one.name for one in found] == [
        "PyTorch",
        "torch.compile",
        "ONNX Runtime, our operators a.onnx",
        "ONNX Runtime, functions a.onnx",
        "engine b.plan",
        "PyTorch c.ckpt",
    ]
    assert [one.compiled for one in found] == [False, True, False, False, False, False]
    assert [one.library for one in found][2:4] == ["auto", None]
    assert found[4].device is None  # an engine runs on its GPU, whatever the others run on
    assert run_configurations(["a.onnx"], None, None)[0].name == "ONNX Runtime, our operators"


def test_json(make_model: ModelFile, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model("add_k", neighbours=K)
    assert run(model, *QUICK, "--k", 100, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["tile"], report["k"], report["failures"]) == (16, 100, {})
    measured = [(one["way"], one["batch"]) for one in report["measurements"]]
    names = ["ONNX Runtime, our operators", "ONNX Runtime, functions"]
    assert measured == [(name, batch) for batch in (1, 3) for name in names]
    for one in report["measurements"]:
        assert one["milliseconds"] > 0
        assert one["megapixels_per_second"] == pytest.approx(one["tiles_per_second"] * 256 / 1e6)
        assert one["psnr"] is None  # the first, or equal to it
        assert one["overhead"] > 0  # cutting and joining take their time beside a model that does nothing
    for name in names:
        resident, on_gpu = report["memory"][name]
        assert 10 < resident < 500  # its own, not that of the process that measures, which has PyTorch in it
        assert on_gpu is None


def test_a_table_with_what_failed_below(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    assert run(make_model("identity"), broken, *QUICK, "--no-memory") == 0
    said = capsys.readouterr().out
    for part in ("tiles of 16 x 16", "MP/s", "identity.onnx: ONNX Runtime 1.", "equal"):
        assert part in said
    assert said.count("note: ONNX Runtime") == 2
    assert "broken.onnx did not run: " in said


def test_results_that_differ_are_seen(make_model: ModelFile, tmp_path: Path) -> None:
    first = make_model("add_k", neighbours=K)
    other = make_model("identity", tmp_path / "other.onnx", neighbours={**K, "default": 100, "runtime": False})
    configurations = [
        RunConfiguration("first", str(first), library=None),
        RunConfiguration("other", str(other), library=None),
    ]
    report = measure(configurations, tile=16, batches=[1], k=100, rounds=1, memory=False)
    one, two = report.measurements
    assert isinstance(one, Measurement)
    assert two.psnr == pytest.approx(20, abs=1e-3)  # 0.1 everywhere
    assert np.isfinite(two.milliseconds)
    gray = make_model("identity", tmp_path / "gray.onnx", in_channels=1, out_channels=1)
    configurations[1] = RunConfiguration("gray", str(gray), library=None)
    with pytest.raises(InputError, match="another network"):
        measure(configurations, rounds=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "whole numbers from 1"),
        (["--batch", "1,x"], "whole numbers from 1"),
        (["--rounds", "0"], "rounds is 0"),
        (["--tile", "17"], "use 16 or 24"),
        (["--k", "5"], "has no key graph"),
        (["--device", "gpu"], "give cpu, cuda"),
        (["--threads", "0"], "threads is 0"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    make_model: ModelFile, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(make_model("identity"), *QUICK, *options) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert message in said.err


def test_help_names_the_other_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "keygraph bench operators --help" in " ".join(capsys.readouterr().out.split())
