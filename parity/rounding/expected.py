"""The error that rounding makes: at the output for one piece of an image, and in every block by itself.

The truth is the same network in float64 with the same key graphs. What a side's precision must cost is the distance
from it of the network that stores its tensors in that precision, in two orders of summation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.backends.onnx_file import OnnxFile
from ..metrics.blocks import BlockValues
from ..metrics.rounding import RoundingError
from ..sides.base import BlockInputs, Graphs, Probe
from ..sides.onnx_probe import OnnxProbe
from ..sides.torch_probe import TorchProbe
from .arithmetic import UNIT_ROUNDOFF
from .network import EXACT, Arithmetic, Network, NotMeasuredError, rms_error
from .onnx_network import OnnxNetwork
from .stored_types import stored_types

#: Orders of summation in which the output is computed: PyTorch's own, and a random one.
ORDERS = (0, 1)

Images = NDArray[np.float32]

#: Block's name -> its output.
Outputs = dict[str, NDArray[Any]]


def network_of(reference: Probe) -> Network:
    """Return the reference's network, to run it in other arithmetic.

    Raises
    ------
    NotMeasuredError
        It is an engine, or a file with operators that cannot be run in float64.
    """
    if isinstance(reference, TorchProbe):
        return Network(reference.float32_module(), reference.manifest)
    file = getattr(reference.session, "file", None)
    if not isinstance(file, OnnxFile):
        raise NotMeasuredError(f"{reference.name} is an engine, of which only the results are known")
    return OnnxNetwork(file.path, reference.manifest)


def arithmetic_of(probe: Probe) -> Arithmetic:
    """Return how a side computes: in its manifest's precision, with the nodes in FP32 that its file keeps there."""
    precision = probe.manifest.precision
    if precision == "fp32" or not isinstance(probe, OnnxProbe):
        return Arithmetic(precision)
    return Arithmetic(precision, nodes=stored_types(probe.model))


def block_arithmetic(candidate: Probe, reference: Probe) -> Arithmetic:
    """Return the arithmetic whose rounding blocks may show: the candidate's, or that of a reference in a file if lower.

    The truth has the weights of the reference. If they are rounded to half precision in its file, a candidate that has
    them in float32 differs from it by half precision's rounding.
    """
    own, other = arithmetic_of(candidate), arithmetic_of(reference)
    lower = UNIT_ROUNDOFF[other.precision] > UNIT_ROUNDOFF[own.precision]
    return other if lower and not isinstance(reference, TorchProbe) else own


class PieceRounding:
    """Expected errors of the output on one piece of an image.

    The key graphs are those that the network selects in float64, in every run: which graphs they are changes the size
    of rounding little, but graphs that differ would change the result by more than rounding.

    Parameters
    ----------
    network
        The reference's.
    inputs
        float32[B, C, H, W]: the images and the extra inputs.
    k
        As for `Probe.run`.
    """

    def __init__(self, network: Network, inputs: Sequence[Images], k: int | None) -> None:
        self._network, self._inputs, self._k = network, inputs, k
        self._found: list[tuple[Arithmetic, tuple[float, ...]]] = []

    def explained(self, found: float, candidate: Arithmetic, reference: Arithmetic) -> RoundingError:
        """Return how much of the RMS difference between two sides rounding explains.

        The errors of two programs are independent, so their squares add up. The error of a reference in float32 is left
        out where the candidate's precision is lower: it is 2^13 times smaller, or less.

        Parameters
        ----------
        found
            RMS of the difference.
        candidate, reference
            How the sides compute.
        """
        errors = [self._errors(candidate)]
        if UNIT_ROUNDOFF[reference.precision] >= UNIT_ROUNDOFF[candidate.precision]:
            errors.append(self._errors(reference))
        lower = max((candidate, reference), key=lambda one: UNIT_ROUNDOFF[one.precision])
        least, most = (math.sqrt(sum(choose(one) ** 2 for one in errors)) for choose in (min, max))
        return RoundingError(lower.precision, found, most, most / least if least else math.nan)

    @cached_property
    def _exact(self) -> tuple[NDArray[np.float64], list[NDArray[np.int32]]]:
        return self._network.run(EXACT, self._inputs, self._k)

    def _errors(self, arithmetic: Arithmetic) -> tuple[float, ...]:
        """Return the RMS error of each order of summation."""
        for known, errors in self._found:
            if known == arithmetic:
                return errors
        exact, graphs = self._exact
        found = []
        for order in ORDERS:
            run = Arithmetic(arithmetic.precision, order, arithmetic.nodes)
            restored, _ = self._network.run(run, self._inputs, self._k, graphs or None)
            found.append(max(rms_error(restored, exact), one_rounding(exact, arithmetic.precision)))
        self._found.append((arithmetic, tuple(found)))
        return tuple(found)


