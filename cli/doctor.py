"""``keygraph doctor``."""

from __future__ import annotations

import dataclasses
import faulthandler
import json
from collections.abc import Sequence
from contextlib import suppress

import typer

from ..environment import BROKEN, EXTRAS, MISSING, OK, Finding, examine
from .arguments import Json
from .table import show


def doctor(as_json: Json = False) -> None:
    """Show what is installed, what is missing, and how to get it.

    Exit code 0, also when optional parts are missing; 1 when something that is installed does not work.
    """
    # A broken library may crash the process; the traceback then says where. pytest's stderr has no file descriptor.
    with suppress(OSError, RuntimeError):
        faulthandler.enable()
    findings = list(examine())
    broken = [finding for finding in findings if finding.state == BROKEN]
    if as_json:
        print(json.dumps({"ok": not broken, "findings": [dataclasses.asdict(finding) for finding in findings]}))
    else:
        _show(findings)
    if broken:
        raise typer.Exit(1)


def _show(findings: Sequence[Finding]) -> None:
    marks = {OK: "ok", MISSING: "-", BROKEN: "BROKEN"}
    rows, last = [], ""
    for finding in findings:
        rows.append(
            (finding.group if finding.group != last else "", finding.name, marks[finding.state], finding.detail)
        )
        last = finding.group
    show(("", "", "", ""), rows, left=4)
    remedies: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.remedy:
            remedies.setdefault(finding.remedy, []).append(finding)
    if not remedies:
        return
    print()
    for remedy, repaired in remedies.items():
        state = BROKEN if any(finding.state == BROKEN for finding in repaired) else MISSING
        what = EXTRAS.get(repaired[0].group) or ", ".join(finding.name for finding in repaired)
        print(f"{state}: {what}: {remedy}")
