"""What an engine is: its sidecar's record of the build, and what the engine inspector reports."""

from __future__ import annotations

from pathlib import Path

from ..errors import MissingDependencyError
from ..manifest import Profile
from ..manifest_summary import Description, summarize_export
from ..runtime.backends.engine_metadata import BACKENDS, EngineMetadata, Tensor, check_digest
from ..runtime.backends.engine_metadata import read as read_metadata


def describe_engine(path: Path) -> Description:
    """Describe an engine: always from its sidecar, and from TensorRT itself where this machine's GPU can load it.

    Raises
    ------
    InputError
        The sidecar is missing or damaged, or belongs to another engine.
    """
    metadata = read_metadata(path)
    check_digest(path, metadata)
    plugin, device = metadata.plugin, f" on {metadata.device}" if metadata.device else ""
    manifest = summarize_export(metadata.manifest, metadata.integrity)
    del manifest["shape"]  # The profiles are more precise.
    return {
        "kind": "engine",
        "file": str(path),
        "bytes": metadata.engine_bytes,
        "target": f"{metadata.target}{device}"
        + ("" if metadata.compatible == "none" else f", and others: {metadata.compatible}"),
        "builder": f"{BACKENDS.get(metadata.backend, metadata.backend)} {metadata.version}, CUDA {metadata.cuda}"
        + (", or newer" if metadata.version_compatible else ""),
        "built from": f"{metadata.model} in {metadata.seconds:g} s",
        "built again with": metadata.command(),
        "failed attempts": list(metadata.attempts),
        "operators": f"{plugin.name}, SHA-256 {plugin.sha256[:12]}"
        if plugin
        else metadata.operators.removeprefix("operators from "),
        "inputs": [_tensor(tensor) for tensor in metadata.tensors if not tensor.output],
        "outputs": [_tensor(tensor) for tensor in metadata.tensors if tensor.output],
        "profiles": [_profile(profile) for profile in metadata.manifest.profiles],
        "memory": {name: f"{size / 2**20:,.1f} MiB" for name, size in metadata.memory.items()},
        "holds host code": metadata.host_code,
        "weights left out": metadata.stripped,
        "read back": metadata.read_back,
        **manifest,
        **_inspected(path, metadata),
    }


def _inspected(path: Path, metadata: EngineMetadata) -> Description:
    """Return what the engine inspector reports, or why it cannot run."""
    try:
        from .backend import local_gpu
        from .engine_check import inspect
    except MissingDependencyError as error:
        return {"not inspected": str(error)}
    return inspect(path, metadata, local_gpu())


def _tensor(tensor: Tensor) -> str:
    sizes = ", ".join("?" if size < 0 else str(size) for size in tensor.shape)
    return f"{tensor.name}: {tensor.dtype}[{sizes}]{' on the host' if tensor.host else ''}"


def _profile(profile: Profile) -> str:
    sizes = {"batch": profile.batch, "height": profile.height, "width": profile.width}
    return ", ".join(
        f"{name} {low}" if low == high else f"{name} {low} to {high} (best {best})"
        for name, (low, best, high) in sizes.items()
    )
