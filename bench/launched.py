"""Which kernel variants a measurement launched."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import MissingDependencyError


@contextmanager
def launched_variants() -> Iterator[dict[str, str]]:
    """Yield a dictionary of operator -> name of the variant that was launched last inside the ``with`` block.

    Only kernels compiled just in time are recorded. Where several are tried, the last one is the one chosen.
    """
    last: dict[str, str] = {}
    try:
        from ..plugins.triton import jit
    except MissingDependencyError:
        yield last
        return
    launch = jit.launch

    def record_and_launch(variant: Any, *arguments: Any, **more: Any) -> None:
        last[variant.op] = variant.name
        launch(variant, *arguments, **more)

    jit.launch = record_and_launch
    try:
        yield last
    finally:
        jit.launch = launch
