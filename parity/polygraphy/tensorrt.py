"""Exported files and built engines in TensorRT or TensorRT-RTX, through Polygraphy's loaders.

The backend is the one that Polygraphy uses: TensorRT, or TensorRT-RTX under ``POLYGRAPHY_USE_TENSORRT_RTX=1``; see
`rtx`.
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

#: Name of the library that TensorRT-RTX's ONNX parser opens; its wheels do not have a file of this name.
_PARSER_LIBRARY = "libtensorrt_rtx.so"


def backend() -> Backend:
    """Load the TensorRT that Polygraphy uses in this process.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    name = "tensorrt-rtx" if polygraphy_config.USE_TENSORRT_RTX else "tensorrt"
    found = load_backend(name)
    if found.is_rtx:
        # The name that Polygraphy imports; the package is named tensorrt_rtx_bindings.
        sys.modules.setdefault("tensorrt_rtx", found.module)
    return found


class NetworkFromExported(BaseLoader):
    """Parses an exported file into a strongly typed TensorRT network: the types are those of the file.

    Polygraphy's ``--plugins`` opens a library that must register its plugins itself. Ours does not, since it would have
    to be linked with one version of TensorRT; here the plugin registry loads it.

    Parameters
    ----------
    path
        The ``.onnx`` file.
    plugin
        ``"auto"``: keygraph's plugin where it is installed, for TensorRT proper (TensorRT-RTX has no plugins
        officially); a path: that library; None: the functions in the file.
    """

    def __init__(self, path: str | os.PathLike[str], plugin: str | os.PathLike[str] | None = "auto") -> None:
        self._path, self._plugin = Path(path), plugin

    def call_impl(self) -> tuple[Any, Any, Any]:
        """Return builder, network and parser.

        Raises
        ------
        InputError
            The file was not exported by keygraph, the plugin does not load, or the process cannot parse: see `rtx`.
        MissingDependencyError
            TensorRT is not installed.
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
    """Creates the builder configuration for an exported file: one profile of sizes, and of k where shapes depend on it.

    Parameters
    ----------
    path
        The ``.onnx`` file.
    tile
        Height and width of the images in pixels, rounded up to the size multiple; None for the calibrated tile.
    batch
        Images per batch.
    compute_capabilities
        For TensorRT-RTX: compute capabilities to build for, ``[(8, 9)]``; None for all from Ampere on.
    tf32
        Whether FP32 products may use TensorFloat-32. Off, so that the comparison shows real differences; TensorRT-RTX
        enables it by default.
    settings
        Further arguments of Polygraphy's `CreateConfig` or `CreateConfigRTX`.
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
        """Return the configuration for a network.

        Raises
        ------
        InputError
            Compute capabilities are given to a TensorRT that builds for the local GPU only.
        """
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
        """Return name -> (smallest, optimal, largest shape) of every input."""
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
                # Without the plugin, shapes depend on k, so the profile holds values of k.
                sizes[K_INPUT] = [1], [manifest.neighbours.default], [manifest.neighbours.maximum]
            else:
                sizes[K_INPUT] = [1], [1], [1]
        return sizes

    def _side(self, manifest: Manifest) -> int:
        calibrated = manifest.tiling.tile if manifest.tiling is not None else DEFAULT_TILE
        return round_up(self._tile or calibrated, manifest.size_multiple)


class EngineFromBuilt(BaseLoader):
    """Loads an engine built by ``keygraph build``, for Polygraphy's `TrtRunner`, after registering keygraph's plugin.

    The sidecar records which TensorRT built the engine, for which GPU, and with which plugin library; a mismatch is
    reported before the engine is deserialized.

    Parameters
    ----------
    path
        The engine, with its sidecar beside it.
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
            There is no GPU, or the engine is for another GPU, TensorRT or plugin library.
        MissingDependencyError
            TensorRT or the plugin library is not installed.
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
    """Return the plugin library to register; None for none."""
    if wanted != "auto":
        return None if wanted is None else Path(wanted)
    if trt.is_rtx:
        return None
    try:
        return plugins.library("tensorrt")
    except MissingDependencyError as error:
        warn(f"slower functions are used in place of keygraph's operators: {error}")
        return None


def _check_parser() -> None:
    """Check that the parser finds its library: without it, it ends the process."""
    if find_spec("tensorrt_rtx_libs") is None:
        return  # Not NVIDIA's wheels: other packages find their libraries.
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    if not any(folder and Path(folder, _PARSER_LIBRARY).exists() for folder in folders):
        raise InputError(
            f"TensorRT-RTX's parser opens {_PARSER_LIBRARY}, which is not on this process's LD_LIBRARY_PATH; run it "
            "with: python -m keygraph.parity.polygraphy.rtx COMMAND"
        )
