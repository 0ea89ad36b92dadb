"""The page for browsers: the files of the folder ``page``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles

FOLDER = Path(__file__).parent / "page"


def add_page(app: FastAPI) -> None:
    """Answer ``/`` with the page, and the addresses of its other files, each by a route of its own.

    A folder at ``/`` would take every address, also those that exist for other methods, which are answered with 405.
    """
    files = StaticFiles(directory=FOLDER)

    async def send(request: Request, name: str) -> Response:
        response = await files.get_response(name, request.scope)
        # Browsers ask whether it has changed: the files of two versions do not fit together.
        response.headers["Cache-Control"] = "no-cache"
        return response

    for file in FOLDER.iterdir():
        if file.is_file():
            address = "/" if file.name == "index.html" else f"/{file.name}"
            app.add_route(address, partial(send, name=file.name), methods=["GET"], include_in_schema=False)
