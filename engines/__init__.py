"""Build engines from ONNX files: targets, profiles, lint, cache. Needs onnx and a TensorRT, but no PyTorch."""
