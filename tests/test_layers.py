"""Folders import only from the layers below them, and modules never in circles. Imports in functions count, too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Folder or root module -> what it may import beside itself. "keygraph" is the root's `__init__`, the public interface.
_EVERYWHERE = {"errors", "files", "installation", "manifest", "manifest_summary", "version"}
_MEASURED = {"instrumentation", "models", "plugins", "runtime", *_EVERYWHERE}
_LAYERS = {
    "errors": set[str](),
    "version": set[str](),
    "installation": set[str](),
    "files": {"errors"},
    "manifest": {"errors"},
    "manifest_summary": {"manifest"},
    "plugins": _EVERYWHERE,
    "runtime": _EVERYWHERE,
    "instrumentation": {"runtime", *_EVERYWHERE},
    "models": {"plugins", *_EVERYWHERE},
    "environment": {"plugins", "runtime", *_EVERYWHERE},
    "keygraph": {"models", "runtime", *_EVERYWHERE},
    "engines": {"runtime", *_EVERYWHERE},
    "parity": _MEASURED,
    # The search for islands of mixed precision measures as `compare` does.
    "export": {"parity", *_MEASURED},
    "pytest_plugin": {"parity", *_EVERYWHERE},
    "bench": {"keygraph", "engines", "export", "parity", *_MEASURED},
    "__main__": {"cli"},
    "cli": {"keygraph", "bench", "engines", "environment", "export", "parity", *_MEASURED},
}

#: (importing module, imported module) -> why.
_EXCEPTIONS = {
    ("runtime.backends.onnxruntime", "plugins"): "where the native libraries are; imports no framework",
    ("runtime.backends.tensorrt", "plugins"): "where the native libraries are; imports no framework",
}


def _modules(root: Path) -> dict[str, Path]:
    """Module's name below the package -> file; the package's own is "keygraph"."""
    files = [*root.glob("*.py"), *(file for folder in _LAYERS for file in (root / folder).rglob("*.py"))]
    parts = {file: file.relative_to(root).with_suffix("").parts for file in files}
    return {".".join(part for part in names if part != "__init__") or "keygraph": file for file, names in parts.items()}


def _imports(name: str, file: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of ours that a file imports, for whatever purpose."""
    inside = name.split(".") if name != "keygraph" else []
    package = inside if file.name == "__init__.py" else inside[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name.split(".")[1:] for alias in node.names if alias.name.split(".")[0] == "keygraph"]
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "keygraph"):
            origin = (node.module or "").split(".") if node.module else []
            base = package[: len(package) - node.level + 1] + origin if node.level else origin[1:]
            found = [[*base, alias.name] if ".".join([*base, alias.name]) in modules else base for alias in node.names]
        else:
            continue
        yield from (".".join(one) or "keygraph" for one in found if ".".join(one) != name)


def _graph(root: Path) -> dict[str, set[str]]:
    modules = _modules(root)
    return {name: set(_imports(name, file, modules)) for name, file in modules.items()}


def _upward(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Imports that the layers do not allow."""
    return {
        (name, other)
        for name, others in graph.items()
        for other in others
        if (above := name.split(".")[0]) != (below := other.split(".")[0]) and below not in _LAYERS[above]
    }


def test_imports_go_down_and_never_in_circles() -> None:
    graph = _graph(ROOT)
    assert _upward(graph) == set(_EXCEPTIONS)
    TopologicalSorter(graph).prepare()  # Raises CycleError, which names the modules.


@pytest.mark.parametrize(
    ("source", "upward"),
    [
        ("from ..cli import main", {("runtime.a", "cli")}),
        ("def late():\n    from keygraph.export.b import c", {("runtime.a", "export.b")}),
        ("from .. import __version__", {("runtime.a", "keygraph")}),
        ("import keygraph.parity", {("runtime.a", "parity")}),
        ("from ..errors import InputError\nfrom . import d", set()),
    ],
)
def test_what_runs_up_is_found(tmp_path: Path, source: str, upward: set[tuple[str, str]]) -> None:
    for file in ("__init__", "errors", "cli/__init__", "export/b", "parity/__init__", "runtime/__init__", "runtime/d"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).with_suffix(".py").touch()
    (tmp_path / "runtime/a.py").write_text(source)
    assert _upward(_graph(tmp_path)) == upward


def test_circles_are_found(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/a.py").write_text("from .b import c")
    (tmp_path / "models/b.py").write_text("if TYPE_CHECKING:\n    from . import a")
    with pytest.raises(CycleError, match=r"models\.a"):
        TopologicalSorter(_graph(tmp_path)).prepare()
