"""Restore frames, one after the other, with decoding and encoding beside it."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, KeygraphError
from ..preprocess.channels import adapt
from ..preprocess.normalization import is_spectrum
from ..preprocess.request import input_names, result_size
from ..restore_options import RestoreOptions
from ..restorer import Restorer
from .ahead import ahead
from .colour import Coding, from_rgb, to_rgb

T = TypeVar("T")


@dataclass(frozen=True)
class Frame(Generic[T]):
    """The planes of a frame, and what belongs to them, such as a time.

    Attributes
    ----------
    planes
        As `colour.PixelFormat` says.
    tag
        What is carried along.
    """

    planes: list[NDArray[Any]]
    tag: T


@dataclass
class FrameRestorer:
    """Restores the frames of one video.

    Attributes
    ----------
    restorer, options
        The model, and how images are restored.
    source, target
        What the planes hold, before and after.
    done
        Frames of the video that have been restored.
    notices
        What the restorations said, each line once.
    """

    restorer: Restorer
    options: RestoreOptions
    source: Coding
    target: Coding
    done: int = 0
    notices: list[str] = field(default_factory=list)

    def __call__(self, frames: Iterable[Frame[T]]) -> Generator[Frame[T], None, None]:
        """Yield the restored frames, in order.

        The given frames, the model and the caller each have a thread. At most four frames wait between them.
        """
        images = ahead((to_rgb(frame.planes, self.source), frame.tag) for frame in frames)
        restored = ahead((self._restored(image), tag) for image, tag in images)
        # In this order: a thread that waits for frames ends before what gives them is closed.
        with closing(images), closing(restored):
            for image, tag in restored:
                yield Frame(from_rgb(image, self.target), tag)

    def _restored(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        options = self.options
        try:
            restored = self.restorer.restore(
                image,
                options.k,
                tile=options.tile,
                overlap=options.overlap,
                batch=options.batch,
                global_statistics=options.global_statistics,
                scratch=options.scratch,
            )
        except KeygraphError as error:
            raise type(error)(f"frame {self.done + 1}: {error}") from error
        self.done += 1
        self.notices += [line for line in restored.notices if line not in self.notices]
        return restored.image


def frame_size(restorer: Restorer, height: int, width: int, channels: int, options: RestoreOptions) -> tuple[int, int]:
    """Return the height and width of restored frames, and check everything that their size tells.

    Parameters
    ----------
    restorer
        The model.
    height, width, channels
        Size of the frames.
    options
        How they are restored.

    Raises
    ------
    InputError
        The model is not for single pictures, or an option does not fit.
    """
    manifest = restorer.manifest
    if is_spectrum(manifest):
        raise InputError("this model makes spectra, and videos hold colours; give a model for pictures")
    if manifest.views or input_names(manifest):
        raise InputError("this model takes more than one image, and a video gives it one at a time")
    if manifest.normalisation in ("range", "peak"):
        raise InputError(
            "this model normalises each image by its own values, so that a video would flicker; give a model for "
            "pictures of a fixed range"
        )
    adapt(manifest, channels)
    height, width = result_size(manifest, height, width)
    restorer.choose_tiles(height, width, options)
    return height * manifest.scale, width * manifest.scale
