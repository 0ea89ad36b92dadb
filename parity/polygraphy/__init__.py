"""Polygraphy integration for keygraph's artifacts: loaders, runners, data loaders and comparison functions.

Loaders are small callables, ``<Target>From<Source>``; runners go into `Comparator.run`, comparison functions into
`Comparator.compare_accuracy`. ``keygraph compare ... --emit-polygraphy script.py`` writes a script of them, and
`arguments` adds the runners to the command ``polygraphy run``.

Importing this package imports neither PyTorch nor TensorRT; each is imported where it is used.
"""

from .compare_func import ImageCompareFunc, ImageResult, ImageThreshold
from .inputs import FeedDictsFromImages
from .onnx_runtime import SessionFromExported

__all__ = [
    "FeedDictsFromImages",
    "ImageCompareFunc",
    "ImageResult",
    "ImageThreshold",
    "SessionFromExported",
]
