"""The lines that messages print work for the way in which keygraph was installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy
import pytest
from keygraph import installation, plugins
from keygraph.environment import BROKEN
from keygraph.environment.packages import examine_packages
from keygraph.errors import MissingDependencyError

ROOT = Path(__file__).parents[1]
#: What `[tool.scikit-build.wheel.packages]` puts into the package.
PACKAGE = [
    *("__init__.py", "__main__.py", "errors.py", "files.py", "manifest.py", "manifest_summary.py", "pytest_plugin.py"),
    *(
        "version.py",
        "bench",
        "cli",
        "distributed",
        "engines",
        "environment",
        "export",
        "instrumentation",
        "models",
        "parity",
    ),
    *("plugins", "runtime"),
]

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
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "METADATA").write_text(METADATA)
        (folder / "INSTALLER").write_text(f"{installer}\n")
        if url:
            kind = {"dir_info": {"editable": editable}} if not url.endswith(".whl") else {"archive_info": {}}
            (folder / "direct_url.json").write_text(json.dumps({"url": url, **kind}))
        found = metadata.Distribution.at(folder)
        monkeypatch.setattr(installation, "distribution", lambda: found)
        monkeypatch.setattr(installation, "providers", lambda _module: ["onnxruntime"])

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
    monkeypatch.setattr(installation, "distribution", lambda: None)
    folder = Path(installation.__file__).parent
    assert installation.install_line("cpu") == f"pip install '{folder}[cpu]'"
    assert installation.reinstall_line() == f"pip install --force-reinstall --no-deps {folder}"


def test_another_onnx_runtime_is_not_joined_by_a_second(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("", "file:///a/source"):
        install(url)
        monkeypatch.setattr(installation, "providers", lambda _module: ["onnxruntime-openvino"])
        assert installation.install_line("cpu") == "pip install 'typer>=0.15'"
    assert installation.gpu_runtime_line().startswith("pip uninstall -y onnxruntime-openvino && pip install ")


def test_requirements_are_parsed(install: Install) -> None:
    install()
    found = installation.distribution()
    assert found is not None
    parsed = [(one.name, one.minimum, one.extra) for one in installation.requirements(found)]
    assert parsed[0] == ("numpy", "1.26", "")
    assert parsed[2:] == [
        ("keygraph", "", "cpu"),
        ("onnxruntime", "1.20", "cpu"),
        ("keygraph", "", "triton"),
        ("triton", "3.6", "triton"),
    ]


def test_again(install: Install, tmp_path: Path) -> None:
    source, wheel = tmp_path / "a source", tmp_path / "k.whl"
    source.mkdir()
    wheel.touch()
    for url, editable, place in (
        ("", False, "keygraph"),
        (wheel.as_uri(), False, str(wheel)),
        (source.as_uri(), False, f"'{source}'"),
        (source.as_uri(), True, f"-e '{source}'"),
        ("file:///gone/keygraph-0.1.0-py3-none-any.whl", False, "<keygraph-0.1.0-py3-none-any.whl>"),
        ("file:///gone/source", False, "<the source of keygraph>"),
    ):
        install(url, editable)
        assert installation.reinstall_line() == f"pip install --force-reinstall --no-deps {place}"


def test_version_control(install: Install) -> None:
    install("https://example.org/keygraph.git")
    found = installation.distribution()
    assert isinstance(found, metadata.PathDistribution)
    record = {"url": "https://example.org/keygraph.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    Path(str(found._path), "direct_url.json").write_text(json.dumps(record))
    again = "pip install --force-reinstall --no-deps git+https://example.org/keygraph.git"
    assert installation.reinstall_line() == f"{again}@abc"
    assert installation.upgrade_line() == again


def test_a_newer_one(install: Install, tmp_path: Path) -> None:
    install()
    assert installation.upgrade_line() == "pip install --upgrade keygraph"
    install("file:///a/keygraph-0.1.0-py3-none-any.whl")
    assert installation.upgrade_line() == "pip install <a newer wheel of keygraph>"
    install(tmp_path.as_uri(), editable=True)
    assert installation.upgrade_line() == f"git -C {tmp_path} pull"
    install(tmp_path.as_uri())
    again = f"pip install --force-reinstall --no-deps {tmp_path}"
    assert installation.upgrade_line() == f"git -C {tmp_path} pull && {again}"


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("", "--no-build-isolation --no-binary keygraph keygraph"),
        ("file:///a/k.whl", "--no-build-isolation <the source of keygraph>"),
        (Path(__file__).parents[1].as_uri(), f"--no-build-isolation {Path(__file__).parents[1]}"),
    ],
)
def test_an_own_build(install: Install, url: str, line: str) -> None:
    install(url)
    assert installation.reinstall_line("TENSORRT_ROOT=<an SDK>", build_requirements=("triton",)) == (
        "pip install triton scikit-build-core ninja && pip install --force-reinstall --no-deps "
        f"{line} -C cmake.define.TENSORRT_ROOT=<an SDK>"
    )


def test_a_clone_that_hides_the_package_is_named(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(installation.__file__).resolve().parent
    install(here.as_uri(), editable=True)
    assert installation.shadowing() == ""
    install("file:///a/keygraph-0.1.0-py3-none-any.whl")
    assert installation.shadowing() == ""  # Nothing is hidden: the record is all that is left.
    (tmp_path / "keygraph").mkdir()
    hidden = installation.shadowing()
    assert hidden.startswith(f"the folder {here} is imported in place of the keygraph that is installed in {tmp_path}")
    monkeypatch.setattr(plugins, "__path__", [str(tmp_path)])
    with pytest.raises(MissingDependencyError, match=r"is not installed beside keygraph: the folder .* rename that"):
        plugins.library("cpu")
    (finding,) = (one for one in examine_packages() if one.name == "import")
    assert (finding.state, finding.detail) == (BROKEN, hidden)


def test_a_clone_beside_a_script(tmp_path: Path) -> None:
    """As in a user's folder: a copy of the sources named keygraph, and a wheel that is installed."""
    site, clone = tmp_path / "site", tmp_path / "work" / "keygraph"
    for folder in (site / "keygraph", clone):
        for name in ("plugins", "runtime"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("lib", "__pycache__"))
        for file in ROOT.glob("*.py"):
            shutil.copy(file, folder)
    (site / "keygraph-0.1.0.dist-info").mkdir()
    (site / "keygraph-0.1.0.dist-info/METADATA").write_text(METADATA)
    script = tmp_path / "work/script.py"
    script.write_text("import keygraph.plugins as plugins\nplugins.library('onnxruntime')\n")
    path = f"{site}{os.pathsep}{Path(str(numpy.__file__)).parents[1]}"
    done = subprocess.run(
        [sys.executable, "-S", str(script)], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert f"the folder {clone} is imported in place of the keygraph that is installed in {site}" in done.stderr


def test_no_message_has_an_install_line_of_its_own() -> None:
    """`installation` alone knows which line works."""
    own = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in (ROOT / name for name in PACKAGE)
        for path in ([folder] if folder.suffix else sorted(folder.rglob("*.py")))
        if path.name != "installation.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if "pip install" in line
    ]
    assert not own


def test_here(tmp_path: Path) -> None:
    """Whatever this environment is, the line is one of the three forms and names what the extra brings."""
    line = installation.install_line("cpu")
    assert line.split()[:2] in (["pip", "install"], ["uv", "pip"])
    assert "onnxruntime" in line or "[cpu]" in line


def test_a_damaged_record_is_as_none(install: Install) -> None:
    install("file:///a/source")
    distribution = installation.distribution()
    assert isinstance(distribution, metadata.PathDistribution)
    Path(str(distribution._path), "direct_url.json").write_text("{")
    assert installation.install_line("cpu") == "pip install 'keygraph[cpu]'"
