"""JUnit XML of a comparison that gave no result, so that no earlier file of a good one stays.

Imports nothing but the standard library: a missing package is one of the reasons.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

from ...errors import InputError
from ...files import atomic_path, check_place

#: Control characters that XML 1.0 cannot represent.
_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def check_junit(path: str | os.PathLike[str]) -> None:
    """Check that a file can be written, and that it replaces no other kind of file, such as a model.

    Raises
    ------
    InputError
        It cannot, or it would.
    """
    file = Path(path)
    check_place(file)
    if file.is_file() and file.stat().st_size:
        with file.open("rb") as opened:
            if not opened.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
                raise InputError(f"--junit {path} would replace a file that is not XML; give another name")


def write_junit_error(path: str | os.PathLike[str], message: str) -> None:
    """Write one test case that ended with an error.

    Parameters
    ----------
    path
        Output file; an existing one is replaced.
    message
        Why there is no result.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    name, counts = "keygraph compare", {"tests": "1", "failures": "0", "errors": "1"}
    root = ElementTree.Element("testsuites", {"name": name, **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": name, **counts, "skipped": "0"})
    case = ElementTree.SubElement(suite, "testcase", classname=name, name="the comparison")
    ElementTree.SubElement(case, "error", message=as_xml(message), type="error").text = as_xml(message)
    write_xml(path, root)


def write_xml(path: str | os.PathLike[str], root: ElementTree.Element) -> None:
    """Write a document; raises `InputError` where that is not possible."""
    ElementTree.indent(root)
    with atomic_path(path) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)


def as_xml(text: str) -> str:
    """Return a text with a question mark for each character that XML cannot represent."""
    return _NOT_XML.sub("?", text)
