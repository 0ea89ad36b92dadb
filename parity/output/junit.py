"""Results as JUnit XML, for CI systems."""

from __future__ import annotations

import os
from xml.etree import ElementTree

from ..pass_criteria import Failures
from ..results import Comparison, Run
from .junit_error import as_xml, write_xml


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
    write_xml(path, root)


def _suite(comparison: Comparison, failures: dict[int, list[str]]) -> ElementTree.Element:
    name = as_xml(comparison.candidate.name)
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
            words = as_xml(f"{side.name}: {side.integrity.words}")
            ElementTree.SubElement(properties, "property", name=f"{title} file", value=words)
    for index, result in enumerate(comparison.inputs):
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=as_xml(result.name))
        if index in failures:
            first, *_ = lines = [as_xml(line) for line in failures[index]]
            ElementTree.SubElement(case, "failure", message=first, type="parity").text = "\n".join(lines)
        numbers = result.judged
        ElementTree.SubElement(case, "system-out").text = as_xml(
            f"against {comparison.reference.name}: PSNR {numbers.psnr:.2f} dB, SSIM {numbers.ssim:.6f}, "
            f"max abs {numbers.max_abs:.3g}; the rule: {comparison.verdict.rule}"
        )
    return suite
