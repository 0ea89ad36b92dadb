"""Where a difference is and what explains it: blocks, tiles, known error patterns."""
