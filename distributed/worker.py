"""The actor: a process with a session, which restores images and parts of large ones."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from .. import load
from ..errors import InputError, KeygraphError, printable
from ..runtime.companion_files import content_digest
from ..runtime.device.spec import Device
from ..runtime.journal.part_file import Part, write_part
from ..runtime.preprocess.request import Request
from ..runtime.reports import Report
from ..runtime.restore_files import restore_recorded
from ..runtime.restore_job import RestoreJob
from ..runtime.restorer import Restorer
from ..runtime.tiling.run import restored_tiles
from ..runtime.tiling.tile_size import TileChoice
from ..version import version

Value = TypeVar("Value")


@dataclass(frozen=True)
class Setup:
    """What every worker is started with.

    Attributes
    ----------
    version
        Version of keygraph that the driver runs.
    folder
        The driver's working directory, to which relative paths belong.
    model, digest
        The model's file as it was named, and `content_digest` of it.
    options
        Keyword arguments of `keygraph.load`.
    """

    version: str
    folder: Path
    model: Path
    digest: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Probe:
    """A file by which a worker shows that it sees the driver's files.

    Attributes
    ----------
    file, token
        A file in the folder of the results, and its content.
    image
        One of the images.
    """

    file: Path
    token: str
    image: Path


@dataclass(frozen=True)
class Description:
    """The session of a worker, as far as the driver must know it; the attributes are those of `Restorer` and `Session`.

    Attributes
    ----------
    manifest
        The model's manifest as JSON.
    description, content
        What runs, and SHA-256 of the model's content.
    device, streams, runs_library
        What memory is estimated from.
    """

    manifest: str
    description: str
    content: str
    device: Device
    streams: int
    runs_library: bool


@dataclass(frozen=True)
class Outcome(Generic[Value]):
    """What a call of a worker gave.

    Attributes
    ----------
    value
        What it returned; None where it failed.
    error
        What it raised.
    notices
        Lines for the user.
    """

    value: Value | None
    error: Exception | None
    notices: tuple[str, ...]

    def result(self) -> Value:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value


class Worker:
    """Restores what the driver gives it, as a Ray actor with two threads.

    One image is decoded or encoded while another one is computed.

    Parameters
    ----------
    setup
        What it runs.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._restorer: Restorer | None = None
        self._computing = threading.Lock()
        self._load_notices: list[str] = []

    def check(self, probe: Probe | None = None) -> Outcome[Description]:
        """Load the model, and check that this machine has what the driver has.

        Parameters
        ----------
        probe
            Files that are to be seen here; None where they are not known yet.
        """
        return _outcome(lambda notice: self._described(probe, notice))

    def restore(self, job: RestoreJob) -> Outcome[Report]:
        """Restore an image, and write its result."""
        return _outcome(lambda notice: restore_recorded(self._loaded(), job, notice, self._computing))

    def restore_part(
        self, folder: Path, request: Request, choice: TileChoice, k: int | None, first: int, end: int
    ) -> Outcome[Part]:
        """Restore some of the tiles of a picture, whole batches, into a part file.

        Parameters
        ----------
        folder
            Folder of the job.
        request, choice, k
            As for `restore_tiles`.
        first, end
            The first of the tiles, and the first after them.
        """

        def restore(_notice: Callable[[str], None]) -> Part:
            session = self._loaded().session
            with self._computing:
                return write_part(
                    folder, first, (tile for _, tile in restored_tiles(session, request, choice, k, None, first, end))
                )

        return _outcome(restore)

    def _loaded(self) -> Restorer:
        """Return the model; it is loaded again where Ray has started this worker again."""
        with self._computing:
            if self._restorer is None:
                setup = self._setup
                _check_machine(setup)
                self._restorer = load(setup.model, notice=self._load_notices.append, **setup.options)
            return self._restorer

    def _described(self, probe: Probe | None, notice: Callable[[str], None]) -> Description:
        restorer = self._loaded()
        for line in self._load_notices:
            notice(line)
        if probe is not None:
            _check_probe(probe)
        session = restorer.session
        return Description(
            restorer.manifest.to_json(),
            restorer.description,
            getattr(session, "content", ""),
            getattr(session, "device", Device()),
            getattr(session, "streams", 1),
            getattr(session, "runs_library", False),
        )


def _check_machine(setup: Setup) -> None:
    """Check this machine's keygraph and model, and enter the driver's working directory."""
    here = f"the worker on {platform.node()}"
    if (own := version()) != setup.version:
        raise InputError(
            f"{here} has keygraph {own}, and this command is of keygraph {setup.version}; install one version on all "
            "machines"
        )
    try:
        os.chdir(setup.folder)
    except OSError as error:
        raise InputError(f"{here} does not see {setup.folder} ({error.strerror}); {_SHARE}") from error
    if not setup.model.exists():
        raise InputError(f"{here} does not see {setup.model}; {_SHARE}")
    if content_digest(setup.model) != setup.digest:
        raise InputError(f"{here} has another file at {setup.model}; {_SHARE}")


def _check_probe(probe: Probe) -> None:
    """Check that this machine sees the results and the images."""
    here = f"the worker on {platform.node()}"
    try:
        seen = probe.file.read_text() == probe.token
    except OSError:
        seen = False
    if not seen:
        raise InputError(f"{here} does not see the results in {probe.file.parent}; {_SHARE}")
    if not os.path.lexists(probe.image):
        raise InputError(f"{here} does not see {probe.image}; {_SHARE}")


#: What to do where a worker does not see a file.
_SHARE = (
    "all machines need the model, the images, the results and this folder under the same paths, on a file system that "
    "they share"
)


def _outcome(call: Callable[[Callable[[str], None]], Value]) -> Outcome[Value]:
    """Call a function that takes `notice`; return what it returns or raises."""
    notices: list[str] = []
    try:
        return Outcome(call(notices.append), None, tuple(notices))
    except Exception as error:
        known = error if isinstance(error, KeygraphError | MemoryError) else _described_error(error)
        return Outcome(None, known, tuple(notices))


def _described_error(error: Exception) -> KeygraphError:
    """Return an unexpected error as one that every driver can read."""
    return KeygraphError(printable(f"unexpected {type(error).__name__}: {error}"))
