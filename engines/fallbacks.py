"""Retry a failed build: first with less optimization, then with less memory for each kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ..errors import KeygraphError
from .options import Options

T = TypeVar("T")

#: Phrases in builders' errors -> what helps.
_ADVICE = {
    "within workspace limit": "kernels need more memory than they may have; raise or leave out --workspace",
    "FP32 GEMM is not supported": "this GPU multiplies matrices in fp16 only; export with fewer operators in fp32",
    "HW-specific datatypes": "this GPU does not support all types in the file; export it again with --precision fp16",
    "could not find any implementation": "try a smaller --tile or --batch, or another version of TensorRT",
    "out of memory": "memory ran out; try a smaller --tile or --batch, or build fewer targets at once",
    "OutOfMemory": "memory ran out; try a smaller --tile or --batch, or build fewer targets at once",
}

#: Phrases of errors that no further attempt can avoid.
_FINAL = ("within workspace limit", "FP32 GEMM is not supported", "HW-specific datatypes")


class BuilderError(KeygraphError):
    """A builder returned no engine; the message is the builder's own."""


@dataclass(frozen=True)
class Attempt:
    """Settings of one attempt to build an engine.

    Attributes
    ----------
    words
        How it differs from what was requested; empty for the first attempt.
    optimization
        The builder's optimization level.
    workspace
        Bytes of device memory that a kernel may use; None for the builder's own limit.
    half_workspace
        Whether to use half of that.
    all_tactics
        Whether to use the optional tactic sources.
    """

    words: str
    optimization: int
    workspace: int | None
    half_workspace: bool = False
    all_tactics: bool = True


def attempts(options: Options) -> Iterator[Attempt]:
    """Yield the attempts in order, the first as requested."""
    yield Attempt("", options.optimization, options.workspace)
    if options.optimization > 2:
        yield Attempt("optimization level 2", 2, options.workspace)
    yield Attempt(
        "optimization level 0, half the workspace, no optional tactics",
        0,
        options.workspace,
        half_workspace=True,
        all_tactics=False,
    )


def build_with_fallbacks(
    options: Options, build: Callable[[Attempt], T], notice: Callable[[str], None]
) -> tuple[T, tuple[str, ...]]:
    """Make attempts until one succeeds.

    Parameters
    ----------
    options
        The user's options.
    build
        Builds with the settings of an attempt, or raises `BuilderError`.
    notice
        Called with a message before each further attempt.

    Returns
    -------
    built
        What `build` returned.
    failed : tuple of str
        One line for each attempt that failed.

    Raises
    ------
    BuilderError
        All attempts failed. The message contains the last reason, with advice where there is any.
    """
    failed: list[str] = []
    planned = list(attempts(options))
    for i, attempt in enumerate(planned):
        if attempt.words:
            notice(f"the builder failed ({failed[-1]}); trying with {attempt.words}")
        try:
            return build(attempt), tuple(failed)
        except BuilderError as error:
            reason = str(error)
            failed.append(f"{attempt.words or 'as asked'}: {reason}")
            if i + 1 == len(planned) or any(phrase in reason for phrase in _FINAL):
                raise BuilderError(f"{_tried(planned[1 : len(failed)])}{reason}{_advice(reason)}") from error
    raise AssertionError("there is at least one attempt")


def _tried(further: list[Attempt]) -> str:
    return f"also with {' and with '.join(attempt.words for attempt in further)}: " if further else ""


def _advice(reason: str) -> str:
    return next((f"; {advice}" for phrase, advice in _ADVICE.items() if phrase.lower() in reason.lower()), "")
