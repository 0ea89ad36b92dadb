"""Expected errors that are kept between runs: what a second comparison spares, and what makes it measure again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keygraph.models import load_checkpoint
from keygraph.parity import Comparison, TorchProbe, open_probe
from keygraph.parity import compare as compare_all
from keygraph.parity.rounding import stored_errors
from keygraph.parity.rounding.network import Network
from keygraph.parity.rounding.stored_errors import StoredErrors
from tiny_kgt import CONFIG, Tiny, save_network

pytestmark = pytest.mark.usefixtures("one_thread")

PICTURE = np.random.default_rng(5).random((16, 16, 3), np.float32)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "keygraph/rounding"


@pytest.fixture(autouse=True)
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions in which the network was run again."""
    found: list[str] = []
    run = Network.run

    def counted(self: Network, arithmetic: Any, *rest: Any, **more: Any) -> Any:
        found.append(arithmetic.precision)
        return run(self, arithmetic, *rest, **more)

    monkeypatch.setattr(Network, "run", counted)
    return found


def compare(candidate: Any, reference: Any, picture: Any = PICTURE) -> Comparison:
    (comparison,) = compare_all(candidate, reference, [picture]).comparisons
    return comparison


def test_a_second_comparison_runs_nothing_again(tiny: Tiny, runs: list[str], folder: Path) -> None:
    first = compare(tiny.onnx, tiny.checkpoint)
    assert runs == ["fp64", "fp32", "fp32"]
    second = compare(tiny.onnx, tiny.checkpoint)
    assert len(runs) == 3
    assert second.inputs[0].rounding == first.inputs[0].rounding
    # Another candidate of the same precision needs no further run; another precision needs its own.
    compare(f"{tiny.checkpoint}@bf16", tiny.checkpoint)
    assert runs[3:] == ["fp64", "bf16", "bf16"]
    assert len(list(folder.iterdir())) == 2
    text = "".join(file.read_text() for file in folder.iterdir())
    assert set(text) <= set("0123456789.e-+[], ")  # Numbers, and nothing of the image or its name.


def test_other_images_weights_and_references_measure_again(tiny: Tiny, runs: list[str], tmp_path: Path) -> None:
    compare(tiny.onnx, tiny.checkpoint)
    compare(tiny.onnx, tiny.checkpoint, PICTURE[::-1])
    compare(tiny.onnx, tiny.onnx)
    other = save_network(tmp_path / "other.ckpt", CONFIG, seed=1)
    compare(other, other)
    assert runs == 4 * ["fp64", "fp32", "fp32"]


def test_a_reference_that_somebody_holds_is_always_measured(tiny: Tiny, runs: list[str], folder: Path) -> None:
    """It may have been changed since it was opened."""
    for _ in range(2):
        compare(tiny.onnx, TorchProbe(load_checkpoint(tiny.checkpoint)))
    assert len(runs) == 6
    assert not folder.exists()


@pytest.mark.parametrize("damage", [b"", b"[1.0", b"{}", b'["1"]', b"\xff", b"[1.0, null]"])
def test_a_damaged_file_is_measured_again_and_replaced(tiny: Tiny, folder: Path, damage: bytes) -> None:
    stored = StoredErrors(open_probe(tiny.checkpoint), [PICTURE], 16)
    assert stored.remember("a", lambda: (1.5, 2.5)) == (1.5, 2.5)
    (file,) = folder.iterdir()
    file.write_bytes(damage)
    assert stored.remember("a", lambda: (3.5,)) == (3.5,)
    assert json.loads(file.read_text()) == [3.5]
    assert stored.remember("a", lambda: pytest.fail("measured again")) == (3.5,)


def test_the_folder_has_a_limit_and_may_be_missing(tiny: Tiny, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_errors, "MOST", 4)
    stored = StoredErrors(open_probe(tiny.checkpoint), [PICTURE], 16)
    for number in range(9):
        stored.remember(str(number), lambda number=number: (float(number),))  # type: ignore[misc]
    assert len(list(folder.iterdir())) <= 4
    assert stored.remember("8", lambda: ()) == (8.0,)
    assert stored.remember("unknown", lambda: (float("nan"),)) != (0.0,)
    assert len(list(folder.iterdir())) <= 4
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert stored.remember("8", lambda: (1.0,)) == (1.0,)
