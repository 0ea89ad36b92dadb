"""Metadata of OME-Zarr (NGFF 0.4 and 0.5, https://ngff.openmicroscopy.org): axes, levels and sizes of pixels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

#: Versions that are read. A store is written in the version of its source, and in the last one where it has none.
VERSIONS = ("0.4", "0.5")

#: Unit of length -> millimetres.
_MILLIMETRES = {
    "angstrom": 1e-7,
    "nanometer": 1e-6,
    "micrometer": 1e-3,
    "millimeter": 1.0,
    "centimeter": 10.0,
    "meter": 1e3,
    "inch": 25.4,
}

#: Colours of red, green and blue, as `omero` writes them.
_RGB = {"Red": "FF0000", "Green": "00FF00", "Blue": "0000FF"}


class NotRead(ValueError):
    """Metadata that are not as the specification says, or of another version."""


@dataclass(frozen=True)
class Multiscale:
    """An image with its levels.

    Attributes
    ----------
    version
        Of the specification: ``"0.4"``.
    axes
        Name, type and unit of each axis, as in the file.
    paths
        Of the levels in the store, the largest first.
    scale, translation
        Of the largest level, for each axis: coordinate = scale * index + translation, in the axis' unit.
    name
        Name of the image.
    omero
        How channels are called and shown.
    """

    version: str
    axes: tuple[Mapping[str, Any], ...]
    paths: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()
    translation: tuple[float, ...] = ()
    name: str = ""
    omero: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(str(axis["name"]) for axis in self.axes)

    @property
    def resolution(self) -> tuple[float, float] | None:
        """Pixels per millimetre along x and y; None where the units are no lengths."""
        found = []
        for name in ("x", "y"):
            index = self.names.index(name)
            size = self.scale[index] * _MILLIMETRES.get(str(self.axes[index].get("unit")), 0.0)
            if not (size > 0 and math.isfinite(size)):
                return None
            found.append(1 / size)
        return found[0], found[1]

    def pack(self, height: int, width: int) -> bytes:
        """Return it as data of a `Block`, with the size of its image."""
        return json.dumps([asdict(self), height, width]).encode()


def unpack(data: bytes) -> tuple[Multiscale, int, int]:
    """Return what `Multiscale.pack` packed: the image, its height and width."""
    values, height, width = json.loads(data)
    lists = {name: tuple(values[name]) for name in ("axes", "paths", "scale", "translation")}
    return Multiscale(**{**values, **lists}), height, width


def parse(attributes: Mapping[str, Any]) -> Multiscale | None:
    """Read the attributes of a group; None where it is no image.

    Raises
    ------
    NotRead
        The image is of a version that is not read, or its metadata are damaged.
    """
    ome = attributes.get("ome", attributes)
    images = ome.get("multiscales") if isinstance(ome, Mapping) else None
    if not images:
        return None
    image = images[0]
    version = str(ome.get("version", image.get("version", VERSIONS[0])))
    if version not in VERSIONS:
        raise NotRead(f"is OME-Zarr of version {version}, and versions {' and '.join(VERSIONS)} are read; convert it")
    try:
        axes = tuple(dict(axis) for axis in image["axes"])
        names = [axis["name"] for axis in axes]
        if not {"y", "x"} <= set(names) or len(set(names)) < len(names):
            raise NotRead(f"has the axes {', '.join(map(str, names))}; one must be y and one x")
        first = image["datasets"][0]
        scale, translation = np.ones(len(axes)), np.zeros(len(axes))
        for step in (*first.get("coordinateTransformations", ()), *image.get("coordinateTransformations", ())):
            if step["type"] == "scale":
                factor = _numbers(step["scale"], len(axes))
                scale, translation = scale * factor, translation * factor
            elif step["type"] == "translation":
                translation = translation + _numbers(step["translation"], len(axes))
        paths = tuple(str(level["path"]) for level in image["datasets"])
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise NotRead(f"has damaged metadata (multiscales: {type(error).__name__} {error})") from error
    return Multiscale(
        version,
        axes,
        paths,
        tuple(scale.tolist()),
        tuple(translation.tolist()),
        str(image.get("name", "")),
        dict(ome.get("omero") or {}),
    )


def _numbers(values: Any, count: int) -> Any:
    numbers = np.asarray(values, np.float64)
    if numbers.shape != (count,):
        raise NotRead(f"has damaged metadata (a transformation of {numbers.size} numbers for {count} axes)")
    return numbers


def new(resolution: tuple[float, float] | None, channels: int, dtype: np.dtype[Any], name: str) -> Multiscale:
    """Return the metadata of an image that comes from a picture.

    Parameters
    ----------
    resolution
        Pixels per millimetre along x and y; None where unknown.
    channels
        Number of channels.
    dtype
        Type of the samples.
    name
        Name of the image.
    """
    unit = {} if resolution is None else {"unit": "micrometer"}
    axes = [{"name": "c", "type": "channel"}, *({"name": axis, "type": "space", **unit} for axis in "yx")]
    x, y = (1.0, 1.0) if resolution is None else (1000 / value for value in resolution)
    white = 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)
    window = {"min": 0.0, "max": white, "start": 0.0, "end": white}
    shown = [{"label": label, "color": colour, "active": True, "window": window} for label, colour in _RGB.items()]
    omero = {"channels": shown, "rdefs": {"model": "color"}} if channels == len(_RGB) else {}
    return Multiscale(VERSIONS[-1], tuple(axes), (), (1.0, y, x), (0.0, 0.0, 0.0), name, omero)


def attributes(image: Multiscale, levels: Sequence[str]) -> dict[str, Any]:
    """Return the attributes of a group: the levels are each half as large as the one before, by the mean of pixels.

    Parameters
    ----------
    image
        Version, axes, and scale of the largest level.
    levels
        Paths of the levels, the largest first.
    """
    datasets = []
    for index, path in enumerate(levels):
        scale = [
            value * (2**index if name in ("y", "x") else 1)
            for name, value in zip(image.names, image.scale, strict=True)
        ]
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if any(image.translation):
            steps.append({"type": "translation", "translation": list(image.translation)})
        datasets.append({"path": path, "coordinateTransformations": steps})
    described: dict[str, Any] = {"axes": [dict(axis) for axis in image.axes], "datasets": datasets, "type": "mean"}
    if image.name:
        described["name"] = image.name
    omero = {"omero": dict(image.omero)} if image.omero else {}
    if image.version == "0.4":
        return {"multiscales": [{"version": image.version, **described}], **omero}
    return {"ome": {"version": image.version, "multiscales": [described], **omero}}
