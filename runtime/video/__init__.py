"""Restore videos frame by frame: files through PyAV (libav), and YUV4MPEG2 streams through pipes without it."""
