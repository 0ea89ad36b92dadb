"""A PyTorch module that runs the nodes of an ONNX file of a network that maps images to images."""

from __future__ import annotations

from torch import Tensor

from ...models.onnx_graph.network import NodeError, OnnxModule
from .file import ForeignOnnx


class ImportedNetwork(OnnxModule):
    """A network that an ONNX file describes.

    Parameters
    ----------
    source
        The file.
    """

    def __init__(self, source: ForeignOnnx) -> None:
        super().__init__(source.model, source.opset, [source.image], source.restored)
        #: (B, C, H, W) that the file takes; None for dynamic sizes.
        self.shape = source.shape

    def forward(self, image: Tensor) -> Tensor:
        """Restore an image batch float32[B, C, H, W].

        Raises
        ------
        NodeError
            The image does not suit the file, or a node fails.
        """
        for what, size, wanted in zip(("channels", "height", "width"), image.shape[1:], self.shape[1:], strict=True):
            if wanted is not None and size != wanted:
                raise NodeError(
                    f"the file takes {wanted} {what} only" if what == "channels" else f"its {what} is {wanted}"
                )
        return self.compute(image)
