"""A double of the Triton Inference Server: its loader, its dynamic batcher, and its Python backend, in this process.

It reads a repository as the server does and refuses what the server refuses, by what the server's sources say: names
and versions of folders, pairs of backend and platform, and the shapes of an ONNX file (`CompareDimsSupported` of the
ONNX Runtime backend). The core runs in the real ONNX Runtime, with the library that its configuration names. Requests
are joined if the shapes of all inputs of variable size are equal (`enforce_equal_shape_tensors` of `BackendModel`).
Processes, shared memory, HTTP and GPUs are not imitated.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import json
import sys
import threading
import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import json_format, text_format
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

_UTILS = "triton_python_backend_utils"

_DTYPES: dict[str, Any] = {
    "TYPE_UINT8": np.uint8,
    "TYPE_UINT16": np.uint16,
    "TYPE_INT64": np.int64,
    "TYPE_FP16": np.float16,
    "TYPE_FP32": np.float32,
    "TYPE_STRING": np.object_,
}

_ONNX_TYPES = {
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
}

_PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan", "python": ""}


class ServerError(Exception):
    """An answer with an error."""

    def __init__(self, message: str, code: str = "INTERNAL") -> None:
        super().__init__(message)
        self.code = code


def schema() -> Any:
    """Return the published schema: the module that protoc made of model_config.proto, as tritonclient has it.

    Its package imports grpc, which is not needed to read a file.
    """
    if "model_config_pb2" not in sys.modules:
        path = importlib.metadata.distribution("tritonclient").locate_file("tritonclient/grpc/model_config_pb2.py")
        spec = importlib.util.spec_from_file_location("model_config_pb2", str(path))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["model_config_pb2"] = module
        spec.loader.exec_module(module)
    return sys.modules["model_config_pb2"]


def read_config(path: Path) -> Any:
    """Parse a configuration by the schema; a field that it does not have is an error."""
    return text_format.Parse(path.read_text(encoding="utf-8"), schema().ModelConfig())


class Tensor:
    def __init__(self, name: str, values: NDArray[Any]) -> None:
        if not isinstance(values, np.ndarray):
            raise TypeError(f"{name} is a {type(values).__name__}, not a NumPy array")
        if values.dtype not in [np.dtype(dtype) for dtype in _DTYPES.values()]:
            raise TypeError(f"{name} has the type {values.dtype}, which no tensor has")
        self._name, self._values = name, np.array(values)  # The server's copy.

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._values


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG = "UNKNOWN", "INTERNAL", "NOT_FOUND", "INVALID_ARG"
    UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = "UNAVAILABLE", "UNSUPPORTED", "ALREADY_EXISTS", "CANCELLED"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        if not isinstance(message, str):
            raise TypeError("the message is no str")
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> str:
        return self._code


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


@dataclass(frozen=True)
class PreferredMemory:
    preferred_memory_type: str
    preferred_device_id: int = 0


@dataclass
class IncomingRequest:
    """A client's request, as `execute` gets it."""

    tensors: list[Tensor]
    wanted: list[str]
    cancelled: threading.Event = field(default_factory=threading.Event)

    def inputs(self) -> list[Tensor]:
        return self.tensors

    def requested_output_names(self) -> list[str]:
        return self.wanted

    def is_cancelled(self) -> bool:
        return self.cancelled.is_set()


@dataclass
class _Waiting:
    """A request that waits for an instance of a model."""

    inputs: Arrays
    batch: int
    done: threading.Event = field(default_factory=threading.Event)
    outputs: Arrays = field(default_factory=dict)
    error: str = ""