def measure_blocks(
    network: Network,
    arithmetic: Arithmetic,
    inputs: Sequence[Images],
    k: int | None,
    graphs: Graphs | None,
    candidate: Mapping[str, BlockValues],
    replaced: BlockInputs,
    plain: Outputs,
) -> dict[str, RoundingError]:
    """Measure each block's own error against the truth: float64 on the candidate's inputs of that block.

    Parameters
    ----------
    network
        The reference's.
    arithmetic
        The candidate's.
    inputs, k, graphs
        As for `Network.run`.
    candidate
        The candidate's blocks.
    replaced
        The candidate's inputs of the blocks that are measured.
    plain
        Outputs of these blocks in the reference's own float32, on the same inputs; empty where it does not compute in
        the candidate's precision.

    Returns
    -------
    dict
        By the blocks' names.
    """
    runs = [plain] if plain else []
    runs.append({})
    order = len(runs) - 1

    def keep(block: BlockValues) -> None:
        if block.name in replaced:
            runs[-1][block.name] = block.output

    own = Arithmetic(arithmetic.precision, order, arithmetic.nodes)
    network.run(own, inputs, k, graphs, _unrounded(replaced, own), keep)
    found: dict[str, RoundingError] = {}

    def compare(block: BlockValues) -> None:
        name = block.name
        if name not in replaced or any(name not in run for run in runs):
            return
        exact, values = block.output, candidate[name]
        errors = [rms_error(run[name], exact) for run in runs]
        floor = one_rounding(exact, values.precision)
        found[name] = RoundingError(
            arithmetic.precision,
            rms_error(values.output, exact),
            float(np.max([*errors, floor])),  # One NaN makes the maximum NaN.
            max(errors) / min(errors) if len(errors) > 1 and min(errors) else math.nan,
        )

    network.run(EXACT, inputs, k, graphs, replaced, compare)
    return found


def _unrounded(replaced: BlockInputs, arithmetic: Arithmetic) -> BlockInputs:
    """Undo the rounding of the float16 inputs of blocks that a file computes in FP32, by noise as large.

    ONNX Runtime's CPU provider runs operators without float16 kernels in float32 and leaves out pairs of casts. So what
    it returns as a block's input may be a rounded copy of what it computes on.
    """
    fp32 = [name for name, kept in (arithmetic.nodes or {}).items() if kept]
    found = dict(replaced)
    for name, values in replaced.items():
        if any(node.startswith((f"{name}.", f"{name}/")) for node in fp32):
            found[name] = tuple(_with_noise(value) for value in values)
    return found


def _with_noise(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype != np.float16:
        return values
    noise = np.random.default_rng(0).uniform(-1, 1, 1 << 16).astype(np.float32) * np.float32(UNIT_ROUNDOFF["fp16"])
    exact = values.astype(np.float32)
    with np.errstate(invalid="ignore"):  # Infinite where half precision overflowed.
        noised: NDArray[np.float32] = exact + exact * np.resize(noise, exact.shape)
    return noised


def one_rounding(values: NDArray[Any], precision: str) -> float:
    """Return an upper bound of the RMS error of rounding every value once: relative errors uniform up to the roundoff.

    No program can be expected to be closer than that.
    """
    return UNIT_ROUNDOFF[precision] / math.sqrt(3) * rms_error(values, np.zeros(()))
