"""Build a network with a function of the user's own Python file.

Naming the file is the consent to run it. Nothing else makes keygraph run code: a checkpoint never does.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ..errors import InputError
from ..files import read_start
from ..strict_json import decode_json

#: Names of the modules that the files that were run imported from their own folders.
_IMPORTED: set[str] = set()

_SPEC = re.compile(r"(?P<path>.+\.py)(?::(?P<name>[^:]*))?", re.DOTALL)


@dataclass(frozen=True)
class EntryPoint:
    """The function of a file that builds a network.

    Attributes
    ----------
    path
        The Python file.
    name
        Name of a function, or of a module's class, in it.
    """

    path: Path
    name: str

    def __str__(self) -> str:
        """Return it as it is written on the command line, without the folder."""
        return f"{self.path.name}:{self.name}"


@dataclass(frozen=True)
class Built:
    """A network that a file's function built.

    Attributes
    ----------
    module
        What the function returned.
    sources
        SHA-256 of the file, and of the files in its folder that it imported, by their path within the folder.
    """

    module: nn.Module
    sources: dict[str, str]


def is_source(text: str) -> bool:
    """Tell whether an argument names a Python file: ``my_model.py`` or ``my_model.py:build``."""
    return _SPEC.fullmatch(text) is not None


def parse_entry_point(text: str) -> EntryPoint:
    """Parse ``my_model.py:build``, without running the file.

    Raises
    ------
    InputError
        The file cannot be read or is not Python, no function is named, or the file does not define it.
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise InputError(f"{text} does not name a Python file; write for instance my_model.py:build")
    path, name = Path(match["path"]), match["name"] or ""
    read_start(path, "a Python file")
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path} is not Python that can be run: {error}") from error
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    public = [one for one in defined if not one.startswith("_")]
    listed = f"it defines: {', '.join(public[:8])}" if public else "it defines none"
    if not name:
        raise InputError(
            f"{path}: say which function or class makes the network, for instance {path}:{(public or ['build'])[0]}; "
            f"{listed}"
        )
    if not name.isidentifier():
        raise InputError(f"{text}: {name!r} is not the name of a function; {listed}")
    # A name may also be imported or assigned.
    if name not in defined and name not in _names(tree):
        raise InputError(f"{path} has no function or class {name!r}; {listed}")
    return EntryPoint(path, name)


def read_arguments(path: Path | None) -> dict[str, Any]:
    """Read the keyword arguments of a function from a JSON file; none without a file.

    Raises
    ------
    InputError
        The file cannot be read, or is not a JSON object.
    """
    if path is None:
        return {}
    try:
        return dict(decode_json(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as arguments ({error}); give a JSON object") from error


def build_network(entry: EntryPoint, arguments: Mapping[str, Any]) -> Built:
    """Run a Python file and call its function.

    The file's folder is put first on `sys.path`, and stays there: a network may import when it runs. What an earlier
    file imported from its own folder is imported anew, so that two versions of a network can be compared.

    Parameters
    ----------
    entry
        The function.
    arguments
        Its keyword arguments.

    Returns
    -------
    Built

    Raises
    ------
    InputError
        The file, or the function, raises an exception; the arguments do not fit; or the result is no module.
    """
    folder = entry.path.resolve().parent
    for name in _IMPORTED:
        sys.modules.pop(name, None)
    sys.path[:] = [str(folder), *(path for path in sys.path if path != str(folder))]
    importlib.invalidate_caches()
    before = set(sys.modules)
    loaded = _run(entry.path)
    function = getattr(loaded, entry.name, None)
    if not callable(function):
        raise InputError(f"{entry}: {entry.name} is {_kind(function)}, not a function or class; name one that is")
    _check_arguments(entry, function, arguments)
    try:
        module = function(**arguments)
    except (Exception, SystemExit) as error:
        raise failure(f"{entry}({_words(arguments)}) fails", error, folder) from error
    if not isinstance(module, nn.Module):
        hint = "return the model alone" if isinstance(module, tuple | list | dict) else "return the model"
        raise InputError(f"{entry} returns {_kind(module)}, not a torch.nn.Module; {hint}")
    imported = _within(folder, set(sys.modules) - before)
    _IMPORTED.update(imported)
    return Built(module, _sources(entry.path, folder, imported.values()))


def failure(what: str, error: BaseException, folder: Path | None = None) -> InputError:
    """Return the error for an exception that the user's code raised, with the line of that code.

    Parameters
    ----------
    what
        Start of the message: what was tried.
    error
        The exception.
    folder
        Folder of the user's code; None for any code outside of PyTorch, Python and keygraph.
    """
    text = str(error).strip().splitlines()
    reason = f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name:
        reason += " (install what your code imports in keygraph's environment)"
    if isinstance(error, SystemExit):
        reason += " (move what reads the command line below `if __name__ == '__main__':`)"
    line = user_line(error, folder)
    return InputError(f"{what}: {reason}" + (f", at {line}" if line else ""))


def user_line(error: BaseException, folder: Path | None = None) -> str | None:
    """Return the innermost line of the user's code in an exception's traceback, as ``file.py:12``.

    Parameters
    ----------
    error
        The exception.
    folder
        As for `failure`.
    """
    found = None
    package = Path(__file__).resolve().parents[1]
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        if not frame.filename.endswith(".py") or not file.is_absolute():
            continue
        if folder is not None and not file.is_relative_to(folder):
            continue
        inside = file.is_relative_to(package) and not file.is_relative_to(package / "tests")
        if folder is None and (inside or {"torch", "site-packages", "_pytest"} & {*file.parts} or _standard(file)):
            continue
        found = f"{file.name}:{frame.lineno}"
    return found


def _standard(file: Path) -> bool:
    return file.is_relative_to(Path(ast.__file__).parent)


def _run(path: Path) -> ModuleType:
    # A name of its own: `torch.py` must not become the module that others import.
    name = f"_keygraph_source_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # Dataclasses look their module up.
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise failure(f"{path} cannot be run", error, path.resolve().parent) from error
    return module


def _check_arguments(entry: EntryPoint, function: Any, arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # Calling it will tell.
    try:
        signature.bind(**arguments)
    except TypeError as error:
        given = f"the JSON file gives {', '.join(arguments)}" if arguments else "no arguments are given"
        raise InputError(
            f"{entry} is called as {entry.name}{signature}, and {given}: {error}; "
            "put its arguments into a JSON object in a file (export-model --config FILE.json, compare ...@FILE.json)"
        ) from error


def _names(tree: ast.Module) -> set[str]:
    """Return the names that a file assigns or imports at its top level; any name where it imports ``*``."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
    return found


def _within(folder: Path, imported: set[str]) -> dict[str, Path]:
    """Return the files of the imported modules that lie in a folder, by the modules' names."""
    found = {name: getattr(sys.modules.get(name), "__file__", None) for name in imported}
    return {
        name: Path(file)
        for name, file in found.items()
        if file and file.endswith(".py") and Path(file).is_relative_to(folder)
    }


def _sources(path: Path, folder: Path, imported: Iterable[Path]) -> dict[str, str]:
    files = {path.resolve(), *imported}
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(files)
        if "site-packages" not in file.relative_to(folder).parts
    }


def _kind(value: object) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _words(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r:.40}" for name, value in arguments.items())
