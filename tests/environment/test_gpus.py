"""NVIDIA's driver: missing, broken, without a GPU, and with one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from keygraph.environment import BROKEN, MISSING
from keygraph.environment.gpus import examine_gpus


def test_the_driver(tmp_path: Path) -> None:
    (finding,) = examine_gpus("libnothing-of-this-name.so.1")
    assert finding.state == MISSING
    (tmp_path / "libcuda.so.1").write_bytes(b"no library")
    (finding,) = examine_gpus(str(tmp_path / "libcuda.so.1"))
    assert finding.state == BROKEN


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize(
    ("status", "expected"),
    [(0, ["ok up to CUDA 12.8, 1 GPU(s)", "ok A GPU, sm_89, 24 GiB"]), (100, ["missing"]), (803, ["broken cuInit"])],
)
def test_a_driver_is_asked(tmp_path: Path, status: int, expected: list[str]) -> None:
    """With a driver of our own making: the calls and their types are what is tested."""
    (tmp_path / "driver.c").write_text(
        f"""
        #include <string.h>
        #include <stddef.h>
        int cuInit(unsigned flags) {{ return {status}; }}
        int cuDriverGetVersion(int* version) {{ *version = 12080; return 0; }}
        int cuDeviceGetCount(int* count) {{ *count = 1; return 0; }}
        int cuDeviceGet(int* handle, int index) {{ *handle = index; return 0; }}
        int cuDeviceGetName(char* name, int size, int device) {{ strncpy(name, "A GPU", size); return 0; }}
        int cuDeviceTotalMem_v2(size_t* bytes, int device) {{ *bytes = 24ull << 30; return 0; }}
        int cuDeviceGetAttribute(int* value, int which, int device) {{ *value = which == 75 ? 8 : 9; return 0; }}
        """
    )
    driver = tmp_path / "libfake.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", driver, tmp_path / "driver.c"], check=True)
    found = [f"{finding.state} {finding.detail}" for finding in examine_gpus(str(driver))]
    assert len(found) == len(expected)
    for said, start in zip(found, expected, strict=True):
        assert said.startswith(start)
