"""The result of a module comparison."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from dataclasses import dataclass
from typing import Any

from ..metrics.rounding import RoundingError
from ..pass_criteria import rule_by_rounding
from ..results import BlockRounding, plain_values

#: Of the report's sentences.
LINE_LENGTH = 116


@dataclass(frozen=True)
class ModuleComparison:
    """A candidate compared with a module; `str` gives the report.

    Attributes
    ----------
    candidate, reference
        Names of the two sides.
    error
        RMS of the difference between the outputs, and what rounding explains of it.
    blocks
        Each block's own error against float64 on the candidate's input of that block, in the order of execution; empty
        where only the outputs were compared.
    beyond_rounding
        Blocks whose own error is beyond what rounding explains, without those that contain another one. The first has
        the suspect: the fault that explains its error.
    reasons
        Why the candidate fails, one line each; empty when it passes.
    notes
        Further lines for the reader.
    """

    candidate: str
    reference: str
    error: RoundingError
    blocks: tuple[BlockRounding, ...]
    beyond_rounding: tuple[BlockRounding, ...]
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every value is finite and rounding explains the error, of the output and of every block."""
        return not self.reasons

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: None for a number that is not known, 200 for an infinite one."""
        values = dataclasses.asdict(self) | {"passed": self.passed}
        values["error"]["times"] = self.error.times
        for name in ("blocks", "beyond_rounding"):
            for value, block in zip(values[name], getattr(self, name), strict=True):
                value["error"]["times"] = block.error.times
        plain: dict[str, Any] = plain_values(values)
        return plain

    def __str__(self) -> str:
        """Return the report: the errors of the output and of the blocks at fault, the verdict and its reasons."""
        rows = [("output", self.error), *((block.name, block.error) for block in self.beyond_rounding)]
        width = max(len("RMS error"), *(len(name) for name, _ in rows))
        rule = rule_by_rounding(self.error.causes, not math.isnan(self.error.median))
        lines = [
            f"candidate  {self.candidate}  {self.error.precision}",
            f"reference  {self.reference}  fp32",
            "",
            f"{'RMS error':{width}}    found  rounding explains      times",
            *(f"{name:{width}}  {e.found:7.1e}  {e.expected:17.1e}  {e.times:9,.2f}" for name, e in rows),
            "",
            f"{'AGREE' if self.passed else 'DIFFERENT'}: the rule is: {rule}",
            *(line for reason in self.reasons for line in _wrapped(reason, "  ")),
            *(line for note in self.notes for line in _wrapped(note, "note: ")),
        ]
        return "\n".join(lines)


def _wrapped(text: str, start: str) -> list[str]:
    """Return a sentence in lines that fit a terminal, the later ones indented by two more."""
    return textwrap.wrap(
        text,
        LINE_LENGTH,
        initial_indent=start,
        subsequent_indent=" " * (len(start) - len(start.lstrip()) + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )
