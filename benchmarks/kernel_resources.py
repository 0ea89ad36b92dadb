"""Registers, shared memory and spills of every GPU kernel variant, from the compiler: no GPU is needed.

    python benchmarks/kernel_resources.py --targets 80 90 --json resources.json

Prints a Markdown table; a cell is registers per thread / shared memory per block in KiB, and, where there is one, the
stack of a thread in bytes, which is what has spilled: the kernels use no stack otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "plugins" / "cuda"))
import compile as ahead_of_time


def resources(code: bytes) -> dict[str, int]:
    """Registers and stack per thread, as cuobjdump reads them."""
    import triton

    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        said = subprocess.run(
            [cuobjdump, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    return {name.lower(): int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}


def measure(target: ahead_of_time.Target, jobs: int) -> dict[str, dict[str, int]]:
    """Variant -> what it uses on a target."""
    names = {variant.number: variant.name for variant in ahead_of_time.wanted(target)}
    found = {}
    for image in ahead_of_time.images(target, jobs):
        used = resources(image.code)
        found[names[image.variant]] = {
            "registers": used["reg"],
            "threads": image.threads,
            "shared_bytes": image.shared_bytes,
            "stack_bytes": used["stack"] + used["local"],
        }
    return found


def cell(used: dict[str, int] | None) -> str:
    if used is None:
        return "-"
    spilled = f", **{used['stack_bytes']} B**" if used["stack_bytes"] else ""
    return f"{used['registers']} / {used['shared_bytes'] / 1024:.0f}{spilled}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["75", "80", "86", "89", "90", "100", "120"])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = {target: measure(ahead_of_time.Target.parse(target), given.jobs) for target in given.targets}
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    print(f"| variant | threads | {' | '.join(f'sm_{target}' for target in found)} |")
    print("|---|---|" + "---|" * len(found))
    for variant in ahead_of_time.variants().VARIANTS:
        rows = [of.get(variant.name) for of in found.values()]
        threads = next((str(used["threads"]) for used in rows if used), "-")
        print(f"| {variant.name} | {threads} | {' | '.join(map(cell, rows))} |")


if __name__ == "__main__":
    main()
