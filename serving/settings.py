"""How a service is set up: where it listens, what it accepts, and who may use it."""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError

#: Environment variable with the key that requests need.
KEY_VARIABLE = "KEYGRAPH_API_KEY"

#: Longest time that an option may ask for, in seconds: a week.
_LONGEST = 7 * 24 * 3600


@dataclass(frozen=True)
class Settings:
    """The settings of a service.

    Attributes
    ----------
    host, port
        Where it listens; port 0 for any that is free.
    api_key
        What requests must bring; None for none, which only the loopback interface allows.
    max_bytes
        Largest image file in bytes.
    max_pixels
        Largest image in pixels.
    queue
        Requests that are accepted at a time: uploaded, waiting, restored and downloaded. Others are refused.
    timeout
        Most seconds for each of the three steps of a request: upload, restoration with the wait for it, download.
    grace
        Seconds in which accepted requests may finish when the service is stopped.
    max_batch
        Most images or tiles that run together; None for the model's choice.
    scratch
        Folder for uploads, results and what large pictures need; None for the system's temporary folder.

    Raises
    ------
    InputError
        A number is not possible, or another host than the loopback interface has no key.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    max_bytes: int = 64 * 2**20
    max_pixels: int = 50_000_000
    queue: int = 64
    timeout: float = 300.0
    grace: float = 30.0
    max_batch: int | None = None
    scratch: Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise InputError(f"--port is {self.port}; give a number from 1 to 65535, or 0 for any that is free")
        for name in ("max_bytes", "max_pixels", "queue", "max_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name.replace('_', '-')} is {value}; give at least 1")
        for name, least in (("timeout", 0.001), ("grace", 0.0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and least <= value <= _LONGEST):
                raise InputError(f"--{name} is {value:g}; give seconds, from {least:g} to {_LONGEST}")
        if self.scratch is not None and not self.scratch.is_dir():
            raise InputError(f"--scratch is {self.scratch}, which is no folder; make it first, or name another")
        if not self.is_loopback and self.api_key is None:
            raise InputError(
                f"--host {self.host} is reached from other machines, so requests must bring a key; set {KEY_VARIABLE}, "
                "or name a file that holds it with --api-key-file"
            )

    @property
    def is_loopback(self) -> bool:
        """True where only this machine reaches the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_api_key(file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the key from a file, or else from the environment; None where neither has one.

    Raises
    ------
    InputError
        The file cannot be read, or the key is empty or is no single word of ASCII.
    """
    if file is not None:
        try:
            text = file.read_bytes()[:4096].decode("ascii", "replace")
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror}; give a file that holds the key") from error
        where = str(file)
    elif KEY_VARIABLE in environment:
        text, where = environment[KEY_VARIABLE], KEY_VARIABLE
    else:
        return None
    key = text.strip()
    if not key or not all("!" <= char <= "~" for char in key):
        raise InputError(f"{where} holds no key: it must be one word of ASCII; make one with: openssl rand -hex 32")
    return key
