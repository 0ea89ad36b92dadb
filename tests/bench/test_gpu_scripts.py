"""Steps of `benchmarks/gpu_all.py`, with tiny problems on a simulated GPU. No test asserts a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


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
