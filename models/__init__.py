"""The networks in PyTorch, and reading their checkpoints."""

from .checkpoint import LoadedModel, load_checkpoint, save_checkpoint
from .enhance import enhance
from .registry import ARCHITECTURES

__all__ = ["ARCHITECTURES", "LoadedModel", "enhance", "load_checkpoint", "save_checkpoint"]
