"""An ONNX file without running it: structure, manifest, digest, and the protobuf message where onnx is installed."""

from .structure import OnnxFile as OnnxFile
from .structure import load_onnx as load_onnx
from .structure import read_onnx as read_onnx
from .structure import read_onnx_file as read_onnx_file
