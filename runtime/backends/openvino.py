"""A session that runs an exported ONNX file in OpenVINO, on the CPU or an Intel GPU."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ... import forks
from ...errors import InputError, KeygraphError, MissingDependencyError, counted
from ...installation import install_line, package_line
from ...manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT, Manifest
from ..device.spec import Device
from ..errors import ClosedError, SessionMemoryError
from ..notices import warn
from .base import Inputs, WithBlock, check_number, check_tensors, image_inputs, result_shape
from .onnx_failures import without_functions
from .onnx_file import OnnxFile, load_onnx, read_onnx_file
from .openvino_import import without_telemetry
from .openvino_models import CompiledModel, RunningBatch, configuration, device_name, precisions
from .operator_library import load_library

if TYPE_CHECKING:
    from ..tiling.exact.executor import Run
    from ..tiling.exact.model import ExactModel

try:
    with without_telemetry():
        import openvino
    from openvino.preprocess import PrePostProcessor
except ImportError as error:
    if any(phrase in str(error) for phrase in ("failed to map segment", "annot allocate memory")):
        raise SessionMemoryError(f"there is too little memory to import OpenVINO ({error})") from error
    raise MissingDependencyError(
        f"OpenVINO cannot be imported ({error}); install it with: {install_line('openvino')}"
    ) from error

#: What bfloat16 must agree with float32 by on the first batch, for the hint "auto" to use it: dB of the value range.
AUTO_PSNR = 55.0

#: Phrases in messages of OpenVINO and of the loader; a thread that cannot start is "temporarily unavailable".
_OUT_OF_MEMORY = (
    *("bad_alloc", "out of memory", "annot allocate memory", "Failed to allocate", "failed to map segment"),
    "Resource temporarily unavailable",
)


class OpenVinoSession(WithBlock):
    """Runs an ONNX file that keygraph exported, for any number of threads, which compute at the same time.

    Parameters
    ----------
    path
        The file.
    library
        Library of keygraph's operators for OpenVINO: ``"auto"`` for the installed one, or a path. None: the plain
        functions in the file, which the package onnx is needed for.
    threads
        Threads in all, at least 1; None for OpenVINO's default, one per physical core.
    device
        The CPU, or an Intel GPU; the latter is untried. There a key graph is computed by the plain functions in the
        file, and `threads` do not apply.
    precision_hint
        Type that the network computes in, whatever the file stores: ``"f32"``; ``"bf16"``, which is faster on CPUs with
        AMX or AVX512-BF16; or ``"auto"``: bf16 where the CPU has one of these and the first batch then agrees with
        f32 by at least `AUTO_PSNR`. OpenVINO keeps sums and what it knows to be sensitive in f32.
    streams
        Batches that `run_batches` computes at a time, at least 1. The streams share the threads: more batches a second,
        each later, and memory for each.
    notice
        Called with a line for what ``"auto"`` chose, and when the installed library does not load.

    Raises
    ------
    MissingDependencyError
        OpenVINO or the operators' library is not installed.
    InputError
        The file is missing, damaged or not exported by keygraph; the library does not load; the hint is unknown, or
        this CPU has no bf16.
    SessionMemoryError
        There is too little memory to load it.
    KeygraphError
        OpenVINO refuses to compile it, or was used before this process was forked.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        library: str | os.PathLike[str] | None = "auto",
        threads: int | None = None,
        device: Device = Device(),  # noqa: B008 - frozen
        precision_hint: str = "f32",
        streams: int = 1,
        notice: Callable[[str], None] = warn,
    ) -> None:
        check_number("threads", threads)
        check_number("streams", streams)
        if threads is not None and streams > threads:
            raise InputError(
                f"streams is {streams}, but they share {counted(threads, 'thread')}; give at most as many streams"
            )
        if device.kind == "cuda":
            raise InputError(f"OpenVINO does not run on {device}; give --device cpu or intel-gpu, or another provider")
        self.file = read_onnx_file(Path(path))
        self.file.require_valid()
        self.manifest: Manifest = self.file.manifest
        forks.require_openvino()
        self._notice = notice
        try:
            core = openvino.Core()
            self._where = device_name(core, device)
            self._choices = precisions(core, self._where, precision_hint)
            if device.kind != "cpu":  # keygraph's operators run on a CPU only.
                library = None
            model, operators, self.runs_library = _read(core, self.file, library, notice)
            outputs = [name for tensor in model.outputs for name in tensor.names]
            check_tensors(self.manifest, self.file.path, [tensor.any_name for tensor in model.inputs], outputs)
            model = _with_float32_images(model)
            config = configuration(self._where, threads, streams)
            compiled = [CompiledModel(core, model, self._where, precision, config) for precision in self._choices]
        except KeygraphError:
            raise
        except Exception as error:
            raise _memory_error(error) or KeygraphError(f"OpenVINO cannot load {path}: {_reason(error)}") from error
        self._models: dict[str, CompiledModel] | None = dict(zip(self._choices, compiled, strict=True))
        self._lock = threading.Lock()
        self._core, self._threads, self._operators = core, threads, operators
        self.streams = streams
        self._process = os.getpid()
        self._exact: ExactModel | None = None

    @property
    def precision(self) -> str:
        """``"f32"`` or ``"bf16"``; ``"auto"`` until the first batch decides."""
        return self._choices[0] if len(self._choices) == 1 else "auto"

    @property
    def description(self) -> str:
        """See `Session.description`."""
        version = openvino.__version__.split("-", 1)[0]
        precision = "f32 or bf16, which the first batch decides" if self.precision == "auto" else self.precision
        streams = f", {self.streams} streams" if self.streams > 1 else ""
        return f"OpenVINO {version}, {self._where} in {precision}{streams}, {self._operators}"

    @property
    def content(self) -> str:
        """See `IdentifiedSession.content`."""
        return self.file.digest.of_content

    def run(self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Session.run`."""
        feeds, models = self._feeds((images, *extras), k), self._open_models()
        with _reported(images.shape):
            if len(models) > 1:
                with self._lock:
                    if len(self._choices) > 1:
                        return self._choose(models, feeds)
            return self._restored(models[self._choices[0]].start(feeds))

    def run_batches(self, batches: Iterator[Inputs], k: int | None) -> Generator[NDArray[np.float32], None, None]:
        """See `StreamingSession.run_batches`: each stream computes a batch, and one more waits for the next stream."""
        running: deque[RunningBatch] = deque()
        try:
            for inputs in batches:
                if self.precision == "auto":
                    yield self.run(inputs[0], k, *inputs[1:])
                    continue
                if len(running) > self.streams:
                    yield self._next(running)
                feeds, models = self._feeds(inputs, k), self._open_models()
                with _reported(inputs[0].shape):
                    running.append(models[self._choices[0]].start(feeds))
            while running:
                yield self._next(running)
        finally:
            for batch in running:
                batch.wait()

    def close(self) -> None:
        """See `ClosableSession.close`."""
        with self._lock:
            self._models = self._exact = None

    def exact(self) -> ExactModel:
        """See `DivisibleSession.exact`."""
        from ..tiling.exact.model import ExactModel

        with self._lock:
            if self._models is None:
                raise ClosedError
            if self._exact is None:
                config = configuration(self._where, self._threads, streams=1)
                open_model = functools.partial(_open_part, self._core, self._where, self._choices[-1], config)
                self._exact = ExactModel(self.file.path, self.manifest, open_model)
            return self._exact

    def _feeds(self, inputs: Inputs, k: int | None) -> dict[str, NDArray[Any]]:
        """Return the model's inputs by name, k among them where it is one."""
        named = zip(image_inputs(self.manifest), inputs, strict=True)
        feeds: dict[str, NDArray[Any]] = {given.name: np.ascontiguousarray(x, np.float32) for given, x in named}
        if k is not None:
            feeds[K_INPUT] = np.array([k], np.int64)
        return feeds

    def _open_models(self) -> dict[str, CompiledModel]:
        """Return the compiled models, unless they are closed or of another process."""
        forks.require_process(self._process, "in OpenVINO")
        models = self._models  # `close` of another thread may remove them.
        if models is None:
            raise ClosedError
        return models

    def _next(self, running: deque[RunningBatch]) -> NDArray[np.float32]:
        """Return the result of the batch that was started first."""
        batch = running.popleft()
        with _reported(batch.feeds[IMAGE_INPUT].shape):
            return self._restored(batch)

    def _restored(self, batch: RunningBatch) -> NDArray[np.float32]:
        """Return the result. OpenVINO can run out of memory without an exception, and leaves its output as it was."""
        restored: NDArray[np.float32] = batch.results([IMAGE_OUTPUT])[0]
        expected = result_shape(self.manifest, batch.feeds[IMAGE_INPUT].shape)
        if restored.shape != expected and 0 in restored.shape:
            raise SessionMemoryError("OpenVINO ran out of memory")
        return restored

    def _choose(self, models: Mapping[str, CompiledModel], feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Run the first batch in both precisions, and keep bf16 where it is close enough."""
        if self._models is None:  # Closed while another batch decided.
            raise ClosedError
        fast, exact = (self._restored(models[precision].start(feeds)) for precision in self._choices)
        low, high = self.manifest.value_range
        error = np.mean(np.square(fast - exact, dtype=np.float64))
        # Equal results need no rule, and bf16 that overflows is never close enough.
        with np.errstate(divide="ignore", invalid="ignore"):
            psnr = float(10 * np.log10((high - low) ** 2 / error))
        enough = psnr >= AUTO_PSNR
        taken = self._choices[0 if enough else 1]
        verdict = "at least" if enough else "not"
        self._notice(
            f"OpenVINO computes in {taken}: bf16 agrees with f32 by {psnr:.1f} dB on the first batch, {verdict} "
            f"{AUTO_PSNR:.0f}"
        )
        self._choices = (taken,)
        self._models = {taken: models[taken]}
        return fast if enough else exact


@contextlib.contextmanager
def _reported(shape: Sequence[int]) -> Iterator[None]:
    """Raise what OpenVINO throws while it runs a batch of this shape as an error of keygraph's."""
    try:
        yield
    except KeygraphError:
        raise
    except Exception as error:
        raise _failure(error, shape) from error


def _read(
    core: openvino.Core, file: OnnxFile, library: str | os.PathLike[str] | None, notice: Callable[[str], None]
) -> tuple[openvino.Model, str, bool]:
    """Read a file; return it with the source of its operators, in words, and whether that is the library."""
    try:
        if not file.count("keygraph"):
            return core.read_model(file.path), "standard operators", False
        if name := load_library("openvino", library, functools.partial(_add_extension, core), _reason, notice):
            return core.read_model(file.path), f"operators from {name}", True
        if not file.functions:
            raise InputError(
                without_functions(file.path, next(op for domain, op in file.operators if domain == "keygraph"))
            )
        # OpenVINO knows no functions of ONNX files.
        return core.read_model(_without_functions(file.path)), "operators from the functions in the file", False
    except KeygraphError:
        raise
    except Exception as error:
        if memory := _memory_error(error):
            raise memory from error
        if "OpConversionFailure" in str(error):
            failed = "; ".join(re.findall(r"^\s*-- (.*?)(?: with a message)?:?\s*$", str(error), re.MULTILINE)[:1])
            raise InputError(
                f"{file.path} has operators that OpenVINO cannot convert ({failed or 'it does not say which'}); use "
                "the file as exported, or another provider"
            ) from error
        raise InputError(f"{file.path} cannot be opened: {_reason(error)}; export or download it again") from error


def _add_extension(core: openvino.Core, path: Path) -> None:
    try:
        core.add_extension(path)
    except Exception as error:
        raise _memory_error(error) or error from None


def _with_float32_images(model: openvino.Model) -> openvino.Model:
    """Return a model whose images and results are float32, whatever the file has."""
    processor = PrePostProcessor(model)
    for index, tensor in enumerate(model.inputs):
        if tensor.any_name != K_INPUT:
            processor.input(index).tensor().set_element_type(openvino.Type.f32)
    for index in range(len(model.outputs)):
        processor.output(index).tensor().set_element_type(openvino.Type.f32)
    return processor.build()


def _without_functions(path: Path) -> bytes:
    """Return a file's model with its functions inlined."""
    try:
        from onnx import inliner
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{path} has operators of keygraph, which OpenVINO runs from keygraph's library or, with the package "
            f"onnx, from the functions in the file; install it with: {package_line('onnx>=1.19')}"
        ) from error
    return bytes(inliner.inline_local_functions(load_onnx(path)).SerializeToString())


def _open_part(core: openvino.Core, where: str, precision: str, config: Mapping[str, Any], model: bytes) -> Run:
    """Open a part of a network with the settings of the network's session."""
    part = CompiledModel(core, core.read_model(model), where, precision, config)
    names = part.inputs

    def run(outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> Sequence[NDArray[Any]]:
        given = {name: np.ascontiguousarray(values) for name, values in feeds.items() if name in names}
        with _reported(max((values.shape for values in given.values()), key=math.prod)):
            return part.start(given).results(outputs)

    return run


def _failure(error: Exception, shape: Sequence[int]) -> KeygraphError:
    """Return the error for an exception of OpenVINO."""
    failed = KeygraphError(f"OpenVINO failed on an image tensor of shape {tuple(shape)}: {_reason(error)}")
    return _memory_error(error) or failed


def _memory_error(error: Exception) -> SessionMemoryError | None:
    """Return the error for an exception that says that there is too little memory; None for any other."""
    if isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _OUT_OF_MEMORY):
        return SessionMemoryError("OpenVINO ran out of memory")
    return None


def _reason(error: Exception) -> str:
    """Return the end of an OpenVINO message, in one line and without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    return "; ".join(line for line in lines if line and not line.startswith(("Exception from", "Check '"))) or str(
        error
    )
