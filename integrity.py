"""Whether a model file is still the one that was exported and verified: the digests of both, compared."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    graph: str
    weights: str


@dataclass(frozen=True)
class Integrity:
    """The state of a file.

    Attributes
    ----------
    state
        ``"unchanged"``, ``"changed"`` or ``"no digest"``.
    changed
        What changed: ``"graph"``, ``"weights"`` or both.
    """

    state: str
    changed: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The state as a statement about the file, without a subject."""
        if self.state == CHANGED:
            return f"changed since export ({' and '.join(self.changed)}): precision and verification do not hold"
        if self.state == NO_DIGEST:
            return "no digest in its manifest: a change since export would not be noticed; export it again to add one"
        return "as exported (SHA-256 of graph and weights)"


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
    changed = tuple(name for name in ("graph", "weights") if getattr(recorded, name) != getattr(found, name))
    return Integrity(CHANGED, changed) if changed else Integrity(UNCHANGED)
