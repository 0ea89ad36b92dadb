"""A session that runs a network in PyTorch, the reference for all other backends."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ... import forks
from ...errors import InputError, KeygraphError
from ...manifest import Manifest
from ..device.cuda_driver import require_gpu
from ..device.spec import Device
from ..errors import ClosedError, SessionMemoryError
from .base import WithBlock, check_number

if TYPE_CHECKING:
    import torch

#: Phrases in the messages of PyTorch's CPU allocators; on a GPU there is a dedicated exception.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "bad_alloc")


class TorchSession(WithBlock):
    """Runs a PyTorch network, with float32 in full precision: TensorFloat-32 is disabled while it runs.

    A session serves any number of threads, because the networks of keygraph keep no state between calls.

    Parameters
    ----------
    module
        Its ``forward(image, *extras)`` takes float[B, C, H, W] for the image and for each of the manifest's
        `extra_inputs`. A network with key graphs takes k last: int64[1], or None where k is fixed.
    manifest
        The network's manifest.
    threads
        Threads per operator for all of PyTorch in this process, at least 1; None leaves the setting unchanged.
    device
        The device that the network is moved to; None leaves it on the device of its parameters.

    Raises
    ------
    InputError
        `threads` is less than 1, or PyTorch does not see the device.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        manifest: Manifest,
        threads: int | None = None,
        device: Device | None = None,
    ) -> None:
        import torch

        prepare(threads)
        self.manifest = manifest
        if device is not None:
            require_device(device)
            module = module.to(str(device))
        self._module: Callable[..., Any] | None = module.eval()
        first = next(module.parameters(), torch.empty(0))
        self._device, self._type = first.device, first.dtype
        self._process = os.getpid()
        self.description = f"PyTorch {torch.__version__}, {self._device}, {str(self._type).removeprefix('torch.')}"

    def compiled(self) -> TorchSession:
        """Return a session of the same network with ``torch.compile``, which compiles when a shape is first used."""
        import torch

        session = copy.copy(self)
        session._module = torch.compile(self._open_module())
        session.description = f"{self.description}, torch.compile"
        return session

    def run(self, images: NDArray[np.float32], k: int | None, *extras: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Session.run`."""
        import torch

        from .full_fp32 import full_fp32

        module = self._open_module()
        if self._device.type == "cuda":
            forks.require_process(self._process)
        forks.require_torch()
        try:
            with torch.inference_mode(), full_fp32():
                arguments: list[torch.Tensor | None] = [
                    torch.from_numpy(np.ascontiguousarray(values)).to(self._device, self._type)
                    for values in (images, *extras)
                ]
                if self.manifest.neighbours is not None:
                    arguments.append(None if k is None else torch.tensor([k], dtype=torch.int64, device=self._device))
                restored = module(*arguments)
                if not isinstance(restored, torch.Tensor):
                    raise InputError(
                        f"the network returns a {type(restored).__name__}, not the restored image; return it alone"
                    )
                result: NDArray[np.float32] = restored.float().cpu().numpy()
                return result
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise SessionMemoryError("PyTorch ran out of memory") from error
        except RuntimeError as error:
            if any(phrase in str(error) for phrase in _OUT_OF_MEMORY):
                raise SessionMemoryError("PyTorch ran out of memory") from error
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise KeygraphError(f"PyTorch failed on an image tensor of shape {images.shape}: {reason}") from error

    def close(self) -> None:
        """See `ClosableSession.close`."""
        self._module = None

    def _open_module(self) -> Callable[..., Any]:
        if self._module is None:
            raise ClosedError
        return self._module


def prepare(threads: int | None) -> None:
    """Set PyTorch's number of threads, and check that this process can use PyTorch, before it computes anything.

    Parameters
    ----------
    threads
        As for `TorchSession`.

    Raises
    ------
    InputError
        `threads` is less than 1.
    KeygraphError
        This process was forked after PyTorch had started threads.
    """
    import torch

    check_number("threads", threads)
    if threads is not None:
        torch.set_num_threads(threads)
    forks.require_torch()


def require_device(device: Device) -> None:
    """Check that PyTorch sees a device; raises `InputError`."""
    import torch

    if device.kind == "cpu":
        return
    if torch.version.cuda is None:
        raise InputError(
            f"PyTorch {torch.__version__} is built without CUDA, so it cannot run on {device}; install a build "
            "with CUDA from pytorch.org, or give --device cpu"
        )
    require_gpu(device)
    if device.index >= torch.cuda.device_count():
        raise InputError(
            f"PyTorch {torch.__version__}, built for CUDA {torch.version.cuda}, does not see {device}: the driver is "
            "too old for it, or CUDA_VISIBLE_DEVICES hides it; see keygraph doctor, or give --device cpu"
        )
