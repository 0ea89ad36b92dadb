"""ONNX -> engine: targets, profiles, lint, build, cache. Needs `onnx` and TensorRT or TensorRT-RTX, and no PyTorch."""
