"""Comparison of a run with an earlier one, the baseline: what got worse, and which numbers changed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ...errors import InputError, counted
from ...files import read_start
from ...instrumentation.metrics import EQUAL_DB
from ...strict_json import decode_json
from ..pass_criteria import Failures, judge_image
from ..results import InputResult, Run, plain_values

#: Allowed loss against the baseline in dB: of the PSNR between both sides, and of that against the clean image.
PSNR_MARGIN, CLEAN_MARGIN = 1.0, 0.05

#: In dB. Differences above it are rounding alone, which varies between machines.
CEILING = 120.0


@dataclass(frozen=True)
class _StoredSide:
    name: str
    weights_sha256: str


@dataclass(frozen=True)
class _StoredNumbers:
    psnr: float | None
    max_abs: float | None
    nonfinite_candidate: int


@dataclass(frozen=True)
class _StoredStage:
    name: str
    beyond_tolerance: int


@dataclass(frozen=True)
class _StoredClean:
    candidate: float | None


@dataclass(frozen=True)
class _StoredInput:
    name: str
    as_run: _StoredNumbers
    same_graphs: _StoredNumbers | None
    stages: list[_StoredStage]
    clean: _StoredClean | None = None
    typical: float | None = None  # Missing in the oldest baselines.


@dataclass(frozen=True)
class _StoredComparison:
    candidate: _StoredSide
    reference: _StoredSide
    inputs: list[_StoredInput]


@dataclass(frozen=True)
class _StoredRun:
    """What this module reads of the JSON form of a run; other entries are ignored."""

    comparisons: list[_StoredComparison]


def read_run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a file with the JSON form of a run, as ``keygraph compare --json`` prints it or ``--save`` stores it.

    Raises
    ------
    InputError
        The file holds no such run.
    """
    expected = "the output of keygraph compare --json, or a run.json from --save"
    read_start(Path(path), expected)
    try:
        values = decode_json(Path(path).read_bytes())
        msgspec.convert(values, _StoredRun)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} is not the result of a comparison ({error}); give {expected}") from None
    found: dict[str, Any] = values
    return found


def find_regressions(run: Run, baseline: Mapping[str, Any]) -> Failures:
    """Find what got worse than in the baseline by more than the margins.

    A result is worse when its PSNR fell by more than `PSNR_MARGIN` (values above `CEILING` count as `CEILING`), its
    PSNR against the clean image fell by more than `CLEAN_MARGIN`, it has more non-finite values, more links beyond the
    tolerance, or its median tile error as run is worse by more than `PSNR_MARGIN`. What the baseline does not have is
    judged by the rule.

    Parameters
    ----------
    run
        The new run.
    baseline
        An earlier run from `read_run`.
    """
    before = baseline["comparisons"]
    found: Failures = {}
    for candidate, comparison in enumerate(run.comparisons):
        earlier = _find_comparison(before, comparison.candidate.name, alone=len(before) == len(run.comparisons) == 1)
        results = {value["name"]: value for value in earlier["inputs"]} if earlier else {}
        for index, result in enumerate(comparison.inputs):
            old = results.get(result.name)
            if old:
                reasons = _regressions_of(result, old)
            else:
                failed = judge_image(comparison, result, run.settings.get("at_least"))
                reasons = [f"{line} (not in the baseline)" for line in failed]
            if reasons:
                found[candidate, index] = reasons
    return found


def changed_numbers(run: Run, previous: Mapping[str, Any]) -> list[str]:
    """List the numbers of a repeated run that differ from the original, one line each.

    Parameters
    ----------
    run
        The new run, with the same candidates and images in the same order.
    previous
        The original run from `read_run`.
    """
    lines = []
    for comparison, old in zip(run.comparisons, previous["comparisons"], strict=False):
        for side in ("candidate", "reference"):
            now, then = (_digests(value[side]) for value in (comparison.as_json(), old))
            changed = [name for name in then if name in now and now[name] != then[name]]
            if changed:
                verb = "has" if len(changed) == 1 and not changed[0].endswith("s") else "have"
                lines.append(f"{old[side]['name']}: the {' and the '.join(changed)} {verb} changed since")
        for result, before in zip(comparison.inputs, old["inputs"], strict=False):
            for mode in ("as_run", "same_graphs"):
                numbers = getattr(result, mode)
                if numbers is None or before[mode] is None:
                    continue
                for name in ("psnr", "max_abs"):
                    now, then = plain_values(getattr(numbers, name)), before[mode][name]
                    if now != then:
                        lines.append(
                            f"{comparison.candidate.name}, {result.name}, {mode.replace('_', ' ')}: {name} was "
                            f"{_format(then)}, is {_format(now)}"
                        )
    return list(dict.fromkeys(lines))


def _digests(side: Mapping[str, Any]) -> dict[str, str]:
    """Return the digests of a side, by what they are of; older runs hold the checkpoint's only."""
    return {"checkpoint's weights": side["weights_sha256"], **side.get("digests", {})}


def _find_comparison(comparisons: list[dict[str, Any]], name: str, alone: bool) -> dict[str, Any] | None:
    """Find the comparison of the candidate of this name; when `alone`, take the only one whatever its name."""
    found = [one for one in comparisons if alone or one["candidate"]["name"] == name]
    return found[0] if found else None


def _regressions_of(result: InputResult, old: Mapping[str, Any]) -> list[str]:
    """Describe what got worse on one image."""
    mode = "same_graphs" if result.same_graphs is not None and old["same_graphs"] is not None else "as_run"
    numbers, before = getattr(result, mode), old[mode]
    reasons = []
    nonfinite = numbers.nonfinite_candidate, before["nonfinite_candidate"]
    if nonfinite[0] > nonfinite[1]:
        reasons.append(f"{result.name}: {nonfinite[0]} values are NaN or infinite, {nonfinite[1]} were")
    elif numbers.finite and before["psnr"] is not None:
        now, then = (min(value, CEILING) for value in (numbers.psnr, before["psnr"]))
        if now < then - PSNR_MARGIN:
            same = "" if mode == "as_run" else " with the same key graphs"
            reasons.append(f"{result.name}: {now:.1f} dB{same}, was {_format(then)}")
    clean = old.get("clean")
    if result.clean is not None and clean is not None and clean["candidate"] is not None:
        now, then = result.clean.candidate, clean["candidate"]
        if math.isnan(now) or now < then - CLEAN_MARGIN:
            reasons.append(f"{result.name}: {now:.2f} dB against the clean image, was {then:.2f}")
    wrong = {stage["name"]: stage["beyond_tolerance"] for stage in old["stages"]}
    for stage in result.stages:
        if stage.beyond_tolerance > wrong.get(stage.name, 0):
            reasons.append(
                f"{result.name}: {stage.name}: "
                f"{counted(stage.beyond_tolerance, 'difference')} beyond near ties, before {wrong.get(stage.name, 0)}"
            )
            break  # Errors in later stages may only follow from this one.
    typical = old.get("typical")  # Missing in the oldest baselines.
    if not reasons and typical is not None and min(result.typical, CEILING) < min(typical, CEILING) - PSNR_MARGIN:
        reasons.append(
            f"{result.name}: as run, the median tile error is {result.typical:.1f} dB, was {_format(typical)}"
        )
    if reasons:
        reasons += [f"{result.name}: {cause.text}" for cause in result.causes]
    return reasons


def _format(value: float | None) -> str:
    if value is None:
        return "not a number"
    return "equal" if value == EQUAL_DB else f"{value:.6g}"
