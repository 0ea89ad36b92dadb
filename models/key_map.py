r"""Key maps: rules that rename the keys of a state dict from other code.

A text file with one rule per line; `#` starts a comment:

    encoder\.(\d+)\.norm_in\.(weight|bias) -> body.\1.norm1.\2
    criterion\..*                          ->

The first rule whose regular expression matches a whole key applies. An empty right side drops the tensor. Keys that no
rule matches are not changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..errors import InputError

Rules = list[tuple[re.Pattern[str], str]]


def read_key_map(path: Path) -> Rules:
    """Read the rules of a key map.

    Raises
    ------
    InputError
        The file cannot be read, a line is not a rule, or a pattern is not a regular expression.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read as a key map ({error}); give a text file of lines `pattern -> name`"
        ) from error
    rules: Rules = []
    for number, line in enumerate(lines, 1):
        text = line.split("#", 1)[0].strip()
        if not text:
            continue
        pattern, arrow, replacement = (part.strip() for part in text.partition("->"))
        if not arrow or not pattern:
            raise InputError(f"{path}:{number}: {text!r} is not a rule; write `pattern -> name`")
        try:
            rules.append((re.compile(pattern), replacement))
        except re.error as error:
            raise InputError(f"{path}:{number}: {pattern!r} is not a regular expression: {error}") from error
    return rules


def apply_key_map(state: Mapping[str, Tensor], rules: Rules) -> tuple[dict[str, Tensor], list[str]]:
    """Rename and drop tensors.

    Returns
    -------
    state, notes
        The new state dict, and lines that say what was done.

    Raises
    ------
    InputError
        Two tensors get the same name, or a replacement refers to a group that its pattern does not have.
    """
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    used = [0] * len(rules)
    for key, tensor in state.items():
        name = key
        for i, (pattern, replacement) in enumerate(rules):
            match = pattern.fullmatch(key)
            if match:
                used[i] += 1
                try:
                    name = match.expand(replacement)
                except (re.error, IndexError) as error:
                    raise InputError(f"key map: {replacement!r} does not fit {pattern.pattern!r}: {error}") from error
                break
        if not name:
            continue
        if name in renamed:
            raise InputError(f"key map: {origin[name]!r} and {key!r} both become {name!r}; make the rules distinct")
        renamed[name], origin[name] = tensor, key
    notes = [f"key map: {sum(used)} of {len(state)} tensors renamed or dropped"]
    notes += [f"key map: {rules[i][0].pattern!r} matched nothing" for i, count in enumerate(used) if not count]
    return renamed, notes
