"""What every answer has: headers for browsers, a check of the host, and a count."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .metrics import Metrics

_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]

#: Addresses that are counted by their names; all others together, since clients choose them.
_PATHS = ("/", "/v1/restore", "/v1/model", "/healthz", "/readyz", "/metrics", "/openapi.json")

_METHODS = ("GET", "HEAD", "POST")


class Frame:
    """Wraps an application.

    Parameters
    ----------
    app
        The application.
    metrics
        Counts answers and refusals.
    any_host
        False to answer only to names of the loopback interface, and not to pages of other sites. Without a key, such a
        page could else let the service compute, or read its answers through a name of its own that it lets point to
        this machine.
    host
        A further name to answer to.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, any_host: bool, host: str) -> None:
        self._app, self._metrics, self._any_host = app, metrics, any_host
        self._names = {"localhost", "127.0.0.1", "::1", host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
                self._count(scope, message["status"])
            await send(message)

        refusal = None if self._any_host else self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, framed)
            return
        body = json.dumps({"error": {"code": refusal[1], "message": refusal[2]}}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await framed({"type": "http.response.start", "status": refusal[0], "headers": headers})
        await framed({"type": "http.response.body", "body": body})

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        """Return status, code and message for a request that may come from a page of another site."""
        given = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not self._is_ours(f"//{given.get(b'host', '')}"):
            return 421, "unknown_host", f"this service answers to {', '.join(sorted(self._names))} only"
        origin = given.get(b"origin")
        foreign = given.get(b"sec-fetch-site") == "cross-site" or (origin is not None and not self._is_ours(origin))
        if foreign and scope["method"] not in ("GET", "HEAD"):  # A link to the page is no harm.
            return 403, "foreign_origin", "without a key, this service restores nothing for pages of other sites"
        return None

    def _is_ours(self, address: str) -> bool:
        try:
            return urlsplit(address).hostname in self._names
        except ValueError:
            return False

    def _count(self, scope: Scope, status: int) -> None:
        path = scope["path"] if scope["path"] in _PATHS else "other"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(path, method, str(status)).inc()
        if code := scope.get("keygraph.code"):
            self._metrics.refused.labels(code).inc()
