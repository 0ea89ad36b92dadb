"""Samples of TIFF pages in compressions that tifffile decodes only with imagecodecs, and libvips without."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from ....errors import InputError
from ....installation import package_line


def decode(path: Path, series: Any) -> NDArray[Any]:
    """Return the samples of a series of pages.

    Parameters
    ----------
    path
        The file.
    series
        The series, as tifffile describes it.

    Returns
    -------
    NDArray
        Of the shape of the series, as `series.asarray()` returns it.

    Raises
    ------
    InputError
        The compression needs imagecodecs, which is not installed.
    ValueError
        The samples are damaged.
    """
    try:
        values: NDArray[Any] = series.asarray()
        return values
    except (ValueError, ImportError) as error:
        if isinstance(error, ValueError) and "imagecodecs" not in str(error):
            raise
        try:
            return _decode_in_libvips(path, series.pages, series.shape, series.dtype)
        except pyvips.Error:
            page = series.pages[0]
            raise InputError(
                f"{path} is compressed with {page.compression.name}, predictor {page.predictor:d}, which cannot be "
                f"read here; install the codecs with: {package_line('imagecodecs')}"
            ) from error


def _decode_in_libvips(path: Path, pages: Sequence[Any], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    decoded = []
    for page in pages:
        source = pyvips.Source.new_from_file(os.fsencode(path))
        image = pyvips.Image.tiffload_source(source, page=page.index, access="sequential", fail_on="error")
        values = image.numpy()
        if values.dtype != dtype.newbyteorder("="):
            raise pyvips.Error(f"libvips reads {values.dtype}, not {dtype}")
        if page.photometric.name == "MINISWHITE" and dtype.kind == "u":
            values = np.iinfo(values.dtype).max - values  # libvips inverts them, tifffile does not.
        # Channels of a page are its last axis in libvips; in tifffile they are the first where they are stored apart.
        decoded.append(np.moveaxis(values, -1, 0) if values.ndim == 3 and page.planarconfig == 2 else values)
    stacked: NDArray[Any] = np.stack(decoded).reshape(shape)
    return stacked
