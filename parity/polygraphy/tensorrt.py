"""Exported files and built engines in TensorRT or TensorRT-RTX, through Polygraphy's loaders.

TensorRT where Polygraphy uses that; TensorRT-RTX under ``POLYGRAPHY_USE_TENSORRT_RTX=1``, see `rtx`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from polygraphy import config as polygraphy_config
from polygraphy.backend.base import BaseLoader

from ... import plugins
from ...errors import InputError, MissingDependencyError
from ...manifest import IMAGE_INPUT, K_INPUT, Manifest
from ...runtime.backends import engine_metadata
from ...runtime.backends.tensorrt import plugin_for
from ...runtime.backends.tensorrt_bindings import Backend, load_backend, load_plugins
from ...runtime.device.cuda_driver import require_gpu
from ...runtime.device.spec import parse_device
from ...runtime.notices import warn
from ...runtime.preprocess.padding import round_up
from ...runtime.tiling.tile_size import DEFAULT_TILE
from .artifacts import manifest_of

#: The name that TensorRT-RTX's ONNX parser opens, and its packages lack.
_PARSER_LIBRARY = "libtensorrt_rtx.so"


def backend() -> Backend:
    """Load the TensorRT that Polygraphy uses in this process; raises `MissingDependencyError` where there is none."""
    name = "tensorrt-rtx" if polygraphy_config.USE_TENSORRT_RTX else "tensorrt"
    found = load_backend(name)
    if found.is_rtx:
        # What Polygraphy imports; the package calls it tensorrt_rtx_bindings.
        sys.modules.setdefault("tensorrt_rtx", found.module)
    return found


class NetworkFromExported(BaseLoader):
    """Parses an exported file into a TensorRT network, strongly typed: the types are the file's.

    Polygraphy's ``--plugins`` opens a library and expects that to register it, which ours does not do: it would have to
    be linked with one version of TensorRT. Here the library is loaded by the plugin registry.

    Parameters
    ----------
    path
        The ``.onnx`` file.
    plugin
        ``"auto"``: keygraph's plugin where it is installed, for TensorRT proper (TensorRT-RTX has no plugins
        officially); a path: that library; None: the plain functions in the file.
    """

    def __init__(self, path: str | os.PathLike[str], plugin: str | os.PathLike[str] | None = "auto") -> None:
        self._path, self._plugin = Path(path), plugin

    def call_impl(self) -> tuple[Any, Any, Any]:
        """Return builder, network and parser.

        Raises
        ------
        InputError
            The file is not an exported one, the plugin does not load, or the process cannot parse: see `rtx`.
        MissingDependencyError
            There is no TensorRT.
        """
        manifest_of(self._path)
        trt = backend()
        if trt.is_rtx:
            _check_parser()
        library = _library(trt, self._plugin)
        if library is not None:
            load_plugins(trt, library)
        from polygraphy.backend.trt import network_from_onnx_path

        parsed: tuple[Any, Any, Any] = network_from_onnx_path(str(self._path), strongly_typed=True)
        return parsed


class CreateConfigForExported(BaseLoader):
    """Makes the builder's configuration for an exported file: one profile of sizes, and of k where it decides shapes.

    Parameters
    ----------
    path
        The ``.onnx`` file.
    tile
        Height and width of the images, rounded up to the model's size rule; None for what it was calibrated with.
    batch
        Images in a batch.
    compute_capabilities
        For TensorRT-RTX: the GPUs to build for, ``[(8, 9)]``; None for all from Ampere on.
    tf32
        Whether FP32 products may be rounded to 10 bits. Off, so that a comparison means something; TensorRT-RTX has it
        on by default.
    settings
        What Polygraphy's `CreateConfig` or `CreateConfigRTX` takes besides.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        tile: int | None = None,
        batch: int = 1,
        compute_capabilities: Sequence[tuple[int, int]] | None = None,
        tf32: bool = False,
        **settings: Any,
    ) -> None:
        self._path, self._tile, self._batch, self._tf32 = path, tile, batch, tf32
        self._capabilities, self._settings = compute_capabilities, settings

    def call_impl(self, builder: Any, network: Any) -> Any:
        """Return the configuration for a network; raises `InputError` for what this TensorRT cannot build for."""
        from polygraphy.backend.trt import CreateConfig, Profile

        trt = backend()
        profile = Profile()
        for name, (least, best, most) in self._sizes(network).items():
            profile.add(name, least, best, most)
        if trt.is_rtx:
            from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

            create = CreateConfigRTX(profiles=[profile], compute_capabilities=self._capabilities, **self._settings)
        elif self._capabilities is not None:
            raise InputError("TensorRT builds for this machine's GPU; leave compute_capabilities out")
        else:
            create = CreateConfig(profiles=[profile], tf32=self._tf32, **self._settings)
        made = create(builder, network)
        (made.set_flag if self._tf32 else made.clear_flag)(trt.module.BuilderFlag.TF32)
        return made

    def _sizes(self, network: Any) -> dict[str, tuple[Any, Any, Any]]:
        """Name -> (least, best, most) of every input."""
        manifest = manifest_of(self._path)
        shape = manifest.shape or (self._batch, *[self._side(manifest)] * 2)
        sizes: dict[str, tuple[Any, Any, Any]] = {}
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        channels = {IMAGE_INPUT: (manifest.in_channels, manifest.margin)}
        channels |= {extra.name: (extra.channels, extra.margin) for extra in manifest.extra_inputs}
        for tensor in inputs:
            if tensor.name != K_INPUT:
                count, margin = channels[tensor.name]
                whole = shape[0], count, shape[1] + margin[0], shape[2] + margin[1]
                sizes[tensor.name] = whole, whole, whole
            elif tensor.is_shape_tensor and manifest.neighbours is not None:
                # Without the plugin, k decides shapes, so its values are what the profile holds.
                sizes[K_INPUT] = [1], [manifest.neighbours.default], [manifest.neighbours.maximum]
            else:
                sizes[K_INPUT] = [1], [1], [1]
        return sizes

    def _side(self, manifest: Manifest) -> int:
        calibrated = manifest.tiling.tile if manifest.tiling is not None else DEFAULT_TILE
        return round_up(self._tile or calibrated, manifest.size_multiple)


