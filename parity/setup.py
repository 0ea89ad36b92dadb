"""Everything about a comparison that is the same for all images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..runtime.backends.base import exact_model
from .compatibility import session_k
from .inputs import Demands, Input
from .pass_criteria import least_psnr
from .piecewise import count_pieces
from .rounding.expected import PieceRounding, network_of
from .rounding.network import Network, NotMeasuredError
from .rounding.stored_errors import StoredErrors
from .sides.base import Probe
from .sides.module_probe import ModuleProbe


@dataclass(frozen=True)
class Setup:
    """The sides of a comparison and how they are run.

    Attributes
    ----------
    candidates, reference
        The opened models.
    k
        Neighbours of each node; None for networks without key graphs.
    needs
        Requirements on inputs under which all sides accept them.
    tile
        None: images are run in pieces. Else as `Restorer.restore` takes it: all sides run the tiled pipeline.
    at_least
        Lowest PSNR in dB that passes; None for that of the precisions' tolerance.
    blocks
        Whether blocks are compared as well.
    from_file
        Whether the reference was opened from its file by this comparison, so that nobody has changed it since.
    """

    candidates: tuple[Probe, ...]
    reference: Probe
    k: int | None
    needs: Demands
    tile: int | str | None
    at_least: float | None
    blocks: bool
    from_file: bool = False

    @property
    def sides(self) -> tuple[Probe, ...]:
        """The reference, then the candidates."""
        return (self.reference, *self.candidates)

    @cached_property
    def global_statistics(self) -> str | None:
        """Argument of `Restorer.restore`: exact tiles only where all sides support them, so all compute the same."""
        if not self.reference.manifest.global_statistics:
            return None
        try:
            for probe in self.sides:
                exact_model(probe.session)
        except InputError:
            return "tile"
        return None

    @property
    def network(self) -> Network | None:
        """The reference's network, by which rounding is measured; None where that is not known (`not_measured`)."""
        return self._network[0]

    @property
    def not_measured(self) -> str:
        """Why rounding cannot be measured; empty where it can."""
        return self._network[1]

    @cached_property
    def _network(self) -> tuple[Network | None, str]:
        try:
            return network_of(self.reference), ""
        except NotMeasuredError as error:
            return None, str(error)

    def piece(self, inputs: Sequence[NDArray[np.float32]]) -> PieceRounding:
        """Return what measures rounding on a batch; there must be a `network`.

        Parameters
        ----------
        inputs
            float32[B, C, H, W]: the images and the extra inputs.
        """
        assert self.network is not None
        k = self.k_of(self.reference)
        # Of a module, the code is not a part of the digests.
        kept = self.from_file and not isinstance(self.reference, ModuleProbe)
        stored = StoredErrors(self.reference, inputs, k) if kept else None
        return PieceRounding(self.network, inputs, k, stored)

    def k_of(self, probe: Probe) -> int | None:
        """Return the k for the probe's `run`."""
        return session_k(probe.name, probe.manifest, self.k)

    def forces_graphs(self, candidate: Probe) -> bool:
        """Return whether this candidate's key graphs can be forced on the reference."""
        return self.k is not None and candidate.tells_graphs and self.reference.tells_graphs

    def precisions(self, candidate: Probe) -> tuple[str, str]:
        """Return the precisions of both sides."""
        return candidate.manifest.precision, self.reference.manifest.precision

    def threshold(self, candidate: Probe) -> float:
        """Return the lowest PSNR in dB that passes, for images and blocks."""
        return least_psnr(self.precisions(candidate), self.at_least)

    def steps(self, image: Input) -> int:
        """Return how many steps of a progress bar an image takes."""
        forced = sum(map(self.forces_graphs, self.candidates))
        traced = len(self.candidates) if self.blocks else 0
        if self.tile is not None:
            return len(self.sides) + forced + traced
        return count_pieces(image, self.needs) * (1 + forced) + traced
