"""The fixture `keygraph_parity`, in pytest sessions of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import tiny_kgt
from tiny_kgt import Tiny, changed

pytest_plugins = ["pytester"]


def test_two_lines_assert_parity(pytester: pytest.Pytester, tiny: Tiny) -> None:
    wrong = changed(tiny.onnx, Path(pytester.path) / "wrong.onnx", tiny_kgt.fewer_neighbours)
    pytester.makepyfile(f"""
        import numpy as np
        import pytest

        IMAGE = np.random.default_rng(0).random((16, 24, 3), np.float32)

        def test_export(keygraph_parity):
            run = keygraph_parity({str(tiny.onnx)!r}, {str(tiny.checkpoint)!r}, inputs=[IMAGE], at_least=100)
            assert run.comparisons[0].inputs[0].same_graphs.psnr > 110

        def test_wrong(keygraph_parity):
            keygraph_parity({str(tiny.onnx)!r}, {str(wrong)!r}, {str(tiny.checkpoint)!r}, inputs=[IMAGE])

        def test_not_worse(keygraph_parity):
            before = {{"comparisons": []}}
            with pytest.raises(pytest.fail.Exception, match="not in the baseline"):
                keygraph_parity({str(wrong)!r}, {str(tiny.checkpoint)!r}, inputs=[IMAGE], baseline=before)
            with pytest.raises(Exception, match="got 1 models"):
                keygraph_parity({str(wrong)!r})
    """)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*the models do not agree; the rule is: every value finite, an error of at most 4 times what fp32*",
            "*wrong.onnx: body.0: the candidate keeps 15 neighbours of each node, the reference 16: *",
        ]
    )
    # The reasons, and not our code.
    assert "pytest_plugin.py" not in result.stdout.str()


def test_a_session_that_does_not_use_it_pays_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_nothing(request):
            assert request.config.pluginmanager.has_plugin("keygraph")
            assert "keygraph.pytest_plugin" in sys.modules
            heavy = {"torch", "numpy", "onnx", "onnxruntime", "typer", "keygraph.parity", "keygraph.manifest"}
            assert not heavy & sys.modules.keys()
    """)
    # Plugins of other packages may import anything.
    others = [plugin.name for plugin in entry_points(group="pytest11") if plugin.name != "keygraph"]
    without = [f"-pno:{name}" for name in ("cacheprovider", *others)]
    # A process of its own: in this one everything is imported.
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *without],
        cwd=pytester.path,
        capture_output=True,
        text=True,
        env={
            "PATH": "",
            "HOME": str(pytester.path),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout


def test_warnings_as_errors(tmp_path: Path) -> None:
    """The plugin is loaded in every session of its environment, and must not end one that allows no warning."""
    (tmp_path / "test_of_somebody.py").write_text("def test() -> None:\n    pass\n")
    command = [sys.executable, "-W", "error", "-m", "pytest", "-W", "error", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
