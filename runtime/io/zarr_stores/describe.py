"""What a Zarr store is, from its metadata."""

from __future__ import annotations

from pathlib import Path

from ....manifest_summary import Description
from .opening import open_image


def describe(path: Path) -> Description:
    """Describe the image of a store; errors are those of `opening.open_image`."""
    stored = open_image(path)
    height, width, channels = stored.shape
    image = stored.image
    plain = f"Zarr {stored.array.metadata.zarr_format} array"
    size = None
    if image is not None and image.resolution is not None:
        size = f"{1000 / image.resolution[0]:g} um along x, {1000 / image.resolution[1]:g} um along y"
    return {
        "kind": "image",
        "file": str(path),
        "bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        "format": plain if image is None else f"OME-Zarr {image.version}",
        "width": width,
        "height": height,
        "channels": channels,
        "type": stored.dtype.name,
        "axes": ", ".join(f"{name} {size}" for name, size in zip(stored.axes, stored.array.shape, strict=True)),
        "chunks": " x ".join(map(str, stored.array.chunks)),
        "levels": [f"{level[1]} x {level[0]}" for level in stored.levels],
        "pixel size": size,
        "notices": list(stored.notices),
    }
