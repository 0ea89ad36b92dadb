"""The GPU kernels, one source for every host, and their variants. Needs Triton."""
