"""Small networks exported to files, each once per test session, also with several workers of pytest-xdist."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from filelock import FileLock
from keygraph.export import export
from keygraph.manifest import Manifest, from_json
from keygraph.models import load_checkpoint, registry, save_checkpoint
from keygraph.models.kgt import KGT, KGTConfig
from tiny_kgt import save_network


class Exported(NamedTuple):
    """The two files of a network, and what `export` returned."""

    checkpoint: Path
    onnx: Path
    manifest: Manifest


class ExportStore:
    """Exported networks of this test session, made when they are first asked for.

    The files of the session lie below its base temporary folder and are made under a lock, by one worker for all.
    Each worker gets copies, so that a test that writes beside a file meets no other worker.
    """

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        base = factory.getbasetemp()
        self._shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exported"
        self._own = base / "exported-copies"

    def get(
        self,
        network: Any,
        name: str = "model",
        change: Callable[[KGT], None] | None = None,
        **options: Any,
    ) -> Exported:
        """Return the files of a network.

        Parameters
        ----------
        network
            A configuration of any architecture, whose weights are random with seed 0, or the path of a checkpoint.
        name
            Stem of both files.
        change
            Edits the weights of a KGT; a function of a module, because its name is part of the key.
        options
            Arguments of `export`; `verification` is False unless given.
        """
        options = {"verification": False, **options}
        words = (network, name, change and f"{change.__module__}.{change.__qualname__}", sorted(options.items()))
        key = f"{name}-{hashlib.sha256(repr(words).encode()).hexdigest()[:16]}"
        own, shared = self._own / key, self._shared / key
        if not own.exists():
            self._shared.mkdir(exist_ok=True)
            with FileLock(shared.with_suffix(".lock")):
                if not shared.exists():
                    unfinished = shared.with_suffix(".unfinished")
                    shutil.rmtree(unfinished, ignore_errors=True)  # of an attempt that failed
                    unfinished.mkdir()
                    _export(network, change, _files(unfinished, name), options)
                    unfinished.rename(shared)
            shutil.copytree(shared, own)
        checkpoint, onnx, manifest = _files(own, name)
        return Exported(checkpoint, onnx, from_json(manifest.read_text(encoding="utf-8"), str(manifest)))


def _files(folder: Path, name: str) -> tuple[Path, Path, Path]:
    return folder / f"{name}.ckpt", folder / f"{name}.onnx", folder / "manifest.json"


def _export(
    network: Any, change: Callable[[KGT], None] | None, files: tuple[Path, Path, Path], options: dict[str, Any]
) -> None:
    checkpoint, onnx, manifest = files
    if isinstance(network, Path):
        shutil.copy(network, checkpoint)
    elif isinstance(network, KGTConfig):
        save_network(checkpoint, network, change)
    else:
        torch.manual_seed(0)
        architecture = next(one for one in registry.ARCHITECTURES if isinstance(network, one.config_type))
        save_checkpoint(checkpoint, architecture.build(network))
    manifest.write_text(export(load_checkpoint(checkpoint), onnx, **options).to_json(), encoding="utf-8")
