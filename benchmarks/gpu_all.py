"""Run all GPU tests and measurements, the most valuable first, within a time budget.

    python3 benchmarks/gpu_all.py [--budget SECONDS]     the first run
    python3 benchmarks/gpu_all.py --rest                 what the first run left out, and what can wait
    python3 benchmarks/gpu_all.py --only smoke variants  some steps, of either list
    python3 benchmarks/gpu_all.py --dry-run              every step as far as possible without a GPU

It uses the package in build/gpu/site (`make gpu-package`) and builds one only if that does not work. Each step has a
time limit and a process group of its own. The folder in the environment variable OUT, by default results/ beside this
script, is updated after every step: results.json, gpu.md, log.txt. The exit code is 0 if every step that ran passed.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpu_package import ROOT, SITE, is_editable
from gpu_runner import LEFT_OUT, Conditions, Runner, Step

BENCHMARKS = ROOT / "benchmarks"
RESULTS = BENCHMARKS / "results"
CACHE = ROOT / "build" / "gpu-cache"
LIBRARIES = SITE / "keygraph" / "plugins" / "lib"
PYTHON = sys.executable

#: Processes of a test run: each needs a core to compile, and half a gigabyte of the GPU's memory.
WORKERS = min(14, os.cpu_count() or 1)
#: Seconds for one test, less than the limit of its step, so that a kernel that hangs ends only its test.
TEST_LIMIT = 45
C_LIBRARY = "tests/gpu/test_cuda_library.py"
#: Tests of PyTorch's implementations; each compiled FlexAttention takes seconds.
ALTERNATIVES = "flex or (test_attention and (mask or gather or sdpa))"
#: Just in time in half precision alone: the C library's tests compute the same kernels in all types, compiling nothing.
HALF = f"not float32 and not bfloat16 and not ({ALTERNATIVES})"
OTHER_TYPES = f"(float32 or bfloat16) and not ({ALTERNATIVES})"
#: Some 20 cases: the sanitizer slows kernels down a hundredfold.
SANITIZED = (
    "fp16 and not dense and not inf and not one and not three and "
    "(test_key_graph and (plain or window or ties) or test_key_graph_attention and "
    "heads-last and (plain or window or bias or empty or 31) or "
    "test_pack_graph and (plain or ties) or test_top_k_graph and (plain or equal)) or slices"
)


def steps(dry: bool) -> list[Step]:
    """Return the steps of the first run, in their order."""
    return [
        Step("package", _package(dry), 90),
        # Triton's interpreter multiplies no bfloat16.
        _script("smoke", "gpu_smoke.py", 45, dry, dry_arguments=("--dtype", "float32", "float16")),
        _script("ceilings", "gpu_ceilings.py", 30, dry),
        _script("compile", "gpu_compile.py", 90, dry),
        _script("variants", "gpu_variants.py", 75, dry),
        _script("operators", "gpu_operators.py", 80, dry, dry_arguments=("--without", "flex")),
        _script("network", "gpu_network.py", 60, dry),
        _tests("tests, C library", 60, dry, C_LIBRARY),
        _tests("tests, PyTorch", 100, dry, "tests/gpu", "--ignore", C_LIBRARY, "-k", HALF),
        _tests(
            "tests, TensorRT plugin", 40, dry, "tests/plugins/tensorrt_plugin/test_tensorrt_plugin.py", "-k", "gpu",
            needs=("gpu", "harness"), environment={"KEYGRAPH_LIBRARY_DIR": str(LIBRARIES)},
        ),
        _sanitized("memcheck", 70, dry),
        _script("operators, bfloat16", "gpu_operators.py", 45, dry,
                "--dtype", "bfloat16", "--without", "flex", "gather",
                dry_arguments=("--dtype", "float32", "--without", "flex", "gather", "mask")),
        _script("memory", "gpu_memory.py", 30, dry,
                "--nodes", "1024", "--neighbours", "128", "512", "--without", "flex",
                dry_arguments=("--without", "flex")),
    ]  # fmt: skip


def rest(dry: bool) -> list[Step]:
    """Return the steps that can wait, which follow what the first run left out."""
    return [
        _script("profile", "gpu_profile.py", 60, dry, "--output", "{out}/kernels", needs=("gpu", "ncu")),
        _tests("tests, other types", 150, dry, "tests/gpu/test_torch_cuda.py", "-k", OTHER_TYPES),
        _script("operators, float32", "gpu_operators.py", 45, dry, "--dtype", "float32", "--without", "flex", "gather",
                dry_arguments=("--dtype", "float32", "--without", "flex", "gather", "mask")),
        _script("channel attention", "gpu_channel_attention.py", 45, dry, dry_arguments=("--dtype", "float32")),
        _sanitized("racecheck", 70, dry),
        _tests("tests, alternatives", 90, dry, "tests/gpu/test_torch_cuda.py", "-k", ALTERNATIVES),
        _script("memory, all", "gpu_memory.py", 90, dry, dry_arguments=("--without", "flex")),
        _script("operators, longer", "gpu_operators.py", 120, dry, "--rounds", "40",
                dry_arguments=("--without", "flex", "gather")),
        _script("variants, float32", "gpu_variants.py", 60, dry, "--dtype", "float32"),
    ]  # fmt: skip


def _package(dry: bool) -> tuple[str, ...]:
    # Without a GPU nothing is built for one; which there will be does not matter to what loads.
    return (PYTHON, "benchmarks/gpu_package.py", *(("--capability", "90", "--no-build") if dry else ()))


def _script(
    name: str,
    file: str,
    limit: float,
    dry: bool,
    *arguments: str,
    dry_arguments: tuple[str, ...] = (),
    needs: tuple[str, ...] = ("gpu",),
) -> Step:
    """Return a step that runs a script beside this one; in a dry run with tiny problems and no GPU."""
    command = (PYTHON, f"benchmarks/{file}", "--json", "{json}", "--ceilings", "{out}/results.json")
    if dry:
        return Step(name, (*command, "--tiny", "--rounds", "1", *dry_arguments), limit)
    return Step(name, (*command, *arguments), limit, needs)


def _tests(
    name: str,
    limit: float,
    dry: bool,
    *arguments: str,
    needs: tuple[str, ...] = ("gpu",),
    environment: Mapping[str, str] | None = None,
) -> Step:
    """Return a step of tests; in a dry run they are collected and skipped."""
    command = (*_pytest(), *_test_limit(), *arguments)
    if not dry and importlib.util.find_spec("xdist"):
        command = (*command, "-n", str(WORKERS))
    wanted = tuple(need for need in needs if need == "harness") if dry else needs
    return Step(name, command, limit, wanted, environment or {})


def _sanitized(tool: str, limit: float, dry: bool) -> Step:
    """Return a step of the C library's tests under compute-sanitizer."""
    tests = (*_pytest(), C_LIBRARY, "-k", SANITIZED)
    if dry:
        return Step(tool, tests, limit)
    sanitizer = ("compute-sanitizer", "--tool", tool, "--error-exitcode", "1")
    # PyTorch's own memory pool would hide what is read past a tensor's end.
    return Step(
        tool, (*sanitizer, *tests), limit, ("gpu", "sanitizer"), {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    )  # fmt: skip


def _pytest() -> tuple[str, ...]:
    return (
        PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "gpu_pytest", "--gpu-json", "{json}",
        "--continue-on-collection-errors", "--tb", "short", "-r", "fE",
    )  # fmt: skip


def _test_limit() -> tuple[str, ...]:
    if not importlib.util.find_spec("pytest_timeout"):
        return ()
    # By a thread: a signal would wait for the call that waits for the kernel.
    return ("--timeout", str(TEST_LIMIT), "--timeout-method", "thread")


def gpu() -> str | None:
    """Return why there is no GPU, or None if there is one; asks the driver without creating a context."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"no NVIDIA driver: {error}"
    count = ctypes.c_int()
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if status:
        return f"the driver says {status}"
    return None if count.value else "no NVIDIA GPU"


def _program(name: str) -> str | None:
    return None if shutil.which(name) else f"{name} is not installed"


def _harness() -> str | None:
    for name in ("keygraph_trt_harness", "libkeygraph_trt.so"):
        if not (LIBRARIES / name).is_file():
            return f"{name} is not in {SITE}: make gpu-package TENSORRT_ROOT=..."
    return None


CONDITIONS: Conditions = {
    "gpu": gpu,
    "sanitizer": lambda: _program("compute-sanitizer"),
    "ncu": lambda: _program("ncu"),
    "harness": _harness,
}


def environment(dry: bool) -> dict[str, str]:
    """Return the environment of the steps: the package, and caches that they share and no earlier build has written."""
    paths = [*([] if is_editable() else [str(SITE)]), str(BENCHMARKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "XDG_CACHE_HOME": str(CACHE / "choices"),
        "TRITON_CACHE_DIR": str(CACHE / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(CACHE / "inductor"),
        "ORT_DISABLE_TELEMETRY": "1",
    }
    if dry:
        found |= {"KEYGRAPH_PRETEND_GPU": "1", "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    return found


def earlier(folder: Path) -> dict[str, Any]:
    """Return the records of the last run, from the folder of results or from beside this script."""
    for path in (folder / "results.json", RESULTS / "results.json"):
        if path.is_file():
            records: dict[str, Any] = json.loads(path.read_text())["steps"]
            return records
    return {}


def main() -> int:
    """Run the steps from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=480, metavar="SECONDS", help="for all steps together")
    parser.add_argument("--rest", action="store_true", help="what the first run left out, and what can wait")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps alone")
    parser.add_argument("--dry-run", action="store_true", help="every step as far as it goes without a GPU")
    arguments = parser.parse_args()
    dry: bool = arguments.dry_run
    if not dry and (reason := gpu()):
        print(f"error: there is no GPU to run on ({reason}); --dry-run tries the steps out", file=sys.stderr)
        return 2
    folder = Path(os.environ.get("OUT") or RESULTS).absolute()
    first, later = steps(dry), rest(dry)
    previous: dict[str, Any] = {}
    wanted = first
    if arguments.only:
        known = {step.name: step for step in (*first, *later)}
        if unknown := [name for name in arguments.only if name not in known]:
            parser.error(f"no step {', '.join(unknown)}; there are {', '.join(known)}")
        wanted = [known[name] for name in arguments.only]
    elif arguments.rest:
        previous = earlier(folder)
        # The package and the ceilings are this machine's, which may be another one than the first run's.
        again = [step for step in first if step.name in ("package", "ceilings")]
        left_out = [step for step in first if previous.get(step.name, {}).get("status") == LEFT_OUT]
        wanted = [*again, *left_out, *later]
    shutil.rmtree(CACHE / "choices", ignore_errors=True)
    about = {
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "arguments": sys.argv[1:],
        "gpu": None if dry else _gpu_in_words(),
        "cores": os.cpu_count(),
    }
    runner = Runner(
        folder, arguments.budget, conditions=CONDITIONS, environment=environment(dry), cwd=ROOT, previous=previous,
        about=about,
    )  # fmt: skip
    passed = runner.run(wanted)
    print(folder / "gpu.md")
    return 0 if passed else 1


def _gpu_in_words() -> str:
    query = [
        "nvidia-smi",
        "--query-gpu=name,driver_version,clocks.max.sm,power.limit,memory.total",
        "--format=csv,noheader",
    ]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {error}"


if __name__ == "__main__":
    raise SystemExit(main())
