"""Receiving an image into a file, from the body of a request or from a field of a form, with a limit on its bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.to_thread
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from ..files import FULL
from .errors import ClientGoneError, RequestError, no_space

#: The field of a form that holds the image.
FIELD = "image"

#: Bytes that are kept in memory before they are written to the file.
_BUFFER = 1 << 20

#: Bytes that a form may have beside the image: boundaries and headers.
_FORM_BYTES = 1 << 16

#: A length with more digits is not looked at.
_MOST_DIGITS = 18

#: Types of a body that is the image itself.
RAW_TYPES = ("application/octet-stream", "image/")


class _Sink:
    """A file with a limit on its bytes, written in a thread. `take` is for callbacks, `flush` for the event loop."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most, self._waiting = file, most, bytearray()
        self.size = 0

    def take(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self._most:
            raise too_large(self._most)
        self._waiting += data

    async def flush(self, *, all_of_it: bool = False) -> None:
        if len(self._waiting) > (0 if all_of_it else _BUFFER):
            data, self._waiting = self._waiting, bytearray()
            await anyio.to_thread.run_sync(self._file.write, data)


class _Form:
    """Takes the image out of a form, of which nothing else is kept."""

    def __init__(self, boundary: bytes, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._field, self._value, self._disposition = bytearray(), bytearray(), b""
        self.images, self.complete = 0, False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                "on_header_end": self._header,
                "on_headers_finished": self._headers,
                "on_part_data": lambda data, start, end: self._take(data[start:end]),
                "on_end": self._end,
            },
        )

    def write(self, data: bytes) -> None:
        self._parser.write(data)

    def _begin(self) -> None:
        self._disposition = b""

    def _header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def _headers(self) -> None:
        name = parse_options_header(self._disposition)[1].get(b"name", b"").decode("utf-8", "replace")
        if name != FIELD:
            raise RequestError(400, "malformed_form", f"the form has a field {name!r}; give the field {FIELD} alone")
        self.images += 1
        if self.images > 1:
            raise RequestError(400, "malformed_form", f"the form has two fields {FIELD}; send one image at a time")

    def _end(self) -> None:
        self.complete = True


def too_large(most: int) -> RequestError:
    """Return the refusal of a file with too many bytes."""
    return RequestError(413, "too_many_bytes", f"the image has more than {most:,} bytes, the most that is accepted")


async def receive(request: Request, target: Path, most: int, seconds: float) -> int:
    """Write the image of a request to a file, and return its bytes.

    Parameters
    ----------
    request
        Its body is the image, or a form with the field ``image``.
    target
        The file, which is made.
    most
        Most bytes of the image.
    seconds
        Most seconds that this may take.

    Raises
    ------
    RequestError
        The body is of another type, damaged, empty, too large or too slow.
    ClientGoneError
        The client closed the connection.
    """
    boundary = _boundary(request)
    limit = most + (0 if boundary is None else _FORM_BYTES)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > _MOST_DIGITS or int(declared) > limit):
        raise too_large(most)
    try:
        with anyio.fail_after(seconds):
            async with _opened(target) as file:
                size = await _write(request, _Sink(file, most), boundary, limit, most)
    except TimeoutError:
        raise RequestError(408, "upload_timed_out", f"the upload took more than {seconds:g} s; try again") from None
    except ClientDisconnect:
        raise ClientGoneError from None
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise no_space() from error
    if size == 0:
        raise RequestError(400, "empty_image", "the image is empty (0 bytes); send a PNG, JPEG, TIFF or WebP file")
    return size


@asynccontextmanager
async def _opened(target: Path) -> AsyncIterator[BinaryIO]:
    file = await anyio.to_thread.run_sync(lambda: target.open("wb"))
    try:
        yield file
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(file.close)


def _boundary(request: Request) -> bytes | None:
    """Return the boundary of a form, or None where the body is the image; refuse other types."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(415, "unsupported_encoding", "the body has a Content-Encoding; send the image file as it is")
    kind, options = parse_options_header(request.headers.get("content-type"))
    media = kind.decode("latin-1")
    if media == "multipart/form-data":
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise RequestError(400, "malformed_form", "the form's Content-Type has no boundary; let the client set it")
        return boundary
    if not media or media.startswith(RAW_TYPES):
        return None
    raise RequestError(
        415,
        "unsupported_media_type",
        f"the Content-Type is {media}; send an image as image/png, image/jpeg, image/tiff, image/webp or "
        f"application/octet-stream, or a form (multipart/form-data) with the field {FIELD}",
    )


async def _write(request: Request, sink: _Sink, boundary: bytes | None, limit: int, most: int) -> int:
    """Write the body, or the image of a form; return the image's bytes."""
    received = 0
    try:
        form = None if boundary is None else _Form(boundary, sink.take)
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                raise too_large(most)
            if form is None:
                sink.take(chunk)
            elif chunk:
                form.write(chunk)
            await sink.flush()
    except FormParserError as error:
        raise RequestError(400, "malformed_form", f"the form is damaged ({error}); send it again") from None
    if form is not None and not form.complete:
        raise RequestError(400, "malformed_form", "the form is cut off: its last boundary is missing; send it again")
    if form is not None and form.images == 0:
        raise RequestError(400, "malformed_form", f"the form has no field {FIELD}; give the image in it")
    await sink.flush(all_of_it=True)
    return sink.size
