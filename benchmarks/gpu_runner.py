"""Run commands one after the other, each in its own process group and with its own time limit.

A step that fails, hangs or crashes does not affect the others. After every step the folder of results is updated:
`results.json` (each step's status and measurements), `gpu.md` (its tables) and `log.txt` (its output), so that the
results so far survive whatever ends the runner. It uses the standard library only, so that nothing a step needs can
break it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Statuses.
PASSED, FAILED, TIMED_OUT, KILLED = "passed", "failed", "timed out", "killed"
LEFT_OUT, NOT_POSSIBLE, RUNNING = "left out", "not possible", "running"
#: Statuses of steps that ran and did not pass.
BAD = (FAILED, TIMED_OUT, KILLED, RUNNING)

#: Output of one step that the log keeps, in bytes: its beginning and its end.
_LOG_HEAD, _LOG_TAIL = 20_000, 180_000
#: Lines of a failed step that are printed.
_PRINTED_LINES = 25
#: Seconds that a step has to end after SIGTERM.
_PATIENCE = 3.0
#: Seconds after which a running step's results are written.
_PAUSE = 5.0

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Step:
    """A command and when it can run.

    Attributes
    ----------
    name
        Unique in a list of steps.
    command
        ``{json}`` stands for a file that the command may write its results to, as one JSON object whose "tables" are
        ``{"title", "header", "rows", "note"}``; ``{out}`` for the folder of results.
    limit
        Seconds.
    needs
        Names of conditions without which it is not started.
    environment
        Variables beside the runner's.
    """

    name: str
    command: tuple[str, ...]
    limit: float
    needs: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


#: Name of a condition -> why it does not hold; None where it does.
Conditions = Mapping[str, Callable[[], "str | None"]]


class Runner:
    """Run steps within a budget.

    Parameters
    ----------
    folder
        Of the results.
    budget
        Seconds from now on; a step whose limit is longer than what is left is left out.
    conditions
        What `Step.needs` names.
    environment
        The steps'.
    cwd
        Where the steps run.
    previous
        Records of an earlier run, which stay in the results beside the new ones.
    about
        What else goes into the results.
    """

    def __init__(
        self,
        folder: Path,
        budget: float,
        *,
        conditions: Conditions,
        environment: Mapping[str, str],
        cwd: Path,
        previous: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self._began = time.monotonic()
        self._folder = folder
        self._budget = budget
        self._conditions = conditions
        self._environment = dict(environment)
        self._cwd = cwd
        self.records: dict[str, dict[str, Any]] = dict(previous or {})
        self._about = dict(about or {})
        self._log = ""
        self._number = 0

    def run(self, steps: Sequence[Step]) -> bool:
        """Run the steps; return whether all of them that ran passed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        # A runner that is asked to end takes the running step with it.
        signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(143)))
        with tempfile.TemporaryDirectory(prefix="gpu-run-") as temporary:
            for step in steps:
                self.records[step.name] = {"status": RUNNING, "limit": step.limit}
                self._write()
                self.records[step.name] = self._run(step, Path(temporary))
                self._write()
        return not any(self.records[step.name]["status"] in BAD for step in steps)

    def _run(self, step: Step, temporary: Path) -> dict[str, Any]:
        """Run one step and return its record."""
        left = self._budget - (time.monotonic() - self._began)
        record: dict[str, Any] = {"limit": step.limit}
        if step.limit > left:
            return self._not_run(step, record, LEFT_OUT, f"{left:.0f} s were left")
        for name in step.needs:
            reason = self._conditions[name]()
            if reason is not None:
                return self._not_run(step, record, NOT_POSSIBLE, reason)
        self._number += 1
        output, result = temporary / f"{self._number}.txt", temporary / f"{self._number}.json"
        command = [part.replace("{json}", str(result)).replace("{out}", str(self._folder)) for part in step.command]
        print(f"[{time.monotonic() - self._began:6.1f} s] {step.name}: {' '.join(command)}", flush=True)
        began = time.monotonic()
        try:
            with output.open("wb") as file:
                environment = self._environment | dict(step.environment)
                code = _call(
                    command, self._cwd, environment, step.limit, file, lambda: self._note_progress(step, result)
                )
        except OSError as error:
            output.write_text(f"{error}\n")
            code = 127
        seconds = time.monotonic() - began
        record |= {"seconds": round(seconds, 1), "command": " ".join(command)}
        if code is None:
            record |= {"status": TIMED_OUT, "reason": f"not done after {step.limit:g} s"}
        elif code < 0:
            record |= {"status": KILLED, "reason": signal.Signals(-code).name}
        elif code:
            record |= {"status": FAILED, "reason": f"exit code {code}"}
        else:
            record |= {"status": PASSED}
        # Also of a step that did not pass: what it had measured by then.
        with suppress(OSError, ValueError):
            record["result"] = json.loads(result.read_text())
        text = _shortened(output.read_bytes())
        self._log += f"==== {step.name}: {record['status']} after {seconds:.1f} s: {record['command']}\n{text}\n"
        print(f"[{time.monotonic() - self._began:6.1f} s] {step.name}: {_status(record)}", flush=True)
        if record["status"] in BAD:
            print("\n".join(f"    {line}" for line in text.splitlines()[-_PRINTED_LINES:]), flush=True)
        return record

    def _note_progress(self, step: Step, result: Path) -> None:
        """Write what the running step has measured so far: whoever kills the runner leaves that."""
        with suppress(OSError, ValueError):
            self.records[step.name]["result"] = json.loads(result.read_text())
            self._write()

    def _not_run(self, step: Step, record: dict[str, Any], status: str, reason: str) -> dict[str, Any]:
        print(f"[{time.monotonic() - self._began:6.1f} s] {step.name}: {status}: {reason}", flush=True)
        return record | {"status": status, "reason": reason}

    def _write(self) -> None:
        results = {
            **self._about,
            "budget": self._budget,
            "seconds": round(time.monotonic() - self._began, 1),
            "steps": self.records,
        }
        _replace(self._folder / "results.json", json.dumps(results, indent=1) + "\n")
        _replace(self._folder / "gpu.md", report(results))
        _replace(self._folder / "log.txt", self._log)


