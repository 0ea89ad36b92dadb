"""Why ONNX Runtime does not open a file, in words: its own messages name its source files and leave out the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ...installation import onnx_runtime_upgrade_line

#: Phrase in a message of ONNX Runtime -> what it means for a file; `version` is that of ONNX Runtime.
_MEANINGS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Path, str], str]], ...] = (
    (
        re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)"),
        lambda found, path, version: (
            f"{path} has ONNX's IR version {found[1]}, and ONNX Runtime {version} reads versions up to {found[2]}; "
            f"upgrade it with: {onnx_runtime_upgrade_line()}"
        ),
    ),
    (
        re.compile(r"Opset (\d+) is under development.*Current official support for domain (\S+) is till opset (\d+)"),
        lambda found, path, version: (
            f"{path} uses opset {found[1]} of {found[2]}, and ONNX Runtime {version} reads opsets up to {found[3]}; "
            f"upgrade it with: {onnx_runtime_upgrade_line()}; or use the file as exported"
        ),
    ),
    (
        re.compile(r"Fatal error: keygraph:(\S+)\(-?\d+\) is not a registered function/op"),
        lambda found, path, version: without_functions(path, found[1]),
    ),
    (
        re.compile(r"Type Error: (.*)"),
        lambda found, path, version: (
            f"{path} has operators whose types do not fit each other, as a tool that changed it has left them "
            f"({found[1].rstrip('.')}); use the file as exported"
        ),
    ),
    (
        re.compile(r"Cannot parse data from external tensors. .* for tensor: (\S+)"),
        lambda found, path, version: (
            f"{path} stores constants that determine shapes ({found[1].rstrip(')')}) in a separate file, where ONNX "
            f"Runtime {version} does not read them; store it again with small tensors inside (onnx.save with "
            "size_threshold=1024)"
        ),
    ),
    (
        re.compile(r'External data path escapes model directory. External data path: "([^"]+)"'),
        lambda found, path, version: (
            f"{path.parent / found[1]}, which stores weights of {path.name}, is a link to a file in another folder, "
            f"which ONNX Runtime {version} refuses; put the file itself in its place, or link both files to one folder"
        ),
    ),
)


#: Phrases in the messages of ONNX Runtime's allocators: the arena, C++'s new, CUDA.
_OUT_OF_MEMORY = (
    "Failed to allocate memory",
    "bad_alloc",
    "out of memory",
    "smaller than requested bytes",
    "ALLOC_FAILED",
)


def is_out_of_memory(message: str) -> bool:
    """Return whether a message of ONNX Runtime says that it is out of memory."""
    return any(phrase in message for phrase in _OUT_OF_MEMORY)


def without_functions(path: Path, operator: str) -> str:
    """Return what to do about a file whose functions a tool has removed, where no library stands in for them."""
    return (
        f"{path} has lost the function of keygraph's operator {operator}, so it runs with keygraph's operator library "
        "only; install or name the library, or use the file as exported"
    )


def explain(path: Path, message: str, version: str) -> str | None:
    """Return why a file does not open and what to do, or None for messages without a known meaning.

    Parameters
    ----------
    path
        The file.
    message
        ONNX Runtime's message.
    version
        ONNX Runtime's version.
    """
    line = " ".join(message.split())
    for pattern, meaning in _MEANINGS:
        if found := pattern.search(line):
            return meaning(found, path, version)
    return None
