"""Load a network with its weights from a checkpoint, and save it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..files import atomic_path
from ..forks import require_torch
from ..manifest import Manifest
from ..strict_json import decode_json
from . import registry, shards
from .architecture import Architecture, StateDict
from .checkpoint_file import read_file
from .installed import Installed
from .key_map import apply_key_map, read_key_map
from .pickled.values import entries, printable
from .strict_loading import check_fit, check_values, load_strictly, some
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

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files that the network was read from."""
        return (self.source,)

    @property
    def keep_fp32(self) -> tuple[str, ...]:
        """What stays in FP32 in half-precision files: `Architecture.keep_fp32`."""
        return self.architecture.keep_fp32

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
    entry: str | None = None,
) -> LoadedModel:
    """Load a trained network.

    Parameters
    ----------
    path
        ``.ckpt``, ``.pth``, ``.pt`` or ``.safetensors``, or the index of a checkpoint in several files
        (``.safetensors.index.json``).
    key_map
        File with rules for renaming keys, see `models.key_map`.
    config
        JSON file with configuration values that the checkpoint does not store; they override stored ones.
    entry
        Name of the weights to take where the file has several, as the notes name them: ``params`` instead of
        ``params_ema``. By default averaged weights are taken.

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
    loaded, notes = read_file(source)
    try:
        return _take(source, loaded, notes, key_map, config, entry)
    except InputError as error:
        count = shards.number_by_name(source)
        if count > 1 and shards.siblings(source) is None:
            raise InputError(
                f"{source} is one of {count} files of a checkpoint by its name, and the others are not in its folder: "
                f"put them there; by itself it does not load ({error})"
            ) from error
        raise


def _take(
    source: Path,
    loaded: Any,
    notes: list[str],
    key_map: str | os.PathLike[str] | None,
    config: str | os.PathLike[str] | None,
    entry: str | None,
) -> LoadedModel:
    """Make the network of what a file holds; parameters and errors as for `load_checkpoint`."""
    rules = read_key_map(Path(key_map)) if key_map is not None else []
    installed = registry.register_installed()

    def recognise(keys: StateDict) -> bool:
        try:
            return registry.detect(apply_key_map(keys, rules)[0] if rules else keys) is not None
        except InputError:
            return False  # the key map does not fit this part of the file

    state, chosen = unwrap(loaded, str(source), recognise, entry)
    notes = chosen + notes
    if rules:
        state, mapped = apply_key_map(state, rules)
        notes += mapped
    check_values(state, source)
    header = _header(loaded, notes)
    architecture = _architecture(header, state, source, notes)
    notes += _about_packages(architecture, state, installed)
    configuration = _configuration(architecture, header, state, config, source, notes)
    # Without values first: what a damaged file asks for is not allocated before its tensors are known to be there.
    with torch.device("meta"):
        expected = architecture.build(configuration).state_dict()
    check_fit(expected, state, architecture.name, source)
    module = architecture.build(configuration)
    notes += load_strictly(module, state, source)
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


def _header(stored: Any, notes: list[str]) -> dict[str, Any]:
    """Return the architecture and configuration that `save_checkpoint` stored.

    Other code uses the same names for other things.
    """
    found = entries(stored) or {}
    name, config = found.get("architecture"), found.get("config")
    header: dict[str, Any] = {"architecture": name} if isinstance(name, str) else {}
    if isinstance(config, dict):
        known = {f.name for a in registry.ARCHITECTURES for f in dataclasses.fields(a.config_type)}
        if header or config.keys() <= known:
            header["config"] = config
        else:
            notes.append("'config' in the file is not keygraph's: not used")
    return header


def _architecture(header: dict[str, Any], state: StateDict, source: Path, notes: list[str]) -> Architecture:
    found = registry.detect(state)
    name = header.get("architecture")
    if name is not None and (found is None or name in {a.name for a in registry.ARCHITECTURES}):
        return registry.by_name(name)
    if found is not None:
        if name is not None:
            header.pop("config", None)
            notes.append(
                f"'architecture' in the file is {name!r:.40}, which keygraph does not know: told by the tensors"
            )
        return found
    installed = registry.register_installed()
    problems = "".join(f" ({problem})" for problem in installed.problems)
    nearest, missing, unknown = registry.nearest(state)
    if missing and not unknown:
        raise InputError(
            f"{source}: the tensors are those of {nearest.name}, but without {some(missing)}; "
            "save the whole state dict, or download the file again"
        )
    differences = [f"has no {some(unknown)}"] * bool(unknown) + [f"has {some(missing)}"] * bool(missing)
    what = ", but ".join(differences) or "has other numbers in the names"
    raise InputError(
        f"{source}: unknown architecture; the nearest is {nearest.name}, which {what}; map the keys "
        "with --key-map; known architectures: "
        f"{', '.join(a.name for a in registry.ARCHITECTURES)}{problems}"
    )


def _about_packages(architecture: Architecture, state: StateDict, installed: Installed) -> list[str]:
    """Return the lines about packages that bring architectures: whose is used, whose not, and what is wrong."""
    lines = list(installed.problems)
    for other, package in installed.architectures:
        if other is architecture:
            lines.append(f"architecture {other.name} by {package}")
        elif other.detect(state):
            lines.append(f"architecture {other.name} by {package} claims it too; {architecture.name} comes first")
    return lines


def _configuration(
    architecture: Architecture,
    stored: dict[str, Any],
    state: StateDict,
    config: str | os.PathLike[str] | None,
    source: Path,
    notes: list[str],
) -> Any:
    given: dict[str, Any] = {}
    if config is not None:
        try:
            given = dict(decode_json(Path(config).read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{config}: cannot be read as a configuration ({error}); give a JSON object") from error
    names = [f.name for f in dataclasses.fields(architecture.config_type)]
    values = stored.get("config", {})
    unknown = sorted(map(str, (values.keys() | given.keys()) - set(names)))
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
    except (ArithmeticError, KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, KeyError) and error.args and isinstance(name := error.args[0], str) and "." in name:
            raise InputError(
                f"{source}: looks like {architecture.name}, but tensor {printable(name)} is missing; "
                "save the whole state dict, or download the file again"
            ) from error
        raise InputError(
            f"{source}: looks like {architecture.name}, but its shapes cannot be read ({error}); "
            "give the whole configuration with --config FILE.json"
        ) from error
