"""A service over HTTP that restores images: FastAPI in uvicorn, with a bounded queue, limits and metrics.

Decoding, restoring and encoding run in threads, never in the event loop. What a request costs is bounded: its bytes go
to a file, its size is read before it is decoded, and only so many requests are accepted at a time.
"""
