"""Files of images and spectral cubes, read and written whole or by regions."""
