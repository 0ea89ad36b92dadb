"""Write a model repository for the Triton Inference Server."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from ...errors import InputError
from ...files import atomic_folder, check_parent, check_space, is_folder, is_regular, status
from ...runtime.backends.engine_metadata import file_sha256
from ...runtime.companion_files import check_outputs
from ...runtime.notices import warn
from .core import CORE_FILE
from .core_model import CoreModel, read_model
from .image_tensors import image_config
from .model_config import ModelConfig
from .readme import readme
from .settings import Settings

#: SHA-256 of every other file, as `sha256sum -c` reads it. By it, a folder is known to be a repository as it was
#: written.
SUMS = "SHA256SUMS"

#: The only version of each model.
_VERSION = "1"

_MODEL = '''"""Restores images; see the README of this repository."""

from keygraph.serving.triton.image_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''

#: What Python writes beside a module, in the server.
_CACHE = "__pycache__"


def write_repository(model: Path, out: Path, settings: Settings, notice: Callable[[str], None] = warn) -> CoreModel:
    """Write a model repository: the network as the core, and a model that takes images.

    Parameters
    ----------
    model
        An exported ``.onnx`` file, or a TensorRT engine.
    out
        The folder. It is written as a whole or not at all. One that exists must be empty, or a repository as it was
        written, which is replaced.
    settings
        How the model is served.
    notice
        Called with lines for the user.

    Returns
    -------
    CoreModel
        The core.

    Raises
    ------
    InputError
        The model cannot be served, a setting does not fit it, or the folder cannot be written.
    """
    _check_folder(out)
    core = read_model(model, settings, notice)
    check_outputs([out], [model, *([core.library] if core.library else [])])
    check_space(out.parent, core.size, "the repository needs")
    with atomic_folder(out) as folder:
        images = image_config(settings.name, core.core.manifest, settings.instances)
        _write_model(folder, core.config, core.content, core.data)
        _write_model(folder, images, _MODEL.encode(), {})
        (folder / settings.name / _VERSION / CORE_FILE).write_text(core.core.to_json(), encoding="utf-8")
        if core.library is not None:
            shutil.copyfile(core.library, folder / settings.core_name / core.library.name)
        (folder / "README.md").write_text(readme(model, settings, core, images), encoding="utf-8")
        sums = [f"{file_sha256(folder / name)}  {name}\n" for name in _files(folder)]
        (folder / SUMS).write_text("".join(sums), encoding="utf-8")
    return core


def _write_model(folder: Path, config: ModelConfig, content: Path | bytes, data: dict[str, Path]) -> None:
    """Write the folder of a model."""
    version = folder / config.name / _VERSION
    version.mkdir(parents=True)
    (folder / config.name / "config.pbtxt").write_text(config.to_text(), encoding="utf-8")
    if isinstance(content, bytes):
        (version / config.filename).write_bytes(content)
    else:
        shutil.copyfile(content, version / config.filename)
    for name, file in data.items():
        (version / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, version / name)


def _check_folder(out: Path) -> None:
    """Check, before any work, that a repository can be written, and that nothing of the user's is lost."""
    check_parent(out.absolute())
    if status(out) is None:
        return
    if not is_folder(out):
        raise InputError(f"{out} is not a folder; name a new one")
    if not any(out.iterdir()):
        return
    if not is_regular(out / SUMS):
        raise InputError(f"{out} exists and is no repository that keygraph wrote; give a new folder, or an empty one")
    found, written = _files(out), _read_sums(out / SUMS)
    other = next((name for name in found if name not in written), None)
    if other is not None:
        raise InputError(f"{out} holds {other}, which keygraph did not write; move it away, or give a new folder")
    changed = next((name for name in found if file_sha256(out / name) != written[name]), None)
    if changed is not None:
        raise InputError(f"{out / changed} was changed since keygraph wrote it; give a new folder, or remove this one")


def _files(folder: Path) -> list[str]:
    """Return the files of a repository, without those that Python adds, by their paths in it."""
    files = (file for file in folder.rglob("*") if not file.is_dir() or file.is_symlink())
    names = sorted(file.relative_to(folder).as_posix() for file in files if _CACHE not in file.parts)
    return [name for name in names if name != SUMS]


def _read_sums(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