class OnnxModel:
    """A model in the ONNX Runtime backend, with its scheduler."""

    def __init__(self, folder: Path, config: Any) -> None:
        self.config = config
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        for library in config.model_operations.op_library_filename:
            assert Path(library).is_absolute(), "the server looks for it from where it was started"
            options.register_custom_ops_library(library)
        file = folder / "1" / config.default_model_filename
        self.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        for given, tensors in ((config.input, self.session.get_inputs()), (config.output, self.session.get_outputs())):
            assert {one.name for one in given} == {tensor.name for tensor in tensors}
            for one, tensor in itertools.product(given, tensors):
                if one.name == tensor.name:
                    self._compare(one, tensor)
        #: Sizes of the batches that ran.
        self.batches: list[int] = []
        #: The inputs of each.
        self.shapes: list[dict[str, tuple[int, ...]]] = []
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._held, self._stopped = 0, False
        count = sum(group.count for group in config.instance_group)
        self._instances = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        for instance in self._instances:
            instance.start()

    @contextmanager
    def held_until(self, waiting: int) -> Iterator[None]:
        """Run nothing before so many requests wait, once."""
        with self._changed:
            self._held = waiting
        try:
            yield
        finally:
            with self._changed:
                self._held = 0
                self._changed.notify_all()

    def infer(self, inputs: Arrays, wanted: Sequence[str]) -> Arrays:
        batch = _check_inputs(self.config, inputs)
        waiting = _Waiting(inputs, batch)
        with self._changed:
            assert not self._stopped
            self._queue.append(waiting)
            self._changed.notify_all()
        waiting.done.wait()
        if waiting.error:
            raise ServerError(waiting.error)
        return {name: waiting.outputs[name] for name in wanted}

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for instance in self._instances:
            instance.join()

    def _compare(self, given: Any, tensor: Any) -> None:
        """Refuse what `CompareDimsSupported` of the backend does."""
        assert _name(given) == _ONNX_TYPES[tensor.type], (given.name, tensor.type)
        dims = [-1 if not isinstance(size, int) else size for size in tensor.shape]
        full = list(given.dims)
        if self.config.max_batch_size > 0:
            assert dims, given.name
            assert dims[0] == -1, f"{given.name}: for batches the first axis must be variable, not {dims}"
            full = [-1, *full]
        assert len(dims) == len(full), (given.name, dims, full)
        assert all(size in (-1, asked) for size, asked in zip(dims, full, strict=True)), (given.name, dims, full)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or (self._queue and len(self._queue) >= self._held))
                if self._stopped:
                    return
                self._held = 0
                together = self._take()
            self._run(together)

    def _take(self) -> list[_Waiting]:
        """Take the oldest request, and those after it that fit into its batch, until one does not."""
        together = [self._queue.popleft()]
        if not self.config.HasField("dynamic_batching"):
            return together
        while self._queue:
            size = sum(one.batch for one in together) + self._queue[0].batch
            if size > self.config.max_batch_size or self._key(self._queue[0]) != self._key(together[0]):
                break
            together.append(self._queue.popleft())
        return together

    def _key(self, waiting: _Waiting) -> dict[str, tuple[int, ...]]:
        """The shapes that must be equal."""
        return {
            one.name: waiting.inputs[one.name].shape[1:]
            for one in self.config.input
            if -1 in one.dims and not one.allow_ragged_batch
        }

    def _run(self, together: Sequence[_Waiting]) -> None:
        try:
            feeds = together[0].inputs
            if len(together) > 1:
                feeds = {name: np.concatenate([one.inputs[name] for one in together]) for name in feeds}
            self.batches.append(sum(one.batch for one in together))
            self.shapes.append({name: values.shape for name, values in feeds.items()})
            names = [one.name for one in self.config.output]
            results = dict(zip(names, self.session.run(names, feeds), strict=True))
            together[0].outputs = results
            start = 0
            for one in together if len(together) > 1 else ():
                one.outputs = {name: values[start : start + one.batch] for name, values in results.items()}
                start += one.batch
        except Exception as error:
            for one in together:
                one.error = f"onnx runtime error 6: {error}"
        for one in together:
            one.done.set()


