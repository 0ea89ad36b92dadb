"""Run the reference's PyTorch network again in other arithmetic, with key graphs and block inputs forced."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import InputError, KeygraphError
from ...manifest import Manifest
from ...models.architecture import CUSTOM
from ...runtime.backends.full_fp32 import full_fp32
from ..metrics.blocks import EVERY_MODULE, BlockObserver, block_pattern
from ..sides import torch_blocks
from ..sides.base import BlockInputs, Graphs
from .arithmetic import ReorderedSums, RoundedStorage
from .long_sums import LongSums
from .selections import ScoresObserver, selecting, selecting_graphs
from .stored_types import Fp32Operators, StoredTypes


@dataclass(frozen=True)
class Arithmetic:
    """How a network computes.

    Attributes
    ----------
    precision
        Of stored tensors: ``"fp32"``, ``"fp16"`` or ``"bf16"``; ``"fp64"`` for the exact results.
    order
        Order of summation: 0 for PyTorch's own, else the seed of a random one.
    nodes
        For half precision: the nodes that a file keeps in FP32 (`stored_types.stored_types`); None for none.
    unbounded
        For half precision: whether it has the range of float32, so that nothing overflows.
    """

    precision: str
    order: int = 0
    nodes: StoredTypes | None = None
    unbounded: bool = False


EXACT = Arithmetic("fp64")


class NotMeasuredError(KeygraphError):
    """A network does not run in other arithmetic than its own."""


class _CapturedError(Exception):
    """Ends a run of which no more is needed."""


class Network:
    """A network of which results in other arithmetic can be had, on the CPU.

    Parameters
    ----------
    module
        With its weights as they were stored, float32 on the CPU and in evaluation mode; it is not changed.
    manifest
        Its manifest; None for a module of any kind: without k, and every module inside it is a block.
    """

    def __init__(self, module: nn.Module, manifest: Manifest | None) -> None:
        self._module = module
        self._manifest = manifest
        #: Whether keygraph knows its code. Other code may change tensors in place, and select by other operators.
        self.described = manifest is not None and manifest.architecture != CUSTOM
        self._takes_k = manifest is not None and manifest.neighbours is not None

    def run(
        self,
        arithmetic: Arithmetic,
        inputs: Sequence[NDArray[np.float32]],
        k: int | None,
        graphs: Graphs | None = None,
        replaced: BlockInputs | None = None,
        observe: BlockObserver | None = None,
        scores: ScoresObserver | None = None,
    ) -> tuple[NDArray[Any], list[NDArray[Any]]]:
        """Restore a batch.

        Parameters
        ----------
        arithmetic
            How.
        inputs
            float32[B, C, H, W]: the images and the extra inputs.
        k
            As for `Probe.run`.
        graphs
            As for `Probe.force`, or as returned; None for the network's own.
        replaced
            As for `Probe.retrace`; None replaces nothing.
        observe
            Called with each block, as in `Probe.trace`.
        scores
            Called with what each selection is made by.

        Returns
        -------
        restored : NDArray
            [B, C', H', W'] in float64 if exact, else in float32.
        graphs : list of NDArray
            The key graphs that were used; of a network that is not described, everything that it selected
            (`selections.Selections`).

        Raises
        ------
        NotMeasuredError
            The network does not run in this arithmetic.
        """
        module = self._float64 if arithmetic.precision == "fp64" else self._module
        used: list[NDArray[Any]] = []
        with self._instrumented(module, replaced, observe):
            restored = self._compute(module, arithmetic, inputs, k, graphs, used, scores)
        return restored, used

    @contextmanager
    def _instrumented(
        self, module: nn.Module, replaced: BlockInputs | None, observe: BlockObserver | None
    ) -> Iterator[None]:
        """Replace the inputs of blocks and observe blocks, in every run of the module inside the ``with`` block."""
        with ExitStack() as stack:
            if replaced is not None:  # Before they are observed.
                stack.enter_context(torch_blocks.replaced_inputs(module, replaced))
            if observe is not None:
                pattern, copies = EVERY_MODULE, not self.described
                if self._manifest is not None:
                    pattern = block_pattern(self._manifest)
                stack.enter_context(torch_blocks.observed(module, pattern, observe, copies))
            yield

    def _compute(
        self,
        module: nn.Module,
        arithmetic: Arithmetic,
        inputs: Sequence[NDArray[np.float32]],
        k: int | None,
        graphs: Graphs | None,
        used: list[NDArray[Any]],
        scores: ScoresObserver | None = None,
    ) -> NDArray[Any]:
        """Run the module; `used` gains the key graphs."""
        dtype = torch.float64 if arithmetic.precision == "fp64" else torch.float32
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(full_fp32())
            stack.enter_context((selecting_graphs if self.described else selecting)(graphs, used, scores))
            arguments: list[Any] = [
                torch.from_numpy(np.ascontiguousarray(one)).to(dtype, copy=not self.described) for one in inputs
            ]
            if self._takes_k:
                arguments.append(None if k is None else torch.tensor([k], dtype=torch.int64))
            stack.enter_context(_computing(module, arithmetic))
            try:
                restored: NDArray[Any] = module(*arguments).numpy()
            except (RuntimeError, TypeError, InputError) as error:  # float32 constants among float64, for instance.
                raise NotMeasuredError(
                    f"the network does not run in {arithmetic.precision}: {_first_line(error)}"
                ) from error
        return restored

    def exact_block(
        self,
        name: str,
        values: Sequence[NDArray[Any]],
        inputs: Sequence[NDArray[np.float32]],
        k: int | None,
        graphs: Graphs | None,
    ) -> Callable[[], Tensor]:
        """Return a function that runs one block alone, in float64.

        Parameters
        ----------
        name
            Of the module; empty for the network itself.
        values
            Its floating-point inputs, as `BlockValues.inputs`.
        inputs, k, graphs
            As for `run`.
        """
        taken: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        block = self._float64.get_submodule(name)

        def capture(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            taken.append((arguments, keywords))
            raise _CapturedError

        with torch_blocks.replaced_inputs(self._float64, {name: values}):
            # After the one that replaces inputs.
            hook = block.register_forward_pre_hook(capture, with_kwargs=True)
            try:
                self.run(EXACT, inputs, k, graphs)
            except _CapturedError:
                pass
            finally:
                hook.remove()

        def run() -> Tensor:
            arguments, keywords = copy.deepcopy(taken[0])  # A module may change its input in place.
            result = torch_blocks.feature_of(block(*arguments, **keywords))
            assert result is not None
            return result

        return run

    @cached_property
    def _float64(self) -> nn.Module:
        try:
            return copy.deepcopy(self._module).double()
        except (RuntimeError, TypeError) as error:  # Tensors that are computed from parameters, or locks, for instance.
            raise NotMeasuredError(f"the network cannot be copied: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


@contextmanager
def _computing(module: nn.Module, arithmetic: Arithmetic) -> Iterator[None]:
    """Run the module in this arithmetic inside the block; other orders of summation are those of simple kernels too."""
    with ExitStack() as stack:
        # The mode that is entered last sees an operator first.
        if arithmetic.order:
            stack.enter_context(ReorderedSums(arithmetic.order))
            stack.enter_context(LongSums())
        if arithmetic.precision in ("fp16", "bf16"):
            kept = Fp32Operators(arithmetic.nodes) if arithmetic.nodes else None
            running = stack.enter_context(torch_blocks.running_modules(module))

            def keeps(operator: str) -> bool:
                return kept is not None and kept.keeps(running[-1], operator)

            stack.enter_context(RoundedStorage(arithmetic.precision, keeps, arithmetic.unbounded))
        yield


def rms_error(values: NDArray[Any], exact: NDArray[Any]) -> float:
    """Return the root mean square of the difference, in float64; NaN if a value is NaN or infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        value = float(np.sqrt(np.mean(np.square(values - exact, dtype=np.float64))))
    return value if np.isfinite(value) else float("nan")
