"""Model repositories for NVIDIA's Triton Inference Server, which has nothing to do with the language Triton.

`repository` writes one; the server imports `image_model` from it. No module here is needed to restore images elsewhere.
"""