class PythonModel:
    """A model in the Python backend; its instances are objects of this process."""

    def __init__(self, folder: Path, config: Any) -> None:
        self.config = config
        file = folder / "1" / config.default_model_filename
        spec = importlib.util.spec_from_file_location(f"{folder.name}_model", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.instance = module.TritonPythonModel()
        args = {
            "model_config": json_format.MessageToJson(config, preserving_proto_field_name=True),
            "model_instance_kind": "CPU",
            "model_instance_name": f"{folder.name}_0_0",
            "model_instance_device_id": "0",
            "model_repository": str(folder),
            "model_version": "1",
            "model_name": folder.name,
        }
        assert json.loads(args["model_config"])["name"] == folder.name
        self.instance.initialize(args)

    def request(self, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] = ()) -> IncomingRequest:
        """Check a request as the server does, before a model sees it; without names, all outputs are wanted."""
        _check_inputs(self.config, dict(inputs))
        outputs = [one.name for one in self.config.output]
        unknown = set(wanted) - {*outputs}
        if unknown:
            raise ServerError(f"unexpected inference output {unknown}", "INVALID_ARG")
        return IncomingRequest([Tensor(name, values) for name, values in inputs.items()], list(wanted or outputs))

    def execute(self, requests: Sequence[IncomingRequest]) -> list[Arrays | ServerError]:
        """Call `execute` once; return the outputs or the error of each request."""
        responses = self.instance.execute(list(requests))
        assert len(responses) == len(requests)
        return [self._answer(*pair) for pair in zip(requests, responses, strict=True)]

    def stop(self) -> None:
        self.instance.finalize()

    def _answer(self, request: IncomingRequest, response: InferenceResponse) -> Arrays | ServerError:
        if (error := response.error()) is not None:
            return ServerError(error.message(), error.code())
        outputs = {one.name: one for one in self.config.output}
        results = {}
        for tensor in response.output_tensors():
            values = tensor.as_numpy()
            declared = outputs[tensor.name()]
            assert values.dtype == _DTYPES[_name(declared)]
            assert len(values.shape) == len(declared.dims)
            if tensor.name() in request.wanted:
                results[tensor.name()] = values
        return results


