"""Run a command in which Polygraphy works with the TensorRT-RTX wheels.

    python -m keygraph.parity.polygraphy.rtx polygraphy convert kgt.onnx --convert-to trt -o kgt.plan
    python -m keygraph.parity.polygraphy.rtx python script.py

Polygraphy imports ``tensorrt_rtx``, a module that the wheels name ``tensorrt_rtx_bindings``. The parser opens a library
by a name that the wheels do not have, and ends the process when it is not on the loader's path. Both must be in place
when the process starts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from ...errors import KeygraphError, MissingDependencyError
from ...installation import install_line
from ...runtime.backends.tensorrt_bindings import loader_path

_ALIAS = "import sys\n\nimport tensorrt_rtx_bindings\n\nsys.modules[__name__] = tensorrt_rtx_bindings\n"


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """Yield the environment variables of such a command; they are valid inside the ``with`` block.

    Raises
    ------
    MissingDependencyError
        TensorRT-RTX is not installed.
    """
    if not any(map(find_spec, ("tensorrt_rtx", "tensorrt_rtx_bindings"))):
        raise MissingDependencyError(f"TensorRT-RTX is not installed; install it with: {install_line('rtx')}")
    with loader_path("tensorrt-rtx") as variables, TemporaryDirectory(prefix="keygraph-") as folder:
        if find_spec("tensorrt_rtx") is None:
            Path(folder, "tensorrt_rtx.py").write_text(_ALIAS)
        modules = os.pathsep.join(filter(None, [folder, variables.get("PYTHONPATH")]))
        yield {**variables, "PYTHONPATH": modules, "POLYGRAPHY_USE_TENSORRT_RTX": "1"}


def main(command: Sequence[str]) -> int:
    """Run a command and return its exit code."""
    if not command:
        print("usage: python -m keygraph.parity.polygraphy.rtx COMMAND [ARGUMENT...]", file=sys.stderr)
        return 2
    try:
        with environment() as variables:
            return subprocess.run(command, env=variables).returncode
    except KeygraphError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except FileNotFoundError:
        print(f"error: there is no command {command[0]}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
