"""The user's build options: profiles, range of k and flags, checked against the model."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..manifest import Manifest, Profile
from ..runtime.preprocess.padding import round_up
from ..runtime.tiling.tile_size import BATCH_PIXELS, DEFAULT_TILE

#: (minimum, optimum, maximum).
Range = tuple[int, int, int]

COMPATIBLE = ("none", "ampere-plus", "same-compute-capability")

#: TensorRT's default and its highest optimization level.
DEFAULT_OPTIMIZATION = 3
MAX_OPTIMIZATION = 5

#: Default image sides of an engine for a model with global statistics, which needs whole images. They cover the usual
#: test sets. Each is rounded up to the model's size multiple.
WHOLE_SIDES = (64, 512, 1280)

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Options:
    """The user's choices; all of them are part of the cache key.

    Attributes
    ----------
    profiles
        The sizes to build for.
    k
        (minimum, optimum, maximum), or None for a file that takes no k.
    workspace
        Bytes of device memory that a kernel may use; None for the builder's own limit.
    optimization
        The builder's optimization level, 0 to 5.
    compatible
        Other GPUs that the engine must run on, one of `COMPATIBLE`.
    version_compatible
        Whether newer versions of TensorRT must run the engine.
    strip_weights
        Whether to leave out the weights.
    timing_cache
        Whether a timing cache is used. Its content is not part of the key, because it grows with every build.
    """

    profiles: tuple[Profile, ...]
    k: Range | None
    workspace: int | None = None
    optimization: int = DEFAULT_OPTIMIZATION
    compatible: str = "none"
    version_compatible: bool = False
    strip_weights: bool = False
    timing_cache: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.optimization <= MAX_OPTIMIZATION:
            raise InputError(f"--optimization is {self.optimization}; it must be from 0 to {MAX_OPTIMIZATION}")
        if self.compatible not in COMPATIBLE:
            raise InputError(f"--hardware-compatible is {self.compatible!r}; it must be one of {', '.join(COMPATIBLE)}")

    def check_backend(self, backend: str, *, has_gpu: bool) -> None:
        """Raise `InputError` for options that a backend does not support on this machine."""
        if backend != "tensorrt-rtx":
            return
        if self.compatible != "none":
            raise InputError(
                "TensorRT-RTX has no --hardware-compatible: it builds one engine for each --target; name several"
            )
        if self.version_compatible:
            raise InputError("TensorRT-RTX as it is packaged has no --version-compatible; leave it out")
        if self.strip_weights and not has_gpu:
            raise InputError("TensorRT-RTX needs a GPU to strip weights, and this machine has none; leave it out")
        if self.timing_cache:
            raise InputError("TensorRT-RTX does not time kernels in a build and takes no --timing-cache; leave it out")


def read_profiles(manifest: Manifest, tiles: Sequence[str], batches: Sequence[str]) -> tuple[Profile, ...]:
    """Parse ``--tile`` and ``--batch`` and check them against the model's size multiple.

    Parameters
    ----------
    manifest
        The model's manifest.
    tiles
        Each ``256``, ``256x384`` (height x width) or ``128:256:512`` (minimum : optimum : maximum), one profile each.
        Empty for the model's calibrated tile, or about 256; for a model with `global_statistics`, `WHOLE_SIDES`.
    batches
        Each ``4`` or ``1:4:8``, one for all tiles or one for each. Empty for the runtime's default batch size.

    Raises
    ------
    InputError
        A size is not valid; the message names a valid one.
    """
    if manifest.shape is not None:
        return (_fixed(manifest.shape, tiles, batches),)
    multiple = manifest.size_multiple
    if not tiles:
        tiles = [_default_tile(manifest)]
    if batches and len(batches) not in (1, len(tiles)):
        raise InputError(
            f"there are {len(tiles)} --tile and {len(batches)} --batch; give one --batch for all, or one for each tile"
        )
    # An ONNX file has a profile only if a tool fixed its batch.
    most = manifest.profiles[0].batch[2] if manifest.profiles else None
    profiles = []
    for i, tile in enumerate(tiles):
        height, width = (read_range(side, "--tile", multiple) for side in _sides(tile))
        if min(height[0], width[0]) < manifest.smallest:
            raise InputError(f"--tile is {tile}, but this model takes no side below {manifest.smallest} pixels")
        together = most or max(1, BATCH_PIXELS // (height[1] * width[1]))
        text = batches[i if len(batches) > 1 else 0] if batches else f"1:{together}:{together}"
        batch = read_range(text, "--batch", 1)
        if most is not None and batch[2] > most:
            raise InputError(
                f"--batch is {text}, but a tool has fixed the batch of this file at {most}; leave --batch out, or use "
                "the file as exported"
            )
        profiles.append(Profile(batch, height, width))
    return tuple(profiles)


def read_k(manifest: Manifest, most: int | None) -> Range | None:
    """Return the range of k to build for.

    Parameters
    ----------
    manifest
        The model's manifest.
    most
        The largest k that the engine must accept; None for the largest k of the file.

    Returns
    -------
    Range | None
        None for a file that takes no k.

    Raises
    ------
    InputError
        The file takes no k, or not this one.
    """
    neighbours = manifest.neighbours
    if neighbours is None:
        if most is not None:
            raise InputError(f"this model ({manifest.architecture}) has no key graph and takes no k; leave --k out")
        return None
    if not neighbours.runtime:
        if most not in (None, neighbours.default):
            raise InputError(
                f"k is fixed at {neighbours.default} in this file, so it cannot be {most}; leave --k out, or export "
                "the checkpoint again with: export-model CHECKPOINT --k runtime"
            )
        return None
    if most is None:
        most = neighbours.maximum
    if not 1 <= most <= neighbours.maximum:
        raise InputError(
            f"--k is {most}; it must be a whole number from 1 to {neighbours.maximum}, the nodes of a window"
        )
    return 1, min(neighbours.default, most), most


def engine_manifest(manifest: Manifest, options: Options) -> Manifest:
    """Return the manifest of an engine: the file's, with the profiles and the range of k that were built."""
    neighbours = manifest.neighbours
    if neighbours is not None and options.k is not None:
        neighbours = dataclasses.replace(neighbours, default=options.k[1], maximum=options.k[2])
    return dataclasses.replace(manifest, neighbours=neighbours, profiles=options.profiles)


