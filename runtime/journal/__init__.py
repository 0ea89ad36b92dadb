"""Restorations that survive being stopped: what is done of one is kept on disk, and the same command goes on there."""
