"""A web page that shows what an export found in a network of unknown architecture."""

from .page import write_page

__all__ = ["write_page"]
