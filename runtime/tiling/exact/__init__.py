"""Exact tiled inference: networks that sum over the whole image, run tile by tile with the whole image's result."""
