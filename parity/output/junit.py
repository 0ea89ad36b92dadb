"""Results as JUnit XML, for CI systems."""

from __future__ import annotations

import os
import re
from xml.etree import ElementTree

from ...files import atomic_path
from ..pass_criteria import Failures
from ..results import Comparison, Run

#: Control characters that XML 1.0 cannot represent.
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(path: str | os.PathLike[str], run: Run, failures: Failures) -> None:
    """Write one test suite for each candidate, with a test case for each image.

    Parameters
    ----------
    path
        Output file; an existing one is replaced.
    run
        The run.
    failures
        From `pass_criteria.find_failures` or `baseline.find_regressions`.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    root = ElementTree.Element("testsuites", name="keygraph compare")
    total = 0
    for candidate, comparison in enumerate(run.comparisons):
        suite = _suite(comparison, {image: lines for (one, image), lines in failures.items() if one == candidate})
        total += len(comparison.inputs)
        root.append(suite)
    root.attrib |= {"tests": str(total), "failures": str(len(failures)), "errors": "0"}
    ElementTree.indent(root)
    with atomic_path(path) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)


def _suite(comparison: Comparison, failures: dict[int, list[str]]) -> ElementTree.Element:
    name = _text(comparison.candidate.name)
    suite = ElementTree.Element(
        "testsuite",
        name=name,
        tests=str(len(comparison.inputs)),
        failures=str(len(failures)),
        errors="0",
        skipped="0",
    )
    properties = ElementTree.SubElement(suite, "properties")
    for title, side in (("candidate", comparison.candidate), ("reference", comparison.reference)):
        if side.integrity is not None:
            words = _text(f"{side.name}: {side.integrity.words}")
            ElementTree.SubElement(properties, "property", name=f"{title} file", value=words)
    for index, result in enumerate(comparison.inputs):
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=_text(result.name))
        if index in failures:
            first, *_ = lines = [_text(line) for line in failures[index]]
            ElementTree.SubElement(case, "failure", message=first, type="parity").text = "\n".join(lines)
        numbers = result.judged
        ElementTree.SubElement(case, "system-out").text = _text(
            f"against {comparison.reference.name}: PSNR {numbers.psnr:.2f} dB, SSIM {numbers.ssim:.6f}, "
            f"max abs {numbers.max_abs:.3g}; the rule: {comparison.verdict.rule}"
        )
    return suite


def _text(value: str) -> str:
    return _NOT_XML.sub("?", value)
