"""Services around restored models."""
