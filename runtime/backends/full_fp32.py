"""Disable TensorFloat-32 and similar reduced precisions in PyTorch temporarily.

On GPUs PyTorch's convolutions use TensorFloat-32 (10 mantissa bits) by default, and its matrix products do so when a
user has enabled it. Both are settings of the process, not of a call.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_lock = threading.Lock()
_inside = 0
_restore: Callable[[], None] | None = None


@contextmanager
def full_fp32() -> Iterator[None]:
    """Compute float32 products in full precision inside the block, and restore the process's settings afterwards.

    Several threads may be inside the block: the first changes the settings and the last restores them. In between, the
    settings apply to the whole process, because PyTorch has no settings per thread.
    """
    global _inside, _restore
    with _lock:
        if _inside == 0:
            _restore = _disable()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _restore is not None:
                _restore()


def _after_fork() -> None:
    """Leave the block in a forked process for threads of the parent, which it does not have."""
    global _inside, _lock
    _lock = threading.Lock()
    if _inside and _restore is not None:
        _restore()
    _inside = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _disable() -> Callable[[], None]:
    """Change the settings; return a function that restores them."""
    backends: Any = torch.backends  # its attributes are created at import, so type checkers do not know them
    settings: tuple[Any, ...] = (
        backends.cuda.matmul,
        *(backends.cudnn.conv, backends.cudnn.rnn),
        *(backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn),
    )
    before = [setting.fp32_precision for setting in settings]
    # PyTorch's older settings exist beside the newer ones, and reading either raises an error where the two disagree,
    # also in torch.compile. So change both, except where they disagreed before.
    products, convolutions = _read(torch.get_float32_matmul_precision), _read(lambda: backends.cudnn.allow_tf32)
    if products is not None:
        torch.set_float32_matmul_precision("highest")
    if convolutions is not None:
        backends.cudnn.allow_tf32 = False
    for setting in settings:
        setting.fp32_precision = "ieee"

    def restore() -> None:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        if convolutions is not None:
            backends.cudnn.allow_tf32 = convolutions
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision

    return restore


def _read(setting: Callable[[], Any]) -> Any:
    """Return an older setting, or None where PyTorch refuses to read it because it disagrees with the newer ones."""
    try:
        return setting()
    except RuntimeError:
        return None
