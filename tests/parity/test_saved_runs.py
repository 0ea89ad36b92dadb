"""Runs that version 0.1.0 saved, before the precision search and other parts were renamed, can still be used.

`data/saved_run` was written by ``keygraph compare hot.ckpt@fp16 hot.ckpt --inputs photo.png --blocks --bisect --save``.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_kgt
from keygraph.cli import main
from keygraph.parity import compare
from keygraph.parity.output import archive
from keygraph.parity.output.baseline import changed_numbers, find_regressions, read_run
from tiny_kgt import CONFIG

SAVED = Path(__file__).parent / "data" / "saved_run"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def hot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint of the saved run, under the same relative name."""
    monkeypatch.chdir(tmp_path)
    return tiny_kgt.save_network(Path("hot.ckpt"), CONFIG, tiny_kgt.overflowing)


def test_it_is_read() -> None:
    saved = archive.load(SAVED)
    assert saved.models == ("hot.ckpt@fp16", "hot.ckpt")
    assert saved.settings == {"k": None, "tile": None, "at_least": None, "blocks": True}
    (sample,) = saved.samples
    assert sample.name == "photo.png"
    assert sample.arrays["image"].shape == (24, 32, 3)
    assert saved.result["comparisons"][0]["mending"]["islands"]


@pytest.mark.usefixtures("hot")
def test_it_is_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--replay", str(SAVED), "--json"]) == 3
    again = json.loads(capsys.readouterr().out)
    before = json.loads((SAVED / "run.json").read_text())
    assert isinstance(again["moved"], list)
    for now, then in zip(again["comparisons"], before["comparisons"], strict=True):
        # All keys but that of the precision search are those of the format as it was.
        assert now.keys() - then.keys() == {"precision_search"}
        assert then.keys() - now.keys() == {"mending"}
        assert [block["name"] for block in now["blocks"]] == [block["name"] for block in then["blocks"]]
        assert now["origin"]["block"] == then["origin"]["block"]


def test_it_serves_as_a_baseline(hot: Path) -> None:
    baseline = read_run(SAVED / "run.json")
    sample = archive.load(SAVED).samples
    same = compare(f"{hot}@fp16", hot, sample)
    assert not same.good
    assert find_regressions(same, baseline) == {}
    # A PSNR that the baseline has and the new run lost.
    baseline["comparisons"][0]["inputs"][0]["as_run"] |= {"psnr": 80.0, "nonfinite_candidate": 0}
    baseline["comparisons"][0]["inputs"][0]["same_graphs"] |= {"psnr": 80.0, "nonfinite_candidate": 0}
    ((_, reasons),) = find_regressions(same, baseline).items()
    assert "values are NaN or infinite, 0 were" in reasons[0]
    assert any("psnr was 80" in line for line in changed_numbers(same, baseline))
