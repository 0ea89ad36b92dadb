"""Install a wheel with `[cpu]` into empty environments, and use it in each.

    python packaging/check_wheel.py build/dist/keygraph-*.whl --python 3.10 --python 3.12 --python 3.13

Each environment is made by uv from a Python that is installed on this machine, holds the wheel and what it requires,
and is deleted afterwards. Exit code 1 where one of them fails. A Python that is not installed fails as well: nothing
was checked with it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def check(wheel: Path, python: str) -> None:
    """Install a wheel for one version of Python and use it.

    Raises
    ------
    subprocess.CalledProcessError
        A step failed.
    """
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    # uv asks pyenv's shims, which answer for the active version only.
    versions = [str(folder) for folder in sorted(Path.home().glob(".pyenv/versions/*/bin"))]
    clean["PATH"] = os.pathsep.join([*versions, clean["PATH"]])
    uv = str(Path(sys.executable).with_name("uv"))
    with tempfile.TemporaryDirectory() as folder:
        interpreter = str(Path(folder) / "environment" / "bin" / "python")
        for command in (
            [uv, "venv", "--quiet", "--no-python-downloads", "--python", python, "environment"],
            [uv, "pip", "install", "--quiet", "--python", interpreter, f"{wheel.resolve()}[cpu]"],
            [interpreter, str(Path(__file__).with_name("use.py").resolve())],
        ):
            subprocess.run(command, cwd=folder, env=clean, check=True)


def main() -> int:
    """Check the wheel with every Python that was named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", action="append", required=True, metavar="3.X")
    arguments = parser.parse_args()
    failed = []
    for python in arguments.python:
        print(f"== Python {python}", flush=True)
        try:
            check(arguments.wheel, python)
        except subprocess.CalledProcessError as error:
            print(f"failed: {' '.join(error.cmd)}", file=sys.stderr)
            failed.append(python)
    print(f"failed with Python {', '.join(failed)}" if failed else f"{arguments.wheel.name}: passed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