class Server:
    """A repository, loaded. Use it in a ``with`` block."""

    def __init__(self, repository: Path) -> None:
        self.log: list[str] = []
        self.models: dict[str, OnnxModel | PythonModel] = {}
        self._former = sys.modules.get(_UTILS)
        sys.modules[_UTILS] = self._utils()
        for folder in sorted(path for path in repository.iterdir() if path.is_dir()):
            config = read_config(folder / "config.pbtxt")
            assert config.name == folder.name
            assert _PLATFORMS[config.backend] == config.platform
            assert (folder / "1" / config.default_model_filename).is_file()
            assert not config.HasField("dynamic_batching") or config.max_batch_size >= 1
            for tensors in (config.input, config.output):
                assert len({one.name for one in tensors}) == len(tensors) > 0
                assert all(one.dims and all(size == -1 or size > 0 for size in one.dims) for one in tensors)
            self.models[config.name] = (PythonModel if config.backend == "python" else OnnxModel)(folder, config)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        for model in sorted(self.models.values(), key=lambda one: isinstance(one, OnnxModel)):
            model.stop()
        if self._former is None:
            del sys.modules[_UTILS]
        else:
            sys.modules[_UTILS] = self._former

    @property
    def images(self) -> PythonModel:
        """The only model in the Python backend."""
        (model,) = (model for model in self.models.values() if isinstance(model, PythonModel))
        return model

    @property
    def core(self) -> OnnxModel:
        """The only model in the ONNX Runtime backend."""
        (model,) = (model for model in self.models.values() if isinstance(model, OnnxModel))
        return model

    def infer(self, wanted: Sequence[str] = (), **inputs: NDArray[Any]) -> Arrays:
        """Send one request to the image model; raise `ServerError` if it is answered with one."""
        (answer,) = self.images.execute([self.images.request(inputs, wanted)])
        if isinstance(answer, ServerError):
            raise answer
        return answer

    def _utils(self) -> types.ModuleType:
        """Make the module that the Python backend gives to its models."""
        server = self

        class InferenceRequest:
            def __init__(
                self,
                *,
                inputs: Sequence[Tensor],
                requested_output_names: Sequence[str],
                model_name: str,
                preferred_memory: PreferredMemory | None = None,
            ) -> None:
                self._inputs = {tensor.name(): tensor.as_numpy() for tensor in inputs}
                self._wanted, self._model, self._memory = requested_output_names, model_name, preferred_memory

            def exec(self) -> InferenceResponse:
                model = server.models.get(self._model)
                try:
                    if not isinstance(model, OnnxModel):
                        raise ServerError(
                            f"Failed for execute the inference request. Model '{self._model}' is not ready."
                        )
                    outputs = model.infer(self._inputs, self._wanted)
                except ServerError as error:
                    return InferenceResponse(error=TritonError(str(error), error.code))
                # On a GPU the result would stay there, out of the reach of `as_numpy`.
                assert self._memory == PreferredMemory("CPU", 0)
                return InferenceResponse([Tensor(name, values) for name, values in outputs.items()])

        class Logger:
            log_info = log_warn = log_error = log_verbose = staticmethod(self.log.append)

        class TritonModelException(Exception):
            pass

        utils: Any = types.ModuleType(_UTILS)
        utils.Tensor, utils.TritonError, utils.InferenceResponse = Tensor, TritonError, InferenceResponse
        utils.InferenceRequest, utils.Logger, utils.PreferredMemory = InferenceRequest, Logger, PreferredMemory
        utils.TRITONSERVER_MEMORY_CPU, utils.TRITONSERVER_MEMORY_GPU = "CPU", "GPU"
        utils.TritonModelException = TritonModelException
        utils.get_input_tensor_by_name = lambda request, name: _by_name(request.inputs(), name)
        utils.get_output_tensor_by_name = lambda response, name: _by_name(response.output_tensors(), name)
        utils.triton_string_to_numpy = lambda text: _DTYPES[text]
        module: types.ModuleType = utils
        return module


def _by_name(tensors: Sequence[Tensor], name: str) -> Tensor | None:
    return next((tensor for tensor in tensors if tensor.name() == name), None)


def _name(tensor: Any) -> str:
    """Return the name of a tensor's type."""
    name: str = schema().DataType.Name(tensor.data_type)
    return name


def _check_inputs(config: Any, inputs: Arrays) -> int:
    """Check the inputs of a request against a configuration; return its items, 0 for a model without batches."""
    declared = {one.name: one for one in config.input}
    for name in inputs:
        if name not in declared:
            raise ServerError(f"unexpected inference input '{name}' for model '{config.name}'", "INVALID_ARG")
    batches = set()
    for name, one in declared.items():
        if name not in inputs:
            if not one.optional:
                raise ServerError(f"input '{name}' is missing for model '{config.name}'", "INVALID_ARG")
            continue
        values, dims = inputs[name], list(one.dims)
        if values.dtype != _DTYPES[_name(one)]:
            raise ServerError(f"inference input '{name}' data-type is {values.dtype}", "INVALID_ARG")
        shape = values.shape
        if config.max_batch_size > 0:
            batches.add(shape[0])
            shape = shape[1:]
        if len(shape) != len(dims) or any(size not in (-1, got) for size, got in zip(dims, shape, strict=True)):
            raise ServerError(f"unexpected shape for input '{name}': expected {dims}, got {shape}", "INVALID_ARG")
    if len(batches) > 1:
        raise ServerError(f"input batch sizes of a request for '{config.name}' differ: {batches}", "INVALID_ARG")
    batch = batches.pop() if batches else 0
    if batch > max(1, config.max_batch_size):
        raise ServerError(f"inference request batch-size must be <= {config.max_batch_size}", "INVALID_ARG")
    return batch
