"""What `import keygraph` gives, costs and does to the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import keygraph
import pytest


def python(code: str, *command: str, **environment: str) -> str:
    """Run code in a new process; return what it prints."""
    names = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [*command, sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env={**names, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_modules_are_attributes_without_an_import() -> None:
    """README's snippet, and what people write."""
    code = """
        import keygraph
        print(keygraph.plugins.library, keygraph.errors.InputError, keygraph.runtime, keygraph.manifest.Manifest)
        print(keygraph.KeygraphWarning, keygraph.Restorer)
        for name in keygraph.__all__:
            assert getattr(keygraph, name) is not None and name in dir(keygraph)
        try:
            keygraph.absent
        except AttributeError as error:
            print(error)
        from keygraph import *
        assert issubclass(InputError, KeygraphError) and load is keygraph.load
    """
    assert python(code).endswith("module 'keygraph' has no attribute 'absent'\n")


def test_every_package_is_an_attribute() -> None:
    root = Path(keygraph.errors.__file__).parent
    packages = {file.parent.name for file in root.glob("*/__init__.py")} - {"tests"}
    assert packages <= keygraph._MODULES
    pytest.importorskip("torch")
    assert all(getattr(keygraph, name).__name__ == f"keygraph.{name}" for name in packages)


def test_help_needs_no_optional_package() -> None:
    code = """
        import pydoc, sys
        for name in ("torch", "onnx", "typer", "rich"):
            sys.modules[name] = None
        import keygraph
        assert "load(" in pydoc.render_doc(keygraph)
    """
    python(code)


#: Loads a model, and waits. Prints how often something in the process tried to reach the network.
RESTORES = """
    import sys, time
    import numpy as np
    import keygraph
    restorer = keygraph.load({model!r}, library=None, provider={provider!r})
    restorer(np.zeros((16, 16, 3), np.uint8))
    time.sleep({seconds})
    names, values = open("/proc/self/net/snmp").read().splitlines()[:2]
    print(dict(zip(names.split(), values.split()))["OutNoRoutes"])
"""


def without_network() -> list[str]:
    """Return the command that runs another in a namespace without network, where each attempt finds no route."""
    unshare = shutil.which("unshare")
    for command in ([unshare, "-n"], [unshare, "-rn"]) if unshare else ():
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    pytest.skip("namespaces without network are not allowed here")


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize("seconds", [0, pytest.param(14, marks=pytest.mark.slow)])
def test_nothing_reaches_for_the_network_or_keeps_a_queue(
    make_model: Callable[..., Path], tmp_path: Path, seconds: int, provider: str
) -> None:
    """ONNX Runtime looks up a name server within 10 seconds after its import, OpenVINO at once."""
    if provider == "openvino":
        pytest.importorskip("openvino")
    home = tmp_path / "home"
    home.mkdir()
    code = RESTORES.format(model=str(make_model("identity")), seconds=seconds, provider=provider)
    # OpenVINO's telemetry is off where this is set.
    folders = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "CI": ""}
    assert python(code, *without_network(), **folders) == "0\n"
    ours = home / ".cache" / "keygraph"
    assert [file for file in home.rglob("*") if file.is_file() and not file.is_relative_to(ours)] == []


@pytest.mark.parametrize("module", ["pytest_plugin", "parity", "cli", "environment.libraries"])
def test_whatever_is_imported_first_stops_telemetry(module: str) -> None:
    code = f"import keygraph.{module}, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    assert python(code) == "1\n"
    assert python(code, ORT_DISABLE_TELEMETRY="0") == "0\n"  # the user's choice
