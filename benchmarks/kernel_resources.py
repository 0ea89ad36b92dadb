"""Registers, shared memory and spills of every GPU kernel variant, as compiled for each target. No GPU is needed.

    python benchmarks/kernel_resources.py --targets 80 90 --json resources.json

Prints a Markdown table. A cell holds registers per thread / shared memory per block in KiB, and the stack of a thread
in bytes if there is one: these are spills, since the kernels use no stack otherwise. The dense attention also has the
instructions per score, which a thread executes in one step of its main loop. The JSON file also has the assembler's
performance warnings, such as C7515 (matrix products on 9.0 that wait for each other).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "plugins" / "cuda"))
import compile as ahead_of_time

#: A loop is the main one where it computes so much of a step's exponentials: the others are of rare cases.
_MAIN_LOOP_SHARE = 0.9


def resources(variant: Any, target: ahead_of_time.Target) -> dict[str, Any]:
    """Return what a variant uses on a target."""
    kernel = ahead_of_time.compiled(variant, target)
    used = {
        name.lower(): int(value)
        for name, value in re.findall(
            r"(REG|STACK|LOCAL):(\d+)", said_of(kernel.asm["cubin"], "cuobjdump", "--dump-resource-usage")
        )
    }
    found: dict[str, Any] = {
        "registers": used["reg"],
        "threads": 32 * kernel.metadata.num_warps,
        "shared_bytes": kernel.metadata.shared,
        "stack_bytes": used["stack"] + used["local"],
        "warnings": performance_warnings(kernel.asm["ptx"], target),
    }
    if "attention_dense" in variant.name:
        scores = variant.constants["BLOCK_ROWS"] * variant.constants["BLOCK_NODES"] / found["threads"]
        loop = main_loop(said_of(kernel.asm["cubin"], "nvdisasm", "-c"), int(_MAIN_LOOP_SHARE * scores))
        found["instructions_per_score"] = loop / scores if loop else None
    return found


def said_of(code: bytes, tool: str, *options: str) -> str:
    """Return the output of one of the tools that Triton includes.

    Parameters
    ----------
    code
        Machine code (cubin).
    tool
        Its name.
    options
        Its options.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        return subprocess.run([tool_path(tool), *options, file.name], capture_output=True, text=True, check=True).stdout


def tool_path(name: str) -> Path:
    """Return the path of a tool that Triton includes."""
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name


def performance_warnings(ptx: str, target: ahead_of_time.Target) -> list[str]:
    """Return the codes of the assembler's performance warnings, such as "C7515"."""
    # Triton compiles for the instructions of exactly one target from 9.0 on.
    name = f"sm_{target.capability}{'a' if target.capability >= 90 else ''}"
    assembler = "ptxas-blackwell" if target.capability >= 100 else "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        run = subprocess.run(
            [tool_path(assembler), "-v", f"--gpu-name={name}", str(source), "-o", str(Path(folder) / "kernel.cubin")],
            capture_output=True,
            text=True,
            check=True,
        )
    return sorted(set(re.findall(r"\((C75\d\d)\)", run.stderr)))


def main_loop(assembly: str, exponentials: int) -> int | None:
    """Return the number of instructions in the shortest loop with so many exponentials; None if there is none."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    loops = []
    for line in assembly.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?);", line):
            instructions.append(instruction[1])
            branch = re.search(r"BRA.*(\.L_x_\d+)", instruction[1])
            if branch and branch[1] in labels:
                loops.append(instructions[labels[branch[1]] :])
    lengths = [len(loop) for loop in loops if sum("MUFU.EX2" in each for each in loop) >= exponentials]
    return min(lengths, default=None)


def resources_at(index: int, target: ahead_of_time.Target) -> dict[str, Any]:
    """Return `resources` of a variant by its place in the list, which can be sent to another process."""
    return resources(ahead_of_time.wanted(target)[index], target)


def measure(target: ahead_of_time.Target, jobs: int) -> dict[str, dict[str, Any]]:
    """Return variant -> what it uses on a target."""
    variants = ahead_of_time.wanted(target)
    # The compiler's threads do not survive a fork.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(partial(resources_at, target=target), range(len(variants))))
    return {variant.name: used for variant, used in zip(variants, found, strict=True)}


def cell(used: dict[str, Any] | None) -> str:
    """Return a cell of the table."""
    if used is None:
        return "-"
    spilled = f", **{used['stack_bytes']} B**" if used["stack_bytes"] else ""
    count = used.get("instructions_per_score")
    instructions = f", {count:.1f}" if count else ""
    return f"{used['registers']} / {used['shared_bytes'] / 1024:.0f}{spilled}{instructions}"


def main() -> None:
    """Run the benchmark from the command line."""
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
