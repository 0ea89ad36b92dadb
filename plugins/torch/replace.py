"""Replace the forward of a module's class for a while, without a change of its source: `keygraph.replace`."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import torch
from torch import nn

from ...errors import InputError

#: Called as a module's forward: with the module, then what forward is called with.
Forward = Callable[..., Any]


def replace(forwards: Mapping[type[nn.Module], Forward]) -> Replacement:
    """Replace the `forward` of module classes inside a `with` block.

    For an attention that cannot be exported as it is, such as one that runs a Triton kernel: compute it by `attend` in
    the replacement, and export inside the block. The modules keep their weights.

    The replacement is of the class, in the whole process: every instance is called with it, in other threads too, and
    so are subclasses that inherit the class's forward. Subclasses with a forward of their own, and instances to which
    a forward was assigned, keep theirs. When the block ends, also by an exception, the class is as before. Blocks may
    be nested and may overlap in threads: of several replacements of a class the last one begun holds.

    To replace a function instead of a class, use Python's ``unittest.mock.patch``.

    Parameters
    ----------
    forwards
        Class -> its replacement, which is called as ``forward(module, *inputs)``.

    Returns
    -------
    Replacement
        A context manager; without a `with` block, `Replacement.start` begins it.

    Raises
    ------
    InputError
        A key is not a class of modules, or a value is not a function of the arguments that the class's forward takes.

    Examples
    --------
    >>> def attention(self, x):
    ...     q, k, v = self.qkv(x).chunk(3, dim=-1)
    ...     return self.proj(keygraph.attend(q, k, v, k=64, heads=self.heads))
    >>> with keygraph.replace({MyAttention: attention}):  # doctest: +SKIP
    ...     keygraph.export_module(network, "network.onnx")
    """
    _check(forwards)
    return Replacement(forwards)


class Replacement:
    """The result of `replace`: a context manager that replaces the forward of classes while it is active.

    Parameters
    ----------
    forwards
        As for `replace`, and checked by it.
    """

    def __init__(self, forwards: Mapping[type[nn.Module], Forward]) -> None:
        self._forwards = dict(forwards)

    def __enter__(self) -> None:
        """Begin the replacement."""
        self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the replacement."""
        self.stop()

    def start(self) -> None:
        """Begin the replacement without a `with` block, as a function that builds a network for `export-model` must.

        It holds until `stop` is called, or the process ends.

        Raises
        ------
        InputError
            It has begun already.
        """
        with _lock:
            if self in _begun:
                raise InputError("replace: this replacement has begun already; make another one with keygraph.replace")
            _begun.append(self)
            for owner in self._forwards:
                _originals.setdefault(owner, vars(owner).get("forward"))
            _apply(self._forwards)

    def stop(self) -> None:
        """End what `start` began.

        Raises
        ------
        InputError
            It has not begun.
        """
        with _lock:
            if self not in _begun:
                raise InputError("replace: this replacement has not begun; begin it with start()")
            _begun.remove(self)
            _apply(self._forwards)


_lock = threading.Lock()
#: The replacements that hold, in the order in which they began.
_begun: list[Replacement] = []
#: Class -> the forward that it defined itself before any replacement; None where it inherits one.
_originals: dict[type[nn.Module], Forward | None] = {}


def _apply(owners: Mapping[type[nn.Module], Forward]) -> None:
    """Give each class the forward of the last replacement of it, or its own."""
    for owner in owners:
        holding = [each._forwards[owner] for each in _begun if owner in each._forwards]
        if holding:
            owner.forward = holding[-1]
            continue
        original = _originals.pop(owner)
        if original is not None:
            owner.forward = original
        else:
            with suppress(AttributeError):
                del owner.forward


def _check(forwards: object) -> None:
    if not isinstance(forwards, Mapping) or not forwards:
        raise InputError(
            f"replace: give a dict of class -> forward, such as {{MyAttention: forward}}, not {_shown(forwards)}"
        )
    for owner, forward in forwards.items():
        if isinstance(owner, nn.Module):
            raise InputError(
                f"replace: {_shown(type(owner).__name__)} is given as a module; give its class, type(module)"
            )
        if not isinstance(owner, type) or not issubclass(owner, nn.Module):
            raise InputError(
                f"replace: {_shown(owner)} is not a class of modules; to replace a function, use unittest.mock.patch"
            )
        if issubclass(owner, torch.jit.ScriptModule):
            raise InputError(
                f"replace: {owner.__name__} is TorchScript, whose forward is compiled; give the class it was made from"
            )
        if not inspect.isfunction(forward):
            raise InputError(
                f"replace: the forward of {owner.__name__} is {_shown(forward)}; give a function, made by def or lambda"
            )
        _check_arguments(owner, forward)


def _check_arguments(owner: type[nn.Module], forward: Forward) -> None:
    """Check that a replacement can be called in a way in which the forward of its class is called."""
    own, new = inspect.signature(owner.forward), inspect.signature(forward)
    kinds = inspect.Parameter
    places = [p for p in own.parameters.values() if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    least, most = sum(p.default is kinds.empty for p in places), len(places)
    if any(p.kind is kinds.VAR_POSITIONAL for p in own.parameters.values()):
        most = max(most, len(new.parameters))
    named = [p for p in own.parameters.values() if p.kind is kinds.KEYWORD_ONLY]
    needed = dict.fromkeys(p.name for p in named if p.default is kinds.empty)
    if not any(_binds(new, count, needed) for count in range(least, most + 1)):
        raise InputError(
            f"replace: the forward of {owner.__name__} is called as forward{own}, which the replacement, "
            f"{forward.__name__}{new}, does not take; give a function of the same arguments, the module first"
        )


def _binds(signature: inspect.Signature, count: int, named: Mapping[str, None]) -> bool:
    try:
        signature.bind(*range(count), **named)
    except TypeError:
        return False
    return True


def _shown(value: object) -> str:
    return f"{value!r:.80}"
