"""Checkpoint -> portable ONNX: tracing, operators as functions, precision, verification."""

from .exporter import export

__all__ = ["export"]
