"""Metadata of an engine: `<engine>.json` beside it, written by `keygraph build`, checked before the engine is loaded.

An engine is code for one GPU and one version of TensorRT. TensorRT does not report a mismatch of either, so call
`check` before an engine is deserialized.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import read_start
from ...installation import upgrade_line
from ...integrity import FileDigest, Integrity, compare_digests
from ...manifest import Manifest, from_json
from ...strict_json import decode, decode_json
from ..notices import warn

#: Format 2 added `model_digest`.
FORMAT_VERSION = 2

#: Display names of the backends.
BACKENDS = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class Tensor:
    """An input or output of the engine.

    Attributes
    ----------
    name
        Name of the tensor in the exported graph.
    dtype
        NumPy's name of the type, or ``"bfloat16"``.
    shape
        -1 for a size that is chosen at run time.
    output
        Whether it is an output.
    host
        Whether its values are in host memory (a shape input; k without the plugin), not in device memory.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    output: bool
    host: bool


@dataclass(frozen=True)
class Plugin:
    """The plugin library that an engine needs: its file name and SHA-256."""

    name: str
    sha256: str


@dataclass(frozen=True)
class EngineMetadata:
    """Everything needed to load an engine, to decide whether it is up to date, and to build it again.

    Attributes
    ----------
    engine_sha256, engine_bytes
        Digest and size of the engine file that this metadata belongs to.
    key, ingredients
        The cache key, and what it is computed from: each ingredient's value or SHA-256, by name.
    model
        Name of the ONNX file, without its folder.
    backend, version, cuda
        ``"tensorrt"`` or ``"tensorrt-rtx"``, its version, and the major version of CUDA that it was built for.
    target, capability, device
        ``"sm_89"``, (8, 9), and the name of the GPU that the engine was built on; empty when it was built without one.
    plugin
        The plugin library, or None when the engine uses the file's own functions.
    compatible
        Other GPUs that run the engine: ``"none"``, ``"ampere-plus"`` or ``"same-compute-capability"``.
    version_compatible
        Whether newer versions of TensorRT run the engine.
    host_code
        Whether the engine contains code for the host, so that only engines from a trusted source should be loaded.
    stripped
        Whether the weights were left out.
    tensors
        Inputs and outputs of the network.
    options
        The options that were given on the command line, by name.
    attempts
        One line for each attempt that failed before this engine was built.
    memory
        ``weights`` and ``activations`` in bytes, as reported by the builder.
    seconds
        Duration of the build.
    read_back
        Result of loading the engine again after the build, or why that was not possible.
    made_with
        Versions of the packages that built the engine.
    manifest
        The model's manifest, with the profiles and the largest k that the engine was built for.
    model_digest
        Digest of the ONNX file's content when the engine was built; None before format 2.
    format_version
        Version of this file format.
    """

    engine_sha256: str
    engine_bytes: int
    key: str
    ingredients: dict[str, str]
    model: str
    backend: str
    version: str
    cuda: str
    target: str
    capability: tuple[int, int]
    device: str
    plugin: Plugin | None
    compatible: str
    version_compatible: bool
    host_code: bool
    stripped: bool
    tensors: tuple[Tensor, ...]
    options: dict[str, Any]
    attempts: tuple[str, ...]
    memory: dict[str, int]
    seconds: float
    read_back: str
    made_with: dict[str, str]
    manifest: Manifest
    model_digest: FileDigest | None = None
    format_version: int = FORMAT_VERSION

    @property
    def integrity(self) -> Integrity:
        """Whether the ONNX file was still the exported one when the engine was built from it."""
        return compare_digests(self.manifest.digest, self.model_digest)

    @property
    def operators(self) -> str:
        """Where the operators come from, in words."""
        if self.plugin is not None:
            return f"operators from {self.plugin.name}"
        return "standard operators" if self.manifest.neighbours is None else "operators from the functions in the file"

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the engine by the name of that."""
        return {"engine": self.engine_sha256}

    @property
    def notices(self) -> tuple[str, ...]:
        """Lines for the user of the engine: that it was built from a changed file."""
        integrity = self.integrity
        return (f"{self.model}, which the engine was built from: {integrity.words}",) if integrity.changed else ()

    def to_json(self) -> str:
        """Serialize to JSON; equal metadata gives equal text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1)

    def command(self, **changes: str | list[str]) -> str:
        """Return the command that builds this engine again, with some options replaced by name."""
        options = {"target": self.target, "backend": self.backend, **self.options, **changes}
        words = ["keygraph", "build", self.model]
        for name, value in options.items():
            if value is True:
                words.append(f"--{name}")
            elif value not in (False, None):
                for one in value if isinstance(value, (list, tuple)) else [value]:
                    words += [f"--{name}", str(one)]
        return " ".join(map(shlex.quote, words))


@dataclass(frozen=True)
class LoadEnvironment:
    """The software and GPU that are about to load an engine.

    Attributes
    ----------
    backend, version
        ``"tensorrt"`` or ``"tensorrt-rtx"``, and its version.
    capability, device
        The GPU's compute capability and name.
    plugin
        The plugin library that is loaded, or None.
    allow_host_code
        Whether engines that contain code for the host may be loaded.
    """

    backend: str
    version: str
    capability: tuple[int, int]
    device: str = ""
    plugin: Path | None = None
    allow_host_code: bool = False


def metadata_path(engine: str | os.PathLike[str]) -> Path:
    """Return the path of an engine's metadata file."""
    path = Path(engine)
    return path.with_name(f"{path.name}.json")