class EngineFromBuilt(BaseLoader):
    """Loads an engine that ``keygraph build`` made, for Polygraphy's `TrtRunner`: with our plugin registered before.

    What can be known is checked before the first byte is deserialized: the sidecar says which TensorRT built it, for
    which GPU, and with which plugin library.

    Parameters
    ----------
    path
        The engine; its sidecar lies beside it.
    plugin
        ``"auto"``: the installed plugin library, where the engine needs one; a path: that library.
    allow_host_code
        As for `TensorRtSession`; Polygraphy's own loaders always allow it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        plugin: str | os.PathLike[str] | None = "auto",
        allow_host_code: bool = False,
    ) -> None:
        self._path, self._plugin, self._allowed = Path(path), plugin, allow_host_code

    def call_impl(self) -> Any:
        """Return the engine.

        Raises
        ------
        InputError
            There is no GPU here, or the engine is not for this one, this TensorRT or this plugin library.
        MissingDependencyError
            There is no TensorRT, or no plugin library.
        """
        sidecar = engine_metadata.read(self._path)
        trt = backend()
        library = plugin_for(sidecar, self._plugin)
        gpu = require_gpu(parse_device("cuda"))
        here = engine_metadata.LoadEnvironment(
            trt.name, trt.version, gpu.capability, gpu.name, library, allow_host_code=self._allowed
        )
        engine_metadata.check(self._path, here, warn)
        if library is not None:
            load_plugins(trt, library)
        from polygraphy.backend.trt import engine_from_bytes

        return engine_from_bytes(self._path.read_bytes())


def _library(trt: Backend, wanted: str | os.PathLike[str] | None) -> Path | None:
    """The plugin library to register, None for none."""
    if wanted != "auto":
        return None if wanted is None else Path(wanted)
    if trt.is_rtx:
        return None
    try:
        return plugins.library("tensorrt")
    except MissingDependencyError as error:
        warn(f"slower plain functions are used in place of keygraph's operators: {error}")
        return None


def _check_parser() -> None:
    """Refuse to parse where the parser would end the process."""
    if find_spec("tensorrt_rtx_libs") is None:
        return  # Another package than NVIDIA's wheels: it finds its libraries itself.
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    if not any(folder and Path(folder, _PARSER_LIBRARY).exists() for folder in folders):
        raise InputError(
            f"TensorRT-RTX's parser opens {_PARSER_LIBRARY}, which is not on this process's LD_LIBRARY_PATH; run it "
            "with: python -m keygraph.parity.polygraphy.rtx COMMAND"
        )
