"""What the image model of a repository knows of the core, the network that it sends tiles to: `1/core.json`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...manifest import Manifest, from_json
from ...strict_json import decode, decode_json

#: The file beside the image model's `model.py`.
CORE_FILE = "core.json"

#: Input of a core whose second axis is as long as k; see `core_model`.
K_LENGTH_INPUT = "k_length"


@dataclass(frozen=True)
class Core:
    """The core of a repository.

    Attributes
    ----------
    model
        Its name in the server.
    manifest
        The manifest of the network; k is not an input where the repository fixes it.
    k_input
        How it takes k: ``"k"``, a tensor with the value; `K_LENGTH_INPUT`; or empty, where it takes none.
    half
        Whether its images are float16.
    max_batch
        Most tiles of one request, which the server may join with others up to this number; 0 where it joins none, and
        the manifest says how many tiles run together.
    instances
        Copies of it that run at a time, on each device.
    device
        ``"cpu"`` or ``"cuda"``.
    library
        File name of keygraph's operators that it runs with; empty for standard operators and the file's own functions.
    keygraph
        Version of keygraph that wrote the repository.
    """

    model: str
    manifest: Manifest
    k_input: str
    half: bool
    max_batch: int
    instances: int
    device: str
    library: str
    keygraph: str

    def to_json(self) -> str:
        """Serialize to JSON; equal cores give equal text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=1) + "\n"


def read_core(path: Path) -> Core:
    """Read what `Core.to_json` returned.

    Raises
    ------
    InputError
        The file is missing or damaged, or a newer keygraph wrote it.
    """
    try:
        values = decode_json(path.read_bytes())
        manifest = json.dumps(values["manifest"])
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; {_AGAIN}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged; {_AGAIN}") from error
    from_json(manifest, str(path))  # Its own errors, and those of its format.
    try:
        return decode(values, Core)
    except ValueError as error:
        raise InputError(f"{path} is damaged, or of another version of keygraph ({error}); {_AGAIN}") from error


_AGAIN = "write the repository again with: keygraph serving-repository MODEL -o FOLDER"
