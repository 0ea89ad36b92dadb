"""Shared libraries made by the system's compiler: a driver without a GPU, a library that lacks another."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int* count) { *count = COUNT; return 0; }
int cuDeviceGet(int* device, int index) { *device = index; return 0; }
int cuDeviceGetName(char* name, int size, int device) { strcpy(name, "Model 9"); return 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = 24ull << 30; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) { *value = attribute == 75 ? 8 : 9; return 0; }
"""


def compile_library(path: Path, code: str, *options: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(path), "-x", "c", "-", "-x", "none", *options],
        input=code,
        text=True,
        check=True,
    )
    return path


def driver(folder: Path, init: int = 0, count: int = 1) -> str:
    """A libcuda that starts with this status and has so many GPUs."""
    return str(compile_library(folder / f"libcuda-{init}-{count}.so", DRIVER, f"-DINIT={init}", f"-DCOUNT={count}"))


def lacking_library(path: Path, lacked: str) -> Path:
    """A library that needs one called `lacked`, which is not there."""
    other = compile_library(path.with_name(lacked), "int other(void) { return 0; }", f"-Wl,-soname,{lacked}")
    code = "int other(void); int all(void) { return other(); }"
    # Options after the code: the linker takes what is still needed only.
    compile_library(path, code, "-Wl,--no-as-needed", str(other))
    other.unlink()
    return path
