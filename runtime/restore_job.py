"""Restoration jobs: which file is read, what is written and how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..manifest import IMAGE_INPUT
from .io.encoding import Encoding
from .io.input_files import InputFile, InputHeader
from .journal.space import Space
from .restore_options import RestoreOptions


@dataclass(frozen=True)
class RestoreJob:
    """One image file to restore.

    Attributes
    ----------
    image
        The image, with its header.
    inputs
        The model's other inputs by name, with their headers.
    target
        File for the result.
    preview
        File for a preview of a spectrum; None for no preview.
    options
        How the image is restored.
    encoding
        How the result is encoded.
    size
        Height, width and channels of the result.
    as_cube
        True when the result is written as a spectral cube, False for a picture.
    result_bytes
        Estimate of the size of the result's file.
    tiled
        True for one picture that is restored in tiles into another, so that it need never be in memory as a whole.
    space
        Disk space for a picture and its result that are kept in files meanwhile, so that a run that was stopped can go
        on; None where they are in memory.
    """

    image: InputHeader
    inputs: Mapping[str, InputHeader]
    target: Path
    preview: Path | None
    options: RestoreOptions
    encoding: Encoding
    size: tuple[int, int, int]
    as_cube: bool
    result_bytes: int
    tiled: bool
    space: Space | None

    @property
    def memory_bytes(self) -> int:
        """Estimate of the memory for the decoded image and inputs, the result, and the result's file."""
        decoded = sum(math.prod(one.size) * one.dtype.itemsize for one in (self.image, *self.inputs.values()))
        return decoded + math.prod(self.size) * self.image.dtype.itemsize + self.result_bytes

    @property
    def targets(self) -> list[Path]:
        """The files to write, as they are named."""
        return [self.target] if self.preview is None else [self.target, self.preview]

    @property
    def files(self) -> dict[str, InputFile]:
        """The files that are read, by input."""
        return {IMAGE_INPUT: self.image.file, **{name: header.file for name, header in self.inputs.items()}}
