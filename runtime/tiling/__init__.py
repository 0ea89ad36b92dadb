"""Tiles: their size, how they are cut and blended, and exact tiled inference."""
