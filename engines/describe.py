"""What an engine is: its sidecar's record of the build, and what the engine inspector reports."""

from __future__ import annotations

from pathlib import Path

from ..errors import MissingDependencyError
from ..manifest import Profile
from ..manifest_summary import Description, summarize_export
from ..runtime.backends.engine_metadata import BACKENDS, Sidecar, Tensor, check_digest
from ..runtime.backends.engine_metadata import read as read_sidecar


def describe_engine(path: Path) -> Description:
    """Describe an engine: always from its sidecar, and from TensorRT itself where this machine's GPU can load it.

    Raises
    ------
    InputError
        The sidecar is missing or damaged, or belongs to another engine.
    """
    sidecar = read_sidecar(path)
    check_digest(path, sidecar)
    plugin, device = sidecar.plugin, f" on {sidecar.device}" if sidecar.device else ""
    manifest = summarize_export(sidecar.manifest)
    del manifest["shape"]  # The profiles are more precise.
    return {
        "kind": "engine",
        "file": str(path),
        "bytes": sidecar.engine_bytes,
        "target": f"{sidecar.target}{device}"
        + ("" if sidecar.compatible == "none" else f", and others: {sidecar.compatible}"),
        "builder": f"{BACKENDS.get(sidecar.backend, sidecar.backend)} {sidecar.version}, CUDA {sidecar.cuda}"
        + (", or newer" if sidecar.version_compatible else ""),
        "built from": f"{sidecar.model} in {sidecar.seconds:g} s",
        "built again with": sidecar.command(),
        "failed attempts": list(sidecar.attempts),
        "operators": f"{plugin.name}, SHA-256 {plugin.sha256[:12]}" if plugin else "the functions in the file",
        "inputs": [_tensor(tensor) for tensor in sidecar.tensors if not tensor.output],
        "outputs": [_tensor(tensor) for tensor in sidecar.tensors if tensor.output],
        "profiles": [_profile(profile) for profile in sidecar.manifest.profiles],
        "memory": {name: f"{size / 2**20:,.1f} MiB" for name, size in sidecar.memory.items()},
        "holds host code": sidecar.host_code,
        "weights left out": sidecar.stripped,
        "read back": sidecar.read_back,
        **manifest,
        **_inspected(path, sidecar),
    }


def _inspected(path: Path, sidecar: Sidecar) -> Description:
    """Return what the engine inspector reports, or why it cannot run."""
    try:
        from .backend import local_gpu
        from .engine_check import inspect
    except MissingDependencyError as error:
        return {"not inspected": str(error)}
    return inspect(path, sidecar, local_gpu())


def _tensor(tensor: Tensor) -> str:
    sizes = ", ".join("?" if size < 0 else str(size) for size in tensor.shape)
    return f"{tensor.name}: {tensor.dtype}[{sizes}]{' on the host' if tensor.host else ''}"


def _profile(profile: Profile) -> str:
    sizes = {"batch": profile.batch, "height": profile.height, "width": profile.width}
    return ", ".join(
        f"{name} {low}" if low == high else f"{name} {low} to {high} (best {best})"
        for name, (low, best, high) in sizes.items()
    )
