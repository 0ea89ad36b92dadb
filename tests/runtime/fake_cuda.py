"""Fake shared libraries, compiled by the system's compiler: a CUDA driver, and a library with a missing dependency."""

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
    """Compile a libcuda whose cuInit returns `init` and that has `count` GPUs."""
    return str(compile_library(folder / f"libcuda-{init}-{count}.so", DRIVER, f"-DINIT={init}", f"-DCOUNT={count}"))


def lacking_library(path: Path, lacked: str) -> Path:
    """Compile a library that depends on a library `lacked`, which does not exist."""
    other = compile_library(path.with_name(lacked), "int other(void) { return 0; }", f"-Wl,-soname,{lacked}")
    code = "int other(void); int all(void) { return other(); }"
    # The linker only uses libraries that follow the code that needs them.
    compile_library(path, code, "-Wl,--no-as-needed", str(other))
    other.unlink()
    return path
