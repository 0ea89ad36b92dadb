"""``keygraph bench MODEL``: what is measured, what it prints, and what it refuses. No test asserts a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keygraph.bench import models
from keygraph.cli import main
from keygraph.runtime.backends.base import Session
from keygraph.runtime.device import memory
from tiny_kgt import Tiny

ModelFile = Callable[..., Path]
K = {"default": 64, "maximum": 256, "trained": (), "runtime": True}
QUICK = ["--tile", "16", "--batch", "1,3", "--rounds", "1", "--threads", "1"]


def run(*arguments: object) -> int:
    return main(["bench", *map(str, arguments)])


def test_json(make_model: ModelFile, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model("add_k", neighbours=K)
    assert run(model, *QUICK, "--k", 100, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["version"], report["tile"], report["k"], report["failures"]) == (2, 16, 100, {})
    measured = [(one["configuration"], one["batch"]) for one in report["measurements"]]
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


def test_what_does_not_fit_into_memory_is_skipped(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The system would kill the process, and with it what was measured until then."""
    monkeypatch.setattr(memory, "available", lambda: 2**20)
    options = ["--tile", "128", "--batch", "1", "--rounds", "1", "--threads", "1"]
    assert run(tiny.onnx, *options, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["measurements"], report["memory"]) == ([], {})
    for why in report["failures"].values():
        assert why.startswith("did not run with batch 1: it needs about ")
        assert why.endswith(" of memory, and 1 MiB are free; give a smaller --batch or --tile")
    assert run(tiny.onnx, *options) == 1
    assert capsys.readouterr().out.count("functions did not run with batch 1: it needs about ") == 1


@pytest.mark.parametrize("form", [["--json"], []])
def test_rows_are_printed_as_they_finish(
    make_model: ModelFile, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    """What was measured is not lost with the rest."""
    throughput = models._throughput

    def interrupted(session: Session, batch: int, *rest: Any) -> float:
        if batch == 3:
            raise KeyboardInterrupt
        return throughput(session, batch, *rest)

    monkeypatch.setattr(models, "_throughput", interrupted)
    assert run(make_model("identity"), *QUICK, *form) == 130
    said = capsys.readouterr().out
    if form:
        assert [one["batch"] for one in json.loads(said)["measurements"]] == [1, 1]
    else:
        assert [
            line.split()[-6] for line in said.splitlines() if line.startswith("ONNX Runtime, ") and "%" in line
        ] == [
            "1",
            "1",
        ]
