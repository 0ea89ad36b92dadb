"""Check that keygraph works on this machine: the package in build/gpu/site, or else build one.

A package is built if the present one does not load, is not from this folder's sources, or has no code for this
machine's GPU. It is built with the running Python and without a package registry. If keygraph is an editable
installation of this folder, that one is built.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "gpu" / "site"
#: What a GPU of `capability` would be given, as (its own code or PTX); fails where there is nothing.
_CHECK = """
import ctypes, sys
from keygraph.plugins import library
for name in ("cpu", "onnxruntime"):
    ctypes.CDLL(str(library(name)))
cuda = ctypes.CDLL(str(library("cuda")))
sys.exit(0 if cuda.keygraph_cuda_target(int(sys.argv[1])) else "no code for a GPU of capability " + sys.argv[1])
"""


def is_editable() -> bool:
    """Return whether this Python's keygraph is this folder, which then precedes everything else on the path."""
    found = importlib.util.find_spec("keygraph")
    return found is not None and str(ROOT) in (found.submodule_search_locations or ())


def differing(site: Path) -> list[str]:
    """Return the installed files that differ from this folder's: the package was built before a change."""
    package = site / "keygraph"
    return [
        str(path.relative_to(package))
        for path in sorted(package.rglob("*"))
        if path.is_file()
        and path.suffix != ".pyc"
        and path.parent != package / "plugins" / "lib"
        and not _same(path, ROOT / path.relative_to(package))
    ]


def _same(installed: Path, own: Path) -> bool:
    return own.is_file() and filecmp.cmp(installed, own, shallow=False)


def problem(capability: str) -> str | None:
    """Return why the package cannot be used; None if it can."""
    if not is_editable():
        if not (SITE / "keygraph").is_dir():
            return f"{SITE} holds no package"
        if differ := differing(SITE):
            return f"{SITE} was built from other sources: {', '.join(differ[:5])}"
    done = subprocess.run([sys.executable, "-c", _CHECK, capability], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it does not load"])[-1]


def build(capability: str) -> None:
    """Build and install; raises `CalledProcessError`."""
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--upgrade"]
    install += ["--config-settings", f"cmake.define.KEYGRAPH_CUDA_TARGETS={capability}"]
    if is_editable():
        install += ["--editable", str(ROOT)]
    else:
        shutil.rmtree(SITE, ignore_errors=True)
        install += ["--config-settings", "build-dir=build/gpu-build", "--target", str(SITE), str(ROOT)]
    subprocess.run(install, check=True)


def main() -> int:
    """Run the step from the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", help="as 90 for 9.0; default: this GPU's")
    parser.add_argument("--no-build", action="store_true", help="fail where it would be built")
    arguments = parser.parse_args()
    capability = arguments.capability or gpu_capability()
    harness = SITE / "keygraph" / "plugins" / "lib" / "keygraph_trt_harness"
    if harness.is_file():
        harness.chmod(0o755)  # Not every way of copying a folder keeps that.
    found = problem(capability)
    if found is None:
        print(f"keygraph works as it is, on {capability}")
        return 0
    print(found, flush=True)
    if arguments.no_build:
        return 1
    build(capability)
    found = problem(capability)
    print(found or "built")
    return int(found is not None)


def gpu_capability() -> str:
    """Return this GPU's compute capability, ``"90"`` for 9.0."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    return f"{major}{minor}"


if __name__ == "__main__":
    os.chdir(ROOT)
    raise SystemExit(main())
