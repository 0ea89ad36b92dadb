"""``keygraph bench``: what it prints, and what it refuses. No test asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from keygraph.cli import main
from keygraph.installation import install_line

TINY = ["bench", "operators", "--device", "cpu", "--windows", "1", "--heads", "2", "--nodes", "40", "--channels", "5"]
QUICK = [*TINY, "--k", "7", "--rounds", "1"]


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(QUICK) == 0
    said = capsys.readouterr().out
    assert "1 x 2 x 40 x 5, k = 7, float32" in said
    for part in (
        "KeyGraph",
        "KeyGraphAttention",
        "ours",
        "sdpa",
        "flex",
        "mask",
        "gather",
        "topk + scatter",
        "threads",
    ):
        assert part in said


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK, "--dtype", "float16", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["device"] == "cpu"
    assert result["problem"]["dtype"] == "float16"
    assert result["problem"]["graph_channels"] == 10
    attention = result["operators"]["KeyGraphAttention"]
    assert attention["milliseconds"]["ours"] > 0
    assert attention["ratios"].keys() == attention["milliseconds"].keys() - {"ours"}
    assert attention["roofline"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "models"], "'models' cannot be measured; give files that end with .onnx"),
        ([*TINY, "--k", "0"], "k is 0; give at least 1"),
        ([*TINY, "--k", "41"], "give at most the 40 nodes"),
        ([*TINY, "--k", "many"], "--k"),
        ([*TINY, "--k", "7", "--windows", "-1"], "windows is -1"),
        ([*QUICK, "--rounds", "0"], "rounds is 0"),
        ([*QUICK, "--dtype", "int8"], "choose one of float32, float16, bfloat16"),
        ([*QUICK, "--dtype", "bfloat16"], "choose float32 or float16"),
        ([*QUICK, "--device", "tpu"], "choose cpu or cuda"),
        ([*QUICK, "--nodes", "1000000"], "are free; give fewer --windows, --heads or --nodes"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUICK[:2], "--device", "cuda"]) == 2
    said = capsys.readouterr().err
    assert "or choose --device cpu" in said
    assert said.count("\n") == 1


def test_without_pytorch_the_line_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from keygraph.cli import main; sys.exit(main(['bench', 'operators']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert install_line("export") in done.stderr
