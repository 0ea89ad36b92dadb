"""Run a traced program in other arithmetic, to measure what rounding explains."""

from __future__ import annotations

import copy
import warnings
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx.node import map_aggregate

from ..parity.rounding.network import Network, NotMeasuredError

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


class ProgramNetwork(Network):
    """A program of which results in other arithmetic can be had; see `Network`.

    Its selections are those of the run in float64 in every run: of top-k operators, comparisons, and key graphs.

    Parameters
    ----------
    program
        From `capture` or `recognize`.
    takes_k
        Whether k is its last input, as of `custom.neighbours.with_k`.
    """

    def __init__(self, program: ExportedProgram, takes_k: bool = False) -> None:
        super().__init__(program.module(check_guards=False), None)
        self._takes_k = takes_k

    @cached_property
    def _float64(self) -> nn.Module:
        """The program with every floating-point type in it replaced by float64: types are a part of traced code."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # Of PyTorch's own code, in copying programs.
                module = copy.deepcopy(self._module).double()
        except (RuntimeError, TypeError) as error:
            raise NotMeasuredError(f"the program cannot be copied: {error}") from error
        for part in module.modules():
            for name, value in vars(part).items():
                if isinstance(value, Tensor) and value.is_floating_point():
                    setattr(part, name, value.double())
            if isinstance(part, GraphModule):
                for node in part.graph.nodes:
                    node.args, node.kwargs = (map_aggregate(given, _widened) for given in (node.args, node.kwargs))
                part.recompile()
        return module


def _widened(argument: Any) -> Any:
    return torch.float64 if argument in _FLOATS and isinstance(argument, torch.dtype) else argument
