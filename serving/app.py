"""The application: what is answered at each address."""

from __future__ import annotations

import hmac
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from ..errors import InputError, printable
from ..runtime.restore_options import RestoreOptions
from ..runtime.restorer import Restorer
from ..version import version
from . import uploads
from .delivery import Delivery
from .errors import ClientGoneError, RequestError
from .middleware import Frame
from .page_files import add_page
from .pictures import FORMATS
from .queue import Place, Queue
from .restoring import Order, Result, restore
from .settings import Settings

#: Status without a body for a client that is gone; nobody gets it.
_CLIENT_GONE = 499

_CODES = {404: "not_found", 405: "method_not_allowed"}

#: Parameter -> what it may be.
_CHOICES = {
    "k": "a whole number from 1 on",
    "tile": "pixels, or none or auto",
    "format": f"one of {', '.join(FORMATS)}",
}


class Parameters(BaseModel):
    """The parameters of a request to restore."""

    model_config = ConfigDict(extra="forbid")

    k: int | None = Field(None, ge=1, le=2**31 - 1, description="Neighbours of each node; by default the model's own.")
    tile: Annotated[int, Field(ge=1, le=2**31 - 1)] | Literal["none", "auto"] = Field(
        "auto", description="Side of the tiles in pixels; none: the whole image at once."
    )
    format: Literal["png", "jpeg", "tiff", "webp"] | None = Field(
        None, description="Format of the result; by default the image's, or png where that is only read."
    )


class ErrorDetail(BaseModel):
    """Why a request was refused."""

    code: str = Field(description="For programs.")
    message: str = Field(description="One line for people.")


class ErrorBody(BaseModel):
    """What every refused request gets."""

    error: ErrorDetail


class Range(BaseModel):
    """Values of k."""

    default: int
    smallest: int
    largest: int


class Limits(BaseModel):
    """What a request may bring."""

    bytes: int
    pixels: int


class Model(BaseModel):
    """What the service runs, and what it takes."""

    name: str
    architecture: str
    task: str
    scale: int
    in_channels: int
    out_channels: int
    k: Range | None
    limits: Limits
    provider: str
    needs_api_key: bool


class Status(BaseModel):
    """Health or readiness."""

    status: str


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody} for status in statuses}


_BINARY = {"schema": {"type": "string", "format": "binary"}}

_RESTORED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The restored image.",
        "content": {one.media: _BINARY for one in FORMATS.values()},
        "headers": {
            "X-Keygraph-Notices": {
                "description": "JSON list of lines: everything that was lost, or done otherwise than asked.",
                "schema": {"type": "string"},
            },
            "X-Keygraph-Seconds": {
                "description": "Time of the restoration, without decoding and encoding.",
                "schema": {"type": "number"},
            },
        },
    }
}

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {uploads.FIELD: {"type": "string", "format": "binary"}},
                    "required": [uploads.FIELD],
                    "additionalProperties": False,
                }
            },
            **dict.fromkeys((*(one.media for one in FORMATS.values()), "application/octet-stream"), _BINARY),
        },
    }
}


