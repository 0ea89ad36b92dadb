"""The lines that messages print work for the way in which keygraph was installed."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from keygraph import installation

METADATA = """\
Metadata-Version: 2.4
Name: keygraph
Version: 0.1.0
Provides-Extra: cli
Provides-Extra: cpu
Provides-Extra: triton
Requires-Dist: numpy>=1.26
Requires-Dist: typer>=0.15; extra == "cli"
Requires-Dist: keygraph[cli]; extra == "cpu"
Requires-Dist: onnxruntime>=1.20; extra == "cpu"
Requires-Dist: keygraph[cli]; extra == "triton"
Requires-Dist: triton>=3.6; sys_platform == "linux" and extra == "triton"
"""


Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """``install(url, editable=False, installer="pip")``: what an installer writes; no url for an index."""

    def write(url: str = "", editable: bool = False, installer: str = "pip") -> None:
        folder = tmp_path / "keygraph-0.1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(METADATA)
        (folder / "INSTALLER").write_text(f"{installer}\n")
        if url:
            kind = {"dir_info": {"editable": editable}} if not url.endswith(".whl") else {"archive_info": {}}
            (folder / "direct_url.json").write_text(json.dumps({"url": url, **kind}))
        found = metadata.Distribution.at(folder)
        monkeypatch.setattr(installation, "_distribution", lambda: found)

    return write


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({}, "pip install 'keygraph[cpu]'"),
        ({"installer": "uv"}, "uv pip install 'keygraph[cpu]'"),
        ({"url": "file:///a/keygraph-0.1.0-py3-none-any.whl"}, "pip install 'typer>=0.15' 'onnxruntime>=1.20'"),
        ({"url": "file:///a%20b/source"}, "pip install 'typer>=0.15' 'onnxruntime>=1.20'"),
        ({"url": "file:///a/source", "editable": True}, "pip install 'typer>=0.15' 'onnxruntime>=1.20'"),
    ],
)
def test_an_extra(install: Install, arguments: dict[str, object], line: str) -> None:
    install(**arguments)
    assert installation.install_line("cpu") == line


def test_other_markers_stay(install: Install) -> None:
    install("file:///a/source")
    assert installation.install_line("triton") == "pip install 'typer>=0.15' 'triton>=3.6; sys_platform == \"linux\"'"


def test_what_keygraph_itself_needs(install: Install) -> None:
    install("file:///a/source")
    assert installation.install_line() == "pip install 'numpy>=1.26'"


def test_a_folder_that_is_imported_without_being_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_distribution", lambda: None)
    folder = Path(installation.__file__).parent
    assert installation.install_line("cpu") == f"pip install '{folder}[cpu]'"
    assert installation.reinstall_line() == f"pip install --force-reinstall --no-deps {folder}"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({}, "pip install --force-reinstall --no-deps keygraph"),
        ({"url": "file:///a/k.whl"}, "pip install --force-reinstall --no-deps /a/k.whl"),
        ({"url": "file:///a%20b/source"}, "pip install --force-reinstall --no-deps '/a b/source'"),
        ({"url": "file:///a/source", "editable": True}, "pip install --force-reinstall --no-deps -e /a/source"),
    ],
)
def test_again(install: Install, arguments: dict[str, object], line: str) -> None:
    install(**arguments)
    assert installation.reinstall_line() == line


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("", "--no-build-isolation --no-binary keygraph keygraph"),
        ("file:///a/k.whl", "--no-build-isolation <the source of keygraph>"),
        ("file:///a/source", "--no-build-isolation /a/source"),
    ],
)
def test_an_own_build(install: Install, url: str, line: str) -> None:
    install(url)
    assert installation.reinstall_line("TENSORRT_ROOT=<an SDK>", build_requirements=("triton",)) == (
        "pip install triton scikit-build-core ninja && pip install --force-reinstall --no-deps "
        f"{line} -C cmake.define.TENSORRT_ROOT=<an SDK>"
    )


def test_here(tmp_path: Path) -> None:
    """Whatever this environment is, the line is one of the three forms and names what the extra brings."""
    line = installation.install_line("cpu")
    assert line.split()[:2] in (["pip", "install"], ["uv", "pip"])
    assert "onnxruntime" in line or "[cpu]" in line


def test_a_damaged_record_is_as_none(install: Install) -> None:
    install("file:///a/source")
    distribution = installation._distribution()
    assert isinstance(distribution, metadata.PathDistribution)
    Path(str(distribution._path), "direct_url.json").write_text("{")
    assert installation.install_line("cpu") == "pip install 'keygraph[cpu]'"
