"""The GPU kernels, one text for every host, and the variants of them that exist. Needs Triton."""
