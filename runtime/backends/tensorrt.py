"""A session that runs an engine of TensorRT or TensorRT-RTX without PyTorch, with overlapped transfers."""

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

from ... import forks, plugins
from ...errors import InputError, KeygraphError
from ...manifest import Manifest
from ..device.spec import Device
from ..device.transfer_pipeline import TransferPipeline
from ..errors import ClosedError
from ..notices import warn
from ..tiling.tile_size import REBUILD
from . import engine_metadata
from .base import Inputs, WithBlock, result_shape
from .engine_metadata import EngineMetadata
from .tensorrt_bindings import load_backend, load_plugins
from .tensorrt_engine import Engine
from .tensorrt_file import Deserialized


class TensorRtSession(WithBlock):
    """Runs an engine that `keygraph build` made, for any number of threads.

    Threads share the engine, which computes one batch at a time; their transfers overlap with the computation. Each
    run in progress has buffers of its own for two batches of inputs and results.

    The engine's metadata is checked before the engine is deserialized: which TensorRT built it, for which GPU, and
    with which plugin library.

    Parameters
    ----------
    path
        The engine; its metadata file must be beside it.
    device
        The GPU; it is selected before the first call of TensorRT.
    library
        ``"auto"``: the installed plugin library, where the engine needs one. A path: that library.
    allow_host_code
        Whether an engine may run its own code on this machine's processor, as version-compatible engines do. Set it
        only for engines from a source that you trust.
    notice
        Called with messages for the user.

    Raises
    ------
    MissingDependencyError
        TensorRT, CUDA's Python bindings or the plugin library are not installed.
    InputError
        There is no such GPU; the engine or its metadata is missing, damaged, or made for another TensorRT, GPU or
        plugin library; the engine needs more memory than the GPU has.
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
        # Releases in reverse order. It must not refer to the session, which would then never be collected.
        owned = contextlib.ExitStack()
        owned.callback(gpu.close)
        self._process = os.getpid()
        self._close = weakref.finalize(self, _close, gpu, owned, self._process)
        try:
            here = engine_metadata.LoadEnvironment(
                backend.name, backend.version, gpu.gpu.capability, gpu.gpu.name, plugin, allow_host_code=allow_host_code
            )
            engine_metadata.check(file, here, notice)
            if plugin is not None:
                load_plugins(backend, plugin)
            self.metadata = metadata
            self.manifest: Manifest = metadata.manifest
            self._file = Deserialized(backend, file, allow_host_code, gpu, metadata.engine_sha256)
            owned.callback(self._file.release)
            profile = functools.partial(_profile_of, self.manifest)
            extras = [extra.name for extra in self.manifest.extra_inputs]
            self._engine = Engine(backend, self._file, gpu, profile, extras, file)
            owned.callback(self._engine.release)
            self._pipeline = TransferPipeline(gpu, self._engine.launch)
            owned.callback(self._pipeline.release)
            owned.callback(gpu.finish)
            owned.callback(self._pipeline.close)
        except BaseException:
            # Free memory now, not when the traceback is collected: the caller may try a smaller engine.
            self.close()
            raise
        operators = metadata.operators
        self.description = f"{backend.name} {backend.version}, {device} ({gpu.gpu.name}, {gpu.gpu.target}), {operators}"

    @property
    def content(self) -> str:
        """See `IdentifiedSession.content`."""
        return self.metadata.engine_sha256

    def run(self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Session.run`."""
        with contextlib.closing(self.run_batches(iter([(images, *extras)]), k)) as results:
            restored: NDArray[np.float32] = next(results).copy()
            return restored

    def run_batches(self, batches: Iterator[Inputs], k: int | None) -> Generator[NDArray[np.float32], None, None]:
        """See `base.run_batches`.

        A batch with fewer images than the previous one is filled up to its size, so that the same CUDA graph runs it.
        """
        forks.require_process(self._process)
        together = 0

        def full(shape: Sequence[int]) -> int:
            nonlocal together
            together = self._together(shape, together)
            return together

        def restored(shape: Sequence[int]) -> tuple[int, ...]:
            return result_shape(self.manifest, (1, *shape))[1:]

        before = self._engine.reshapes
        try:
            with contextlib.closing(self._pipeline.run(batches, full, restored, self._engine.dtype, k)) as results:
                for result in results:
                    single: NDArray[np.float32] = result.astype(np.float32, copy=False)
                    yield single
        finally:  # Also when the caller stops after the last result without exhausting the generator.
            if self._engine.reshapes != before:
                self._save_kernels()

    def close(self) -> None:
        """Free the engine and all memory on the GPU, after the calls in progress; then the session cannot be used.

        Results of `run_batches` that were not copied become invalid. A session that is garbage collected is closed.
        """
        self._close()

    def _save_kernels(self) -> None:
        with contextlib.suppress(ClosedError), self._pipeline.exclusive():
            if self._file.cache is not None:
                self._file.cache.save()

    def _together(self, shape: Sequence[int], before: int) -> int:
        """Return the batch size of the launch for a batch of this shape, when the previous launch had size `before`."""
        count, height, width = _profiled(self.manifest, shape)
        for profile in self.manifest.profiles:
            least, _, most = profile.batch
            if profile.takes(max(count, least), height, width):
                return max(count, least, min(before, most))
        return count  # No profile fits: `_profile_of` raises the error.


def _profile_of(manifest: Manifest, shape: tuple[int, ...]) -> int:
    """Return the number of the first profile that accepts images of a shape; raises `InputError` if there is none."""
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
        f"batch in this range, or {REBUILD} --tile {max(height, width)} --batch {batch}"
    )


def _profiled(manifest: Manifest, shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (B, H, W) of images without the margin, as in profiles."""
    batch, _, height, width = shape
    return batch, height - manifest.margin[0], width - manifest.margin[1]


def _open_gpu(device: Device) -> Any:
    """Open CUDA. Imported here because this module can be imported without cuda-bindings."""
    from ..device.cuda_runtime import Cuda

    return Cuda(device)


def plugin_for(metadata: EngineMetadata, library: str | os.PathLike[str] | None) -> Path | None:
    """Return the plugin library for an engine, or None when it needs none; raises `InputError` when it is left out."""
    if metadata.plugin is None:
        return None
    if library is None:
        raise InputError(
            f"this engine was built with {metadata.plugin.name} and does not run without it; leave the library out, or "
            f"build one that does with: {metadata.command(plugin='none')}"
        )
    return plugins.library("tensorrt") if library == "auto" else Path(library)


def _close(gpu: Any, owned: contextlib.ExitStack, process: int) -> None:
    if os.getpid() != process:
        return  # A forked process cannot use the GPU, and what it has a copy of belongs to its parent.
    # After an error of the GPU, waiting and freeing fail as well, and a finalizer has no caller to report it to;
    # `owned` releases the rest. The garbage collector may run this in any thread, whose current device is restored.
    with contextlib.suppress(KeygraphError), gpu.current():
        owned.close()
