"""What a request is refused with: a status, a code for programs, and one line for people."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import DiskFullError, InputError, KeygraphError, MissingDependencyError, printable
from ..runtime.errors import ClosedError, NotFiniteError, SessionMemoryError
from ..runtime.restore_plan import OptionError


class RequestError(Exception):
    """A request that gets no image.

    Parameters
    ----------
    status
        HTTP status.
    code
        Short name of the reason, for programs.
    message
        One line: the fact, then what to do.
    headers
        Further headers of the response.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, printable(message)
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, dict[str, str]]:
        """The response as JSON values."""
        return {"error": {"code": self.code, "message": self.message}}


class ClientGoneError(Exception):
    """The client closed its connection before it had its result."""


#: Kind of failure -> status and code; the first that fits counts.
_FAILURES: tuple[tuple[type[BaseException], int, str], ...] = (
    (OptionError, 422, "invalid_parameter"),
    (DiskFullError, 507, "disk_full"),
    (MissingDependencyError, 415, "unsupported_image"),
    (InputError, 422, "invalid_image"),
    (NotFiniteError, 422, "not_finite"),
    (SessionMemoryError, 503, "out_of_memory"),
    (MemoryError, 503, "out_of_memory"),
    (ClosedError, 503, "stopping"),
    (KeygraphError, 500, "model_failed"),
)


def no_space() -> RequestError:
    """Return the refusal of a service whose disk is full."""
    return RequestError(507, "disk_full", "the service has no space left for the image; try again later")


def refusal(error: BaseException, names: Mapping[str, str]) -> RequestError:
    """Return what a failed restoration is answered with.

    Parameters
    ----------
    error
        Why it failed.
    names
        Paths of this machine -> what they are for the client, who must not see them.

    Raises
    ------
    BaseException
        The error itself, where it is no failure that is known.
    """
    for kind, status, code in _FAILURES:
        if isinstance(error, kind):
            later = {"Retry-After": "10"} if status in (503, 507) else None
            return RequestError(status, code, for_clients(str(error) or "out of memory", names), later)
    raise error


def for_clients(message: str, names: Mapping[str, str]) -> str:
    """Return a message with names for clients in the place of this machine's paths; see `refusal`."""
    for path, name in names.items():
        message = message.replace(path, name)
    # "FILE: the image holds NaN" has the name of the image twice now.
    return message.removeprefix("the image: ") if message.startswith("the image: the image ") else message
