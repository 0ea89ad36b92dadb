"""Former name of `backends.engine_metadata`, kept because the documentation named `keygraph.runtime.sidecar.check`."""

from __future__ import annotations

from typing import Any

from .backends import engine_metadata
from .former_names import former_name

#: Names that changed as well.
_RENAMED = {"Here": "LoadEnvironment", "Sidecar": "EngineMetadata", "sidecar_path": "metadata_path"}


def __getattr__(name: str) -> Any:
    return former_name(__name__, name, engine_metadata.__name__, _RENAMED.get(name, name))
