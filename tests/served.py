"""A running service, for tests and screenshots."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def served(model: Path, *options: str, api_key: str | None = None) -> Iterator[str]:
    """Run `keygraph serve`, and give its address."""
    environment = {name: value for name, value in os.environ.items() if name != "KEYGRAPH_API_KEY"}
    if api_key is not None:
        environment["KEYGRAPH_API_KEY"] = api_key
    command = [sys.executable, "-m", "keygraph", "serve", "--model", str(model), "--port", "0", *options]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = ""
            for line in process.stderr:
                said += line
                if " at http://" in line:
                    yield line.split(" at ")[1].strip()
                    break
            else:
                raise RuntimeError(said)
        finally:
            process.terminate()
            process.communicate(timeout=60)