def read(engine: str | os.PathLike[str]) -> EngineMetadata:
    """Read an engine's metadata, without checking that the two files belong together; see `check_digest`.

    Raises
    ------
    InputError
        The metadata file is missing or damaged, or a newer keygraph wrote it.
    """
    engine = Path(engine)
    path = metadata_path(engine)
    if not path.exists():
        raise InputError(
            f"{path} is missing; it describes what {engine.name} was built for: keep the two files together, or build "
            "the engine again with: keygraph build MODEL.onnx"
        )
    read_start(path, "an engine's .json")
    damaged = f"{path} is damaged; build the engine again with: keygraph build MODEL.onnx --force"
    try:
        values = decode_json(path.read_bytes())
        version = values["format_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(damaged) from error
    if not isinstance(version, int):
        raise InputError(f"{damaged} (its format is {version!r})")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path}: format {version} is newer than this keygraph reads ({FORMAT_VERSION}); upgrade with: "
            f"{upgrade_line()}"
        )
    from_json(json.dumps(values.get("manifest")), str(path))  # Its own errors, and those of its format.
    try:
        return decode(values, EngineMetadata)
    except ValueError as error:
        raise InputError(f"{damaged} ({error})") from error


def check_digest(engine: str | os.PathLike[str], metadata: EngineMetadata) -> None:
    """Check that metadata belongs to this engine file; raises `InputError`."""
    engine = Path(engine)
    read_start(engine, "an engine that keygraph built")
    size = engine.stat().st_size
    if size != metadata.engine_bytes or file_sha256(engine) != metadata.engine_sha256:
        cut = f" ({size:,} bytes where {metadata.engine_bytes:,} were built)" if size != metadata.engine_bytes else ""
        raise InputError(
            f"{engine} is not the engine that {metadata_path(engine).name} describes{cut}: one of the two was replaced "
            f"or cut off; build it again with: {metadata.command()}"
        )


def check(
    engine: str | os.PathLike[str], here: LoadEnvironment, notice: Callable[[str], None] = warn
) -> EngineMetadata:
    """Check that an engine can be loaded, without loading any part of it.

    Parameters
    ----------
    engine
        The engine file; its metadata must be beside it.
    here
        The software and GPU that would load it.
    notice
        Called with a message when the engine was tuned on another GPU model of the same compute capability.

    Returns
    -------
    EngineMetadata
        The engine's metadata.

    Raises
    ------
    InputError
        Either file is missing or damaged, they do not belong together, or the engine was built for another backend,
        version, GPU or plugin library, contains code for the host that was not allowed, or has no weights.
    """
    engine = Path(engine)
    read_start(engine, "an engine that keygraph built")
    metadata = read(engine)
    built = f"{engine} was built by {_software(metadata.backend, metadata.version)} for {_gpu(metadata)}"
    target = f"sm_{here.capability[0]}{here.capability[1]}"
    this = f"{_software(here.backend, here.version)}, {target}"
    if not (_same_software(metadata, here) and _same_gpu(metadata, here)):
        # With the backend that is installed here, which may not be the one that built the engine.
        again = metadata.command(target=target, backend=here.backend)
        raise InputError(f"{built}; here it is {this}; rebuild with: {again}")
    check_plugin(engine, metadata, here.plugin)
    check_digest(engine, metadata)
    if metadata.host_code and not here.allow_host_code:
        raise InputError(
            f"{engine} contains code for the host (it is version compatible), so load it only if you trust its source: "
            "allow that explicitly, or rebuild without --version-compatible"
        )
    if metadata.stripped:
        raise InputError(
            f"{engine} was built without its weights; put them in with TensorRT's refitter, or rebuild with: "
            + metadata.command(**{"strip-weights": []})
        )
    if metadata.device and here.device and metadata.device != here.device and metadata.compatible == "none":
        notice(f"{engine} was tuned on {metadata.device} and runs on {here.device}: it may not run at full speed")
    return metadata


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; raises `InputError` when the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def _same_software(metadata: EngineMetadata, here: LoadEnvironment) -> bool:
    if metadata.backend != here.backend:
        return False
    if not metadata.version_compatible:
        return metadata.version == here.version
    built, found = _numbers(metadata.version), _numbers(here.version)
    return built[:1] == found[:1] and found >= built


def _same_gpu(metadata: EngineMetadata, here: LoadEnvironment) -> bool:
    if metadata.compatible == "ampere-plus":
        return here.capability >= (8, 0)
    return metadata.capability == here.capability


def check_plugin(engine: Path, metadata: EngineMetadata, library: Path | None) -> None:
    """Check that a plugin library is the one that an engine was built with.

    Parameters
    ----------
    engine, metadata
        The engine.
    library
        The library, or None.

    Raises
    ------
    InputError
        The engine needs another library, or one that is missing.
    """
    needed = metadata.plugin
    if needed is None:
        return
    if library is None or not library.is_file():
        where = "none is loaded" if library is None else f"{library} does not exist"
        raise InputError(
            f"{engine} needs the operators of {needed.name}, and {where}; install it, or rebuild without it: "
            f"{metadata.command(plugin='none')}"
        )
    if (found := file_sha256(library)) != needed.sha256:
        raise InputError(
            f"{engine} was built with a {needed.name} of SHA-256 {needed.sha256[:12]}, but {library} has {found[:12]}; "
            f"rebuild with: {metadata.command()}"
        )


def _software(backend: str, version: str) -> str:
    return f"{BACKENDS.get(backend, backend)} {version}"


def _gpu(metadata: EngineMetadata) -> str:
    return "sm_80 and newer" if metadata.compatible == "ampere-plus" else metadata.target


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
