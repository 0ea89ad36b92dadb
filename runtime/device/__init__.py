"""Devices: naming one, asking its driver, its memory, and transfers beside computation."""
