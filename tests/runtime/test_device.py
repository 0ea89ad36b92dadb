"""Names of devices, and what NVIDIA's driver says about them."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_cuda import driver
from keygraph.errors import InputError
from keygraph.runtime.device.cuda_driver import require_gpu
from keygraph.runtime.device.spec import Device, parse_device


def test_devices_are_read() -> None:
    assert parse_device("cpu") == Device("cpu")
    assert parse_device("cuda") == Device("cuda", 0)
    assert str(parse_device("cuda:12")) == "cuda:12"
    assert str(parse_device("intel-gpu")) == "intel-gpu"
    for wrong in ("gpu", "cuda:", "cuda:-1", "CPU", "", "cuda:1 "):
        with pytest.raises(InputError, match=r"give cpu, cuda, one GPU of several: .* or intel-gpu"):
            parse_device(wrong)


def test_a_gpu_is_described(tmp_path: Path) -> None:
    gpu = require_gpu(Device("cuda", 1), driver(tmp_path, count=2))
    assert (gpu.name, gpu.target, gpu.memory) == ("Model 9", "sm_89", 24 << 30)


def test_a_gpu_that_is_not_there_is_an_error_that_says_why(tmp_path: Path) -> None:
    for name, message in (
        ("libno-driver-here.so.1", r"needs NVIDIA's driver, .*libno-driver-here\.so\.1: cannot open shared object"),
        (driver(tmp_path, init=100), "sees no GPU"),
        (driver(tmp_path, count=0), "sees no GPU"),
        (driver(tmp_path, init=803), "cuInit gives 803"),
        (driver(tmp_path, count=1), "no cuda:1 here; give one of cuda:0"),
    ):
        with pytest.raises(InputError, match=message):
            require_gpu(Device("cuda", 1), name)
