"""Comparison of PyTorch modules of any kind with what was made from them."""
