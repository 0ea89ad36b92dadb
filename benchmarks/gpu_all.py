"""What `make gpu` does: build for this machine's GPU, test, and measure.

With the Python that runs it, into build/gpu, so that nothing is installed into that Python; or, where it has this
folder as an editable installation, into that. No package registry is asked. Every step runs, also after another has
failed, except that nothing follows a failed build; the exit code is 1 if any has.
Results: results/*.json and results/gpu.md beside this script.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "gpu"
RESULTS = ROOT / "benchmarks" / "results"
DEMO = ROOT / "examples" / "kgt-denoise-tiny.ckpt"
#: A few cases of every implementation: the sanitizer slows kernels down a hundredfold.
SANITIZED = "plain or bias or ties or (window and not dense)"
DTYPES = ("float16", "bfloat16", "float32")


def steps(python: str, capability: str, editable: bool, sanitizer: str | None) -> list[tuple[str, list[str]]]:
    """Title and command of each step, in order."""
    install = [python, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--upgrade"]
    define = f"cmake.define.KEYGRAPH_CUDA_TARGETS={capability}"
    tests = [python, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
    place = ["--editable", str(ROOT)] if editable else ["--target", str(SITE), str(ROOT)]
    found = [("build", [*install, "--config-settings", define, *place]), ("tests", tests)]
    if sanitizer:
        found += [
            (tool, [sanitizer, "--tool", tool, "--error-exitcode", "1", *tests, "-x", "-k", SANITIZED])
            for tool in ("memcheck", "racecheck")
        ]
    for dtype in DTYPES:
        table = str(RESULTS / f"operators-{dtype}.md")
        found.append(
            (f"operators, {dtype}", [python, "benchmarks/gpu_operators.py", "--dtype", dtype, "--markdown", table])
        )
    found.append(("memory", [python, "benchmarks/gpu_memory.py", "--markdown", str(RESULTS / "memory.md")]))
    found.append(("base size", [python, "benchmarks/gpu_network.py", "--json", str(RESULTS / "network.json")]))
    found.append(("channel attention", [python, "benchmarks/gpu_channel_attention.py"]))
    # The demo's network in PyTorch with our kernels, as it is and compiled.
    command = "import sys; from keygraph.cli import main; sys.exit(main())"
    found.append(("network", [python, "-c", command, "bench", str(DEMO), "--against", str(DEMO), "--device", "cuda"]))
    return found


def is_editable() -> bool:
    """Whether this Python's keygraph is this folder: that one comes before whatever is on the path."""
    found = importlib.util.find_spec("keygraph")
    return found is not None and str(ROOT) in (found.submodule_search_locations or ())


def environment() -> dict[str, str]:
    """The steps': keygraph from where it was built, the choice of variants from this build alone."""
    paths = [str(SITE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "XDG_CACHE_HOME": str(SITE / "cache")}


def report(tables: Sequence[Path]) -> str:
    """All tables in one text."""
    return "\n".join(f"## {path.stem}\n\n{path.read_text()}" for path in tables if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="print the commands for a GPU of 9.0 and do nothing")
    arguments = parser.parse_args()
    if arguments.dry_run:
        capability = "90"
    else:
        import torch

        if not torch.cuda.is_available():
            print("error: make gpu needs an NVIDIA GPU that PyTorch can use; PyTorch finds none", file=sys.stderr)
            return 2
        major, minor = torch.cuda.get_device_capability()
        capability = f"{major}{minor}"
        RESULTS.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(SITE, ignore_errors=True)
    failed = []
    sanitizer = shutil.which("compute-sanitizer")
    if not sanitizer:
        print("note: compute-sanitizer is not installed; its steps are left out")
    for title, command in steps(sys.executable, capability, is_editable(), sanitizer):
        print(f"\n== {title}: {' '.join(command)}", flush=True)
        if arguments.dry_run:
            continue
        # Its own memory pool would hide what is read past a tensor's end.
        uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if command[0] == sanitizer else {}
        if subprocess.run(command, cwd=ROOT, env=environment() | uncached, check=False).returncode:
            failed.append(title)
            if title == "build":
                break
    if not arguments.dry_run:
        names = [*(f"operators-{dtype}.md" for dtype in DTYPES), "memory.md", "channel_attention_gpu.md"]
        (RESULTS / "gpu.md").write_text(report([RESULTS / name for name in names]))
        print(f"\n{RESULTS / 'gpu.md'}")
    if failed:
        print(f"error: these steps failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
