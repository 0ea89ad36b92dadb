"""Whether a model file is still the one that was exported and verified: the digests of both, compared."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

#: States of a file. Without a digest in its manifest (format 3 or older), a change cannot be noticed.
UNCHANGED, CHANGED, NO_DIGEST = "unchanged", "changed", "no digest"


@dataclass(frozen=True)
class FileDigest:
    """SHA-256 of an ONNX file's content, independent of how it is stored; see `runtime.backends.onnx_file.digest`.

    Attributes
    ----------
    graph
        Of nodes, attributes, functions, inputs and outputs, and the weights' names, types and shapes.
    weights
        Of the weights' names, types, shapes and values.
    manifest
        Of the manifest's text, see `manifest.manifest_sha256`; empty where the file has none.
    """

    graph: str
    weights: str
    manifest: str = ""

    @property
    def of_content(self) -> str:
        """SHA-256 of what the file computes: of the digests of its graph and its weights."""
        return hashlib.sha256(f"{self.graph} {self.weights}".encode()).hexdigest()


@dataclass(frozen=True)
class Integrity:
    """The state of a file.

    Attributes
    ----------
    state
        ``"unchanged"``, ``"changed"`` or ``"no digest"``.
    changed
        What changed: of ``"graph"``, ``"weights"`` and ``"manifest"`` those that did.
    compared
        What both digests are of.
    """

    state: str
    changed: tuple[str, ...] = ()
    compared: tuple[str, ...] = ("graph", "weights", "manifest")

    @property
    def words(self) -> str:
        """The state as a statement about the file, without a subject."""
        if self.state == CHANGED:
            return f"changed since export ({_listed(self.changed)}): precision and verification do not hold"
        if self.state == NO_DIGEST:
            return "no digest in its manifest: a change since export would not be noticed; export it again to add one"
        return f"as exported (SHA-256 of {_listed(self.compared)})"


def compare_digests(recorded: FileDigest | None, found: FileDigest | None) -> Integrity:
    """Compare the digest that was recorded at export with the one of the file as it is.

    Parameters
    ----------
    recorded
        From the manifest; None in files of format 3 or older.
    found
        Computed from the file; None where it is not known.
    """
    if recorded is None or found is None:
        return Integrity(NO_DIGEST)
    names = [field.name for field in fields(FileDigest)]
    # Not every file has a digest of its manifest.
    compared = tuple(name for name in names if getattr(recorded, name) and getattr(found, name))
    changed = tuple(name for name in compared if getattr(recorded, name) != getattr(found, name))
    return Integrity(CHANGED if changed else UNCHANGED, changed, compared)


def _listed(names: tuple[str, ...]) -> str:
    """Join names to ``a, b and c``."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
