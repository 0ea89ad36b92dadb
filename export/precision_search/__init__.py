"""Search for the fewest blocks in FP32 that bring a half-precision file to a target PSNR."""
