"""Measuring tools for export, parity and bench: exposed tensors, key graphs, image metrics, synthetic images."""
