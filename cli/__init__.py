"""The command line: one thin module per command, imported only when it is called.

To add a command, write a function with Typer's annotations in its own module, take the options that other commands have
from `arguments`, and add a line to `COMMANDS`.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import InputError, KeygraphError, MissingDependencyError, printable
from ..files import INACCESSIBLE, inaccessible
from ..installation import install_line, package_line, reinstall_line, shadowing

if TYPE_CHECKING:
    import typer

#: Command -> (module in this folder, function, summary).
COMMANDS = {
    "restore": ("restore", "restore", "Restore images with an exported model or a checkpoint."),
    "batch": ("batch", "batch", "Restore images on many machines with Ray."),
    "serve": ("serve", "serve", "Serve a model over HTTP, with a queue, limits and metrics."),
    "export": ("export", "export", "Export a checkpoint to one portable ONNX file, verified against PyTorch."),
    "build": ("build", "build", "Build engines for named GPUs from an exported file."),
    "compare": ("compare", "compare", "Compare models with a reference, number by number."),
    "inspect": (
        "inspect",
        "inspect",
        "Show what a checkpoint, an ONNX file, an engine, a spectral cube or an image is.",
    ),
    "bench": (
        "bench_models",
        "bench",
        "Measure models on this machine; `bench operators`: the operators against PyTorch.",
    ),
    "serving-repository": (
        "serving_repository",
        "serving_repository",
        "Write a model repository for NVIDIA's Triton Inference Server.",
    ),
    "doctor": ("doctor", "doctor", "Show what is installed, what is missing, and how to get it."),
}

#: Command -> (word, module, function): this function is called instead when the word is among the arguments.
_FORMS = {"bench": ("operators", "bench_operators", "bench")}

#: Package that may be missing -> the extra of keygraph that installs it.
_EXTRAS = {
    "av": "video",
    "fastapi": "serve",
    "numpy": "cpu",
    "onnxruntime": "cpu",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "polygraphy": "parity",
    "ray": "ray",
    "prometheus_client": "serve",
    "python_multipart": "serve",
    "rich": "cli",
    "safetensors": "export",
    "torch": "export",
    "typer": "cli",
    "uvicorn": "serve",
}

_HELP = "Put trained image-restoration transformers into production: export, build, restore, compare."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``keygraph``; return its exit code: 0, 1 when something went wrong, 2 for invalid input.

    `arguments` are the command line's by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    return _guarded(
        given,
        lambda rest: _group(rest)(_with_address(rest) or ["--help"], prog_name="keygraph", standalone_mode=False),
    )


def export_model(arguments: Sequence[str] | None = None) -> int:
    """Run ``export-model``, which is ``keygraph export``; return its exit code as `main` does."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return _guarded(given, lambda rest: _single("export")(rest, prog_name="export-model", standalone_mode=False))


def _group(arguments: list[str]) -> typer.Typer:
    """Return the command line. Only the command that is called is imported, so that help is quick and never fails."""
    import typer

    app = typer.Typer(help=_HELP, add_completion=False, pretty_exceptions_enable=False)

    @app.callback()
    def options(
        version: bool = typer.Option(
            False, "--version", help="Show the version and exit.", is_eager=True, callback=_version
        ),
        debug: bool = typer.Option(
            False, "--debug", help="Show the traceback of an error; may stand anywhere in the command."
        ),
    ) -> None:
        pass

    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, (_, _, summary) in COMMANDS.items():
        app.command(name, help=None if name == called else summary)(
            _function(name, arguments) if name == called else _unused
        )
    return app


def _with_address(arguments: list[str]) -> list[str]:
    """Return the arguments with an address after each ``--ray``: Typer has no option with an optional value."""
    if "batch" not in arguments:
        return arguments
    following = [*arguments[1:], "-"]
    bare = [one == "--ray" and after.startswith("-") for one, after in zip(arguments, following, strict=True)]
    return [f"{one}=local" if alone else one for one, alone in zip(arguments, bare, strict=True)]


def _single(name: str) -> typer.Typer:
    """Return a command line of one command."""
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
    """Do nothing, in place of a command that is not called."""


