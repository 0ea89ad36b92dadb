"""pytest fixture: assert in two lines that an exported model still computes what its checkpoint does.

>>> def test_export(keygraph_parity):
...     keygraph_parity("kgt.onnx", "kgt.ckpt", inputs=["photo.png"], at_least=90)

pytest loads this module in every session, so imports are deferred until they are needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from .parity import Run


class Parity(Protocol):
    """The type of the fixture `keygraph_parity`."""

    def __call__(
        self,
        *models: str | os.PathLike[str],
        inputs: Sequence[Any] = (),
        clean: Sequence[Any] = (),
        k: int | None = None,
        tile: int | str | None = None,
        at_least: float | None = None,
        baseline: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ) -> Run:
        """Fail the test unless every candidate agrees with the reference.

        Parameters
        ----------
        models
            One candidate or several, then the reference; see `parity.compare`.
        inputs, clean, k, tile, at_least
            See `parity.compare`.
        baseline
            Output of an earlier ``keygraph compare --json``, as a file or its contents: fail only where a result got
            worse.

        Returns
        -------
        The run, for further assertions.

        Raises
        ------
        InputError
            A model or an image cannot be used.
        """


@pytest.fixture
def keygraph_parity() -> Parity:
    """Return a function that compares models with a reference, and fails the test where they do not agree."""
    return _assert_parity


def _assert_parity(
    *models: str | os.PathLike[str],
    inputs: Sequence[Any] = (),
    clean: Sequence[Any] = (),
    k: int | None = None,
    tile: int | str | None = None,
    at_least: float | None = None,
    baseline: str | os.PathLike[str] | Mapping[str, Any] | None = None,
) -> Run:
    from .errors import InputError
    from .parity import compare
    from .parity.output.baseline import find_regressions, read_run

    if len(models) < 2:
        raise InputError(f"got {len(models)} models; give one or several candidates, then the reference")
    run = compare(models[:-1], models[-1], inputs, clean=clean, k=k, tile=tile, at_least=at_least)
    if baseline is None:
        reasons = list(run.reasons)
    else:
        previous = baseline if isinstance(baseline, Mapping) else read_run(baseline)
        reasons = [line for lines in find_regressions(run, previous).values() for line in lines]
    if reasons:
        rules = dict.fromkeys(comparison.verdict.rule for comparison in run.comparisons)
        rule = "not worse than the baseline" if baseline is not None else "; ".join(rules)
        pytest.fail("\n".join([f"the models do not agree; the rule is: {rule}", *reasons]), pytrace=False)
    return run
