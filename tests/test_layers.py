"""Folders import only from lower layers and no import is circular. Imports inside functions count as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Modules at the bottom, which every folder may import.
_BASE = {
    *(
        "errors",
        "files",
        "forks",
        "installation",
        "integrity",
        "manifest",
        "manifest_summary",
        "strict_json",
        "temporary_files",
        "version",
    ),
}

#: Folders that `parity` and everything above it may import.
_CORE = {"instrumentation", "models", "plugins", "runtime", *_BASE}

#: Folder or root module -> what it may import besides itself. "keygraph" is the root's `__init__`.
_LAYERS = {
    "errors": set[str](),
    "version": set[str](),
    "installation": set[str](),
    "temporary_files": set[str](),
    "files": {"errors", "temporary_files"},
    "forks": {"errors"},
    "strict_json": set[str](),
    "integrity": set[str](),
    "manifest": {"errors", "installation", "integrity", "strict_json"},
    "manifest_summary": {"errors", "integrity", "manifest"},
    "plugins": _BASE,
    "runtime": _BASE,
    "instrumentation": {"runtime", *_BASE},
    "serving": {"runtime", *_BASE},
    "models": {"plugins", *_BASE},
    "environment": {"plugins", "runtime", *_BASE},
    "keygraph": {"export", "models", "plugins", "runtime", *_BASE},
    "engines": {"runtime", *_BASE},
    "parity": _CORE,
    # The precision search measures a candidate as `compare` does.
    "export": {"parity", *_CORE},
    "pytest_plugin": {"parity", *_BASE},
    "bench": {"keygraph", "engines", "export", "parity", *_CORE},
    "distributed": {"keygraph", "runtime", *_BASE},
    "__main__": {"cli"},
    "cli": {"keygraph", "bench", "distributed", "engines", "environment", "export", "parity", "serving", *_CORE},
}

#: Upward imports that are allowed: (importing module, imported module) -> why.
_EXCEPTIONS = {
    ("runtime.backends.fastest", "plugins"): "path of the native libraries; imports no framework",
    ("runtime.backends.operator_library", "plugins"): "path of the native libraries; imports no framework",
    ("runtime.backends.tensorrt", "plugins"): "path of the native libraries; imports no framework",
}


def modules(root: Path) -> dict[str, Path]:
    """Return the file of each module by its name within the package; the root's `__init__` is "keygraph"."""
    files = [*root.glob("*.py"), *(file for folder in _LAYERS for file in (root / folder).rglob("*.py"))]
    parts = {file: file.relative_to(root).with_suffix("").parts for file in files}
    return {".".join(part for part in names if part != "__init__") or "keygraph": file for file, names in parts.items()}


def _imports(name: str, file: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Yield the package's modules that a file imports, those for type checking included."""
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
    found = modules(root)
    return {name: set(_imports(name, file, found)) for name, file in found.items()}


def _upward(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Return the imports that `_LAYERS` does not allow."""
    return {
        (name, other)
        for name, others in graph.items()
        for other in others
        if (above := name.split(".")[0]) != (below := other.split(".")[0]) and below not in _LAYERS[above]
    }


def test_imports_follow_the_layers_and_are_not_circular() -> None:
    graph = _graph(ROOT)
    assert _upward(graph) == set(_EXCEPTIONS)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


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
def test_upward_imports_are_found(tmp_path: Path, source: str, upward: set[tuple[str, str]]) -> None:
    for file in ("__init__", "errors", "cli/__init__", "export/b", "parity/__init__", "runtime/__init__", "runtime/d"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).with_suffix(".py").touch()
    (tmp_path / "runtime/a.py").write_text(source)
    assert _upward(_graph(tmp_path)) == upward


def test_circular_imports_are_found(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/a.py").write_text("from .b import c")
    (tmp_path / "models/b.py").write_text("if TYPE_CHECKING:\n    from . import a")
    with pytest.raises(CycleError, match=r"models\.a"):
        TopologicalSorter(_graph(tmp_path)).prepare()
