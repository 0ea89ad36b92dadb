"""Where a difference starts and what explains it: blocks, tiles, known error patterns."""
