"""Metrics of a comparison: of images, of selected key graphs, of block outputs."""
