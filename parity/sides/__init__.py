"""The sides of a comparison: models opened as probes, whether they run in PyTorch, in ONNX Runtime or as an engine."""
