"""Find out which libraries a forked process cannot use, before it waits for them forever.

A fork copies the thread that calls it and no other. In the copy, libvips, PyTorch and OpenVINO wait for threads
that they had started before, and CUDA refuses to work. ONNX Runtime's sessions on the CPU go on with one thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

from .errors import KeygraphError

_REMEDY = (
    'start processes with "spawn" or "forkserver", or load and use models only after the fork (gunicorn without '
    "--preload)"
)

#: Seconds after which an operation of some milliseconds is taken to wait forever.
_PATIENCE = 5.0


_forked = False
_vips_had_threads = False

#: Whether keygraph used OpenVINO in this process; whether it did before the fork.
_openvino_started = False
_openvino_had_threads = False

#: Whether PyTorch was imported before the fork; the thread that was forked; whether PyTorch works in it, once tried.
_torch_was_imported = False
_forked_thread = 0
_torch_works: bool | None = None

#: What the parent saw when it last forked.
_seen = False


def require_vips() -> None:
    """Check that libvips can be used here, before it is.

    libvips keeps idle threads for some seconds, and names them. Where the system does not list threads as Linux does,
    nothing is found.

    Raises
    ------
    KeygraphError
        This process, or one that it descends from, was forked while libvips had threads.
    """
    if _vips_had_threads:
        raise KeygraphError(
            f"libvips had started threads before this process was forked, so images cannot be read or written here; "
            f"{_REMEDY}"
        )


def require_torch() -> None:
    """Check that PyTorch can be used in this thread, before it is.

    Only the thread that was forked waits for the threads of its copy, so threads that were started later, and PyTorch
    with one thread, work. Whoever used PyTorch before the fork, it cannot be seen: a copy of this process tries it.

    Raises
    ------
    KeygraphError
        This process was forked after PyTorch had started threads.
    """
    global _torch_works
    if not _torch_was_imported or threading.get_ident() != _forked_thread:
        return
    if sys.modules["torch"].get_num_threads() == 1:
        return
    if _torch_works is None:
        _torch_works = _torch_returns()
    if not _torch_works:
        raise KeygraphError(
            f"PyTorch had started threads before this process was forked, so it cannot compute here; {_REMEDY}, or "
            "load with threads=1"
        )


def openvino_starts() -> None:
    """Remember that OpenVINO starts threads in this process."""
    global _openvino_started
    _openvino_started = True


def require_openvino() -> None:
    """Check that OpenVINO can be used here, before it is.

    Raises
    ------
    KeygraphError
        This process was forked after keygraph had loaded a model in OpenVINO.
    """
    if _openvino_had_threads:
        raise KeygraphError(
            f"OpenVINO had started threads before this process was forked, so it cannot be used here; {_REMEDY}"
        )


def require_process(process: int, where: str = "on a GPU") -> None:
    """Check that a model on a GPU or in OpenVINO is used in the process that loaded it.

    Parameters
    ----------
    process
        ``os.getpid()`` when it was loaded.
    where
        Where it was loaded, in words.

    Raises
    ------
    KeygraphError
        This is another process.
    """
    if os.getpid() != process:
        raise KeygraphError(f"this model was loaded {where} before this process was forked; {_REMEDY}")


def cuda_remedy() -> str | None:
    """Return what to do if CUDA fails here because of a fork, in words; None if there was none."""
    return f"CUDA cannot be used in a process that was forked after its first use; {_REMEDY}" if _forked else None


def _torch_returns() -> bool:
    """Compute something in a copy of this process; return whether it comes to an end."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Of Python, where there are other threads.
        copy = os.fork()
    if copy == 0:
        torch.ones(1 << 20).sum()  # Large enough to be divided among threads.
        os._exit(0)
    last = time.monotonic() + _PATIENCE
    while time.monotonic() < last:
        if os.waitpid(copy, os.WNOHANG)[0]:
            return True
        time.sleep(0.005)
    os.kill(copy, signal.SIGKILL)
    os.waitpid(copy, 0)
    return False


def _before() -> None:
    """Look for the threads of libvips in the process that is going to fork."""
    global _seen
    _seen = False
    if "pyvips" in sys.modules:
        with contextlib.suppress(OSError):
            names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
            _seen = any(name.startswith("libvips") for name in names)


def _after() -> None:
    """Remember in the new process what it inherited; also what its parent did."""
    global _forked, _vips_had_threads, _openvino_had_threads, _torch_was_imported, _forked_thread, _torch_works
    _forked = True
    _openvino_had_threads = _openvino_started
    _vips_had_threads = _vips_had_threads or _seen
    _torch_was_imported = "torch" in sys.modules
    _forked_thread = threading.get_ident()
    _torch_works = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_after)
