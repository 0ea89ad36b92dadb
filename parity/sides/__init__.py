"""The sides of a comparison: PyTorch, an ONNX file, or an engine behind one protocol."""
