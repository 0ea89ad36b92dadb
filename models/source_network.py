"""A network that a function of the user's Python file builds, with the weights of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from .own_weights import load_weights, to_float32
from .source_file import EntryPoint, build_network, read_arguments


@dataclass(frozen=True)
class SourceNetwork:
    """A network that was built.

    Attributes
    ----------
    module
        The network, float32 on the CPU and in evaluation mode, without gradients.
    provenance
        Where it comes from, as JSON values: entry point, its arguments, SHA-256 of the source.
    notes
        A line for each choice.
    """

    module: nn.Module
    provenance: dict[str, Any]
    notes: tuple[str, ...]


def load_network(
    point: EntryPoint,
    *,
    config: Path | None = None,
    weights: Path | None = None,
    prefix: str = "",
    entry: str | None = None,
    key_map: Path | None = None,
    notice: Callable[[str], None],
    progress: Callable[[str], None] = lambda _step: None,
) -> SourceNetwork:
    """Run a Python file, build its network and load the weights.

    Parameters
    ----------
    point
        The file and its function.
    config
        JSON file with the function's arguments; None for none.
    weights, prefix, entry, key_map
        As for `load_weights`; without `weights`, the network keeps those that it was built with.
    notice
        Called with a line that says that the file is run, before it is.
    progress
        Called with a line before each step.

    Raises
    ------
    InputError
        The file does not build a network, or the weights do not fit.
    """
    arguments = read_arguments(config)
    given = f" with the arguments in {config.name}" if config is not None else ""
    notice(f"{point.path} is run, and its {point.name} called{given}")
    progress("building the network")
    built = build_network(point, arguments)
    notes = to_float32(built.module)
    if weights is None:
        notes.append(f"no file of weights: they are those that {point} gives the network")
    else:
        progress("loading the weights")
        notes += load_weights(built.module, weights, str(point), prefix=prefix, entry=entry, key_map=key_map)
    built.module.eval().requires_grad_(False)
    provenance = {"entry_point": str(point), "arguments": arguments, "source": built.sources}
    return SourceNetwork(built.module, provenance, tuple(notes))
