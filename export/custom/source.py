"""A network that a function of the user's Python file builds, with weights from a checkpoint, for export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import InputError
from ...models.source_file import parse_entry_point
from ...models.source_network import load_network
from .model import ASSUMED_RANGE, RANGE_NOTE, CustomModel, examine


@dataclass(frozen=True)
class SourceOptions:
    """What a user says of a network that a Python file builds; None where nothing is said.

    Attributes
    ----------
    weights
        Checkpoint with the network's weights.
    weights_prefix
        Start of the names to take from it.
    size_multiple
        Height and width are multiples of this.
    value_range
        Values of black and white.
    task
        What the network does.
    tie
        One of `neighbours.TIES`.
    """

    weights: Path | None = None
    weights_prefix: str | None = None
    size_multiple: int | None = None
    value_range: tuple[float, float] | None = None
    task: str | None = None
    tie: str | None = None

    def require_none(self, checkpoint: Path) -> None:
        """Check that nothing is said, because a checkpoint's architecture determines it all.

        Raises
        ------
        InputError
            Something is.
        """
        given = {
            "--weights": self.weights,
            "--weights-prefix": self.weights_prefix,
            "--size-multiple": self.size_multiple,
            "--range": self.value_range,
            "--task": self.task,
            "--tie": self.tie,
        }
        for option, value in given.items():
            if value is not None:
                raise InputError(
                    f"{option} applies to a network that a Python file builds (my_model.py:build), and {checkpoint} is "
                    "none; leave it out"
                )

    def require_no_weights(self, path: Path, *, key_map: Path | None, config: Path | None, entry: str | None) -> None:
        """Check that nothing is said of weights, which an ONNX file has.

        Parameters
        ----------
        path
            The file, for the message.
        key_map, config, entry
            The options of these names.

        Raises
        ------
        InputError
            Something is.
        """
        given = {
            "--weights": self.weights,
            "--weights-prefix": self.weights_prefix,
            "--key-map": key_map,
            "--config": config,
            "--entry": entry,
        }
        for option, value in given.items():
            if value is not None:
                raise InputError(f"{option} has no effect: {path} is an ONNX file, which has its weights; leave it out")


def load_source(
    text: str,
    options: SourceOptions,
    *,
    key_map: Path | None,
    config: Path | None,
    entry: str | None,
    shape: tuple[int, int, int] | None,
    notice: Callable[[str], None],
    progress: Callable[[str], None],
) -> CustomModel:
    """Run a Python file, build its network, load the weights, and examine the network.

    Parameters
    ----------
    text
        The file and its function: ``my_model.py:build``.
    options
        What the user says.
    key_map, entry
        As for `load_weights`.
    config
        JSON file with the function's arguments.
    shape
        As for `examine`.
    notice
        Called with a line that says that the file is run, before it is.
    progress
        Called with a line before each step.

    Returns
    -------
    CustomModel

    Raises
    ------
    InputError
        An option is invalid, the file does not build a network, the weights do not fit, or the network cannot be
        exported.
    """
    point = parse_entry_point(text)
    for option, value in (("--weights-prefix", options.weights_prefix), ("--key-map", key_map), ("--entry", entry)):
        if value is not None and options.weights is None:
            raise InputError(f"{option} is for the file of --weights; give --weights FILE, or leave it out")
    network = load_network(
        point,
        config=config,
        weights=options.weights,
        prefix=options.weights_prefix or "",
        entry=entry,
        key_map=key_map,
        notice=notice,
        progress=progress,
    )
    notes = [*network.notes, *([RANGE_NOTE] if options.value_range is None else [])]
    model = examine(
        network.module,
        str(point),
        network.provenance,
        task=options.task or "",
        shape=shape,
        size_multiple=options.size_multiple,
        value_range=options.value_range or ASSUMED_RANGE,
        tie=options.tie or "keep",
        sources=(point.path, *([options.weights] if options.weights is not None else [])),
        progress=progress,
    )
    return replace(model, notes=(*notes, *model.notes))
