"""Load a state dict into a network: nothing missing, nothing left over, nothing reinterpreted in silence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from .pickled.rebuild import check_read
from .pickled.values import DamagedPickleError, printable


def check_values(state: Mapping[str, Tensor], source: Path) -> None:
    """Check that the tensors have the values that were saved, and belong to a network of a finite number of blocks.

    Raises
    ------
    InputError
        Their bytes are damaged, their numbers go beyond their count, or they are meta tensors, or empty because
        DeepSpeed keeps the values in other files.
    """
    storages: set[int] = set()
    for key, tensor in state.items():
        # A network is built with as many blocks as the largest number says.
        if any(int(part) > len(state) for part in re.findall(r"(?:^|\.)([0-9]{1,18})(?=\.|$)", key)):
            raise InputError(
                f"{source}: tensor {printable(key)} has a number larger than the file has tensors ({len(state)}); "
                "the tensors before it are missing: download the file again"
            )
        if tensor.is_meta:
            raise InputError(
                f"{source}: tensor {printable(key)} holds no values (a meta tensor: shape and type only); "
                "save the weights after they are loaded, from a model that is not on the meta device"
            )
        for part in _dense_parts(tensor):
            storage = part.untyped_storage()
            if storage.data_ptr() not in storages:
                storages.add(storage.data_ptr())
                try:
                    check_read(storage)
                except DamagedPickleError as error:
                    raise InputError(
                        f"{source}: tensor {printable(key)}: {error}; an incomplete or damaged download looks like this"
                    ) from error
    if state and all(tensor.numel() == 0 for tensor in state.values()):
        raise InputError(
            f"{source}: all tensors are empty; DeepSpeed ZeRO-3 keeps the values in other files: "
            "join them with its zero_to_fp32.py"
        )


def _dense_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors that hold the values of one, which are several for a sparse one."""
    if tensor.layout == torch.strided:
        return (tensor,)
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return ()


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], source: Path) -> list[str]:
    """Load a state dict that `check_fit` accepts.

    Parameters
    ----------
    module
        The network.
    state
        The tensors to load.
    source
        The file, for messages.

    Returns
    -------
    list of str
        A line for each kind of conversion.

    Raises
    ------
    InputError
        A tensor is not finite, or its type is one that cannot be converted with the same values.
    """
    converted: dict[str, Tensor] = {}
    kinds: set[str] = set()
    for key, tensor in module.state_dict().items():
        try:
            converted[key] = _converted(key, state[key], tensor.dtype, source)
        except (RuntimeError, NotImplementedError, TypeError) as error:
            kind, wanted = (str(dtype).removeprefix("torch.") for dtype in (state[key].dtype, tensor.dtype))
            raise InputError(
                f"{source}: tensor {printable(key)} is of type {kind}, which PyTorch cannot convert to {wanted}; "
                f"save it as {wanted}"
            ) from error
        kinds |= _kind(state[key], tensor.dtype)
        if not converted[key].isfinite().all():
            bad = int((~converted[key].isfinite()).sum())
            infinite = " (as float32)" if state[key].dtype == torch.float64 else ""
            raise InputError(
                f"{source}: tensor {printable(key)} holds {bad} NaN or infinite values{infinite}; "
                "use a checkpoint from before training diverged"
            )
    module.load_state_dict(converted, strict=True)
    return [f"tensors of type {', '.join(sorted(kinds))} converted to float32"] if kinds else []


def check_fit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str, source: Path) -> None:
    """Check keys and shapes.

    Parameters
    ----------
    expected
        State dict of the network as configured; meta tensors will do.
    state
        The tensors to load.
    name
        The architecture, for messages.
    source
        The file, for messages.

    Raises
    ------
    InputError
        A tensor is missing, superfluous, or of another shape.
    """
    missing = [key for key in expected if key not in state]
    unknown = [key for key in state if key not in expected]
    if missing or unknown:
        raise InputError(
            f"{source}: the tensors do not fit {name} as configured: missing {some(missing)}; "
            f"not expected {some(unknown)}; "
            "map the keys with --key-map, or correct the configuration with --config"
        )
    for key, tensor in expected.items():
        if state[key].shape != tensor.shape:
            raise InputError(
                f"{source}: tensor {printable(key)} is {list(state[key].shape)}; "
                f"{name} as configured has {list(tensor.shape)}; correct the configuration with --config"
            )


def some(keys: list[str]) -> str:
    """Return the first few keys as text for a message."""
    if not keys:
        return "nothing"
    return ", ".join(printable(key) for key in keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _kind(tensor: Tensor, wanted: torch.dtype) -> set[str]:
    if tensor.layout != torch.strided:
        return {f"{str(tensor.dtype).removeprefix('torch.')} (sparse)"}
    return set() if tensor.dtype == wanted else {str(tensor.dtype).removeprefix("torch.")}


def _converted(key: str, tensor: Tensor, wanted: torch.dtype, source: Path) -> Tensor:
    """Return a dense tensor of the wanted type with the same values.

    Raises
    ------
    InputError
        The values mean nothing without others (integers and their scales), or would change.
    """
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype == wanted:
        return tensor
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.dtype.is_floating_point and wanted.is_floating_point:
        return tensor.to(wanted)
    wants = str(wanted).removeprefix("torch.")
    if wanted.is_floating_point and not tensor.dtype.is_complex:
        what_to_do = "integers mean nothing without their scales: use the checkpoint from before quantization"
    else:
        what_to_do = f"save it as {wants}"
        # Half precision has rounded large indices: what it holds may be whole numbers, but not the right ones.
        rounded = tensor.dtype.is_complex or (tensor.dtype.is_floating_point and tensor.dtype.itemsize < 4)
        if not rounded and torch.equal(exact := tensor.to(wanted), tensor):
            return exact
    raise InputError(
        f"{source}: tensor {printable(key)} is of type {kind}, where the network has {wants}; {what_to_do}"
    )