def make_app(restorer: Restorer, name: str, queue: Queue, settings: Settings) -> ASGIApp:
    """Return the application of a service.

    Parameters
    ----------
    restorer
        The model.
    name
        What it is called.
    queue
        Where requests wait; closed with the application.
    settings
        Limits and the key.
    """
    model = _model(restorer, name, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        queue.close()

    app = FastAPI(
        title="keygraph",
        summary="Restores images.",
        version=version(),
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # These pages load scripts from other hosts.
        redoc_url=None,
    )
    key = [Depends(_key_check(settings.api_key))] if settings.api_key is not None else []
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _failed)

    @app.post(
        "/v1/restore",
        response_class=Response,
        responses={**_RESTORED, **_errors(400, 401, 408, 413, 415, 422, 429, 500, 503, 504, 507)},
        openapi_extra=_BODY,
        dependencies=key,
        operation_id="restore",
    )
    async def restore_image(request: Request, parameters: Annotated[Parameters, Query()]) -> Response:
        """Restore an image: the body, or the field `image` of a form. The answer is the restored image."""
        began = time.perf_counter()
        _check_once(request)
        options = RestoreOptions(parameters.k, tile=parameters.tile, batch=settings.max_batch)
        try:
            options.check(restorer.manifest)
        except InputError as error:
            raise RequestError(422, "invalid_parameter", str(error)) from error
        place = queue.accept()
        try:
            result = await _restored(request, place, options, parameters.format)
        except ClientGoneError:
            queue.metrics.refused.labels("client_gone").inc()
            place.release()
            return Response(status_code=_CLIENT_GONE)
        except BaseException:
            place.release()
            raise
        queue.metrics.pixels.inc(result.pixels)
        queue.metrics.restore_seconds.observe(result.seconds)

        def delivered(complete: bool) -> None:
            place.release()
            if complete:
                queue.metrics.request_seconds.observe(time.perf_counter() - began)
                queue.metrics.sent.inc(result.size)
            else:
                queue.metrics.refused.labels("client_gone").inc()

        return Delivery(result, settings.timeout, delivered)

    async def _restored(request: Request, place: Place, options: RestoreOptions, format_: str | None) -> Result:
        upload = place.folder / "upload"
        received = await uploads.receive(request, upload, settings.max_bytes, settings.timeout)
        queue.metrics.received.inc(received)
        order = Order(upload, replace(options, scratch=place.folder), format_, settings.max_pixels)
        result = await place.run(partial(restore, restorer, order), partial(_gone, request), settings.timeout)
        queue.worked(result.seconds)
        return result

    @app.get("/v1/model", responses=_errors(500), operation_id="model")
    async def describe_model() -> Model:
        """Describe the model, and what the service takes."""
        return model

    @app.get("/healthz", responses=_errors(500), operation_id="health")
    async def health() -> Status:
        """Tell that the process answers."""
        return Status(status="ok")

    @app.get("/readyz", responses=_errors(500, 503), operation_id="readiness")
    async def readiness() -> Status:
        """Tell whether requests to restore are accepted: not while the service is being stopped."""
        if queue.stopping:
            raise RequestError(503, "stopping", "the service is being stopped")
        return Status(status="ready")

    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses=_errors(401, 500),
        dependencies=key,
        operation_id="metrics",
    )
    async def metrics() -> Response:
        """Return the metrics in the format of Prometheus."""
        return Response(generate_latest(queue.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    add_page(app)
    # Not as a middleware, because answers to unexpected failures pass by those.
    return Frame(app, queue.metrics, settings.api_key is not None, settings.host)


def _model(restorer: Restorer, name: str, settings: Settings) -> Model:
    manifest, k = restorer.manifest, restorer.manifest.neighbours
    if k is None:
        values = None
    else:
        smallest, largest = (1, k.maximum) if k.runtime else (k.default, k.default)
        values = Range(default=k.default, smallest=smallest, largest=largest)
    return Model(
        name=name,
        architecture=manifest.architecture,
        task=manifest.task,
        scale=manifest.scale,
        in_channels=manifest.in_channels,
        out_channels=manifest.out_channels,
        k=values,
        limits=Limits(bytes=settings.max_bytes, pixels=settings.max_pixels),
        provider=restorer.description,
        needs_api_key=settings.api_key is not None,
    )


async def _gone(request: Request) -> None:
    """Return when the client has closed its connection; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _check_once(request: Request) -> None:
    """Check that no parameter is given twice, since one of its values would count for nothing."""
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if names.count(name) > 1:
            raise RequestError(422, "invalid_parameter", f"{printable(name)} is given {names.count(name)} times")


def _key_check(expected: str) -> Callable[..., Any]:
    """Return the dependency of requests that need a key."""

    async def check(
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
        header: Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False))],
    ) -> None:
        given = header if header is not None else bearer.credentials if bearer is not None else ""
        if not hmac.compare_digest(given.encode(), expected.encode()):
            raise RequestError(
                401,
                "unauthorized",
                "this service needs a key; send it as the header X-API-Key, or as Authorization: Bearer",
                {"WWW-Authenticate": "Bearer"},
            )

    return check


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    request.scope["keygraph.code"] = error.code
    return JSONResponse(error.body, error.status, error.headers)


async def _invalid(request: Request, error: Exception) -> Response:
    """Answer parameters that FastAPI refuses, with the first fault."""
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    name = printable(str(fault["loc"][1])) if len(fault["loc"]) > 1 else "the request"
    if fault["type"] == "extra_forbidden":
        message = f"there is no parameter {name}; the parameters are {', '.join(Parameters.model_fields)}"
    elif name in _CHOICES:
        message = f"{name} is {fault['input']!r}; give {_CHOICES[name]}"
    else:
        message = f"{name} is {fault['input']!r}: {fault['msg']}"
    return await _refused(request, RequestError(422, "invalid_parameter", message))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "bad_request")
    what = f"{request.method} {request.url.path}" if error.status_code in _CODES else error.detail
    message = {404: f"there is nothing at {request.url.path}", 405: f"{what} is not possible here"}.get(
        error.status_code, str(what)
    )
    return await _refused(request, RequestError(error.status_code, code, message, error.headers))


async def _failed(request: Request, error: Exception) -> Response:
    return await _refused(
        request, RequestError(500, "internal", "the service failed on this request; its log has the reason")
    )
