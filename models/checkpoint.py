"""Load a network with its weights from a checkpoint, and save it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..files import atomic_path
from ..manifest import Manifest
from ..runtime.forks import require_torch
from . import registry
from .architecture import Architecture, StateDict
from .checkpoint_file import read_file
from .key_map import apply_key_map, read_key_map
from .unwrap import unwrap


@dataclass(frozen=True)
class LoadedModel:
    """A network with trained weights.

    Attributes
    ----------
    module
        The network, float32 and in evaluation mode; its `forward` is as `Architecture.build` says.
    architecture, config
        Its architecture and configuration.
    source
        The checkpoint file.
    notes
        A line for each choice that was made in reading the file.
    """

    module: nn.Module
    architecture: Architecture
    config: Any
    source: Path
    notes: tuple[str, ...]

    def manifest(self) -> Manifest:
        """Return the manifest of the PyTorch model; an export replaces the fields that it determines."""
        interface = self.architecture.interface(self.config)
        return Manifest(
            architecture=self.architecture.name,
            # In the form in which it is read back: JSON has no tuples.
            configuration=json.loads(json.dumps(dataclasses.asdict(self.config))),
            shape=None,
            precision="fp32",
            weights_sha256=weights_sha256(self.module.state_dict()),
            **{f.name: getattr(interface, f.name) for f in dataclasses.fields(interface)},
        )


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    key_map: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | None = None,
) -> LoadedModel:
    """Load a trained network.

    Parameters
    ----------
    path
        ``.ckpt``, ``.pth``, ``.pt`` or ``.safetensors``.
    key_map
        File with rules for renaming keys, see `models.key_map`.
    config
        JSON file with configuration values that the checkpoint does not store; they override stored ones.

    Returns
    -------
    LoadedModel

    Raises
    ------
    InputError
        The file is not a checkpoint, its architecture is unknown, or a tensor is missing, unexpected, of the wrong
        shape, or not finite. Checkpoints are never loaded in part.
    KeygraphError
        This process was forked after PyTorch had started threads, so that it would wait for them forever.
    """
    require_torch()
    source = Path(path)
    loaded = read_file(source)
    stored = loaded if isinstance(loaded, Mapping) else {}
    rules = read_key_map(Path(key_map)) if key_map is not None else []
    # With a key map, keys can be recognised only after mapping, so wrappers are opened by name alone.
    state, notes = unwrap(loaded, str(source), lambda keys: not rules and registry.detect(keys) is not None)
    if rules:
        state, mapped = apply_key_map(state, rules)
        notes += mapped
    architecture = _architecture(stored, state, source)
    configuration = _configuration(architecture, stored, state, config, source, notes)
    module = architecture.build(configuration)
    _load_strictly(module, state, architecture.name, source, notes)
    return LoadedModel(module.eval(), architecture, configuration, source, tuple(notes))


def save_checkpoint(path: str | os.PathLike[str], model: nn.Module) -> None:
    """Save a network's weights with its architecture and configuration.

    Parameters
    ----------
    path
        The file: safetensors for the suffix ``.safetensors``, else PyTorch's format.
    model
        A network of a registered architecture.

    Raises
    ------
    InputError
        The file cannot be written.
    ValueError
        The network is of no registered architecture.
    """
    header = {"architecture": registry.of(model).name, "config": dataclasses.asdict(model.config)}  # type: ignore[call-overload]
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        if temporary.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(state, temporary, {"keygraph": json.dumps(header)})
        else:
            torch.save({**header, "params": state}, temporary)


def weights_sha256(state: StateDict) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of all tensors; it does not depend on the file format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _architecture(stored: Mapping[str, Any], state: StateDict, source: Path) -> Architecture:
    name = stored.get("architecture")
    if isinstance(name, str):
        return registry.by_name(name)
    found = registry.detect(state)
    if found is not None:
        return found
    nearest, missing, unknown = registry.nearest(state)
    raise InputError(
        f"{source}: unknown architecture; the nearest is {nearest.name}, which has no {_some(unknown)}, but has "
        f"{_some(missing)}; map the keys with --key-map; known architectures: "
        f"{', '.join(a.name for a in registry.ARCHITECTURES)}"
    )


def _configuration(
    architecture: Architecture,
    stored: Mapping[str, Any],
    state: StateDict,
    config: str | os.PathLike[str] | None,
    source: Path,
    notes: list[str],
) -> Any:
    given: dict[str, Any] = {}
    if config is not None:
        try:
            given = dict(json.loads(Path(config).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{config}: cannot be read as a configuration ({error}); give a JSON object") from error
    names = [f.name for f in dataclasses.fields(architecture.config_type)]
    values = dict(stored["config"]) if isinstance(stored.get("config"), Mapping) else {}
    unknown = sorted((values.keys() | given.keys()) - set(names))
    if unknown:
        raise InputError(
            f"{source}: {architecture.name} has no setting {', '.join(unknown)}; it has: {', '.join(names)}"
        )
    try:
        if values:
            return architecture.config_type(**{**values, **given})
        notes.append("configuration inferred from the tensors' shapes")
        return architecture.infer(state, given)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    except (KeyError, IndexError, ValueError) as error:
        raise InputError(
            f"{source}: looks like {architecture.name}, but its shapes cannot be read ({error}); "
            "give the whole configuration with --config FILE.json"
        ) from error


def _load_strictly(module: nn.Module, state: StateDict, name: str, source: Path, notes: list[str]) -> None:
    expected = module.state_dict()
    missing = [key for key in expected if key not in state]
    unknown = [key for key in state if key not in expected]
    if missing or unknown:
        raise InputError(
            f"{source}: the tensors do not fit {name} as configured: missing {_some(missing)}; "
            f"not expected {_some(unknown)}; "
            "map the keys with --key-map, or correct the configuration with --config"
        )
    for key, tensor in expected.items():
        if state[key].shape != tensor.shape:
            raise InputError(
                f"{source}: tensor {key} is {list(state[key].shape)}; {name} as configured has {list(tensor.shape)}; "
                "correct the configuration with --config"
            )
        if not state[key].isfinite().all():
            bad = int((~state[key].isfinite()).sum())
            raise InputError(
                f"{source}: tensor {key} holds {bad} NaN or infinite values; "
                "use a checkpoint from before training diverged"
            )
    types = sorted({str(t.dtype).removeprefix("torch.") for k, t in state.items() if t.dtype != expected[k].dtype})
    if types:
        notes.append(f"tensors of type {', '.join(types)} converted to float32")
    module.load_state_dict(state, strict=True)


def _some(keys: list[str]) -> str:
    """Return the first few keys as text for a message."""
    if not keys:
        return "nothing"
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
