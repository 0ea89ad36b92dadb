"""The table of docs/reference/files.md about OME-Zarr against reality: what is kept and dropped, and what is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
import pyvips
from keygraph.runtime.restore_files import restore_file
from PIL import Image

zarr: Any = pytest.importorskip("zarr", reason="zarr needs Python 3.11")

ModelFile = Callable[..., Path]
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "files.md"
SUFFIXES = {"OME-Zarr": ".ome.zarr", "Zarr": ".zarr", "TIFF": ".tif", "PNG": ".png", "JPEG": ".jpg", "WebP": ".webp"}
WINDOW = {"start": 0, "end": 9, "min": 0, "max": 255}


def write_source(path: Path) -> None:
    """Write an OME-Zarr with everything that the table names: 20 um to the pixel, two levels."""
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    values = np.random.default_rng(0).integers(0, 255, (1, 3, 1, 600, 520)).astype(np.uint8)
    datasets = []
    for level in range(2):
        part = values[..., :: 2**level, :: 2**level]
        group.create_array(str(level), shape=part.shape, dtype=part.dtype, chunks=(1, 1, 1, 256, 256))[:] = part
        scale = {"type": "scale", "scale": [1, 1, 3, 20.0 * 2**level, 20.0 * 2**level]}
        moved = {"type": "translation", "translation": [0, 0, 0, 50, 60]}
        datasets.append({"path": str(level), "coordinateTransformations": [scale, moved]})
    space = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    axes = [{"name": "t", "type": "time"}, {"name": "c", "type": "channel"}, *space]
    channels = [{"label": label, "color": "00FFFF", "window": WINDOW} for label in ("DAPI", "GFP", "Cy5")]
    image = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}], "omero": {"channels": channels}}
    group.attrs.update({"ome": image, "microscope": "7"})
    group.create_group("labels")


def ome(path: Path) -> dict[str, Any]:
    """Return the metadata of an OME-Zarr; empty for other files."""
    if not (path / "zarr.json").exists():
        return {}
    found: dict[str, Any] = json.loads((path / "zarr.json").read_text())["attributes"].get("ome", {})
    return found


def first_image(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = ome(path).get("multiscales", [{}])[0]
    return found


def size_of_pixels(path: Path) -> bool:
    if ome(path):
        return bool(first_image(path)["datasets"][0]["coordinateTransformations"][0]["scale"][-2:] == [20, 20])
    if path.suffix == ".webp":  # libvips leaves it in EXIF.
        with Image.open(path) as picture:
            return bool(picture.getexif()[282] == 50 * 25.4)
    return not path.is_dir() and abs(pyvips.Image.new_from_file(str(path)).xres - 50) < 0.1


def levels(path: Path) -> bool:
    if path.is_dir():
        return len(first_image(path).get("datasets", ())) > 1
    return path.suffix == ".tif" and pyvips.Image.new_from_file(str(path)).get("n-pages") > 1


def axes(path: Path) -> bool:
    return [axis["name"] for axis in first_image(path).get("axes", ())] == ["t", "c", "z", "y", "x"]


def channels(path: Path) -> bool:
    return [channel["label"] for channel in ome(path).get("omero", {}).get("channels", ())] == ["DAPI", "GFP", "Cy5"]


def position(path: Path) -> bool:
    first = first_image(path).get("datasets", [{"coordinateTransformations": []}])[0]
    return {"type": "translation", "translation": [0, 0, 0, 50, 60]} in first["coordinateTransformations"]


def labels(path: Path) -> bool:
    return (path / "labels").exists()


def attributes(path: Path) -> bool:
    return path.is_dir() and "microscope" in (path / "zarr.json").read_text()


#: Row -> whether a file has it, and the word that the notices must have where it is lost.
ROWS: dict[str, tuple[Callable[[Path], bool], str]] = {
    "size of pixels": (size_of_pixels, "resolution"),
    "levels": (levels, "levels of the pyramid"),
    "names and colours of channels (omero)": (channels, "OME-Zarr metadata (axes, channels)"),
    "axes of length 1": (axes, "OME-Zarr metadata (axes, channels)"),
    "position (translation)": (position, "OME-Zarr metadata (axes, channels)"),
    "labels": (labels, "labels"),
    "other attributes": (attributes, "attribute microscope"),
}


def table() -> dict[str, dict[str, str]]:
    """Return the rows of the page: what -> format of the result -> cell."""
    section = PAGE.read_text(encoding="utf-8").partition("| what an OME-Zarr holds ")[2].partition("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()]
    header, _, *body = lines
    return {row[0]: dict(zip((name for name in header if name), row[1:], strict=True)) for row in body}


def test_every_cell_is_true_and_what_is_dropped_is_said(make_model: ModelFile, tmp_path: Path) -> None:
    source = tmp_path / "source.ome.zarr"
    write_source(source)
    assert all(holds(source) for holds, _ in ROWS.values())
    restorer = keygraph.load(make_model("identity"))
    found: dict[str, dict[str, str]] = {row: {} for row in ROWS}
    for name, suffix in SUFFIXES.items():
        target = tmp_path / f"result{suffix}"
        said = "; ".join(restore_file(restorer, source, target).notices)
        for row, (holds, word) in ROWS.items():
            found[row][name] = "kept" if holds(target) else "dropped"
            assert (word in said) == (found[row][name] == "dropped"), (row, name, said)
    assert found == table()
