"""Change inputs in their own format, so that the readers get behind its first check."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

#: libFuzzer's own mutation: (data, largest size) -> data.
Plain = Callable[[bytes, int], bytes]

#: What a value in JSON is replaced by.
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308, 1e400, float("nan")),
    *("", "x", "a\nb", "\x00", "\ud800", "fp16", "bf16", "F32", "I8", "F8_E4M3", "sm_90", "none", "0" * 64),
    *([], [1], [1, 2], [0.0, 1.0], [-1, 3, -1, -1], [[1]], {}, {"a": 1}, {"a": {"b": []}}),
)


#: What a value in a line is replaced by.
_WORDS = (b"0", b"-1", b"1", b"3", b"36", b"1e400", b"nan", b"{}", b"{1, 2, 3}", b"{", b"bip", b"99999999999")


def mutate_json(data: bytes, rng: random.Random, plain: Plain, limit: int) -> bytes:
    """Replace, remove, repeat or exchange some values of a JSON document."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return plain(data, limit)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(document))
        if not places:
            return json.dumps(copy.deepcopy(rng.choice(_VALUES))).encode()
        holder, key = rng.choice(places)
        action = rng.randrange(6)
        if action == 0:
            del holder[key]
        elif action == 1:
            other, other_key = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[other_key]))
        elif action == 2 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(rng.choice(_VALUES)))
        elif action == 3 and isinstance(holder, dict):
            holder[rng.choice(("x", "", "format_version", "keygraph", str(key).upper()))] = copy.deepcopy(
                rng.choice(_VALUES)
            )
        elif action == 4 and isinstance(holder[key], str):
            holder[key] = plain(holder[key].encode("utf-8", "replace"), 100).decode("utf-8", "replace")
        else:
            holder[key] = copy.deepcopy(rng.choice(_VALUES))
    return json.dumps(document).encode()


def mutate_checkpoint(data: bytes, rng: random.Random, plain: Plain, limit: int) -> bytes:
    """Change the header of a safetensors file, or one file of PyTorch's zip archive."""
    if rng.randrange(4) == 0:
        return plain(data, limit)
    if data.startswith(b"PK"):
        return _mutate_archive(data, rng, plain, limit)
    size = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 and not data.startswith(b"\x80") else 0
    if not 0 < size <= len(data) - 8:
        return plain(data, limit)
    header = mutate_json(data[8 : 8 + size], rng, plain, limit)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def mutate_lines(data: bytes, rng: random.Random, plain: Plain, limit: int) -> bytes:
    """Change, remove, repeat or exchange lines ``name = value``."""
    lines = data.split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        name, equals, value = lines[at].partition(b"=")
        action = rng.randrange(5)
        if action == 0:
            lines.insert(at, rng.choice(lines))
        elif action == 1 and len(lines) > 1:
            del lines[at]
        elif action == 2 and equals:
            lines[at] = name + b"= " + rng.choice(lines).partition(b"=")[2]
        elif equals:
            lines[at] = name + b"= " + (rng.choice(_WORDS) if action == 3 else plain(value, 60))
        else:
            lines[at] = plain(lines[at], 60)
    return b"\n".join(lines)


#: Target -> how its inputs are changed; the others by libFuzzer alone.
MUTATORS: dict[str, Callable[[bytes, random.Random, Plain, int], bytes]] = {
    "manifest": mutate_json,
    "sidecar": mutate_json,
    "checkpoint": mutate_checkpoint,
    "envi": mutate_lines,
}


def _places(value: Any) -> Any:
    """Yield (holder, key) of every value inside."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _mutate_archive(data: bytes, rng: random.Random, plain: Plain, limit: int) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # whatever is wrong with the archive: it is changed as bytes
        return plain(data, limit)
    if not members:
        return plain(data, limit)
    pickles = [name for name in members if name.endswith(".pkl")]
    name = rng.choice(pickles) if pickles and rng.randrange(4) else rng.choice(list(members))
    if rng.randrange(8) == 0:
        del members[name]
    else:
        members[name] = plain(members[name], limit)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return buffer.getvalue()
