"""The networks in PyTorch, and reading their checkpoints."""

from .checkpoint import LoadedModel, load_checkpoint, save_checkpoint
from .registry import ARCHITECTURES

__all__ = ["ARCHITECTURES", "LoadedModel", "load_checkpoint", "save_checkpoint"]
