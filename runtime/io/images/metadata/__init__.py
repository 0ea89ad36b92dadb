"""Metadata of picture files: read from one container, brought up to date, and written into another.

libvips encodes samples and colour profiles alone. Its own copies of EXIF, resolution and text add what the source never
said and damage texts, so everything else is read and written here.
"""
