"""The manifest: everything that the runtime needs to know of a file, so that it depends on no architecture.

An ONNX file stores it as JSON in `metadata_props["keygraph"]`, an engine in `<engine>.json` beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from .errors import InputError
from .installation import upgrade_line
from .integrity import FileDigest
from .strict_json import decode, decode_json

T = TypeVar("T")

#: Fields of real numbers. A whole number stays an int when it is read, so that `to_json` gives the same text again.
Real: TypeAlias = int | float

#: Format 2 added `half` and `profiles`; format 3 the inputs other than one plain image, `clamp`, `wavelengths` and
#: `statistics`; format 4 `digest`; format 5 `smallest`; format 6 `attentions`.
FORMAT_VERSION = 6

#: The key in ONNX `metadata_props` that holds the manifest.
METADATA_KEY = "keygraph"

#: Names of the exported graph's tensors, the same for every architecture. `ExtraInput` has the other names.
IMAGE_INPUT = "image"
K_INPUT = "k"
IMAGE_OUTPUT = "restored"


@dataclass(frozen=True)
class Neighbours:
    """The number k of neighbours that each node of a key graph keeps.

    Attributes
    ----------
    default
        Used unless the user chooses another k; the only possible k when `runtime` is false.
    maximum
        The nodes in a window; a larger k is an error.
    trained
        The values that training drew k from; empty when unknown.
    runtime
        True when k is an input of the graph, false when it is fixed.
    """

    default: int
    maximum: int
    trained: tuple[int, ...] = ()
    runtime: bool = True


@dataclass(frozen=True)
class Tiling:
    """Calibrated tile size and overlap for tiled inference.

    Attributes
    ----------
    tile, overlap
        Pixels of the input image, both multiples of the manifest's `size_multiple`.
    psnr
        PSNR of the tiled against the whole-image result in dB, on the calibration image.
    """

    tile: int
    overlap: int
    psnr: Real


@dataclass(frozen=True)
class ExactTiling:
    """Exact tiled inference of a model with global statistics, as verified at export.

    Attributes
    ----------
    tile
        Side of the tiles in pixels.
    psnr
        PSNR against the whole-image result in dB, at most 200.
    sweeps
        Passes over all tiles.
    disk
        Largest size of the stored features, in bytes per pixel of the image.
    """

    tile: int
    psnr: Real
    sweeps: int
    disk: Real


@dataclass(frozen=True)
class GlobalStatistics:
    """The cost of statistics over the whole image, as measured at export.

    Attributes
    ----------
    memory
        Peak memory of a whole-image run on a CPU, in bytes per pixel; None when it was not measured.
    tilings
        Accuracy of plain tiles of several sizes, the smallest first.
    exact
        Exact tiling; None when the network cannot be run exactly in tiles.
    """

    memory: Real | None
    tilings: tuple[Tiling, ...]
    exact: ExactTiling | None


#: What an export made of an attention; see `Attention`.
VERDICTS = ("fused", "by hand", "packed", "unchanged")


@dataclass(frozen=True)
class Attention:
    """What an export of a network of unknown architecture made of one of its attentions.

    Attributes
    ----------
    module
        Path of the module that computes it, for instance ``"layers.3.attn"``; empty for the network itself.
    verdict
        ``"fused"``: computed by KeyGraph and KeyGraphAttention; ``"by hand"``: the network calls these itself;
        ``"packed"``: by KeyGraphAttention on the network's own mask; ``"unchanged"``: as the network computes it.
    reason
        Why it is not fused; empty if it is.
    k
        Nodes that each node attends to; None where that is not fixed.
    nodes
        Nodes of a window, among which they are selected; None where that depends on the image's size.
    heads, channels
        Heads, and channels of each head's queries; None where they are not known.
    keeps_ties
        Whether the network keeps all nodes that tie with the k-th, where the file keeps exactly k.
    """

    module: str
    verdict: str
    reason: str = ""
    k: int | None = None
    nodes: int | None = None
    heads: int | None = None
    channels: int | None = None
    keeps_ties: bool = False


@dataclass(frozen=True)
class HalfPrecision:
    """Mixed precision: which nodes of a half-precision file stay in FP32, and the head-room of the others.

    Attributes
    ----------
    keep_fp32
        Patterns of the nodes that stay in FP32: the architecture's, then the user's.
    found
        Patterns that `--precision auto` added; empty when it added none or was not used.
    target_psnr
        Target of `--precision auto` in dB; None when it was not used.
    nodes, nodes_fp32
        Number of floating-point nodes, and how many of them compute in FP32.
    half_io
        Whether the input and output images are half precision, too.
    pictures
        Names of the images that the ranges were measured on; empty when nothing was measured (`--no-verify`).
    headroom
        Largest finite value of the type over the largest value of any half-precision tensor; below 1 it overflows. 0
        when it was not measured.
    largest
        The half-precision nodes with the largest absolute values, and these values, in descending order.
    """

    keep_fp32: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    target_psnr: Real | None = None
    nodes: int = 0
    nodes_fp32: int = 0
    half_io: bool = False
    pictures: tuple[str, ...] = ()
    headroom: Real = 0.0
    largest: tuple[tuple[str, Real], ...] = ()


@dataclass(frozen=True)
class Profile:
    """Sizes that an engine was built for, each as (minimum, optimum, maximum).

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
        """Tell whether images of a shape are within the profile.

        Parameters
        ----------
        batch, height, width
            Shape of the image tensor, in the units of the attributes.
        """
        sizes = ((batch, self.batch), (height, self.height), (width, self.width))
        return all(minimum <= size <= maximum for size, (minimum, _, maximum) in sizes)