def report(results: Mapping[str, Any]) -> str:
    """Return the results in Markdown: every step's status, then the tables."""
    records = results["steps"].items()
    parts = [markdown(["step", "status", "seconds"], [[name, _status(one), _seconds(one)] for name, one in records])]
    for name, record in records:
        result = record.get("result")
        for table in result.get("tables", ()) if isinstance(result, dict) else ():
            parts.append(f"## {name}: {table['title']}\n\n{markdown(table['header'], table['rows'])}")
            if table.get("note"):
                parts.append(table["note"])
    return "\n\n".join(parts) + "\n"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _status(record: Mapping[str, Any]) -> str:
    reason = record.get("reason")
    return f"{record['status']}: {reason}" if reason else str(record["status"])


def _seconds(record: Mapping[str, Any]) -> str:
    return f"{record['seconds']:.0f}" if "seconds" in record else "-"


def _call(
    command: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    limit: float,
    output: Any,
    meanwhile: Callable[[], None],
) -> int | None:
    """Run a command in its own process group; return its exit code, negative for a signal, or None past the limit.

    `meanwhile` is called every few seconds.
    """
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        preexec_fn=_GroupOfItsOwn(),
    )  # fmt: skip
    end = time.monotonic() + limit
    try:
        while (left := end - time.monotonic()) > 0:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(min(left, _PAUSE))
            meanwhile()
        return None
    finally:
        _end(process)


class _GroupOfItsOwn:
    """Called in the child before its program starts: a new process group, which dies with the runner.

    Not a new session: whoever limits the runner's time may spare those.
    """

    def __init__(self) -> None:
        self._prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def __call__(self) -> None:
        os.setpgid(0, 0)
        if self._prctl is not None:
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process's group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
    # The group can outlive the process that it was made for.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _shortened(output: bytes) -> str:
    if len(output) > _LOG_HEAD + _LOG_TAIL:
        left_out = len(output) - _LOG_HEAD - _LOG_TAIL
        output = output[:_LOG_HEAD] + f"\n... {left_out} bytes left out ...\n".encode() + output[-_LOG_TAIL:]
    return output.decode(errors="replace")


def _replace(path: Path, text: str) -> None:
    """Write a file so that whoever reads it finds all of it, old or new."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
