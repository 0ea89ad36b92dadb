"""The reference of verification: what it computes, how often, and with which attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from keygraph.export import reference
from keygraph.export.reference import Reference
from keygraph.models import load_checkpoint
from keygraph.plugins.torch import attention
from numpy.typing import NDArray
from tiny_kgt import Tiny


@pytest.fixture
def model(tiny: Tiny) -> torch.nn.Module:
    return load_checkpoint(tiny.checkpoint).module


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The implementations of attention that are called, in order, without repetitions."""
    calls: list[str] = []

    def counted(name: str) -> Callable[..., Any]:
        implementation = attention.ATTENTION_IMPLEMENTATIONS[name]

        def call(*arguments: Any) -> Any:
            if calls[-1:] != [name]:
                calls.append(name)
            return implementation(*arguments)

        return call

    for name in ("mask", "sdpa"):
        monkeypatch.setitem(attention.ATTENTION_IMPLEMENTATIONS, name, counted(name))
    return calls


def image(seed: int, side: int = 16) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((1, 3, side, side), np.float32)


def test_fused_attention_is_used_once_it_agreed(model: torch.nn.Module, used: list[str]) -> None:
    expected = Reference(model, (0.0, 1.0), 1e-4)
    first, agreements = expected.restore((image(0),), 8)
    assert (used, agreements) == (["mask", "sdpa"], [])
    with torch.inference_mode():
        np.testing.assert_array_equal(first, model(torch.from_numpy(image(0)), 8).numpy())
    used.clear()
    expected.restore((image(1),), 8)
    assert used == ["sdpa"]


def test_fused_attention_that_does_not_agree_is_not_used(
    model: torch.nn.Module, used: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "_FUSED_DB", 1000.0)
    expected = Reference(model, (0.0, 1.0), 1e-4)
    expected.restore((image(0),), 8)
    used.clear()
    expected.restore((image(1),), 8)
    assert used == ["mask"]


def test_each_result_is_computed_once(model: torch.nn.Module, used: list[str]) -> None:
    expected = Reference(model, (0.0, 1.0), 1e-4)
    expected.restore((image(0),), 8)
    first, _ = expected.restore((image(1),), 8)
    used.clear()
    again, _ = expected.restore((image(1),), 8)
    assert used == []
    np.testing.assert_array_equal(first, again)
    other, _ = expected.restore((image(1),), 4)
    assert not np.array_equal(first, other)
    assert expected.restore((image(2),), 8)[0].shape == first.shape
    assert used == ["sdpa"]


def test_given_graphs_are_used_and_compared(model: torch.nn.Module) -> None:
    from keygraph.plugins.torch.selection import recorded_graphs

    with torch.inference_mode(), recorded_graphs() as graphs:
        own = model(torch.from_numpy(image(0)), 8).numpy()
    expected = Reference(model, (0.0, 1.0), 1e-4)
    restored, agreements = expected.restore((image(0),), 8, [graph.numpy() for graph in graphs])
    np.testing.assert_array_equal(restored, own)
    assert [agreement.different for agreement in agreements] == [0] * len(graphs)
    every = [np.full_like(graph.numpy(), -1) for graph in graphs]
    changed, agreements = expected.restore((image(0),), 8, every)
    assert not np.array_equal(changed, own)
    assert all(agreement.beyond_tolerance for agreement in agreements)
