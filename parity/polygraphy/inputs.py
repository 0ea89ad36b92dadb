"""Data loader for Polygraphy: real images, normalised as the runtime does it."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...manifest import IMAGE_INPUT, K_INPUT
from ...runtime.notices import warn
from ..compatibility import common_k
from ..inputs import InputLike, demands, read_inputs
from ..piecewise import pieces
from ..sides.spec import ModelSpec
from .artifacts import manifest_of

#: Name of a tensor -> its values.
FeedDict = OrderedDict[str, NDArray[Any]]


class FeedDictsFromImages:
    """Data loader that yields the inputs of exported models, one piece of an image after the other.

    Images are read, normalised, padded by reflection to the size multiple and cut into pieces of at most 256 pixels, as
    for ``keygraph compare``. Polygraphy's own `DataLoader` generates noise, for which these networks were not trained,
    gives every dynamic size the same default, and does not know the range of k.

    Parameters
    ----------
    models
        Specifications of all models that run on these inputs, see `sides.spec.parse_spec`; the inputs suit all of them.
    images
        Image files or arrays, as `parity.compare` takes them; empty: a generated picture.
    k
        Neighbours of each node; None for the k that a file fixes, else the default of the last model.

    Raises
    ------
    InputError
        When iterated: a model or an image cannot be read, or a model does not take this k.
    """

    def __init__(
        self,
        models: Sequence[str | os.PathLike[str] | ModelSpec],
        images: Sequence[InputLike] = (),
        k: int | None = None,
    ) -> None:
        if not models:
            raise InputError("there is no model to feed; give at least one")
        self._models, self._images, self._k = models, images, k

    def __iter__(self) -> Iterator[FeedDict]:
        """Yield {"image": float32[B, C, H, W], the extra inputs, "k": int64[1] where there is one}."""
        manifests = [manifest_of(model) for model in self._models]
        needs = demands(*manifests)
        number = common_k([(str(model), one) for model, one in zip(self._models, manifests, strict=True)], self._k)
        names = (IMAGE_INPUT, *(extra.name for extra in needs.manifest.extra_inputs))
        for image in read_inputs(self._images, needs):
            for line in image.notices:
                warn(f"{image.name}: {line}")
            for (images, *extras), _corner in pieces(image, needs):
                # A file with a fixed shape takes one image, repeated to fill its batch.
                batches = [images] if needs.shape is None else [plane[None] for plane in images]
                batch_size = 1 if needs.shape is None else needs.shape[0]
                for batch in batches:
                    tensors = (np.repeat(one, batch_size, axis=0) for one in (batch, *extras))
                    feed: FeedDict = OrderedDict(zip(names, tensors, strict=True))
                    if number is not None:
                        feed[K_INPUT] = np.array([number], np.int64)
                    yield feed
