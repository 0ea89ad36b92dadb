"""Networks compiled by OpenVINO for a device, and the batches that they compute asynchronously."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ... import forks
from ...errors import InputError
from ..device.spec import Device
from .user_cache import cache_folder

if TYPE_CHECKING:
    import openvino

#: Values of `precision_hint`.
PRECISION_HINTS = ("f32", "bf16", "auto")


def device_name(core: openvino.Core, device: Device) -> str:
    """Return OpenVINO's name of a device.

    Raises
    ------
    InputError
        It is not there.
    """
    if device.kind == "cpu":
        return "CPU"
    found = next((name for name in core.available_devices if name.split(".", 1)[0] == "GPU"), None)
    if found is None:
        raise InputError(
            "OpenVINO finds no Intel GPU on this machine; install its driver (intel-opencl-icd in Debian), or give "
            "--device cpu"
        )
    return str(found)


def configuration(where: str, threads: int | None, streams: int) -> dict[str, Any]:
    """Return what every network is compiled with, but for its precision.

    Parameters
    ----------
    where
        OpenVINO's name of the device.
    threads, streams
        As for `OpenVinoSession`.
    """
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": int(streams),  # Also of NumPy.
        "CACHE_DIR": str(cache_folder() / "openvino"),
    }
    if threads is not None and where == "CPU":
        config["INFERENCE_NUM_THREADS"] = int(threads)
    return config


def precisions(core: openvino.Core, where: str, hint: str) -> tuple[str, ...]:
    """Return the types to compile for: two where the first batch decides, bf16 first.

    Parameters
    ----------
    core, where
        OpenVINO, and its name of the device.
    hint
        One of `PRECISION_HINTS`.

    Raises
    ------
    InputError
        There is no such hint, or the device has no bf16.
    """
    if hint not in PRECISION_HINTS:
        raise InputError(f"the precision hint is {hint!r}; give one of {', '.join(PRECISION_HINTS)}")
    has_bf16 = "BF16" in core.get_property(where, "OPTIMIZATION_CAPABILITIES")
    if hint == "bf16" and not has_bf16:
        raise InputError(
            "this CPU has neither AMX nor AVX512-BF16, so bf16 would not be faster; leave the hint out"
            if where == "CPU"
            else f"{where} has no bf16; leave the hint out"
        )
    if hint == "auto":
        return ("bf16", "f32") if has_bf16 else ("f32",)
    return (hint,)


class CompiledModel:
    """A compiled model with its infer requests, one for each batch that runs at the same time.

    Parameters
    ----------
    core, model, where, precision, config
        What is compiled, for which device, in which type, and the other settings of `configuration`.
    """

    def __init__(
        self, core: openvino.Core, model: openvino.Model, where: str, precision: str, config: Mapping[str, Any]
    ) -> None:
        forks.openvino_starts()
        self._model = core.compile_model(model, where, {**config, "INFERENCE_PRECISION_HINT": precision})
        self._idle: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()

    def start(self, feeds: Mapping[str, NDArray[Any]]) -> RunningBatch:
        """Start to compute with contiguous inputs."""
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._model.create_infer_request()
        request.start_async(dict(feeds), share_inputs=True)
        return RunningBatch(request, feeds, self._idle)

    @property
    def inputs(self) -> set[str]:
        """Names of the inputs."""
        return {name for tensor in self._model.inputs for name in tensor.names}


@dataclass(frozen=True)
class RunningBatch:
    """A batch that is computed."""

    request: openvino.InferRequest
    feeds: Mapping[str, NDArray[Any]]  # OpenVINO reads their memory.
    idle: queue.SimpleQueue[openvino.InferRequest]

    def results(self, outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Wait, and return copies of some outputs."""
        self.request.wait()
        copies = [self.request.get_tensor(name).data.copy() for name in outputs]
        self.idle.put(self.request)  # Only after success: a request that ran out of memory is not used again.
        return copies

    def wait(self) -> None:
        """Wait until the inputs are not read any more; whether it succeeds is of no interest."""
        with contextlib.suppress(Exception):
            self.request.wait()
