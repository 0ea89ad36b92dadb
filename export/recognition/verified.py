"""Recognise attentions, and keep those with which the network computes what the module computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Interpreter, Node

from ...errors import KeygraphError
from ...instrumentation.metrics import TOLERANCES, psnr
from ...parity.pass_criteria import beyond, describe_error
from ...parity.rounding.network import Arithmetic, rms_error
from ...plugins.torch import forced_graphs
from ..program_network import ProgramNetwork
from ..rounding import ExpectedRounding
from .recognize import Recognition, annotated_graph, recognize
from .verification import KEY_GRAPHS, PRECISIONS, Case, Checked, check_attentions, placed


def recognize_verified(
    program: ExportedProgram,
    module: nn.Module,
    cases: Sequence[Case],
    value_range: tuple[float, float],
    progress: Callable[[str], None] = lambda _step: None,
    calls: Sequence[int] | None = None,
    exactly_k: bool = False,
) -> Recognition:
    """Recognise attentions as `recognize` does, and keep those that compute what the module computes.

    Parameters
    ----------
    program
        As for `recognize`.
    module
        What it was exported from, unmodified.
    cases
        Inputs to run, for instance `verification_cases`.
    value_range
        Smallest and largest value of the results, for the PSNR.
    progress
        Called with a line before each step.
    calls
        If the module calls the operators itself: for each call of `key_graph`, which of the program's key graphs it is
        (`by_hand`). Else None.
    exactly_k
        As for `recognize`.

    Returns
    -------
    Recognition
        An attention that failed is not fused, and its verdict says why.

    Raises
    ------
    KeygraphError
        The program given, with nothing fused, differs from the module.
    """
    failures: dict[str, str] = {}
    checked: dict[str, Checked] = {}
    for case in cases:
        progress(f"checking attentions on {case.name}")
        checked[case.name] = check_attentions(program, case, exactly_k=exactly_k)
        for name, reason in checked[case.name].failures.items():
            failures.setdefault(name, f"its verification failed on {case.name}: {reason}")
    compared = _Comparison(program, module, calls, value_range, exactly_k, cases[0], checked)
    while True:
        recognition = recognize(program, failures, exactly_k)
        if not recognition.rewritten and calls is None:
            return recognition
        for case in cases:
            progress(f"comparing with the module on {case.name}")
            wrong = compared.difference(recognition, case, failures)
            if wrong is not None:
                break
        else:
            return recognition
        if not recognition.rewritten:
            raise KeygraphError(f"the network as it was traced, on {case.name}, {wrong}; no file was written")
        progress(f"looking for the attention at fault on {case.name}")
        failures |= dict.fromkeys(
            compared.guilty(recognition, case, failures), f"the network's result on {case.name} {wrong}"
        )


class _Comparison:
    """Compares forms of a program, in which other attentions are rewritten, with the module.

    Parameters
    ----------
    program, module, calls, value_range, exactly_k
        As for `recognize_verified`.
    case
        What rounding is measured on.
    checked
        Results of `check_attentions` with all of them, by the names of the cases.
    """

    def __init__(
        self,
        program: ExportedProgram,
        module: nn.Module,
        calls: Sequence[int] | None,
        value_range: tuple[float, float],
        exactly_k: bool,
        case: Case,
        checked: Mapping[str, Checked],
    ) -> None:
        self._checked, self._exactly_k = checked, exactly_k
        self._program, self._module, self._calls, self._value_range = program, module, calls or (), value_range
        self._rounding = ExpectedRounding(ProgramNetwork(program), Arithmetic("fp32"), _arrays(case), None)

    def guilty(self, recognition: Recognition, case: Case, failures: Mapping[str, str]) -> list[str]:
        """Return the attention with which the program begins to differ from the module, in order of execution.

        All that are rewritten where that cannot be told: where the program differs without any, as well.

        Parameters
        ----------
        recognition
            With all of them.
        case
            On which it differs.
        failures
            Attentions that are not rewritten.
        """
        names = [verdict.softmax for verdict in recognition.verdicts if verdict.fused or verdict.packed]

        def differs(count: int) -> bool:
            left = {**failures, **dict.fromkeys(names[count:], "not tried")}
            return self.difference(recognize(self._program, left, self._exactly_k), case, left) is not None

        if len(names) == 1 or differs(0):
            return names
        right, wrong = 0, len(names)
        while wrong - right > 1:
            middle = (right + wrong) // 2
            right, wrong = (right, middle) if differs(middle) else (middle, wrong)
        return [names[wrong - 1]]

    def difference(self, recognition: Recognition, case: Case, failures: Mapping[str, str]) -> str | None:
        """Compare a rewritten program with the module, with the module's selections; return what is wrong.

        Parameters
        ----------
        recognition
            The program.
        case
            What to run it on.
        failures
            Attentions that are not rewritten in it.
        """
        checked = (
            check_attentions(self._program, case, failures, self._exactly_k) if failures else self._checked[case.name]
        )
        program = recognition.program
        tolerance = TOLERANCES[_lowest_precision(program)]
        graph = annotated_graph(program)
        with torch.no_grad():
            with forced_graphs([checked.by_hand[call] for call in self._calls], tolerance.similarity):
                expected = self._module(*case.inputs)
            (computed,) = _Forced(GraphModule(program.graph_module, graph), checked.graphs).run(*placed(graph, case))
        if not torch.isfinite(expected).all():
            return None if torch.equal(torch.isfinite(expected), torch.isfinite(computed)) else "is not finite"
        ours, theirs = computed.float().numpy(), expected.float().numpy()
        decibels = psnr(ours, theirs, self._value_range)
        error = self._rounding.explained(rms_error(ours, theirs), _arrays(case), None)
        if error is None:
            return None if decibels >= tolerance.psnr else f"is only {decibels:.1f} dB from the module's"
        return f"is only {decibels:.1f} dB from the module's, {describe_error(error)}" if beyond(error) else None


def _arrays(case: Case) -> list[NDArray[Any]]:
    return [given.numpy() for given in case.inputs]


class _Forced(Interpreter):
    """Runs a program with given key graphs."""

    def __init__(self, module: GraphModule, graphs: Sequence[Tensor]) -> None:
        super().__init__(module)
        self._graphs = iter(graphs)

    def run_node(self, n: Node) -> Any:
        """Run a node as `Interpreter` does; a key graph gives the next one of those given."""
        return next(self._graphs) if n.target in KEY_GRAPHS else super().run_node(n)


def _lowest_precision(program: ExportedProgram) -> str:
    """Return the lowest precision that a program computes in."""
    values = [node.meta.get("val") for node in program.graph.nodes]
    types = {value.dtype for value in values if isinstance(value, Tensor)} & set(PRECISIONS)
    return PRECISIONS[min(types, key=lambda dtype: (torch.finfo(dtype).bits, dtype == torch.float16))]
