"""Use an installed keygraph as a stranger would: what the README shows, and what a wheel can lose.

    python packaging/use.py          # with the Python of an environment that has keygraph[cpu] and nothing else

Asserts, so it is not for ``python -O``. Files are written to a temporary folder.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

DATA = Path(__file__).parents[1] / "tests" / "compatibility" / "data"


def use_library() -> None:
    """Restore a photograph from Python, with our operators and with the file's own functions."""
    import keygraph
    import keygraph.plugins
    import numpy as np
    from keygraph.runtime.io import images

    package = Path(keygraph.__file__).parent
    assert "site-packages" in package.parts, f"{package} is not installed"
    photo = images.read(DATA / "photo.png").pixels
    expected = images.read(DATA / "restored.png").pixels.astype(int)
    for library in ("auto", None):
        restored = keygraph.load(DATA / "tiny.onnx", library=library)(photo)
        # Another processor's kernels may round a value to the next level.
        assert np.abs(restored.astype(int) - expected).max() <= 1, library
    assert "torch" not in sys.modules
    for host in ("cpu", "onnxruntime", "cuda"):
        assert keygraph.plugins.library(host).is_file()
    for what in keygraph.plugins.DEVELOPMENT_FOLDERS:
        assert keygraph.plugins.development_folder(what).is_dir(), what
    for file in (
        "plugins/include/keygraph/cpu.h",
        "plugins/include/keygraph/runtime.hpp",
        "parity/output/report/template.html.jinja",
        "py.typed",
    ):
        assert (package / file).is_file(), file


def use_commands() -> None:
    """Run commands, by name and by ``python -m``, away from the repository."""
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as folder:
        for command in (
            [programs / "keygraph", "--version"],
            [programs / "keygraph", "doctor"],
            [programs / "keygraph", "restore", DATA / "photo.png", "-o", "a.png", "--model", DATA / "tiny.onnx"],
            [sys.executable, "-m", "keygraph", "inspect", "a.png"],
        ):
            subprocess.run([str(part) for part in command], cwd=folder, check=True)


if __name__ == "__main__":
    warnings.simplefilter("error")  # Ours say that a library is missing.
    use_library()
    use_commands()
