"""What an engine says of itself: `<engine>.json` beside it, by `keygraph build`, read before an engine is loaded.

An engine is code for one GPU and one version of TensorRT, and tells neither when it is loaded in the wrong place. So
nothing deserializes an engine but by way of `check`.
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
from ...manifest import Manifest, from_json
from ..notices import warn

FORMAT_VERSION = 1

#: What TensorRT and TensorRT-RTX are called in messages.
BACKENDS = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class Tensor:
    """An input or output of the engine.

    Attributes
    ----------
    name, dtype
        NumPy's name of the type, or ``"bfloat16"``.
    shape
        -1 where the size is chosen at run time.
    output
        False for an input.
    host
        True when its values are read on the host (a shape input; k, without the plugin), false for device memory.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    output: bool
    host: bool


@dataclass(frozen=True)
class Plugin:
    """The library whose operators an engine holds."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Sidecar:
    """Everything that is needed to load an engine, to build it again, and to know whether that is needed.

    Attributes
    ----------
    engine_sha256, engine_bytes
        Of the engine file: this sidecar belongs to it and to no other.
    key, ingredients
        What the engine was made of, each by its value or SHA-256, and the SHA-256 over all of them.
    model
        The ONNX file's name, without its folder.
    backend, version, cuda
        ``"tensorrt"`` or ``"tensorrt-rtx"``, its version, and the major version of CUDA that it was made for.
    target, capability, device
        ``"sm_89"``, (8, 9), and the name of the GPU that it was built on; empty when it was built without one.
    plugin
        The operators' library, or None when the engine holds the file's own functions.
    compatible
        ``"none"``, ``"ampere-plus"`` or ``"same-compute-capability"``: other GPUs that it runs on.
    version_compatible, host_code, stripped
        Whether newer versions run it; whether it holds code for the host, so that loading it is a matter of trust;
        whether its weights were left out.
    tensors
        As the network has them.
    options
        The command line's, as far as they were given, by name.
    attempts
        One line for every attempt that failed before this engine was built.
    memory
        Bytes by the builder's own account: ``weights``, ``activations``.
    read_back
        What was found when the engine was loaded again after it was built, or why it was not.
    manifest
        The model's, with the profiles and the largest k that the engine was built for.
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
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Serialize; the same sidecar gives the same text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1)

    def command(self, **changes: str | list[str]) -> str:
        """Return the command that builds this engine again, options changed by name."""
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
class Here:
    """Where an engine is about to be loaded.

    Attributes
    ----------
    backend, version
        ``"tensorrt"`` or ``"tensorrt-rtx"``, and its version.
    capability, device
        The GPU's compute capability and name.
    plugin
        The operators' library that is loaded, or None.
    allow_host_code
        True when the user trusts who built the engine.
    """

    backend: str
    version: str
    capability: tuple[int, int]
    device: str = ""
    plugin: Path | None = None
    allow_host_code: bool = False


def sidecar_path(engine: str | os.PathLike[str]) -> Path:
    """Return where an engine's sidecar is."""
    path = Path(engine)
    return path.with_name(f"{path.name}.json")


def read(engine: str | os.PathLike[str]) -> Sidecar:
    """Read an engine's sidecar; that the two belong together is for `check_digest` to say.

    Raises
    ------
    InputError
        It is missing, damaged, or a newer keygraph wrote it.
    """
    engine = Path(engine)
    path = sidecar_path(engine)
    if not path.exists():
        raise InputError(
            f"{path} is missing: without it nobody knows what {engine.name} was built for; keep the two together, or "
            "build the engine again with: keygraph build MODEL.onnx"
        )
    read_start(path, "an engine's .json")
    damaged = f"{path} is damaged; build the engine again with: keygraph build MODEL.onnx --force"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["format_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(damaged) from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InputError(
            f"{path}: format {version} is newer than this keygraph reads ({FORMAT_VERSION}); upgrade with: "
            "pip install --upgrade keygraph"
        )
    try:
        values["capability"] = tuple(values["capability"])
        values["attempts"] = tuple(values["attempts"])
        values["tensors"] = tuple(Tensor(**{**t, "shape": tuple(t["shape"])}) for t in values["tensors"])
        values["plugin"] = values["plugin"] and Plugin(**values["plugin"])
        values["manifest"] = from_json(json.dumps(values["manifest"]), str(path))
        return Sidecar(**values)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{damaged} ({error})") from error


