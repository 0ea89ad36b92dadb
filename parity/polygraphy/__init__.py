"""Polygraphy for keygraph's artifacts: loaders, runners, inputs and comparisons, in Polygraphy's own manner.

Loaders are small callables, ``<Target>From<Source>``; runners go into `Comparator.run`, comparison functions into
`Comparator.compare_accuracy`. ``keygraph compare ... --emit-polygraphy script.py`` writes a script of them, and
`arguments` adds the runners to the command ``polygraphy run``.

Importing this imports neither PyTorch's models nor a TensorRT: each is needed only where it is used.
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
