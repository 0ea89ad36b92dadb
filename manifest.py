"""The manifest: what an artifact says of itself, so that the runtime needs to know no architecture.

An ONNX file carries it as JSON in `metadata_props["keygraph"]`, an engine in `<engine>.json` beside it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import InputError

#: 2 added `half` and `profiles`; 3 what models need that are not one picture in and one out.
FORMAT_VERSION = 3

#: The key in ONNX `metadata_props` that holds the manifest.
METADATA_KEY = "keygraph"

#: Names of the exported graph's tensors, the same for every architecture; `ExtraInput` names the others.
IMAGE_INPUT = "image"
K_INPUT = "k"
IMAGE_OUTPUT = "restored"


@dataclass(frozen=True)
class Neighbours:
    """How many nodes k each node of a key graph keeps.

    Attributes
    ----------
    default
        The k that is used when the user names none; the only one possible when `runtime` is false.
    maximum
        Nodes in a window: from here on every node keeps all, and a larger k is refused.
    trained
        The values that training drew from; empty when unknown.
    runtime
        True when k is an input of the graph, false when it is fixed in it.
    """

    default: int
    maximum: int
    trained: tuple[int, ...] = ()
    runtime: bool = True


@dataclass(frozen=True)
class Tiling:
    """Overlap for tiled inference, as measured against whole images when the file was made.

    Attributes
    ----------
    tile, overlap
        Pixels of the input image, both multiples of the manifest's `size_multiple`.
    psnr
        Tiled against whole, dB, on the calibration image with these values.
    """

    tile: int
    overlap: int
    psnr: float


@dataclass(frozen=True)
class ExactTiling:
    """Exact tiled inference of a model with global statistics, as tried when the file was made.

    Attributes
    ----------
    tile
        Side of the tiles, in pixels.
    psnr
        Against the whole image, dB, at most 200.
    sweeps
        Times that all tiles are gone over.
    disk
        Bytes of features per pixel of the image, at the most.
    """

    tile: int
    psnr: float
    sweeps: int
    disk: float


@dataclass(frozen=True)
class GlobalStatistics:
    """What statistics over the whole image cost, as measured when the file was made.

    Attributes
    ----------
    memory
        Bytes per pixel that a run over a whole image takes at its peak on a CPU; None where that was not measured.
    tilings
        Plain tiles of several sizes, the smallest first: how far from the whole image their results are.
    exact
        None where the network cannot be run exactly in tiles.
    """

    memory: float | None
    tilings: tuple[Tiling, ...]
    exact: ExactTiling | None


@dataclass(frozen=True)
class HalfPrecision:
    """What is half in a file of half precision, what is not, and how close to overflow it came.

    Attributes
    ----------
    keep_fp32
        Patterns of the nodes that stay in FP32: the architecture's, then the user's.
    found
        What `--precision auto` had to add to them; empty when it was not asked for, or had to add nothing.
    target_psnr
        What it was to reach, dB; None when it was not asked for.
    nodes, nodes_fp32
        Computing nodes of the file, and how many of them are in FP32.
    half_io
        Whether image and restored image are half as well.
    pictures
        Names of the images that the ranges were measured on; empty when they were not (`--no-verify`).
    headroom
        Largest finite value of the type over the largest value that any half tensor took: at 1 it overflows. 0 when it
        was not measured.
    largest
        The nodes with the largest values in half, and these values; the largest first.
    """

    keep_fp32: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    target_psnr: float | None = None
    nodes: int = 0
    nodes_fp32: int = 0
    half_io: bool = False
    pictures: tuple[str, ...] = ()
    headroom: float = 0.0
    largest: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Profile:
    """Sizes that an engine was built for, each as (least, best, most).

    Attributes
    ----------
    batch
        Images in a batch.
    height, width
        Pixels, multiples of the manifest's `size_multiple`.
    """

    batch: tuple[int, int, int]
    height: tuple[int, int, int]
    width: tuple[int, int, int]

    def takes(self, batch: int, height: int, width: int) -> bool:
        """Whether images of this shape are within it."""
        sizes = ((batch, self.batch), (height, self.height), (width, self.width))
        return all(least <= size <= most for size, (least, _, most) in sizes)


#: How an image's samples become the graph's numbers, before `value_range` is applied.
#:
#: ``"type"``: integers are divided by their type's white level, floats are taken as they are.
#: ``"range"``: as ``"type"``, then (x - min) / (max - min) with the least and largest sample of the whole image.
#: ``"peak"``: negative samples become 0, then x / max * `gain` with the largest sample of the whole image.
#: ``"none"``: samples are taken as they are, whatever their type.
NORMALISATIONS = ("type", "range", "peak", "none")


@dataclass(frozen=True)
class ExtraInput:
    """A tensor that the graph takes beside the image, with the same batch.

    Attributes
    ----------
    name
        Of the graph's tensor, and what users call it: ``"mask"``.
    channels
        [B, channels, H + margin[0], W + margin[1]] for a result of H x W.
    margin
        Rows and columns by which it is larger than the result.
    """

    name: str
    channels: int
    margin: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Manifest:
    """Everything that is needed to run an artifact and to know where it came from.

    Attributes
    ----------
    architecture, configuration
        Registry name (``"kgt"``) and the constructor's arguments as plain JSON values. Not for the runtime.
    task
        Free text, for instance ``"denoising"``; the empty string when the checkpoint does not say.
    scale
        Output pixels per input pixel along each axis.
    in_channels, out_channels
        Channels of the image tensors, NCHW.
    value_range
        What black and white are in those tensors.
    size_multiple
        Height and width of a tensor must be multiples of this; tile origins are aligned to it.
    global_statistics
        True when a pixel's result depends on sums over the whole image, so that tiles change it.
    shape
        None when batch, height and width are dynamic, else the only (B, H, W) that the file takes.
    neighbours
        The key graph's k, or None for architectures without one.
    precision
        ``"fp32"``, ``"fp16"`` or ``"bf16"``.
    weights_sha256
        SHA-256 over the checkpoint's tensors (names, types, shapes, bytes), independent of the container.
    made_with
        Package versions, keygraph's own among them.
    verification
        What was compared with PyTorch and the result; None when `--no-verify` was given.
    tiling
        Calibrated tiling, or None when it was not measured.
    half
        The policy and the ranges of an fp16 or bf16 file; None for fp32.
    profiles
        The sizes that an engine takes, the preferred ones first; empty where nothing but `shape` limits them.
    views
        Names of the pictures whose channels make up the image, in this order, for instance ``("left", "right")``; empty
        for one picture.
    normalisation, gain
        One of `NORMALISATIONS`, and the factor of ``"peak"``.
    margin
        Rows and columns by which the image tensor is larger than the result (a dispersed measurement); `size_multiple`,
        `shape` and `profiles` speak of the result's size over `scale`.
    extra_inputs
        What the graph takes beside the image and k; it stands between the two.
    clamp
        Range that results are cut to, in units of `value_range`; None leaves floats as they are.
    wavelengths
        Of the result's bands in nm, one for each of `out_channels`; empty for pictures.
    statistics
        What `global_statistics` cost; None where there are none, or they were not measured.
    """

    architecture: str
    configuration: dict[str, Any]
    task: str
    scale: int
    in_channels: int
    out_channels: int
    value_range: tuple[float, float]
    size_multiple: int
    global_statistics: bool
    shape: tuple[int, int, int] | None
    neighbours: Neighbours | None
    precision: str
    weights_sha256: str
    made_with: dict[str, str] = field(default_factory=dict)
    verification: dict[str, Any] | None = None
    tiling: Tiling | None = None
    half: HalfPrecision | None = None
    profiles: tuple[Profile, ...] = ()
    views: tuple[str, ...] = ()
    normalisation: str = "type"
    gain: float = 1.0
    margin: tuple[int, int] = (0, 0)
    extra_inputs: tuple[ExtraInput, ...] = ()
    clamp: tuple[float, float] | None = None
    wavelengths: tuple[float, ...] = ()
    statistics: GlobalStatistics | None = None
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Serialize; the same manifest gives the same text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def from_json(text: str, source: str) -> Manifest:
    """Read a manifest back.

    Parameters
    ----------
    text
        What `Manifest.to_json` wrote.
    source
        The file's name, for messages.

    Raises
    ------
    InputError
        The text is no manifest, or a newer keygraph wrote it.
    """
    try:
        values = json.loads(text)
        version = values["format_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{source}: the keygraph manifest is damaged; export the model again") from error
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InputError(
            f"{source}: manifest format {version} is newer than this keygraph reads ({FORMAT_VERSION}); "
            "upgrade with: pip install --upgrade keygraph"
        )
    try:
        values["value_range"] = tuple(values["value_range"])
        if values["shape"] is not None:
            values["shape"] = tuple(values["shape"])
        if values["neighbours"] is not None:
            neighbours = values["neighbours"]
            values["neighbours"] = Neighbours(**{**neighbours, "trained": tuple(neighbours["trained"])})
        if values["tiling"] is not None:
            values["tiling"] = Tiling(**values["tiling"])
        if values.get("half") is not None:
            half = values["half"]
            lists = {name: tuple(half[name]) for name in ("keep_fp32", "found", "pictures")}
            largest = tuple((name, value) for name, value in half["largest"])
            values["half"] = HalfPrecision(**{**half, **lists, "largest": largest})
        values["profiles"] = tuple(
            Profile(**{name: tuple(sizes) for name, sizes in profile.items()}) for profile in values.get("profiles", ())
        )
        for name in ("views", "margin", "wavelengths", "clamp"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        values["extra_inputs"] = tuple(
            ExtraInput(**{**extra, "margin": tuple(extra["margin"])}) for extra in values.get("extra_inputs", ())
        )
        if values.get("statistics") is not None:
            statistics = values["statistics"]
            tilings = tuple(Tiling(**tiling) for tiling in statistics["tilings"])
            exact = None if statistics["exact"] is None else ExactTiling(**statistics["exact"])
            values["statistics"] = GlobalStatistics(**{**statistics, "tilings": tilings, "exact": exact})
        return Manifest(**values)
    except (TypeError, KeyError) as error:
        raise InputError(f"{source}: the keygraph manifest is damaged ({error}); export the model again") from error


def from_metadata(metadata: Mapping[str, str], source: str | os.PathLike[str]) -> Manifest:
    """Read the manifest of an exported ONNX file.

    Parameters
    ----------
    metadata
        The file's `metadata_props` as a mapping.
    source
        The file, for messages.

    Raises
    ------
    InputError
        There is no manifest, it is damaged, or a newer keygraph wrote it.
    """
    if METADATA_KEY not in metadata:
        raise InputError(
            f"{source} is an ONNX file, but not one that keygraph exported; make one with: export-model CHECKPOINT"
        )
    return from_json(metadata[METADATA_KEY], str(source))
