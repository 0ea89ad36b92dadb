"""ONNX files for Polygraphy's `OnnxrtRunner`, with keygraph's operator library."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from polygraphy.backend.base import BaseLoader

from ...files import read_start
from ...runtime.device.spec import parse_device
from ...runtime.notices import warn

if TYPE_CHECKING:
    import onnxruntime


class SessionFromExported(BaseLoader):
    """Opens an exported file in ONNX Runtime as keygraph does, also a subgraph that Polygraphy extracted from one.

    Polygraphy's own `SessionFromOnnx` cannot register an operator library, lets a provider fall back to the CPU
    silently, and cannot open bfloat16 files there.

    Parameters
    ----------
    path
        The ``.onnx`` file.
    library
        ``"auto"``: the installed operator library where it loads, else the functions in the file; a path: that library;
        None: the functions.
    device
        ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    provider
        ``"cpu"``, ``"cuda"`` or ``"tensorrt"``; None for the device's default.

    Raises
    ------
    InputError
        There is no such device.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        library: str | os.PathLike[str] | None = "auto",
        device: str = "cpu",
        provider: str | None = None,
    ) -> None:
        self._path, self._library = Path(path), library
        self._device, self._provider = parse_device(device), provider

    def call_impl(self) -> onnxruntime.InferenceSession:
        """Return the session.

        Raises
        ------
        InputError
            The file, the library or the provider cannot be used.
        """
        from ...runtime.backends.onnx_providers import resolve, session_options
        from ...runtime.backends.onnxruntime import open_file, register_operators

        read_start(self._path, "an exported .onnx file")
        provider = resolve(self._provider, self._device)
        options = session_options()
        register_operators(options, self._library, warn)
        return open_file(self._path, options, provider, self._device)[0]
