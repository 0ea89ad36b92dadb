"""What is tried, in this order, when a builder fails: less optimization, then less memory for each kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ..errors import KeygraphError
from .options import Options

T = TypeVar("T")

#: Phrases of builders for which nothing on the ladder helps -> what does.
_ADVICE = {
    "within workspace limit": "kernels need more memory than they may have; raise or leave out --workspace",
    "FP32 GEMM is not supported": "this GPU multiplies matrices in fp16 only; export with fewer islands of fp32",
    "HW-specific datatypes": "this GPU has not all types in the file; export it again with --precision fp16",
    "could not find any implementation": "try a smaller --tile or --batch, or another version of TensorRT",
    "out of memory": "memory ran out; try a smaller --tile or --batch, or build fewer targets at once",
    "OutOfMemory": "memory ran out; try a smaller --tile or --batch, or build fewer targets at once",
}
_HOPELESS = ("within workspace limit", "FP32 GEMM is not supported", "HW-specific datatypes")


class BuilderError(KeygraphError):
    """A builder gave no engine; the message is what it said."""


@dataclass(frozen=True)
class Rung:
    """One way to build.

    Attributes
    ----------
    words
        What is done otherwise than was asked; empty on the first rung.
    optimization
        The builder's level.
    workspace
        Bytes that a kernel may use; None for the builder's limit.
    half_workspace
        Half of that.
    all_tactics
        False leaves out the optional sources of kernels.
    """

    words: str
    optimization: int
    workspace: int | None
    half_workspace: bool = False
    all_tactics: bool = True


def rungs(options: Options) -> Iterator[Rung]:
    """Yield the ways to build, as asked first."""
    yield Rung("", options.optimization, options.workspace)
    if options.optimization > 2:
        yield Rung("optimization level 2", 2, options.workspace)
    yield Rung(
        "optimization level 0, half the workspace, no optional tactics",
        0,
        options.workspace,
        half_workspace=True,
        all_tactics=False,
    )


def climb(options: Options, attempt: Callable[[Rung], T], notice: Callable[[str], None]) -> tuple[T, tuple[str, ...]]:
    """Try one rung after the other.

    Parameters
    ----------
    options
        The user's.
    attempt
        Builds, or raises `BuilderError`.
    notice
        Takes a line before each further attempt.

    Returns
    -------
    What `attempt` returned, and a line for each attempt that failed.

    Raises
    ------
    BuilderError
        All failed; the message has the last reason and, where something is known to help, that.
    """
    failed: list[str] = []
    ways = list(rungs(options))
    for i, rung in enumerate(ways):
        if rung.words:
            notice(f"the builder failed ({failed[-1]}); trying with {rung.words}")
        try:
            return attempt(rung), tuple(failed)
        except BuilderError as error:
            reason = str(error)
            failed.append(f"{rung.words or 'as asked'}: {reason}")
            if i + 1 == len(ways) or any(phrase in reason for phrase in _HOPELESS):
                raise BuilderError(f"{_tried(failed, ways)}{reason}{_advice(reason)}") from error
    raise AssertionError("the ladder has at least one rung")


def _tried(failed: list[str], ways: list[Rung]) -> str:
    if len(failed) == 1:
        return ""
    return f"also with {' and with '.join(rung.words for rung in ways[1 : len(failed)])}: "


def _advice(reason: str) -> str:
    return next((f"; {advice}" for phrase, advice in _ADVICE.items() if phrase.lower() in reason.lower()), "")
