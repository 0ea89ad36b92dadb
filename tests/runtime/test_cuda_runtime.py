"""The calls that `Cuda` makes, on a fake CUDA runtime that records them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from keygraph.errors import InputError, KeygraphError

pytest.importorskip("cuda.bindings.runtime")
from cuda.bindings import runtime
from keygraph.runtime.device import cuda_runtime
from keygraph.runtime.device.spec import Device
from keygraph.runtime.errors import SessionMemoryError

SUCCESS = runtime.cudaError_t.cudaSuccess
FAILED = runtime.cudaError_t.cudaErrorStreamCaptureInvalidated


class FakeRuntime:
    """A CUDA runtime whose functions record their names, fail if they are in `failing`, and return `values`."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: set[str] = set()
        self.devices: list[int] = []
        self.values: dict[str, Any] = {
            "cudaGetDevice": 3, "cudaStreamEndCapture": "graph", "cudaGraphInstantiate": "executable",
        }  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda") or name[4].islower():
            raise AttributeError(name)
        if name in ("cudaError_t", "cudaStreamCaptureMode"):
            return getattr(runtime, name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            if name == "cudaSetDevice":
                self.devices.append(arguments[0])
            failed = name in self.failing
            status = FAILED if failed else SUCCESS
            return (status, None if failed else self.values[name]) if name in self.values else (status,)

        return call

    def cudaGetErrorString(self, _status: Any) -> tuple[Any, bytes]:
        return SUCCESS, b"in words"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    fake = FakeRuntime()
    monkeypatch.setattr(cuda_runtime, "runtime", fake)
    monkeypatch.setattr(cuda_runtime, "require_gpu", lambda device: SimpleNamespace())
    return fake


def refuse() -> None:
    raise KeygraphError("the engine does not run")


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_graph_that_was_captured(fake: FakeRuntime) -> None:
    gpu = cuda_runtime.Cuda(Device("cuda"))
    fake.calls.clear()
    assert gpu.capture(1, lambda: None) == "executable"
    assert fake.calls == ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy"]


@pytest.mark.parametrize(
    ("launch", "failing", "expected"),
    [
        (refuse, "", ["cudaStreamEndCapture", "cudaGraphDestroy", "cudaGetLastError"]),
        (refuse, "cudaStreamEndCapture", ["cudaStreamEndCapture", "cudaGetLastError"]),
        (lambda: None, "cudaStreamEndCapture", ["cudaStreamEndCapture", "cudaGetLastError"]),
        (
            lambda: None, "cudaGraphInstantiate",
            ["cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphDestroy", "cudaGetLastError"],
        ),
    ],
    ids=["refused", "refused and invalidated", "invalidated", "not instantiated"],
)  # fmt: skip
def test_what_cannot_be_captured_leaves_nothing(
    fake: FakeRuntime, launch: Callable[[], None], failing: str, expected: list[str]
) -> None:
    gpu = cuda_runtime.Cuda(Device("cuda"))
    fake.calls.clear()
    fake.failing = {failing}
    assert gpu.capture(1, launch) is None
    assert fake.calls[1:] == expected


def test_an_interrupt_ends_the_capture_too(fake: FakeRuntime) -> None:
    gpu = cuda_runtime.Cuda(Device("cuda"))
    fake.calls.clear()
    with pytest.raises(KeyboardInterrupt):
        gpu.capture(1, interrupt)
    assert fake.calls == ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphDestroy", "cudaGetLastError"]


def test_the_threads_own_gpu_is_left_to_it(fake: FakeRuntime) -> None:
    gpu = cuda_runtime.Cuda(Device("cuda", 1))
    with gpu.current():
        assert fake.devices == [1, 1]
    assert fake.devices == [1, 1, 3]
    with pytest.raises(KeygraphError), gpu.current():
        refuse()
    assert fake.devices[-1] == 3


def test_calls_of_cuda_that_fail_are_errors() -> None:
    check = cuda_runtime._check
    errors = runtime.cudaError_t
    assert check((errors.cudaSuccess,), "x") == ()
    assert check((errors.cudaSuccess, 5), "x") == 5
    assert check((errors.cudaSuccess, 5, 6), "x") == (5, 6)
    with pytest.raises(SessionMemoryError, match="cannot allocate"):
        check((errors.cudaErrorMemoryAllocation, None), "cannot allocate")
    with pytest.raises(InputError, match=r"driver is too old for CUDA \d+.*pip install 'cuda-bindings<"):
        check((errors.cudaErrorInsufficientDriver,), "cannot use the GPU")
    with pytest.raises(KeygraphError, match="cannot upload: CUDA error 700, an illegal memory access") as caught:
        check((errors.cudaErrorIllegalAddress,), "cannot upload")
    assert not isinstance(caught.value, (InputError, SessionMemoryError))
