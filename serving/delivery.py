"""Sending a result from its file, without holding it in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .restoring import Result

_CHUNK = 1 << 18

#: Most characters of the notices: proxies limit what the headers of an answer may take.
_MOST_NOTICES = 3072


class Delivery(Response):
    """An answer that is a result.

    Parameters
    ----------
    result
        The result.
    seconds
        Most seconds that the client may take.
    delivered
        Called at the end with whether all of it was sent.
    """

    def __init__(self, result: Result, seconds: float, delivered: Callable[[bool], None]) -> None:
        self._result, self._seconds, self._delivered = result, seconds, delivered
        super().__init__(
            headers={
                "Content-Length": str(result.size),
                "X-Keygraph-Notices": as_header(result.notices),
                "X-Keygraph-Seconds": f"{result.seconds:g}",
                "Cache-Control": "no-store",
            },
            media_type=result.media,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the result. Where the client is too slow, the connection is closed before its announced end."""
        complete = False
        try:
            with anyio.move_on_after(self._seconds):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async with await anyio.open_file(self._result.file, "rb") as file:
                    chunk = await file.read(_CHUNK)
                    while chunk:
                        following = await file.read(_CHUNK)
                        await send({"type": "http.response.body", "body": chunk, "more_body": bool(following)})
                        chunk = following
                complete = True
        finally:
            self._delivered(complete)


def as_header(notices: Sequence[str]) -> str:
    """Return notices as a JSON list in ASCII; where they are too long for a header, it ends with how many are left."""
    kept = len(notices)
    text = json.dumps(list(notices))
    while len(text) > _MOST_NOTICES:
        kept -= 1
        text = json.dumps([*notices[:kept], f"and {len(notices) - kept} more"])
    return text
