"""Which variants of the kernels a measurement started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import MissingDependencyError


@contextmanager
def launched_variants() -> Iterator[dict[str, str]]:
    """Yield a dictionary that holds, by operator, the name of the variant that was started last in the block.

    Of the kernels that are compiled just in time: where several are tried, the last is the one chosen.
    """
    last: dict[str, str] = {}
    try:
        from ..plugins.triton import jit
    except MissingDependencyError:
        yield last
        return
    launch = jit.launch

    def noting(variant: Any, *arguments: Any, **more: Any) -> None:
        last[variant.op] = variant.name
        launch(variant, *arguments, **more)

    jit.launch = noting
    try:
        yield last
    finally:
        jit.launch = launch
