"""Code of a network that no exported file can hold: Triton kernels, operators of the user's own, NumPy.

What PyTorch says of it comes from deep inside. The messages here name the module, and `keygraph.attend`.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator

import torch
from torch import nn
from torch._subclasses.fake_tensor import UnsupportedOperatorException
from torch.export import ExportedProgram

from ..errors import InputError
from ..models.source_file import user_line
from .canonicalize import WRAPPER

#: What PyTorch raises -> what the network does.
_ERRORS = (
    (r"Could not run '([\w:.]+)' with arguments from the 'CPU'", "calls the operator {}, which does not run on a CPU"),
    (
        r"no fake impl registered for <CustomOpDef\(([\w:]+)\)>",
        "calls the operator {}, whose shape PyTorch cannot infer",
    ),
    (r"\.numpy\(\) is not supported for tensor subclasses", "computes by NumPy"),
    (
        r"Cannot access data pointer of Tensor|doesn't have storage",
        "gives a tensor's memory to other code",
    ),
)


class OpaqueError(InputError):
    """The network runs code that no exported file can hold."""


def opaque_failure(name: str, module: nn.Module, error: BaseException) -> OpaqueError | None:
    """Return the error for a network that cannot be run on a CPU, or traced, because of such code.

    Parameters
    ----------
    name
        The network's name in messages.
    module
        The network.
    error
        What running or tracing it raised.

    Returns
    -------
    OpaqueError or None
        None if it failed for another reason.
    """
    what = _described(error)
    if what is None:
        return None
    part = _innermost(module, error)
    path = next(path for path, each in module.named_modules() if each is part)
    line = user_line(error)
    return OpaqueError(f"{name}: {_sentence(path, type(part).__name__, what + (f' ({line})' if line else ''))}")


def opaque_operator(program: ExportedProgram, operator: str) -> OpaqueError | None:
    """Return the error for a program that cannot be translated because of an operator of the user's own.

    Parameters
    ----------
    program
        From `trace.capture`.
    operator
        The operator that torch.onnx does not translate, for instance ``"mylib.topk_attention.default"``.

    Returns
    -------
    OpaqueError or None
        None if the operator is one of PyTorch's own.
    """
    node = next((node for node in program.graph.nodes if str(node.target) == operator), None)
    if node is None or not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace == "aten":
        return None
    stack = list((node.meta.get("nn_module_stack") or {"": ("", "Network")}).values())
    path, owner = stack[-1]
    what = f"calls the operator {operator}, which torch.onnx does not translate"
    inside = f"{path}.".removeprefix(WRAPPER).removesuffix(".")
    return OpaqueError(f"the network cannot be exported: {_sentence(inside, str(owner).rpartition('.')[2], what)}")


def _sentence(path: str, owner: str, what: str) -> str:
    """Return what the module of a path and class does, and what to do about it."""
    return (
        f"{f'`{path}`' if path else 'it'} {what}: no file can hold that; if it attends to the k most similar nodes, "
        "compute it by keygraph.attend, in its source or for the export alone with "
        f"keygraph.replace({{{owner}: forward}}); else write it with PyTorch's own operators"
    )


def _described(error: BaseException) -> str | None:
    if any(name.partition(".")[0] == "triton" for name in _modules(error)):
        return "runs a Triton kernel"
    text = (str(error).splitlines() or [""])[0]
    if isinstance(error, UnsupportedOperatorException):  # Its text is the operator's name.
        return f"calls the operator {text}, whose shape PyTorch cannot infer"
    for pattern, what in _ERRORS:
        match = re.search(pattern, text)
        if match is not None:
            return what.format(*match.groups())
    if "cuda" in text.lower() or "cuda" in _line(error).lower():
        return "needs a GPU, and an export runs it on the CPU"
    return None


def _modules(error: BaseException) -> Iterator[str]:
    """Yield the names of the Python modules whose functions were running."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield str(frame.f_globals.get("__name__", ""))


def _line(error: BaseException) -> str:
    """Return the line of code that raised an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    return (frames[-1].line or "") if frames else ""


def _innermost(module: nn.Module, error: BaseException) -> nn.Module:
    """Return the innermost part of a network whose forward was running."""
    parts = set(module.modules())
    running = module
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and owner in parts:
            running = owner
    return running
