"""Key maps: regular expressions that turn a foreign state dict's keys into ours.

A text file, one rule a line, `#` starts a comment:

    encoder\\.(\\d+)\\.norm_in\\.(weight|bias) -> body.\\1.norm1.\\2
    criterion\\..*                            ->

A rule applies to a key that its pattern matches as a whole; the first such rule wins; nothing at the right drops the
tensor; keys that no rule matches stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ..errors import InputError

Rules = list[tuple[re.Pattern[str], str]]


def read_key_map(path: Path) -> Rules:
    """Read the rules.

    Raises
    ------
    InputError
        The file is missing, has a line that is no rule, or has a pattern that is no regular expression.
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
            raise InputError(f"{path}:{number}: {text!r} is no rule; write `pattern -> name`")
        try:
            rules.append((re.compile(pattern), replacement))
        except re.error as error:
            raise InputError(f"{path}:{number}: {pattern!r} is no regular expression: {error}") from error
    return rules


def apply_key_map(state: Mapping[str, Tensor], rules: Rules) -> tuple[dict[str, Tensor], list[str]]:
    """Rename and drop; also returns notes on what was done.

    Raises
    ------
    InputError
        Two tensors get the same name, or a replacement refers to a group that its pattern lacks.
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
