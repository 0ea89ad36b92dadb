"""`keygraph.replace`: which modules call the replacement, and that classes are given back as they were."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from typing import Any

import keygraph
import pytest
import torch
from keygraph.errors import InputError
from torch import Tensor, nn


class Scale(nn.Module):
    def __init__(self, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Inheriting(Scale):
    pass


class Overriding(Scale):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 100


def less(self: Scale, x: Tensor) -> Tensor:
    return x - self.factor


def more(self: Scale, x: Tensor) -> Tensor:
    return x + self.factor


X = torch.tensor(10.0)


def results() -> list[float]:
    return [float(module(X).detach()) for module in (Scale(), nn.Sequential(Scale(3.0)), Inheriting(), Overriding())]


PLAIN = [20.0, 30.0, 20.0, 120.0]


class Varied(nn.Module):
    def forward(self, x: Tensor, shift: float = 0.0, *, mask: Tensor) -> Tensor:
        return x * mask + shift


@pytest.mark.parametrize(
    ("owner", "forward"),
    [
        (Scale, lambda module: module.factor),
        (Scale, lambda module, x, mask: x * mask),
        (Scale, lambda module, *, x: x),
        (Varied, lambda module, x, shift: x + shift),
        (Varied, lambda module, x, shift, mask, more: x),
        (Varied, lambda module, *, mask: mask),
    ],
)
def test_a_replacement_of_other_arguments_is_refused_at_once(owner: type[nn.Module], forward: Any) -> None:
    before = owner.forward
    with pytest.raises(InputError, match=rf"forward of {owner.__name__} is called as forward\(self, x.* the same arg"):
        keygraph.replace({owner: forward})
    assert owner.forward is before


@pytest.mark.parametrize(
    ("owner", "forward"),
    [
        (Scale, lambda module, x, more=0: x),
        (Scale, lambda *arguments: arguments[1]),
        (Varied, lambda module, x, mask: x),
        (Varied, lambda module, x, **named: x),
        (nn.Identity, lambda module, input: input),
        (nn.ModuleList, lambda module, a, b: a),  # Any arguments.
    ],
)
def test_a_replacement_may_name_or_leave_out_what_is_optional(owner: type[nn.Module], forward: Any) -> None:
    with keygraph.replace({owner: forward}):
        assert owner.forward is forward


def test_every_instance_and_what_inherits() -> None:
    original = Scale.forward
    with keygraph.replace({Scale: less}):
        assert results() == [8.0, 7.0, 8.0, 108.0]
    assert results() == PLAIN
    assert Scale.forward is original


def test_a_class_that_inherits_its_forward() -> None:
    with keygraph.replace({Inheriting: less, Overriding: more}):
        assert results() == [20.0, 30.0, 8.0, 12.0]
    assert results() == PLAIN
    assert "forward" not in vars(Inheriting)


def test_an_instance_with_its_own_forward_keeps_it() -> None:
    module = Scale()
    module.forward = lambda x: x  # type: ignore[method-assign]
    with keygraph.replace({Scale: less}):
        assert float(module(X)) == 10.0


def test_classes_are_given_back_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), keygraph.replace({Scale: less}):
        raise ZeroDivisionError
    assert results() == PLAIN


def test_nested_blocks() -> None:
    with keygraph.replace({Scale: less}):
        with keygraph.replace({Scale: more}):
            assert results()[0] == 12.0
        assert results()[0] == 8.0
    assert results() == PLAIN


def test_blocks_that_overlap_end_in_any_order() -> None:
    first, second = keygraph.replace({Scale: less}), keygraph.replace({Scale: more, Inheriting: less})
    first.start()
    second.start()
    first.stop()
    assert results()[0] == 12.0
    second.stop()
    assert results() == PLAIN
    first.start()
    assert results()[0] == 8.0
    first.stop()
    assert results() == PLAIN


def test_threads_begin_and_end_as_they_like() -> None:
    def often() -> None:
        for _ in range(200):
            with keygraph.replace({Scale: less}):
                assert Scale.forward is less

    threads = [threading.Thread(target=often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results() == PLAIN


def test_compiled_modules_notice() -> None:
    module = Scale()
    compiled = torch.compile(module, backend="eager")
    assert float(compiled(X).detach()) == 20.0
    with keygraph.replace({Scale: less}):
        assert float(compiled(X).detach()) == 8.0
    assert float(compiled(X).detach()) == 20.0


@pytest.mark.parametrize(
    ("forwards", "message"),
    [
        ({}, "give a dict of class -> forward"),
        (less, "give a dict of class -> forward"),
        ({Scale(): less}, "Scale.* is given as a module; give its class"),
        ({less: more}, "is not a class of modules; to replace a function, use unittest.mock.patch"),
        ({dict: less}, "<class 'dict'> is not a class of modules"),
        ({torch.jit.ScriptModule: less}, "ScriptModule is TorchScript"),
        ({Scale: "less"}, "the forward of Scale is 'less'; give a function"),
        ({Scale: functools.partial(less)}, "the forward of Scale is functools.partial"),
        ({Scale: Scale().forward}, "the forward of Scale is <bound method"),
    ],
)
def test_what_cannot_be_replaced(forwards: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        keygraph.replace(forwards)


def test_start_and_stop_once() -> None:
    forwards: Mapping[type[nn.Module], Any] = {Scale: less}
    replacement = keygraph.replace(forwards)
    with pytest.raises(InputError, match="has not begun"):
        replacement.stop()
    with replacement, pytest.raises(InputError, match="has begun already"):
        replacement.start()
    assert results() == PLAIN
