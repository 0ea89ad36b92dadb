"""The processor, and that the findings need no optional package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from keygraph.environment.machine import processor


def test_the_processor(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: fpu avx2 fma sse\n")
    assert processor(tmp_path / "x86") == ("Some CPU @ 2 GHz", ["avx2", "fma"])
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd sve\n")
    assert processor(tmp_path / "arm")[1] == ["asimd", "sve"]
    assert processor(tmp_path / "none")[1] == []


def test_without_typer_and_rich_the_findings_are_there() -> None:
    code = (
        "import sys; sys.modules['typer'] = sys.modules['rich'] = sys.modules['torch'] = None;"
        "from keygraph import environment as e; print(len(list(e.examine_machine())), next(e.examine_gpus()).group)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "GPU"]
