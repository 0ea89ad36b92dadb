"""The image model of a repository, which the server runs in its Python backend: images in, restored images out.

It cuts images into tiles, normalises and pads them as `keygraph restore` does, and sends the tiles to the core, in
which those of all requests meet. It runs in the server, whose module `triton_python_backend_utils` exists there only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import CancelledError, InputError, KeygraphError
from ...manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT
from ...runtime.io.images.reading import starting_format
from ...runtime.restore_files import restore_file
from ...runtime.restorer import Restorer
from ..pictures import FORMATS
from .core import CORE_FILE, read_core
from .core_session import CoreSession
from .image_tensors import FILE, SAMPLES, image_kinds, tensor_name

#: Requests of one call of `execute` that are restored at a time.
_TOGETHER = 8


@dataclass(frozen=True)
class _Cancelled:
    """A `CancelToken` of a request."""

    request: Any

    def is_set(self) -> bool:
        """Return whether the client has cancelled the request."""
        return bool(self.request.is_cancelled())


class TritonPythonModel:
    """The model, under the name and with the methods that the Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the core; the server calls this once in each instance.

        Parameters
        ----------
        args
            `model_repository`, the folder of this model, and `model_version` are used.

        Raises
        ------
        TritonModelException
            The repository is damaged, or of another version of keygraph.
        """
        self._utils = import_module("triton_python_backend_utils")
        try:
            core = read_core(Path(args["model_repository"], args["model_version"], CORE_FILE))
        except KeygraphError as error:
            raise self._utils.TritonModelException(str(error)) from error
        self._restorer = Restorer(CoreSession(core, self._utils))
        # The server joins single tiles with those of other requests. Where it joins none, batches are made here.
        self._batch = 1 if core.max_batch else None
        self._pool = ThreadPoolExecutor(_TOGETHER, "keygraph-request")
        self._utils.Logger.log_info(f"{args.get('model_name', '')}: {self._restorer.description}")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return a response for each request; one that fails gives an error, and does not affect the others."""
        if len(requests) == 1:
            return [self._respond(requests[0])]
        return list(self._pool.map(self._respond, requests))

    def finalize(self) -> None:
        """Close the core; the server calls this before it ends the instance."""
        self._pool.shutdown()
        self._restorer.close()

    def _respond(self, request: Any) -> Any:
        utils = self._utils
        codes = utils.TritonError
        try:
            return utils.InferenceResponse(output_tensors=[self._restore(request)])
        except CancelledError as error:
            message, code = str(error), codes.CANCELLED
        except KeygraphError as error:
            message, code = str(error), codes.INVALID_ARG if isinstance(error, InputError) else codes.INTERNAL
        except Exception as error:
            message, code = f"unexpected {type(error).__name__}: {' '.join(str(error).split())}", codes.INTERNAL
            utils.Logger.log_error(message)
        return utils.InferenceResponse(error=utils.TritonError(message, code))

    def _restore(self, request: Any) -> Any:
        """Return the output tensor of a request."""
        kind = self._kind(request)
        k = self._k(request)
        image = self._input(request, tensor_name(IMAGE_INPUT, kind))
        if kind == FILE:
            return self._output(request, FILE, np.array([self._restored_file(image, k)], np.object_))
        manifest = self._restorer.manifest
        inputs = {view: self._view(request, view, kind) for view in manifest.views[1:]}
        inputs |= {extra.name: self._input(request, extra.name) for extra in manifest.extra_inputs}
        restored = self._restorer.restore(image, k, inputs=inputs, cancel=_Cancelled(request), batch=self._batch)
        self._log(restored.notices)
        result = next(name for name, dtype in SAMPLES.items() if dtype == restored.image.dtype.name)
        return self._output(request, result, restored.image)

    def _restored_file(self, values: NDArray[Any], k: int | None) -> bytes:
        """Restore an image file, its metadata included."""
        if values.size != 1:
            raise InputError(f"{tensor_name(IMAGE_INPUT, FILE)} has {values.size} files; give one in each request")
        content = bytes(values.ravel()[0])
        name = starting_format(content[:16])
        if not name:
            raise InputError(
                f"{tensor_name(IMAGE_INPUT, FILE)} is no image file that can be read; give PNG, JPEG, TIFF, WebP, AVIF "
                "or HEIC"
            )
        suffix = (FORMATS.get(name) or FORMATS["png"]).suffix  # Others are only read.
        with tempfile.TemporaryDirectory(prefix="keygraph-") as folder:
            given, target = Path(folder, "image" + suffix), Path(folder, "restored" + suffix)
            given.write_bytes(content)
            try:
                report = restore_file(self._restorer, given, target, k, batch=self._batch)
            except KeygraphError as error:  # The folder means nothing to a client.
                raise type(error)(str(error).replace(f"{folder}/", "")) from error
            self._log(report.notices)
            return target.read_bytes()

    def _kind(self, request: Any) -> str:
        """Return the kind of image that a request gives."""
        kinds = image_kinds(self._restorer.manifest)
        given = [kind for kind in kinds if self._tensor(request, tensor_name(IMAGE_INPUT, kind)) is not None]
        if len(given) != 1:
            choices = ", ".join(tensor_name(IMAGE_INPUT, kind) for kind in kinds)
            found = " and ".join(tensor_name(IMAGE_INPUT, kind) for kind in given)
            raise InputError(f"the request has {found or 'no image'}; give one of {choices}")
        return given[0]

    def _view(self, request: Any, view: str, kind: str) -> NDArray[Any]:
        name = tensor_name(view, kind)
        if self._tensor(request, name) is None:
            raise InputError(f"this model takes {view} beside the image, and it is missing; give {name}")
        return self._input(request, name)

    def _k(self, request: Any) -> int | None:
        tensor = self._tensor(request, K_INPUT)
        if tensor is None:
            return None
        values = tensor.as_numpy()
        if values.size != 1:
            raise InputError(f"k has {values.size} values; give one in each request")
        return int(values.ravel()[0])

    def _tensor(self, request: Any, name: str) -> Any:
        return self._utils.get_input_tensor_by_name(request, name)

    def _input(self, request: Any, name: str) -> NDArray[Any]:
        values: NDArray[Any] = self._tensor(request, name).as_numpy()
        return values

    def _output(self, request: Any, kind: str, values: NDArray[Any]) -> Any:
        name = tensor_name(IMAGE_OUTPUT, kind)
        wanted = request.requested_output_names()
        if wanted and name not in wanted:
            raise InputError(f"the result of this request is {name}, not {', '.join(wanted)}; ask for {name}")
        return self._utils.Tensor(name, np.ascontiguousarray(values))

    def _log(self, notices: Sequence[str]) -> None:
        for notice in notices:
            self._utils.Logger.log_info(notice)
