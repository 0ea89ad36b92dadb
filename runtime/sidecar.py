"""Former name of `backends.engine_metadata`, kept because the documentation named `keygraph.runtime.sidecar.check`."""

from __future__ import annotations

import warnings
from typing import Any

from .backends import engine_metadata

#: Names that changed as well.
_RENAMED = {"Here": "LoadEnvironment", "Sidecar": "EngineMetadata", "sidecar_path": "metadata_path"}


def __getattr__(name: str) -> Any:
    new = _RENAMED.get(name, name)
    if name.startswith("_") or not hasattr(engine_metadata, new):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is now {engine_metadata.__name__}.{new}", DeprecationWarning, stacklevel=2)
    return getattr(engine_metadata, new)
