"""Running all sides on one image: as users run them, and with the candidate's key graphs forced on the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..manifest import IMAGE_INPUT
from ..runtime.errors import NotFiniteError
from ..runtime.restorer import Restorer
from ..runtime.tiling.blend import Plan
from ..runtime.tiling.tile_size import TileChoice, choose
from .inputs import Input, floats
from .metrics.selection import StageAgreement, agreements
from .pass_criteria import tolerance
from .piecewise import in_pieces, in_tiles
from .setup import Setup
from .sides.base import Probe

Image = NDArray[np.float32]


@dataclass(frozen=True)
class SideOutput:
    """Output of one side on one image.

    Attributes
    ----------
    image
        float32[H', W', C'] in the value range.
    plan
        The tiling plan; None for pieces.
    notices
        Lines for the reader.
    """

    image: Image
    plan: Plan | None
    notices: tuple[str, ...]


def run_as_users_do(setup: Setup, given: Input, step: Callable[[], None]) -> list[SideOutput]:
    """Run every side as users run it, each with its own key graphs.

    Parameters
    ----------
    setup
        The sides and how they are run.
    given
        The image.
    step
        Called after each step of the progress bar.

    Returns
    -------
    One output for each of `Setup.sides`, so the reference's first.
    """
    if setup.tile is None:

        def run_batch(images: Image, *extras: Image) -> Image:
            return np.stack([probe.run(images, setup.k_of(probe), *extras) for probe in setup.sides])

        notices = tuple(f"{given.name}: {line}" for line in given.notices)
        images = in_pieces(given, setup.needs, run_batch, step)
        return [SideOutput(image, None, () if index else notices) for index, image in enumerate(images)]
    outputs = []
    for probe in setup.sides:
        outputs.append(_run_tiled(setup, probe, given))
        step()
    return [_note_other_tiles(output, outputs[0], given) for output in outputs]


def run_with_same_graphs(
    setup: Setup, candidate: Probe, given: Input, step: Callable[[], None]
) -> tuple[tuple[Image, Image], tuple[StageAgreement, ...]]:
    """Run a candidate, and the reference with the candidate's key graphs forced on it.

    Parameters
    ----------
    setup
        The sides and how they are run.
    candidate
        One of `Setup.candidates`.
    given
        The image.
    step
        Called after each step of the progress bar.

    Returns
    -------
    images, stages
        The candidate's and the reference's float32[H', W', C']; and how the selections of both agree.
    """
    reference, k = setup.reference, setup.k
    assert k is not None
    allowed = tolerance(setup.precisions(candidate)).similarity
    stages: list[StageAgreement] = []

    def run_batch(images: Image, *extras: Image) -> Image:
        nonlocal stages
        recorded, selections = candidate.record(images, setup.k_of(candidate), *extras)
        graphs = [selection.graph for selection in selections]
        forced, own_selections = reference.force(images, setup.k_of(reference), graphs, *extras)
        found = agreements(selections, own_selections, k, allowed)
        stages = [a + b for a, b in zip(stages, found, strict=True)] if stages else found
        return np.stack([recorded, forced])

    if setup.tile is None:
        recorded, forced = in_pieces(given, setup.needs, run_batch, step)
    else:
        recorded, forced = in_tiles(given, setup.needs, _common_sizing(setup, given).plan, run_batch)
        step()
    return (recorded, forced), tuple(stages)


def _run_tiled(setup: Setup, probe: Probe, given: Input) -> SideOutput:
    """Run one side through the tiled pipeline."""
    assert setup.tile is not None
    manifest = setup.needs.manifest
    arrays = floats(given, manifest)
    image = arrays.pop(IMAGE_INPUT)
    k = setup.k_of(probe)
    try:
        restored = Restorer(probe.session).restore(
            image,
            k,
            inputs=arrays,
            tile=setup.tile,
            overlap=_overlap(setup, given),
            global_statistics=setup.global_statistics,
        )
    except NotFiniteError as error:
        # Run again without the check, to see where the output is not finite.
        plan = _common_sizing(setup, given).plan
        (values,) = in_tiles(given, setup.needs, plan, lambda images, *extras: probe.run(images, k, *extras)[None])
        if np.isfinite(values).all():  # Exact tiles compute differently.
            values = np.full_like(values, np.nan)
        return SideOutput(values, plan, (f"{given.name}: {probe.name}: {str(error).partition(';')[0]}",))
    values = restored.image if restored.image.ndim == 3 else restored.image[:, :, None]
    low, high = manifest.value_range
    if (low, high) != (0.0, 1.0):
        values = values * np.float32(high - low) + np.float32(low)
    return SideOutput(values, restored.plan, tuple(f"{given.name}: {line}" for line in restored.notices))


def _note_other_tiles(output: SideOutput, reference: SideOutput, given: Input) -> SideOutput:
    """Add a notice to the output of a side that chose other tiles than the reference."""
    finite = bool(np.isfinite(output.image).all() and np.isfinite(reference.image).all())
    if output.plan == reference.plan or not finite:  # After a non-finite result the plan is not the side's own.
        return output
    line = f"{given.name}: the sides use different tiles; --tile N makes them the same"
    return dataclasses.replace(output, notices=(*output.notices, line))


def _overlap(setup: Setup, given: Input) -> int | str:
    """Return one overlap for all sides, whatever each was calibrated with, when they run the same tiles."""
    if not isinstance(setup.tile, int) or setup.needs.manifest.global_statistics:
        return "auto"
    return _common_sizing(setup, given).overlap


def _common_sizing(setup: Setup, given: Input) -> TileChoice:
    """Choose tiles that suit all sides, with the largest overlap that any of them was calibrated with."""
    assert setup.tile is not None
    needs = setup.needs
    calibrated = [probe.manifest.tiling for probe in setup.sides if probe.manifest.tiling is not None]
    tiling = max(calibrated, key=lambda one: one.overlap, default=None)
    common = dataclasses.replace(needs.manifest, size_multiple=needs.multiple, shape=needs.shape, tiling=tiling)
    return choose(common, given.request.height, given.request.width, tile=setup.tile)
