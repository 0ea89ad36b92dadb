"""The command line: one thin module per command, imported only when it is called.

To add a command, write a function with Typer's annotations in a module of its own, and add its line to `COMMANDS`.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import KeygraphError, MissingDependencyError

if TYPE_CHECKING:
    import typer

#: Command -> (module in this folder, function, what it does).
COMMANDS = {
    "restore": ("restore", "restore", "Restore images with an exported model or a checkpoint."),
    "export": ("export", "export", "Export a checkpoint to one portable ONNX file, verified against PyTorch."),
    "build": ("build", "build", "Build engines for named GPUs from an exported file."),
    "compare": ("compare", "compare", "Compare a model with a reference, number by number."),
    "inspect": ("inspect", "inspect", "Say what a checkpoint, an ONNX file, an engine or an image is."),
    "bench": ("bench_models", "bench", "Time models, or `bench operators`, on this machine beside PyTorch's ways."),
    "doctor": ("doctor", "doctor", "Say what is installed here, what is missing, and how to get it."),
}

#: Command -> (its first word, the module and function that are called instead when that word is there).
_FORMS = {"bench": ("operators", "bench", "bench")}

#: Package that may be missing -> the extra of keygraph that brings it.
_EXTRAS = {
    "numpy": "cpu",
    "onnxruntime": "cpu",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "polygraphy": "parity",
    "rich": "cli",
    "safetensors": "export",
    "torch": "export",
    "typer": "cli",
}

_HELP = "Trained image-restoration transformers into production: export, build, restore, compare."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``keygraph`` and return its exit code: 0, 1 for what went wrong, 2 for what the user gave."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return _guarded(given, lambda rest: _group(rest)(rest or ["--help"], prog_name="keygraph", standalone_mode=False))


def export_model(arguments: Sequence[str] | None = None) -> int:
    """Run ``export-model``, the same as ``keygraph export``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return _guarded(given, lambda rest: _single("export")(rest, prog_name="export-model", standalone_mode=False))


def _group(arguments: list[str]) -> typer.Typer:
    """Build the command line; only the command that is called is imported, so that help is quick and never fails."""
    import typer

    app = typer.Typer(help=_HELP, add_completion=False, pretty_exceptions_enable=False)

    @app.callback()
    def options(
        version: bool = typer.Option(
            False, "--version", help="Show the version and exit.", is_eager=True, callback=_version
        ),
        debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error; may stand anywhere."),
    ) -> None:
        pass

    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, (_, _, summary) in COMMANDS.items():
        app.command(name, help=None if name == called else summary)(
            _function(name, arguments) if name == called else _unused
        )
    return app


def _single(name: str) -> typer.Typer:
    """Build a command line of one command."""
    import typer

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_function(name))
    return app


def _function(name: str, arguments: Sequence[str] = ()) -> Callable[..., Any]:
    module, function, _ = COMMANDS[name]
    if name in _FORMS and _FORMS[name][0] in arguments:
        _, module, function = _FORMS[name]
    command: Callable[..., Any] = getattr(import_module(f".{module}", __package__), function)
    return command


def _unused() -> None:
    """Stand for a command that is not called."""


def _version(wanted: bool) -> None:
    if wanted:
        import typer

        from ..version import version

        print(f"keygraph {version()}")
        raise typer.Exit


def _guarded(arguments: list[str], run: Callable[[list[str]], Any]) -> int:
    """Run, and make one line and an exit code of whatever is raised."""
    rest = [argument for argument in arguments if argument != "--debug"]
    debug = len(rest) < len(arguments)
    try:
        return int(run(rest) or 0)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except ModuleNotFoundError as error:
        if debug:
            traceback.print_exc()
        missing = _missing(error)
        return _fail(str(missing), missing.exit_code)
    except KeygraphError as error:
        if debug:
            traceback.print_exc()
        return _fail(str(error), error.exit_code)
    except Exception as error:
        if type(error).__name__ == "Abort":  # Typer's word for an interruption.
            return _fail("interrupted", 130)
        if hasattr(error, "format_message"):  # Wrong usage. Typer has had its exceptions from two packages.
            return _fail(f"{error.format_message()} (see --help)", 2)
        if debug:
            traceback.print_exc()
        name = "out of memory" if isinstance(error, MemoryError) else f"unexpected {type(error).__name__}: {error}"
        return _fail(f"{name} (--debug shows where)", 1)


def _missing(error: ModuleNotFoundError) -> KeygraphError:
    package = (error.name or "").partition(".")[0]
    if package in ("", "keygraph"):
        return KeygraphError(f"{error}; this installation is incomplete: pip install --force-reinstall keygraph")
    extra = _EXTRAS.get(package)
    line = f"pip install 'keygraph[{extra}]'" if extra else f"pip install {package}"
    return MissingDependencyError(f"the package {package} is not installed; install it with: {line}")


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
