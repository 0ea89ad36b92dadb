"""Devices: naming one, querying its driver, calling CUDA, host memory, and transfers that overlap with computation."""
