"""Run a module of unknown origin on an image batch, and say in words why it cannot be exported."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...instrumentation.synthetic import synthetic_image
from ...models.source_file import failure
from ..opaque import opaque_failure


@dataclass(frozen=True)
class Trial:
    """A module that is tried out.

    Attributes
    ----------
    module
        The module, float32 on the CPU, in evaluation mode.
    name
        Its name in messages.
    value_range
        Values of black and white.
    channels
        Of its images, where they are known.
    """

    module: nn.Module
    name: str
    value_range: tuple[float, float]
    channels: int | None = None

    def image(self, batch: int, channels: int, height: int, width: int) -> Tensor:
        """Return a generated image batch.

        Parameters
        ----------
        batch, channels, height, width
            Its shape.
        """
        return torch.from_numpy(synthetic_image((batch, channels, height, width), self.value_range))

    def run(self, image: Tensor) -> Tensor:
        """Restore an image batch float32[B, C, H, W].

        Raises
        ------
        InputError
            The module raises an exception, returns something else than one image for each image, or changes its input.
        """
        given = image.clone()
        try:
            with torch.inference_mode():
                result = self.module(given)
        except Exception as error:  # The user's code raises what it likes.
            opaque = opaque_failure(self.name, self.module, error)
            raise opaque or failure(f"{self.name} fails with an image of {_size(image)}", error) from error
        if not isinstance(result, Tensor):
            raise ResultError(
                f"{self.name} returns {_described(result)}, not a tensor; export a module whose forward returns the "
                "restored image alone"
            )
        if not torch.equal(given, image):
            raise ResultError(
                f"{self.name} changes the image that it is given in place; write x = x - mean instead of x -= mean, "
                "or begin forward with x = x.clone()"
            )
        if result.ndim != 4 or result.shape[0] != image.shape[0]:
            raise ResultError(
                f"{self.name} returns a tensor of shape {list(result.shape)} for images of shape {list(image.shape)}; "
                "it must be [batch, channels, height, width], one image for each"
            )
        if result.dtype != torch.float32:
            raise ResultError(f"{self.name} returns {str(result.dtype).removeprefix('torch.')}; it must be float32")
        return result


class ResultError(InputError):
    """What a module returns is no image batch, whatever the image's size."""


def check_signature(module: nn.Module, name: str) -> None:
    """Check that a module's forward can be called with an image alone.

    Raises
    ------
    InputError
        It takes other inputs as well, or it is TorchScript.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError(f"{name} is TorchScript, which torch.export cannot trace; give the module it was made from")
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(None)
    except TypeError:
        raise InputError(
            f"{name} takes forward{signature}, which cannot be called with an image alone; export a module that takes "
            "one image batch, and sets the other arguments itself"
        ) from None


def _size(image: Tensor) -> str:
    batch, channels, height, width = image.shape
    return f"{batch} x {channels} x {height} x {width}"


def _described(result: object) -> str:
    if isinstance(result, tuple | list):
        return f"a {type(result).__name__} of {len(result)}"
    if isinstance(result, dict):
        return f"a dict with the keys {', '.join(repr(str(key))[:30] for key in list(result)[:6])}"
    return "None" if result is None else f"a {type(result).__name__}"