def read_range(text: str, name: str, multiple: int) -> Range:
    """Parse ``4`` or ``1:4:8``.

    Parameters
    ----------
    text
        One size, or minimum : optimum : maximum.
    name
        The option, for messages.
    multiple
        The sizes must be multiples of it.

    Raises
    ------
    InputError
        A size is not a positive multiple, or the sizes decrease.
    """
    try:
        sizes = [int(part) for part in text.split(":")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 3):
        raise InputError(f"{name} is {text!r}; give one size, or minimum:optimum:maximum, for instance 1:4:8")
    low, best, high = sizes * 3 if len(sizes) == 1 else sizes
    for size in (low, best, high):
        if size < multiple or size % multiple:
            below = max(multiple, size // multiple * multiple)
            valid = sorted({below, max(multiple, round_up(size, multiple))})
            raise InputError(
                f"{name} is {text}, but sizes must be multiples of {multiple}: for {size} use "
                f"{' or '.join(map(str, valid))}"
                if multiple > 1
                else f"{name} is {text}; sizes must be at least 1"
            )
    if not low <= best <= high:
        raise InputError(f"{name} is {text}; the sizes minimum:optimum:maximum must not decrease")
    return low, best, high


def read_bytes(text: str, name: str) -> int:
    """Parse a size in bytes such as ``4G``, ``512M`` or ``65536K``; raises `InputError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)(?:I?B)?", text.strip().upper())
    size = round(float(match[1]) * _UNITS[match[2]]) if match else 0
    if size < 1:
        raise InputError(f"{name} is {text!r}; give a size, for instance 4G or 512M")
    return size


def _default_tile(manifest: Manifest) -> str:
    if manifest.global_statistics:
        return ":".join(str(round_up(side, manifest.size_multiple)) for side in WHOLE_SIDES)
    return str(manifest.tiling.tile if manifest.tiling else round_up(DEFAULT_TILE, manifest.size_multiple))


def _sides(tile: str) -> tuple[str, str]:
    """Split ``256``, ``256x384`` or ``128x128:256x384:512x512`` into height and width."""
    parts = [part.split("x") for part in tile.split(":")]
    if any(len(part) > 2 for part in parts):
        raise InputError(f"--tile is {tile!r}; give a side or height x width, for instance 256 or 256x384")
    return ":".join(part[0] for part in parts), ":".join(part[-1] for part in parts)


def _fixed(shape: tuple[int, int, int], tiles: Sequence[str], batches: Sequence[str]) -> Profile:
    """Return the only profile of a file with a fixed shape; raises `InputError` if the options ask for another."""
    profile = Profile(*((size,) * 3 for size in shape))
    given = [Profile(profile.batch, *(read_range(s, "--tile", 1) for s in _sides(tile))) for tile in tiles]
    given += [dataclasses.replace(profile, batch=read_range(batch, "--batch", 1)) for batch in batches]
    if any(other != profile for other in given):
        raise InputError(
            f"this file takes batches of {shape[0]} with {shape[1]} x {shape[2]} pixels only; leave --tile and --batch "
            "out, or export the checkpoint again with: export-model CHECKPOINT --shape dynamic"
        )
    return profile
