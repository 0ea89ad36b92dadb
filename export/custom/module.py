"""Export a module that maps an image batch to an image batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch
from torch import nn

from ...errors import InputError
from ...manifest import Manifest
from ..exporter import export
from ..module_state import in_state, state_of
from .model import examine, source_of


def export_module(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    task: str = "",
    value_range: tuple[float, float] = (0.0, 1.0),
    size_multiple: int | None = None,
    k: int | None = None,
    tie: str = "keep",
    shape: tuple[int, int, int] | None = None,
    precision: str = "fp32",
    keep_fp32: Sequence[str] = (),
    half_io: bool = False,
    target_psnr: float | None = None,
    calibration: str | os.PathLike[str] | None = None,
    verification: bool = True,
    notice: Callable[[str], None] = lambda _line: None,
    progress: Callable[[str], None] = lambda _step: None,
) -> Manifest:
    """Export a module to one portable ONNX file, and verify the file against the module.

    What an export needs to know is found out by running the module: channels, scale, size multiple, whether the images
    of a batch are independent, and whether a pixel's result depends on the whole image.

    Parameters
    ----------
    module
        Maps float32[B, C, H, W] to float32[B, C', sH, sW], image by image, with a whole scale s. Its parameters are
        float32 on the CPU. It runs in evaluation mode, and is given back in the mode that it is in.
    path
        The ``.onnx`` file to write.
    task
        Free text for the manifest, for instance ``"denoising"``.
    value_range
        Values of black and white in the images.
    size_multiple
        Height and width must be multiples of this; None to find it by running sizes.
    k
        Fix the number of nodes that each node attends to; None makes it an input of the file, where all attentions have
        the same.
    tie
        ``"k"`` to select exactly k nodes where the network keeps all that tie with the k-th, so that k can be an input;
        ``"keep"`` to leave k fixed there.
    shape, precision, keep_fp32, half_io, target_psnr, verification
        As for `exporter.export`.
    calibration
        Folder of images to verify and measure on besides generated ones.
    notice
        Called with a line for each thing that was found out.
    progress
        Called with a line before each step.

    Returns
    -------
    Manifest
        The manifest in the file; its architecture is ``"custom"``.

    Raises
    ------
    InputError
        The module cannot be exported, or an option is invalid.
    KeygraphError
        Verification failed. No file is left behind.

    Examples
    --------
    >>> keygraph.export_module(network, "denoise.onnx", task="denoising")  # doctest: +SKIP
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"the module is {module!r:.80}; give a torch.nn.Module")
    name = type(module).__name__
    _check_float32(module, name)
    provenance = {"entry_point": f"{type(module).__module__}.{type(module).__qualname__}", "source": source_of(module)}
    if module.training:
        notice(f"{name} is in training mode: exported in evaluation mode")
    # Given back as it was, with the modes of its parts, and without what it kept of the images that it was tried with.
    with in_state(state_of(module)):
        module.eval()
        model = examine(
            module,
            name,
            provenance,
            task=task,
            shape=shape,
            size_multiple=size_multiple,
            value_range=value_range,
            tie=tie,
            progress=progress,
        )
        for line in model.notes:
            notice(line)
        return export(
            model,
            path,
            k=k,
            shape=shape,
            precision=precision,
            keep_fp32=keep_fp32,
            half_io=half_io,
            target_psnr=target_psnr,
            calibration=calibration,
            verification=verification,
            progress=progress,
            notice=notice,
        )


def _check_float32(module: nn.Module, name: str) -> None:
    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.device.type != "cpu":
            raise InputError(f"{name}: {key} is on {tensor.device}; move the module to the CPU: module.cpu()")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(
                f"{name}: {key} is {kind}; export the module in float32, module.float(), and choose the file's "
                "precision with precision='fp16'"
            )
