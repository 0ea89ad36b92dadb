"""The error that rounding makes: at the output for one piece of an image, and in every block by itself.

The truth is the same network in float64 with the same key graphs. What a side's precision must cost is the distance
from it of the network that stores its tensors in that precision, in two orders of summation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.backends.onnx_file import OnnxFile
from ..disk_arrays import on_disk
from ..metrics.blocks import BlockValues
from ..metrics.rounding import RoundingError, TiesError, median_error
from ..sides.base import BlockInputs, Graphs, Probe
from ..sides.module_probe import ModuleProbe
from ..sides.onnx_probe import OnnxProbe
from ..sides.torch_probe import TorchProbe
from .arithmetic import UNIT_ROUNDOFF
from .network import EXACT, Arithmetic, Network, NotMeasuredError, rms_error
from .onnx_network import OnnxNetwork
from .selections import Scores
from .stored_errors import StoredErrors
from .stored_types import stored_types

#: Orders of summation in which the output is computed: PyTorch's own, and a random one.
ORDERS = (0, 1)

#: How much larger the errors of queries and keys are made, to see what near ties do. In half precision many ties flip
#: in every run; in float32 few do, and which is chance, so that more of them are counted.
NEAR_TIES = {"fp32": 32.0, "fp16": 4.0, "bf16": 4.0}

#: Scores of more values than these are kept on disk.
_LARGE = 1 << 20

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
    if isinstance(reference, ModuleProbe):
        return Network(reference.float32_module(), None)
    if isinstance(reference, TorchProbe):
        return Network(reference.float32_module(), reference.manifest)
    session = getattr(reference, "session", None)  # A side of somebody else need not have one.
    file = getattr(session, "file", None)
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
    stored
        Errors of earlier runs; None keeps none.
    """

    def __init__(
        self, network: Network, inputs: Sequence[Images], k: int | None, stored: StoredErrors | None = None
    ) -> None:
        self._network, self._inputs, self._k, self._stored = network, inputs, k, stored
        self._found: list[tuple[tuple[Arithmetic, bool], tuple[float, ...]]] = []

    def explained(
        self,
        found: float,
        candidate: Arithmetic,
        reference: Arithmetic,
        own_graphs: bool = False,
        peak: float = math.nan,
        median: float = math.nan,
    ) -> RoundingError:
        """Return how much of the RMS difference between two sides rounding explains.

        The errors of two programs are independent, so their squares add up. The error of a reference in float32 is left
        out where the candidate's precision is lower: it is 2^13 times smaller, or less.

        Parameters
        ----------
        found
            RMS of the difference.
        candidate, reference
            How the sides compute.
        own_graphs
            Whether each side used its own key graphs, so that near ties are a part of the difference.
        peak, median
            See `RoundingError`.
        """
        sides = [candidate]
        if UNIT_ROUNDOFF[reference.precision] >= UNIT_ROUNDOFF[candidate.precision]:
            sides.append(reference)
        errors = [self._errors(side) for side in sides]
        lower = max((candidate, reference), key=lambda one: UNIT_ROUNDOFF[one.precision])
        least, most = (math.hypot(*map(choose, errors)) for choose in (min, max))
        error = RoundingError(lower.precision, found, most, most / least if least else math.nan, peak=peak)
        return error.with_ties([self._ties(side) for side in sides], median) if own_graphs else error

    @cached_property
    def _exact(self) -> tuple[NDArray[np.float64], list[NDArray[Any]]]:
        return self._network.run(EXACT, self._inputs, self._k)

    def _errors(self, arithmetic: Arithmetic) -> tuple[float, ...]:
        """Return the RMS error of each order of summation; if half precision overflows, that of its bits alone."""
        return self._remember(
            (arithmetic, False),
            lambda: self._measured(arithmetic) or self._measured(replace(arithmetic, unbounded=True)),
        )

    def _measured(self, arithmetic: Arithmetic) -> tuple[float, ...]:
        """Return the RMS error of each order of summation; empty where one is not finite and might be otherwise."""
        exact, graphs = self._exact
        found = []
        for order in ORDERS:
            restored, _ = self._network.run(replace(arithmetic, order=order), self._inputs, self._k, graphs or None)
            # One NaN makes the maximum NaN.
            error = float(np.max([rms_error(restored, exact), one_rounding(exact, arithmetic.precision)]))
            if math.isnan(error) and arithmetic.precision == "fp16" and not arithmetic.unbounded:
                return ()
            found.append(error)
        return tuple(found)

    def _ties(self, arithmetic: Arithmetic) -> TiesError:
        """Return the error of near ties: of selections that `NEAR_TIES` times the rounding decides otherwise."""
        rms, median = self._remember((arithmetic, True), lambda: self._measured_ties(arithmetic))
        return rms, median

    def _measured_ties(self, arithmetic: Arithmetic) -> TiesError:
        exact, graphs = self._exact
        if not graphs:
            return 0.0, 0.0
        other = near_ties(self._network, arithmetic, self._inputs, self._k, graphs)
        restored, _ = self._network.run(EXACT, self._inputs, self._k, other)
        return rms_error(restored, exact), median_error(restored, exact)

    def _remember(self, key: tuple[Arithmetic, bool], measure: Callable[[], tuple[float, ...]]) -> tuple[float, ...]:
        for known, errors in self._found:
            if known == key:
                return errors
        arithmetic, ties = key
        if self._stored is None:
            found = measure()
        else:
            nodes = None if arithmetic.nodes is None else sorted(arithmetic.nodes.items())
            text = json.dumps([arithmetic.precision, nodes, ties])
            found = self._stored.remember(text, measure)
        self._found.append((key, found))
        return found


