"""The cache key of an engine: a digest of named ingredients, so that a cache miss can say what changed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..runtime.backends.engine_metadata import file_sha256
from .backend import Software
from .model import Model
from .options import Options, Range

#: Incremented when this package builds different engines from the same ingredients.
REVISION = "2"


def ingredients(
    model: Model, options: Options, software: Software, target: str, device: str, plugin: Path | None
) -> dict[str, str]:
    """Return the value or SHA-256 of everything that determines an engine, by name.

    Parameters
    ----------
    model
        The exported file.
    options
        The user's options.
    software
        The backend and its version.
    target
        For instance ``"sm_89"``.
    device
        Name of the GPU where its timings determine the engine (TensorRT), otherwise empty.
    plugin
        The plugin library, or None.
    """
    values = {
        "graph": model.graph_sha256,
        "weights": model.weights_sha256,
        "manifest": model.manifest_sha256,
        "plugin library": file_sha256(plugin) if plugin else "none",
        "backend": software.backend,
        "version": software.version,
        "CUDA": software.cuda,
        "target": target,
        "GPU": device,
        "keygraph's builder": REVISION,
    }
    for name, value in dataclasses.asdict(options).items():
        values[f"option {name}"] = json.dumps(value)
    for i, profile in enumerate(options.profiles):
        sides = {"batch": profile.batch, "height": profile.height, "width": profile.width}
        values |= {f"option {name}, profile {i}": sizes_text(sizes) for name, sizes in sides.items()}
    del values["option profiles"]
    return values


def digest(values: dict[str, str]) -> str:
    """Return the cache key, the SHA-256 over all ingredients."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def changes(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return a line for each ingredient that differs; empty when all are equal."""
    return list(_changes(before, now, [*now, *(name for name in before if name not in now)]))


def sizes_text(sizes: Range) -> str:
    """Return a range as text: ``256`` if all sizes are equal, else ``1:4:8``."""
    return str(sizes[0]) if len(set(sizes)) == 1 else ":".join(map(str, sizes))


def _changes(before: dict[str, str], now: dict[str, str], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        old, new = before.get(name, "unknown"), now.get(name, "none")
        if old == new:
            continue
        is_digest = max(len(old), len(new)) == 64
        yield f"the {name} changed" if is_digest else f"the {name} was {old or 'none'} and is {new or 'none'}"
