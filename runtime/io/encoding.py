"""How a result is encoded in its file: compression, and the levels of a pyramid."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError

#: Compressions that a user can ask for. All but the last are lossless.
COMPRESSIONS = ("none", "deflate", "lzw", "zstd", "jpeg")


@dataclass(frozen=True)
class Encoding:
    """How a result is encoded.

    Attributes
    ----------
    compression
        One of `COMPRESSIONS`; None for the format's default.
    pyramid
        True to write the levels of a pyramid: copies of half the size, of a quarter, and so on. False to write them
        only where the source has them.

    Raises
    ------
    InputError
        The compression is not in `COMPRESSIONS`.
    """

    compression: str | None = None
    pyramid: bool = False

    def __post_init__(self) -> None:
        if self.compression is not None and self.compression not in COMPRESSIONS:
            raise InputError(f"compression is {self.compression!r}; choose one of {', '.join(COMPRESSIONS)}")

    @property
    def asked(self) -> str:
        """The options that differ from the defaults, as on the command line; empty where none does."""
        words = [] if self.compression is None else [f"--compression {self.compression}"]
        return " and ".join(words + (["--pyramid"] if self.pyramid else []))


#: Every format as it is written by default.
DEFAULT = Encoding()
