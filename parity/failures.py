"""What fails, candidate by candidate and image by image: by the rule, or against an earlier run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_start
from ..instrumentation.metrics import EQUAL_DB
from .pass_criteria import judge
from .results import InputResult
from .run import Comparison, Run, plain_values

#: (index of the candidate, index of the image) -> why it fails, a line each.
Failures = dict[tuple[int, int], list[str]]

#: What may be lost against an earlier run, in dB: of the PSNR between both sides, and of that against the clean image.
PSNR_MARGIN, CLEAN_MARGIN = 1.0, 0.05

#: In dB. Above it there is nothing but rounding, which differs from machine to machine.
CEILING = 120.0


def by_the_rule(run: Run) -> Failures:
    """Apply the verdict's rule to each image alone."""
    found: Failures = {}
    for candidate, comparison in enumerate(run.comparisons):
        for index, result in enumerate(comparison.inputs):
            reasons = _rule(comparison, result, run.settings.get("at_least"))
            if reasons:
                found[candidate, index] = reasons
    return found


def regressions(run: Run, previous: Mapping[str, Any]) -> Failures:
    """Find what got worse than in an earlier run, by more than the margins.

    Worse are: a PSNR that fell by more than `PSNR_MARGIN` (values above `CEILING` count as that), a PSNR against the
    clean image that fell by more than `CLEAN_MARGIN`, more values that are not finite, more links beyond the
    tolerance, and half of a tile that is further apart as run. What the earlier run does not have is judged by the
    rule.

    Parameters
    ----------
    run
        Now.
    previous
        What `read_run` returned.
    """
    before = previous["comparisons"]
    found: Failures = {}
    for candidate, comparison in enumerate(run.comparisons):
        earlier = _named(before, comparison.candidate.name, alone=len(before) == len(run.comparisons) == 1)
        results = {value["name"]: value for value in earlier["inputs"]} if earlier else {}
        for index, result in enumerate(comparison.inputs):
            old = results.get(result.name)
            reasons = _worse(result, old) if old else _rule(comparison, result, run.settings.get("at_least"))
            if reasons:
                found[candidate, index] = [f"{line} (not in the baseline)" for line in reasons] if not old else reasons
    return found


def moved(run: Run, previous: Mapping[str, Any]) -> list[str]:
    """Say which numbers are not those of an earlier run, a line each."""
    lines = []
    for comparison, old in zip(run.comparisons, previous["comparisons"], strict=False):
        for side in ("candidate", "reference"):
            now, then = (value[side]["weights_sha256"] for value in (comparison.as_json(), old))
            if now != then:
                lines.append(f"{old[side]['name']} has other weights than then")
        for result, before in zip(comparison.inputs, old["inputs"], strict=False):
            for way in ("as_run", "same_graphs"):
                numbers = getattr(result, way)
                if numbers is None or before[way] is None:
                    continue
                for name in ("psnr", "max_abs"):
                    now, then = plain_values(getattr(numbers, name)), before[way][name]
                    if now != then:
                        lines.append(
                            f"{comparison.candidate.name}, {result.name}, {way.replace('_', ' ')}: {name} was "
                            f"{_number(then)}, is {_number(now)}"
                        )
    return list(dict.fromkeys(lines))


def read_run(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `Run.as_json` gave, from a file.

    Raises
    ------
    InputError
        It is none.
    """
    wanted = "what keygraph compare --json printed, or a run.json that it saved"
    read_start(Path(path), wanted)
    try:
        values = json.loads(Path(path).read_text())
        for comparison in values["comparisons"]:
            for side in ("candidate", "reference"):
                str(comparison[side]["name"]), str(comparison[side]["weights_sha256"])
            for result in comparison["inputs"]:
                str(result["name"]), result["as_run"]["psnr"], result["same_graphs"], result["stages"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no result of a comparison; give {wanted}") from None
    found: dict[str, Any] = values
    return found


def _rule(comparison: Comparison, result: InputResult, at_least: float | None) -> list[str]:
    precisions = (comparison.candidate.manifest.precision, comparison.reference.manifest.precision)
    return list(judge([result], result.stages, precisions, at_least).reasons)


def _named(comparisons: list[dict[str, Any]], name: str, alone: bool) -> dict[str, Any] | None:
    """The comparison of a candidate of this name; where there is only one then and now, that one."""
    found = [one for one in comparisons if alone or one["candidate"]["name"] == name]
    return found[0] if found else None


def _worse(result: InputResult, old: Mapping[str, Any]) -> list[str]:
    way = "same_graphs" if result.same_graphs is not None and old["same_graphs"] is not None else "as_run"
    numbers, before = getattr(result, way), old[way]
    reasons = []
    nonfinite = numbers.nonfinite_candidate, before["nonfinite_candidate"]
    if nonfinite[0] > nonfinite[1]:
        reasons.append(f"{result.name}: {nonfinite[0]} values are NaN or infinite, {nonfinite[1]} were")
    elif numbers.finite and before["psnr"] is not None:
        now, then = (min(value, CEILING) for value in (numbers.psnr, before["psnr"]))
        if now < then - PSNR_MARGIN:
            same = "" if way == "as_run" else " with the same key graphs"
            reasons.append(f"{result.name}: {now:.1f} dB{same}, was {_number(then)}")
    clean = old.get("clean")
    if result.clean is not None and clean is not None and clean["candidate"] is not None:
        now, then = result.clean.candidate, clean["candidate"]
        if math.isnan(now) or now < then - CLEAN_MARGIN:
            reasons.append(f"{result.name}: {now:.2f} dB against the clean image, was {then:.2f}")
    wrong = {stage["name"]: stage["beyond_tolerance"] for stage in old["stages"]}
    for stage in result.stages:
        if stage.beyond_tolerance > wrong.get(stage.name, 0):
            reasons.append(
                f"{result.name}: {stage.name}: {stage.beyond_tolerance} links differ by more than near ties, "
                f"{wrong.get(stage.name, 0)} did"
            )
            break  # The stages after it may only follow from it.
    typical = old.get("typical")  # A baseline of before it was measured has none.
    if not reasons and typical is not None and min(result.typical, CEILING) < min(typical, CEILING) - PSNR_MARGIN:
        reasons.append(
            f"{result.name}: as run, half of a tile is only {result.typical:.1f} dB close, was {_number(typical)}"
        )
    if reasons:
        reasons += [f"{result.name}: {cause.text}" for cause in result.causes]
    return reasons


def _number(value: float | None) -> str:
    if value is None:
        return "not a number"
    return "equal" if value == EQUAL_DB else f"{value:.6g}"
