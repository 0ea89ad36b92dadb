"""An engine that TensorRT or TensorRT-RTX built, run without PyTorch and with its copies overlapped."""

from __future__ import annotations

import contextlib
import functools
import os
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import plugins
from ...errors import InputError, KeygraphError
from ...manifest import Manifest
from ..device.spec import Device
from ..device.transfer_pipeline import Overlap
from ..notices import warn
from ..tiling.tile_size import REBUILD
from . import engine_metadata
from .base import Inputs, result_shape
from .engine_metadata import EngineMetadata
from .tensorrt_bindings import load_backend, load_plugins
from .tensorrt_engine import Engine
from .tensorrt_file import Deserialized


class TensorRtSession:
    """Runs an engine that `keygraph build` made. One session for one thread at a time.

    Everything that can be known before the engine's first byte is deserialized is checked before: the metadata says what
    it was built by, for which GPU and with which plugin library.

    Parameters
    ----------
    path
        The engine; its metadata lies beside it.
    device
        The GPU; it is chosen before TensorRT is called for the first time.
    library
        ``"auto"``: the installed plugin library, where the engine needs one; a path: that library.
    allow_host_code
        Whether an engine may run code of its own on this machine's processor, as version-compatible ones do: only for
        engines from somebody you trust.
    notice
        Takes lines that a user should see.

    Raises
    ------
    MissingDependencyError
        TensorRT, CUDA's bindings or the plugin library are not installed.
    InputError
        There is no such GPU; the file or its metadata is missing, damaged, or of another TensorRT, GPU or plugin
        library; the engine needs more memory than the GPU has.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        device: Device = Device("cuda"),  # noqa: B008 - frozen
        library: str | os.PathLike[str] | None = "auto",
        allow_host_code: bool = False,
        notice: Callable[[str], None] = warn,
    ) -> None:
        file = Path(path)
        if device.kind != "cuda":
            raise InputError(f"{file} is an engine for a GPU, which does not run on the device {device}; give cuda")
        metadata = engine_metadata.read(file)
        backend = load_backend(metadata.backend)
        plugin = plugin_for(metadata, library)
        gpu = _open_gpu(device)
        # What is freed, last in first out; nothing in it may refer to the session, which would then never be collected.
        owned = contextlib.ExitStack()
        owned.callback(gpu.close)
        self._close = weakref.finalize(self, _close, gpu, owned)
        try:
            here = engine_metadata.LoadEnvironment(
                backend.name, backend.version, gpu.gpu.capability, gpu.gpu.name, plugin, allow_host_code=allow_host_code
            )
            engine_metadata.check(file, here, notice)
            if plugin is not None:
                load_plugins(backend, plugin)
            self.manifest: Manifest = metadata.manifest
            self._file = Deserialized(backend, file, allow_host_code, gpu, metadata.engine_sha256)
            owned.callback(self._file.release)
            profile = functools.partial(_profile_of, self.manifest)
            extras = [extra.name for extra in self.manifest.extra_inputs]
            self._engine = Engine(backend, self._file, gpu, profile, extras, file)
            owned.callback(self._engine.release)
            self._overlap = Overlap(gpu, self._engine.launch)
            owned.callback(self._overlap.release)
        except BaseException:
            # Now, and not when the exception's last traceback goes: whoever tries a smaller engine needs the memory.
            self.close()
            raise
        self._gpu = gpu
        operators = plugin.name if plugin else "the functions in the file"
        self.description = (
            f"{backend.name} {backend.version}, {device} ({gpu.gpu.name}, {gpu.gpu.target}), operators from {operators}"
        )

    def run(self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Session.run`."""
        with contextlib.closing(self.run_batches(iter([(images, *extras)]), k)) as results:
            return next(results).copy()

    def run_batches(self, batches: Iterator[Inputs], k: int | None) -> Generator[NDArray[np.float32], None, None]:
        """See `run_batches`.

        A batch of fewer images than the one before it is filled up, so that the same graph serves both.
        """
        self._require_open()
        self._gpu.use()
        if k is not None:
            self._engine.set_k(k, self._overlap.compute_stream)
        together = 0

        def full(shape: Sequence[int]) -> int:
            nonlocal together
            together = self._together(shape, together)
            return together

        def restored(shape: Sequence[int]) -> tuple[int, ...]:
            return result_shape(self.manifest, (1, *shape))[1:]

        before = self._engine.shapes
        try:
            with contextlib.closing(self._overlap.run(batches, full, restored, self._engine.dtype)) as results:
                for result in results:
                    yield result.astype(np.float32, copy=False)
                    self._require_open()
        finally:  # Whoever has all results need not ask for one more.
            if self._file.cache is not None and self._engine.shapes != before:
                self._file.cache.save()

    def close(self) -> None:
        """Free everything on the GPU, and the engine; the session cannot be used after it.

        Results that were not copied are gone with it. A session that is collected is closed.
        """
        self._close()

    def _require_open(self) -> None:
        if not self._close.alive:
            raise KeygraphError("this session has been closed; load the engine again")

    def _together(self, shape: Sequence[int], before: int) -> int:
        """How many images a launch takes that restores a batch of this shape, after one that took so many."""
        count, height, width = _profiled(self.manifest, shape)
        for profile in self.manifest.profiles:
            least, _, most = profile.batch
            if profile.takes(max(count, least), height, width):
                return max(count, least, min(before, most))
        return count  # `_profile_of` says what the engine takes.


def _profile_of(manifest: Manifest, shape: tuple[int, ...]) -> int:
    """Number of the first profile that takes images of a shape."""
    batch, height, width = _profiled(manifest, shape)
    for index, profile in enumerate(manifest.profiles):
        if profile.takes(batch, height, width):
            return index
    known = "; ".join(
        f"{profile.batch[0]} to {profile.batch[2]} of {profile.height[0]} x {profile.width[0]} to "
        f"{profile.height[2]} x {profile.width[2]}"
        for profile in manifest.profiles
    )
    raise InputError(
        f"this engine does not take {batch} images of {height} x {width} pixels, but {known}; choose a tile and a "
        f"batch within that, or {REBUILD} --tile {max(height, width)} --batch {batch}"
    )


def _profiled(manifest: Manifest, shape: Sequence[int]) -> tuple[int, int, int]:
    """(B, H, W) of images as profiles count them: without the margin."""
    batch, _, height, width = shape
    return batch, height - manifest.margin[0], width - manifest.margin[1]


def _open_gpu(device: Device) -> Any:
    """Open CUDA; a function of its own because cuda-bindings need not be installed to import this module."""
    from ..device.cuda_runtime import Cuda

    return Cuda(device)


def plugin_for(metadata: EngineMetadata, library: str | os.PathLike[str] | None) -> Path | None:
    """The plugin library for an engine, None where it needs none."""
    if metadata.plugin is None:
        return None
    if library is None:
        raise InputError(
            f"this engine was built with {metadata.plugin.name} and does not run without it; leave the library out, or "
            f"build one that does with: {metadata.command(plugin='none')}"
        )
    return plugins.library("tensorrt") if library == "auto" else Path(library)


def _close(gpu: Any, owned: contextlib.ExitStack) -> None:
    # Long after an error of the GPU, freeing fails as well; there is nobody left to tell. Whatever fails, the rest is
    # freed. A session may be collected in any thread, whose own GPU is left to it.
    with contextlib.suppress(KeygraphError), gpu.current(), owned:
        gpu.finish()
