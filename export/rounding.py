"""What rounding explains of the errors of an exported file: measured once, on a small image.

The rule is that of `compare` (`parity.pass_criteria`). A file is verified in many runs, and rounding hardly depends on
which, so it is measured on one of them; a run that would fail by that is measured itself before it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..parity.metrics.rounding import RoundingError
from ..parity.pass_criteria import beyond
from ..parity.rounding.expected import PieceRounding
from ..parity.rounding.network import Arithmetic, Network, NotMeasuredError

#: Least height times width of the image that rounding is measured on: of fewer pixels, its mean square is a matter of
#: chance.
LEAST_PIXELS = 1024

_FP32 = Arithmetic("fp32")


class ExpectedRounding:
    """Expected errors of one network in one precision, against the network in float32.

    Parameters
    ----------
    network
        The network in PyTorch.
    arithmetic
        How the file computes.
    inputs, k
        Of the run that rounding is measured on, as for `Network.run`.
    """

    def __init__(
        self, network: Network, arithmetic: Arithmetic, inputs: Sequence[NDArray[np.float32]], k: int | None
    ) -> None:
        self._network, self._arithmetic = network, arithmetic
        self._inputs, self._k = inputs, k
        #: Why rounding could not be measured; empty if it could.
        self.failure = ""

    def explained(self, found: float, inputs: Sequence[NDArray[np.float32]], k: int | None) -> RoundingError | None:
        """Return how much of an error rounding explains.

        Parameters
        ----------
        found
            RMS of the difference between a result of the file and that of the network in float32, both with the same
            selections.
        inputs, k
            Of that run.

        Returns
        -------
        RoundingError or None
            The expected error is that of the run given to the constructor; if the error is beyond that, the larger one
            of that and this run's own. None if rounding cannot be measured.
        """
        try:
            expected, spread = self._measured
            error = RoundingError(self._arithmetic.precision, found, expected, spread)
            if beyond(error):
                own = PieceRounding(self._network, inputs, k).explained(found, self._arithmetic, _FP32)
                error = own if not own.expected <= expected else error
        except NotMeasuredError as failure:
            self.failure = str(failure)
            return None
        if not np.isfinite(error.expected):
            self.failure = f"{self._arithmetic.precision} overflows in PyTorch"
            return None
        return error

    @cached_property
    def _measured(self) -> tuple[float, float]:
        """Expected RMS error, and its spread over orders of summation."""
        error = PieceRounding(self._network, self._inputs, self._k).explained(0.0, self._arithmetic, _FP32)
        return error.expected, error.spread
