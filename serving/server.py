"""Running a service until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable
from types import FrameType

import numpy as np
import uvicorn

from ..errors import InputError, KeygraphError, printable
from ..manifest import Manifest
from ..runtime.preprocess.request import input_names
from ..runtime.restorer import Restorer
from .app import make_app
from .metrics import Metrics
from .queue import Queue
from .settings import Settings

#: Seconds that the server has after the grace time to send its last answers.
_LAST_ANSWERS = 5


class _Server(uvicorn.Server):
    """uvicorn's server, which tells the queue when it is stopped, and ends with exit code 0."""

    def __init__(self, config: uvicorn.Config, queue: Queue, grace: float) -> None:
        super().__init__(config)
        self._queue, self._grace = queue, grace
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._queue.stop, self._grace)


def serve(
    restorer: Restorer, name: str, settings: Settings, notice: Callable[[str], None], *, access_log: bool = True
) -> None:
    """Serve until SIGTERM or SIGINT; then finish what was accepted. A second signal ends that.

    Parameters
    ----------
    restorer
        The model.
    name
        What it is called.
    settings
        Where the service listens, and what it accepts.
    notice
        Called with the address, and with what is unusual about the end.
    access_log
        Whether each request is logged.

    Raises
    ------
    InputError
        The model takes more than an image, or the address cannot be used.
    KeygraphError
        The model fails on a first, small image; or the service ended before all accepted requests were finished.
    """
    if others := input_names(restorer.manifest):
        raise InputError(
            f"this model takes {' and '.join(others)} beside the image, which a request does not bring; restore files "
            "with: keygraph restore"
        )
    with contextlib.closing(_listening(settings)) as listening:
        # Whatever an engine prepares in its first run, no client waits for. A model that does not run ends here.
        restorer.restore(first_image(restorer.manifest), batch=settings.max_batch)
        threads = restorer.usual_in_flight
        if settings.max_batch is not None:
            threads = min(threads, 2 * settings.max_batch)
        queue = Queue(threads, settings.queue, settings.scratch, Metrics())
        try:
            config = uvicorn.Config(
                make_app(restorer, name, queue, settings),
                log_level="info" if access_log else "warning",
                access_log=access_log,
                timeout_graceful_shutdown=int(settings.grace) + _LAST_ANSWERS,
                server_header=False,
                lifespan="on",
                ws="none",
                proxy_headers=False,
            )
            host, port = listening.getsockname()[:2]
            notice(f"serving {printable(name)} at http://{f'[{host}]' if ':' in host else host}:{port}/")
            _Server(config, queue, settings.grace).run([listening])
        finally:
            queue.close()
    unfinished = KeygraphError("the service ended before all accepted requests were finished; give a longer --grace")
    if not queue.idle:
        # A run of a model cannot be interrupted, and Python would wait for its thread.
        print(f"error: {unfinished}", file=sys.stderr, flush=True)
        os._exit(unfinished.exit_code)
    if queue.cut_short:
        raise unfinished


def first_image(manifest: Manifest) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """Return the smallest image that a model takes, a gradient."""
    rows, columns = (manifest.least_side,) * 2 if manifest.shape is None else manifest.shape[1:]
    down, across = rows + manifest.margin[0], columns + manifest.margin[1]
    values = np.linspace(0, 255, down * across).astype(np.uint8).reshape(down, across, 1)
    return np.repeat(values, manifest.in_channels, axis=2)


def _listening(settings: Settings) -> socket.socket:
    """Return a socket at the address of the settings."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except OSError:
            made.close()
            raise
    except (OSError, UnicodeError) as error:  # A name that is no name of a host, such as "..".
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"cannot listen at {settings.host}, port {settings.port}: {reason}; choose another --port or --host"
        ) from error
    return made
