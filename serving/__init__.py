"""Services around restored models: over HTTP, with FastAPI in uvicorn, and for the Triton Inference Server (`triton/`).

Over HTTP, decoding, restoring and encoding run in threads, never in the event loop. What a request costs is bounded:
its bytes go to a file, its size is read before it is decoded, and only so many requests are accepted at a time.
"""