def check_digest(engine: str | os.PathLike[str], sidecar: Sidecar) -> None:
    """Make sure that a sidecar is this engine's; raises `InputError`."""
    engine = Path(engine)
    read_start(engine, "an engine that keygraph built")
    size = engine.stat().st_size
    if size != sidecar.engine_bytes or file_sha256(engine) != sidecar.engine_sha256:
        cut = f" ({size:,} bytes where {sidecar.engine_bytes:,} were built)" if size != sidecar.engine_bytes else ""
        raise InputError(
            f"{engine} is not the engine that {sidecar_path(engine).name} describes{cut}: one of the two was replaced "
            f"or cut off; build it again with: {sidecar.command()}"
        )


def check(engine: str | os.PathLike[str], here: Here, notice: Callable[[str], None] = warn) -> Sidecar:
    """Make sure that an engine can be loaded here, before anything of it is.

    Parameters
    ----------
    engine
        The file; its sidecar is looked for beside it.
    here
        What would load it.
    notice
        Takes a line when the GPU is of another model with the same compute capability.

    Returns
    -------
    Sidecar

    Raises
    ------
    InputError
        Either file is missing or damaged, they do not belong together, or the engine was built for another backend,
        version, GPU or plugin library, holds code for the host that was not allowed, or has no weights.
    """
    engine = Path(engine)
    read_start(engine, "an engine that keygraph built")
    sidecar = read(engine)
    built = f"{engine} was built by {_software(sidecar.backend, sidecar.version)} for {_gpu(sidecar)}"
    this = f"{_software(here.backend, here.version)}, sm_{here.capability[0]}{here.capability[1]}"
    target = f"sm_{here.capability[0]}{here.capability[1]}"
    if not (_same_software(sidecar, here) and _same_gpu(sidecar, here)):
        # Under the backend that is here: the one that built it may not be.
        again = sidecar.command(target=target, backend=here.backend)
        raise InputError(f"{built}; here it is {this}; rebuild with: {again}")
    _check_plugin(engine, sidecar, here.plugin)
    check_digest(engine, sidecar)
    if sidecar.host_code and not here.allow_host_code:
        raise InputError(
            f"{engine} holds code for the host (it is version compatible), so loading it means trusting who built it; "
            "allow that explicitly, or rebuild without --version-compatible"
        )
    if sidecar.stripped:
        raise InputError(
            f"{engine} was built without its weights; put them in with TensorRT's refitter, or rebuild with: "
            + sidecar.command(**{"strip-weights": []})
        )
    if sidecar.device and here.device and sidecar.device != here.device and sidecar.compatible == "none":
        notice(f"{engine} was tuned on {sidecar.device} and runs on {here.device}: it may be slower than it could be")
    return sidecar


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; raises `InputError` when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


def _same_software(sidecar: Sidecar, here: Here) -> bool:
    if sidecar.backend != here.backend:
        return False
    if not sidecar.version_compatible:
        return sidecar.version == here.version
    built, found = _numbers(sidecar.version), _numbers(here.version)
    return built[:1] == found[:1] and found >= built


def _same_gpu(sidecar: Sidecar, here: Here) -> bool:
    if sidecar.compatible == "ampere-plus":
        return here.capability >= (8, 0)
    return sidecar.capability == here.capability


def _check_plugin(engine: Path, sidecar: Sidecar, library: Path | None) -> None:
    needed = sidecar.plugin
    if needed is None:
        return
    if library is None or not library.is_file():
        where = "none is loaded" if library is None else f"{library} does not exist"
        raise InputError(
            f"{engine} needs the operators of {needed.name}, and {where}; install it, or rebuild without it: "
            f"{sidecar.command(plugin='none')}"
        )
    if (found := file_sha256(library)) != needed.sha256:
        raise InputError(
            f"{engine} was built with a {needed.name} of SHA-256 {needed.sha256[:12]}, but {library} has {found[:12]}; "
            f"rebuild with: {sidecar.command()}"
        )


def _software(backend: str, version: str) -> str:
    return f"{BACKENDS.get(backend, backend)} {version}"


def _gpu(sidecar: Sidecar) -> str:
    return "sm_80 and newer" if sidecar.compatible == "ampere-plus" else sidecar.target


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
