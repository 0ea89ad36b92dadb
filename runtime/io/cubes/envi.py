"""Cubes in ENVI files: a text header (``.hdr``), and a file of raw samples beside it."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError
from ....files import unwritable
from ....temporary_files import temporary_file
from ...companion_files import SAMPLE_SUFFIXES, SAMPLES_SUFFIX, samples_of
from .contents import Contents, Stored, native, stored
from .cube import Field
from .envi_header import INTERLEAVES, EnviHeader, header_text, read_header


def open_envi(path: Path) -> Contents:
    """Open an ENVI header and its file of samples, of any interleave, byte order and offset."""
    header = read_header(path)
    samples = samples_file(path)
    notices = []
    if not header.compressed:
        first, samples = samples, _fitting(path, header.bytes) or samples
        if samples != first:
            notices.append(f"samples taken from {samples.name}: {first.name} is not of the size in the header")
        there = samples.stat().st_size
        if there < header.bytes:
            raise ValueError(f"{samples} has {there:,} bytes, and the header speaks of {header.bytes:,}")
        if there > header.bytes:
            notices.append(f"the last {there - header.bytes:,} bytes of {samples.name} are not described by the header")
    if header.gains:
        notices.append("the header's data gain and offset values applied")
    if header.divisor != 1:
        notices.append(f"samples divided by the header's reflectance scale factor, {header.divisor:g}")
    if header.no_data:
        notices.append(f"samples of {header.no_data}, for the header no data, are taken like any others")
    stored_type = native(header.dtype)
    array = stored((header.rows, header.columns, header.bands), stored_type)
    if array.dtype is not None:
        array = Stored(array.shape, _value_type(header), array.kind)
    return Contents(
        {"": array}, lambda _: _load(header, samples), header.wavelengths, tuple(notices), fields=header.fields
    )


def samples_file(path: Path) -> Path:
    """Return the file of samples that a header describes.

    Raises
    ------
    InputError
        There is none.
    """
    found = next(samples_of(path), None)
    if found is None:
        raise InputError(
            f"{path} is the header of samples that are not beside it; put them there as {path.stem}{SAMPLES_SUFFIX} "
            f"(or {', '.join(SAMPLE_SUFFIXES[2:])}, or without suffix)"
        )
    return found


def _fitting(path: Path, size: int) -> Path | None:
    """Return the first of a header's candidates for its samples that has exactly this many bytes."""
    return next((file for file in samples_of(path) if file.stat().st_size == size), None)


def write_envi(
    path: Path, pixels: NDArray[Any], wavelengths: tuple[float, ...], fields: dict[str, Field] | None = None
) -> None:
    """Write a cube band by band (bsq): the samples first, then the header, each whole or not at all.

    Parameters
    ----------
    path
        The header; its folder gets the file of samples, too.
    pixels
        [H, W, C]
    wavelengths
        Wavelengths of the bands in nm; empty where unknown.
    fields
        Further fields of the header.

    Raises
    ------
    InputError
        The files cannot be written.
    """
    texts = {name: str(field.value) for name, field in (fields or {}).items()}
    rows, columns, bands = pixels.shape
    text = header_text(rows, columns, bands, pixels.dtype, wavelengths, texts)
    data = path.with_suffix(SAMPLES_SUFFIX)
    try:
        with temporary_file(data) as samples, temporary_file(path) as header:
            with samples.open("wb") as file:
                for band in range(bands):
                    file.write(np.ascontiguousarray(pixels[:, :, band]).data)
            header.write_text(text, encoding="utf-8")
            os.replace(samples, data)
            os.replace(header, path)
    except OSError as error:
        raise unwritable(path, error) from error


def _value_type(header: EnviHeader) -> np.dtype[Any]:
    """Return the type of the samples after gains, offsets and the scale factor are applied."""
    stored_type = native(header.dtype)
    scaled = header.gains or header.divisor != 1
    # Floats that hold every stored integer of up to 24 bits exactly, and doubles for larger ones.
    return np.result_type(stored_type, np.float32) if scaled else stored_type


def _load(header: EnviHeader, samples: Path) -> NDArray[Any]:
    sizes = {"rows": header.rows, "columns": header.columns, "bands": header.bands}
    axes = INTERLEAVES[header.interleave]
    stored_values = _stored_samples(header, samples).reshape([sizes[name] for name in axes])
    values = stored_values.transpose([axes.index(name) for name in sizes]).astype(_value_type(header), copy=False)
    if header.gains:
        values = values * np.asarray(header.gains, values.dtype) + np.asarray(header.offsets, values.dtype)
    if header.divisor != 1:
        values = values / values.dtype.type(header.divisor)
    scaled: NDArray[Any] = values
    return scaled


def _stored_samples(header: EnviHeader, samples: Path) -> NDArray[Any]:
    count = header.rows * header.columns * header.bands
    if not header.compressed:
        return np.fromfile(samples, header.dtype, count, offset=header.offset)
    with gzip.open(samples) as file:
        data = file.read(header.bytes)
    if len(data) < header.bytes:
        raise ValueError(f"{samples} holds {len(data):,} bytes, and the header speaks of {header.bytes:,}")
    return np.frombuffer(data, header.dtype, count, offset=header.offset)
