"""How a model is served: what a user chooses for a repository."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...errors import InputError
from ...runtime.backends.operator_library import load_library

#: Where containers of the server usually have their repository.
MOUNTED_AT = "/models"

#: Devices, and the kind of an instance group on each.
KINDS = {"cpu": "KIND_CPU", "cuda": "KIND_GPU"}

#: Image models that prepare images at a time, by default.
INSTANCES = 4

#: Characters that a model's name may have.
_NAME = "A-Za-z0-9_.-"

#: More instances or tiles of a batch are a typing error.
_MOST = 1024


@dataclass(frozen=True)
class Settings:
    """How a model is served.

    Attributes
    ----------
    name
        Name of the image model; the core's is ``<name>_core``.
    k
        Fixes the number of neighbours; None leaves it to each request, where the model does.
    device
        ``"cpu"`` or ``"cuda"``, where the core runs; None for the GPU with engines, else the CPU.
    batch
        Most tiles that the server runs together; None chooses.
    instances
        Image models: processes that each prepare one image at a time.
    core_instances
        Copies of the core, on each GPU or on the CPU.
    library
        Library of keygraph's operators: ``"auto"`` for the installed one, a path, or None for the functions in the
        file.
    mounted_at
        Path of the repository on the server, which does not resolve the library's path relative to a model.

    Raises
    ------
    InputError
        A value is not possible.
    """

    name: str
    k: int | None = None
    device: str | None = None
    batch: int | None = None
    instances: int = INSTANCES
    core_instances: int = 1
    library: str | None = "auto"
    mounted_at: str = MOUNTED_AT

    def __post_init__(self) -> None:
        if not re.fullmatch(f"(?![.-])[{_NAME}]{{1,200}}", self.name):
            raise InputError(
                f"the model's name is {self.name!r}; give one of letters, digits, dots, hyphens and underscores with "
                "--name"
            )
        if self.device not in (None, *KINDS):
            raise InputError(f"the device is {self.device!r}; give {' or '.join(KINDS)}")
        counts = {"--batch": self.batch, "--instances": self.instances, "--core-instances": self.core_instances}
        for option, count in counts.items():
            if count is not None and not 1 <= count <= _MOST:
                raise InputError(f"{option} is {count}; give a whole number from 1 to {_MOST}")
        place = PurePosixPath(self.mounted_at)
        if not place.is_absolute() or ".." in place.parts:
            raise InputError(
                f"--mounted-at is {self.mounted_at}; give the absolute path of the repository on the server"
            )

    @property
    def core_name(self) -> str:
        """Name of the core."""
        return f"{self.name}_core"

    def on_server(self, library: Path) -> str:
        """Return the path of the operators' library on the server."""
        return str(PurePosixPath(self.mounted_at, self.core_name, library.name))

    def find_library(self, host: str, notice: Callable[[str], None]) -> Path | None:
        """Return the library of keygraph's operators to copy, or None for the functions in the file.

        Parameters
        ----------
        host
            ``"onnxruntime"`` or ``"tensorrt"``.
        notice
            Called with a line when no library is installed.

        Raises
        ------
        InputError
            The library that was named does not exist.
        """
        found: list[Path] = []
        load_library(host, self.library, found.append, str, notice)
        return found[0] if found else None


def default_name(model: Path) -> str:
    """Return the name that a model has in the server unless the user gives one: that of its file."""
    return re.sub(f"[^{_NAME}]", "_", model.stem).lstrip(".-")