def _version(wanted: bool) -> None:
    if wanted:
        import typer

        from ..version import version

        print(f"keygraph {version()}")
        raise typer.Exit


#: Exit code of a command that was stopped by Ctrl+C, as shells have it.
_INTERRUPTED = 130


@contextmanager
def _printable_names() -> Iterator[None]:
    """Print characters that a stream cannot encode as escapes: the bytes of a file's name need not be UTF-8."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    strict = [stream for stream in streams if stream.errors == "strict"]
    for stream in strict:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream in strict:
            stream.reconfigure(errors="strict")


@_printable_names()
def _guarded(arguments: list[str], run: Callable[[list[str]], Any]) -> int:
    """Call `run` with the arguments; turn any exception into one line on stderr and an exit code."""
    rest = [argument for argument in arguments if argument != "--debug"]
    debug = len(rest) < len(arguments)

    def fail(message: str, code: int) -> int:
        line = printable(" ".join(message.split()))
        print(f"error: {line}", file=sys.stderr)
        _replace_junit(arguments, line)
        return code

    # Before anything else, importing the command included: what an earlier run wrote must not stay where this one is
    # killed.
    if not {"--help", "--version"} & {*rest}:
        _replace_junit(rest, "the comparison did not finish")
    try:
        _check_values(rest)
        code = int(run(rest) or 0)
        if code == _INTERRUPTED:  # Newer versions of Typer make this code of Ctrl+C.
            raise KeyboardInterrupt
        return code
    except KeyboardInterrupt:
        return fail("interrupted", _INTERRUPTED)
    except ModuleNotFoundError as error:
        if debug:
            traceback.print_exc()
        missing = _missing(error)
        return fail(str(missing), missing.exit_code)
    except KeygraphError as error:
        if debug:
            traceback.print_exc()
        return fail(str(error), error.exit_code)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in INACCESSIBLE and error.filename is not None:
            if debug:
                traceback.print_exc()
            return fail(str(inaccessible(os.fsdecode(error.filename), error)), InputError.exit_code)
        if type(error).__name__ == "Abort":  # Typer's exception for Ctrl+C.
            return fail("interrupted", _INTERRUPTED)
        if hasattr(
            error, "format_message"
        ):  # Wrong usage. Which package this exception comes from depends on Typer's version.
            return fail(f"{error.format_message()} (see --help)", 2)
        if debug:
            traceback.print_exc()
        name = "out of memory" if isinstance(error, MemoryError) else f"unexpected {type(error).__name__}: {error}"
        return fail(f"{name} (--debug shows where)", 1)


def _check_values(arguments: Sequence[str]) -> None:
    """Check that no argument is empty: as a path it would be the current folder."""
    if any(argument == "" or re.fullmatch("--[a-z-]+=", argument) for argument in arguments):
        raise InputError("an argument is empty, perhaps from a variable that is not set; give a value, or leave it out")


def _missing(error: ModuleNotFoundError) -> KeygraphError:
    package = (error.name or "").partition(".")[0]
    if package in ("", "keygraph"):
        remedy = shadowing() or f"this installation is incomplete; repair it with: {reinstall_line()}"
        return KeygraphError(f"{error}; {remedy}")
    extra = _EXTRAS.get(package)
    line = install_line(extra) if extra else package_line(package)
    return MissingDependencyError(f"the package {package} is not installed; install it with: {line}")


def _replace_junit(arguments: Sequence[str], message: str) -> None:
    """Write the file of ``compare --junit`` where there is no result, in place of one of an earlier run."""
    if "compare" not in arguments:
        return
    given = [value for option, value in itertools.pairwise([*arguments, ""]) if option == "--junit"]
    given += [argument.partition("=")[2] for argument in arguments if argument.startswith("--junit=")]
    if given and given[-1]:
        from ..parity.output.junit_error import check_junit, write_junit_error

        # What is wrong with the file itself matters less than the error that was printed.
        with contextlib.suppress(InputError, OSError):
            check_junit(given[-1])
            write_junit_error(given[-1], message)