def near_ties(
    network: Network,
    arithmetic: Arithmetic,
    inputs: Sequence[Images],
    k: int | None,
    graphs: Sequence[NDArray[Any]],
    replaced: BlockInputs | None = None,
) -> list[NDArray[Any]]:
    """Return what a network selects with errors of its scores that are `NEAR_TIES` times those of rounding.

    Parameters
    ----------
    network, inputs, k, replaced
        As for `Network.run`.
    arithmetic
        Whose rounding.
    graphs
        What it selects in float64.
    """
    exact: list[tuple[NDArray[Any], ...]] = []

    def keep(scores: Scores) -> None:
        exact.append(_kept(scores.values))

    network.run(EXACT, inputs, k, graphs, replaced, scores=keep)
    exact.reverse()
    found: list[NDArray[Any]] = []

    def select_again(rounded: Scores) -> None:
        right = exact.pop() if exact else ()
        if [one.shape for one in right] != [one.shape for one in rounded.values]:
            raise NotMeasuredError("the network selects at other places in other arithmetic")
        pairs = zip(right, rounded.values, strict=True)
        found.append(rounded.select([a + NEAR_TIES[arithmetic.precision] * (b.astype(a.dtype) - a) for a, b in pairs]))

    network.run(replace(arithmetic, order=ORDERS[-1]), inputs, k, graphs, replaced, scores=select_again)
    return found


def _kept(values: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
    """Return scores as they can be kept of a whole network: those of all pairs of nodes on disk, in float32."""
    if all(one.size < _LARGE for one in values):
        return tuple(one.copy() for one in values)
    # All of them rounded, so that an element is still as large as a threshold that is this element.
    return tuple(on_disk(one.astype(np.float32)) for one in values)


def measure_blocks(
    network: Network,
    arithmetic: Arithmetic,
    inputs: Sequence[Images],
    k: int | None,
    graphs: Graphs | None,
    candidate: Mapping[str, BlockValues],
    replaced: BlockInputs,
    plain: Outputs | None = None,
) -> dict[str, RoundingError]:
    """Measure each block's own error against the truth: float64 on the candidate's inputs of that block.

    Parameters
    ----------
    network
        The reference's.
    arithmetic
        The candidate's.
    inputs, k
        As for `Network.run`.
    graphs
        The candidate's key graphs; None if each side selects for itself, so that near ties are a part of the error.
    candidate
        The candidate's blocks.
    replaced
        The candidate's inputs of the blocks that are measured.
    plain
        Outputs of these blocks in the reference's own float32, on the same inputs, if they are known. They have a part
        only where the candidate computes in float32 too.

    Returns
    -------
    dict
        By the blocks' names.
    """
    runs: list[Outputs] = []

    def keep(block: BlockValues) -> None:
        if block.name in replaced:
            runs[-1][block.name] = block.output

    given = graphs
    if arithmetic.precision == "fp32":
        runs.append(plain or {})
        if not plain:
            _, used = network.run(arithmetic, inputs, k, given, replaced, keep)
            given = used or None
    own = Arithmetic(arithmetic.precision, len(runs), arithmetic.nodes)
    runs.append({})
    _, used = network.run(own, inputs, k, given, _unrounded(replaced, own), keep)
    given = used or None
    tied: Outputs | None = None
    if graphs is None and given is not None:
        other = near_ties(network, arithmetic, inputs, k, given, replaced)
        runs.append({})
        network.run(EXACT, inputs, k, other, replaced, keep)
        tied = runs.pop()
    found: dict[str, RoundingError] = {}

    def compare(block: BlockValues) -> None:
        name = block.name
        if name not in replaced or any(name not in run for run in runs):
            return
        exact, values = block.output, candidate[name]
        errors = [rms_error(run[name], exact) for run in runs]
        floor = one_rounding(exact, values.precision)
        error = RoundingError(
            arithmetic.precision,
            rms_error(values.output, exact),
            float(np.max([*errors, floor])),  # One NaN makes the maximum NaN.
            max(errors) / min(errors) if len(errors) > 1 and min(errors) else math.nan,
        )
        if tied is not None and name in tied:
            ties = rms_error(tied[name], exact), median_error(tied[name], exact)
            error = error.with_ties([ties], median_error(values.output, exact))
        found[name] = error

    network.run(EXACT, inputs, k, given, replaced, compare)
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