#: Normalisation of an image's samples, before `value_range` is applied.
#:
#: ``"type"``: integers are divided by the white level of their type; floats are not changed.
#: ``"range"``: as ``"type"``, then (x - min) / (max - min) with the smallest and largest sample of the whole image.
#: ``"peak"``: negative samples become 0, then x / max * `gain` with the largest sample of the whole image.
#: ``"none"``: samples of any type are not changed.
NORMALISATIONS = ("type", "range", "peak", "none")


@dataclass(frozen=True)
class ExtraInput:
    """An input of the graph in addition to the image: [B, channels, H + margin[0], W + margin[1]].

    Attributes
    ----------
    name
        Name of the tensor, and of the option for users: ``"mask"``.
    channels
        Its channels.
    margin
        Rows and columns by which it is larger than the result divided by the scale, H x W.
    """

    name: str
    channels: int
    margin: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a network.

    Attributes
    ----------
    task
        Free text, for instance ``"denoising"``; empty when the checkpoint does not say.
    scale
        Output pixels per input pixel along each axis.
    in_channels, out_channels
        Channels of the image tensors, NCHW.
    value_range
        Values of black and white in those tensors.
    size_multiple
        Height and width of a tensor must be multiples of this; tile origins are aligned to it.
    global_statistics
        True when a pixel's result depends on sums over the whole image, so that plain tiles change it.
    neighbours
        The key graph's k, or None for architectures without one.
    views
        Names of the pictures whose channels are stacked to the image, in this order, for instance
        ``("left", "right")``; empty for a single picture.
    normalisation, gain
        One of `NORMALISATIONS`, and the factor of ``"peak"``.
    margin
        Rows and columns by which the image tensor is larger than the result divided by the scale (for a dispersed
        measurement). `size_multiple`, and the manifest's `shape` and `profiles`, do not include it.
    extra_inputs
        Further inputs of the graph, in order, between the image and k.
    clamp
        Range that results are clipped to, in units of `value_range`; None for no clipping of floats.
    wavelengths
        Wavelengths of the result's bands in nm, one for each of `out_channels`; empty for pictures.
    smallest
        Least height and width of a tensor, a multiple of `size_multiple`; smaller images are padded to it. 1 where
        `size_multiple` is the only limit.
    """

    task: str
    scale: int
    in_channels: int
    out_channels: int
    value_range: tuple[Real, Real]
    size_multiple: int
    global_statistics: bool
    # A factory leaves no attribute of the class, which msgspec would take for a value of `Manifest.neighbours`.
    neighbours: Neighbours | None = field(default_factory=lambda: None)
    views: tuple[str, ...] = ()
    normalisation: str = "type"
    gain: Real = 1.0
    margin: tuple[int, int] = (0, 0)
    extra_inputs: tuple[ExtraInput, ...] = ()
    clamp: tuple[Real, Real] | None = None
    wavelengths: tuple[Real, ...] = ()
    smallest: int = 1

    @property
    def least_side(self) -> int:
        """Least height and width of a tensor in pixels."""
        return max(self.size_multiple, self.smallest)


@dataclass(frozen=True, kw_only=True)
class Manifest(Interface):
    """Everything that is needed to run a model file, and its provenance.

    Attributes
    ----------
    architecture, configuration
        Name in the registry (``"kgt"``), and the configuration's fields as JSON values. The runtime does not use them.
    shape
        The only (B, H, W) that the file takes; None when they are dynamic.
    precision
        ``"fp32"``, ``"fp16"`` or ``"bf16"``.
    weights_sha256
        SHA-256 over the checkpoint's tensors (names, types, shapes, bytes), independent of the container.
    made_with
        Package name -> version, keygraph's own included.
    verification
        Records of the comparisons with PyTorch, by configuration; None when it was skipped (`--no-verify`).
    tiling
        Calibrated tiling; None when it was not measured.
    half
        Mixed precision of an fp16 or bf16 file; None for fp32.
    profiles
        Sizes that the file takes, in order of preference; empty when only `shape` limits them.
    statistics
        Cost of `global_statistics`; None when there are none or it was not measured.
    digest
        Digest of the ONNX file as it was exported; None before format 4, and for checkpoints.
    attentions
        Of a network of unknown architecture, in order of execution; empty before format 6.
    format_version
        Format that the manifest is written in.
    """

    # Required here: a file without it is damaged.
    neighbours: Neighbours | None = field()
    architecture: str
    configuration: dict[str, Any]
    shape: tuple[int, int, int] | None
    precision: str
    weights_sha256: str
    made_with: dict[str, str] = field(default_factory=dict)
    verification: dict[str, Any] | None = None
    tiling: Tiling | None = None
    half: HalfPrecision | None = None
    profiles: tuple[Profile, ...] = ()
    statistics: GlobalStatistics | None = None
    digest: FileDigest | None = None
    attentions: tuple[Attention, ...] = ()
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the manifest as JSON; the same manifest gives the same text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    def sealed(self) -> Manifest:
        """Return the manifest with the digest of its own text in `digest`, for writing into a file.

        Without a digest of the file, there is none of the manifest.
        """
        if self.digest is None:
            return self
        own = manifest_sha256(self.to_json())
        return dataclasses.replace(self, digest=dataclasses.replace(self.digest, manifest=own))


def manifest_sha256(text: str) -> str:
    """Return the SHA-256 of a manifest's text without its field `digest`, independent of white space and order.

    Of the text as it stands, since fields that a later version adds must not change it. Damaged text has a digest, too.
    """
    try:
        values = decode_json(text)
        text = json.dumps({key: value for key, value in values.items() if key != "digest"}, sort_keys=True)
    except (ValueError, AttributeError):
        pass
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def from_json(text: str, source: str) -> Manifest:
    """Decode a manifest of this format or an older one.

    Parameters
    ----------
    text
        JSON, from `Manifest.to_json`.
    source
        The file's name, for messages.

    Returns
    -------
    Manifest

    Raises
    ------
    InputError
        The text is not a manifest: it is not JSON, or a field is missing, unknown or of the wrong type. Or its format
        is newer than `FORMAT_VERSION`.
    """
    damaged = f"{source}: the keygraph manifest is damaged"
    try:
        values = decode_json(text)
        version = values["format_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{damaged}; export the model again") from error
    if not isinstance(version, int):
        raise InputError(f"{damaged} (its format is {version!r}); export the model again")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{source}: manifest format {version} is newer than this keygraph reads ({FORMAT_VERSION}); "
            f"upgrade with: {upgrade_line()}"
        )
    try:
        manifest = decode(values, Manifest)
    except ValueError as error:
        raise InputError(f"{damaged} ({error}); export the model again") from error
    impossible = [name for name, possible in _possible(manifest).items() if not possible]
    if impossible:
        fields = ", ".join(f"`{name}` is {getattr(manifest, name)!r:.80}" for name in impossible)
        raise InputError(f"{damaged} (no model has these values: {fields}); export the model again")
    return manifest


def _possible(manifest: Manifest) -> dict[str, bool]:
    """Return for each field whose value the runtime computes with whether a model can have it."""
    neighbours, tiling, clamp = manifest.neighbours, manifest.tiling, manifest.clamp
    names = [extra.name for extra in manifest.extra_inputs]
    return {
        "scale": manifest.scale >= 1,
        "in_channels": manifest.in_channels >= 1,
        "out_channels": manifest.out_channels >= 1,
        "size_multiple": manifest.size_multiple >= 1,
        "smallest": manifest.smallest == 1
        or (manifest.smallest >= 1 and manifest.smallest % manifest.size_multiple == 0),
        "value_range": _is_range(manifest.value_range),
        "clamp": clamp is None or _is_range(clamp),
        "shape": manifest.shape is None or min(manifest.shape) >= 1,
        "margin": min(manifest.margin) >= 0,
        "gain": math.isfinite(manifest.gain),
        "precision": manifest.precision in ("fp32", "fp16", "bf16"),
        "normalisation": manifest.normalisation in NORMALISATIONS,
        "wavelengths": len(manifest.wavelengths) in (0, manifest.out_channels)
        and all(0 < value < math.inf for value in manifest.wavelengths),
        "neighbours": neighbours is None or 1 <= neighbours.default <= neighbours.maximum,
        "attentions": all(attention.verdict in VERDICTS for attention in manifest.attentions),
        "tiling": tiling is None or 0 <= tiling.overlap < tiling.tile,
        "extra_inputs": len({*names, IMAGE_INPUT, K_INPUT}) == len(names) + 2
        and all(extra.channels >= 1 and min(extra.margin) >= 0 for extra in manifest.extra_inputs),
        "profiles": all(
            1 <= minimum <= optimum <= maximum
            for profile in manifest.profiles
            for minimum, optimum, maximum in (profile.batch, profile.height, profile.width)
        ),
    }


def _is_range(values: tuple[Real, Real]) -> bool:
    return -math.inf < values[0] < values[1] < math.inf


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
