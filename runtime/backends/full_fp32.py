"""PyTorch without TensorFloat-32 and its like for a while: products of float32 with all of their bits.

PyTorch's convolutions on GPUs use TensorFloat-32 (10 bits of mantissa) unless told not to, its matrix products once a
user has asked for speed. Both are settings of the process, not of a call.
"""

from __future__ import annotations

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
    """Multiply float32 exactly inside the block, and leave the process's settings as they were.

    Several threads may be inside: the first changes the settings, the last restores them. Meanwhile they hold for the
    whole process, because PyTorch has no others.
    """
    global _inside, _restore
    with _lock:
        if _inside == 0:
            _restore = _forbid()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0 and _restore is not None:
                _restore()


def _forbid() -> Callable[[], None]:
    """Change the settings; return what undoes it."""
    backends: Any = torch.backends  # made while it is imported: types do not know its parts
    settings: tuple[Any, ...] = (
        backends.cuda.matmul,
        *(backends.cudnn.conv, backends.cudnn.rnn),
        *(backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn),
    )
    before = [setting.fp32_precision for setting in settings]
    # The older settings beside them: where the two disagree PyTorch refuses to tell either, in its compiler too. Where
    # they have disagreed before, they are left alone.
    products, convolutions = _told(torch.get_float32_matmul_precision), _told(lambda: backends.cudnn.allow_tf32)
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


def _told(setting: Callable[[], Any]) -> Any:
    """A setting of the older kind; None where PyTorch does not tell it beside the newer ones."""
    try:
        return setting()
    except RuntimeError:
        return None
