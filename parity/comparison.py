"""Comparing candidates with a reference on images: the numbers, the choices of neighbours, and the verdict."""

from __future__ import annotations

import dataclasses
import itertools
import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..instrumentation.metrics import psnr
from ..manifest import IMAGE_INPUT
from ..runtime.errors import NotFiniteError
from ..runtime.notices import warn
from ..runtime.restorer import Restorer, exact_model
from ..runtime.tiling.blend import Plan
from ..runtime.tiling.tile_size import TileChoice, choose
from .inputs import Demands, Given, Input, One, demands, floats, read_inputs
from .localize.blockwise import Traced, trace
from .localize.error_patterns import diagnose
from .localize.first_divergence import origin
from .localize.tile_regions import places
from .metrics.blocks import merged
from .metrics.image import difference, typical
from .metrics.selection import StageAgreement, agreements
from .pass_criteria import judge, least_psnr, tolerance
from .piecewise import TRACED, count_pieces, distances, in_pieces, in_tiles, plan_of_pieces, worst_piece
from .results import CleanPsnr, InputResult
from .run import ComparedImage, Comparison, Run, Side, versions
from .shared_k import common_k, given_k
from .sides.base import Probe, open_probe
from .sides.spec import ModelSpec

Image = NDArray[np.float32]
Model = str | os.PathLike[str] | ModelSpec | Probe

#: Settings that may differ between two forms of one network.
_FREE_SETTINGS = ("k", "k_trained", "task")


#: What two forms of one network have in common.
_INTERFACE = (
    "architecture",
    "scale",
    "in_channels",
    "out_channels",
    "value_range",
    "views",
    "normalisation",
    "gain",
    "margin",
    "extra_inputs",
)


def compare(
    candidates: Model | Sequence[Model],
    reference: Model,
    inputs: Sequence[Given] = (),
    *,
    clean: Sequence[One] = (),
    k: int | None = None,
    tile: int | str | None = None,
    at_least: float | None = None,
    blocks: bool = False,
    keep_images: bool = False,
    command: str | None = None,
    notice: Callable[[str], None] = warn,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Compare forms of one network with a reference.

    The images are compared as all sides give them and, for networks with key graphs, once more with each candidate's
    graphs forced on the reference: two correct programs choose different neighbours where similarities nearly tie, and
    that must neither hide an error nor look like one.

    Parameters
    ----------
    candidates
        One or several: checkpoints, exported ONNX files or engines as `specs.parse_spec` reads them
        (``"kgt.ckpt@fp16"``), or probes that `open_probe` gave.
    reference
        Likewise, one.
    inputs
        Image files or arrays, as `Restorer.restore` takes them; none: a generated picture. For models that take more
        than an image, mappings of ``"image"`` and the names of the others: ``{"image": "a.png", "mask": mask}``.
    clean
        What the images should become, files or arrays, one for each; none where that is not known.
    k
        Neighbours of each node; None for the one that a side fixes, else the reference's default.
    tile
        None: large images piece by piece, all sides the same pieces. Else as `Restorer.restore` takes it, and all sides
        run through the tiled pipeline as users do; results are then cut to the manifest's `clamp`, too.
    at_least
        The least PSNR in dB that passes; None for the rule's own.
    blocks
        Compare the outputs of every block as well, on the piece of each image where the results are furthest apart
        (128 pixels a side, rounded up to the size rule), and say where the difference starts.
    keep_images
        Return the images as well.
    command
        The command line that repeats it, for the report.
    notice
        Takes lines that a user should see while the files are opened.
    progress
        Called with (steps done, steps in all).

    Raises
    ------
    InputError
        A file, an image or k cannot be used, two are not forms of one network, or blocks are asked for of what has
        none to show.
    """
    single = isinstance(candidates, (str, os.PathLike, ModelSpec)) or hasattr(candidates, "manifest")
    wanted: Sequence[Any] = [candidates] if single else list(candidates)  # type: ignore[arg-type]
    if not wanted:
        raise InputError("there is no candidate to compare; give at least one")
    *ours, theirs = (
        open_probe(model, notice=notice) if isinstance(model, (str, os.PathLike, ModelSpec)) else model
        for model in (*wanted, reference)
    )
    for probe in ours:
        check_comparable(probe, theirs)
        tolerance((probe.manifest.precision, theirs.manifest.precision))
    if blocks:
        _require_blocks((*ours, theirs))
    number, needs = common_k([(probe.name, probe.manifest) for probe in (*ours, theirs)], k), _needs(ours, theirs)
    setup = _Setup(tuple(ours), theirs, number, needs, tile, at_least, blocks)
    images = read_inputs(inputs, setup.needs, clean)
    total, steps = sum(setup.steps(image) for image in images), itertools.count(1)

    def step() -> None:
        if progress is not None:
            progress(next(steps), total)

    compared: list[_Compared] = []
    for image in images:
        found = _compare_image(setup, image, step)
        compared.append(found if keep_images else dataclasses.replace(found, image=None))
    return Run(
        comparisons=tuple(_comparison(setup, index, compared) for index in range(len(ours))),
        images=tuple(found.image for found in compared if found.image is not None),
        command=command,
        versions=versions(),
        settings={"k": k, "tile": tile, "at_least": at_least, "blocks": blocks},
    )


@dataclass(frozen=True)
class _Setup:
    """What does not change from image to image."""

    candidates: tuple[Probe, ...]
    reference: Probe
    k: int | None
    needs: Demands
    tile: int | str | None
    at_least: float | None
    blocks: bool

    @cached_property
    def global_statistics(self) -> str | None:
        """What `Restorer.restore` takes: exact tiles only where every side can, so that all compute the same."""
        if not self.reference.manifest.global_statistics:
            return None
        try:
            for probe in self.sides:
                exact_model(probe.session)
        except InputError:
            return "tile"
        return None

    @property
    def sides(self) -> tuple[Probe, ...]:
        return (self.reference, *self.candidates)

    def with_graphs(self, candidate: Probe) -> bool:
        """Whether this candidate's graphs can be forced on the reference."""
        return self.k is not None and candidate.tells_graphs and self.reference.tells_graphs

    def precisions(self, candidate: Probe) -> tuple[str, str]:
        """Of both sides."""
        return candidate.manifest.precision, self.reference.manifest.precision

    def threshold(self, candidate: Probe) -> float:
        """Least PSNR in dB of images and of blocks."""
        return least_psnr(self.precisions(candidate), self.at_least)

    def steps(self, image: Input) -> int:
        """Of a progress bar."""
        forced = sum(map(self.with_graphs, self.candidates))
        traced = len(self.candidates) if self.blocks else 0
        if self.tile is not None:
            return len(self.sides) + forced + traced
        return count_pieces(image, self.needs) * (1 + forced) + traced


@dataclass(frozen=True)
class _Compared:
    """One image: a result for each candidate, and lines to say of each."""

    results: tuple[InputResult, ...]
    notices: tuple[tuple[str, ...], ...]
    traced: tuple[Traced, ...]
    image: ComparedImage | None


def _compare_image(setup: _Setup, given: Input, step: Callable[[], None]) -> _Compared:
    (theirs, *ours), (plan, *plans), said = _as_run(setup, given, step)
    results, notices, traced = [], [], []
    for index, (candidate, restored) in enumerate(zip(setup.candidates, ours, strict=True), start=1):
        lines = [line for side in (0, index) for line in said[side]]
        measure = partial(difference, manifest=setup.needs.manifest, dtype=given.request.dtype)
        pairs = [(restored, theirs)]  # As run; then with the same key graphs.
        stages = tuple[StageAgreement, ...]()
        if setup.with_graphs(candidate):
            (recorded, forced), stages = _same_graphs(setup, candidate, given, step)
            pairs.append((recorded, forced))
            if setup.tile is None and not np.array_equal(restored, recorded, equal_nan=True):
                lines.append("the candidate computes slightly otherwise while its key graphs are recorded")
        result = InputResult(
            name=given.name,
            height=given.request.height,
            width=given.request.width,
            as_run=measure(*pairs[0]),
            same_graphs=measure(*pairs[1]) if len(pairs) > 1 else None,
            stages=stages,
            clean=None if given.clean is None else _against_clean(setup, restored, theirs, given.clean),
        )
        if setup.blocks:
            found = _trace(setup, candidate, given, pairs[-1])
            traced.append(found)
            lines += found.notices
            step()
        cut_alike = plans[index - 1] == plan
        results.append(_with_causes(setup, candidate, given, result, pairs, plan, cut_alike))
        notices.append(tuple(lines))
    others = {name: values for name, values in given.arrays.items() if name != IMAGE_INPUT}
    image = ComparedImage(given.name, given.arrays[IMAGE_INPUT], theirs, tuple(ours), given.clean, plan, others)
    return _Compared(tuple(results), tuple(notices), tuple(traced), image)


def _with_causes(
    setup: _Setup,
    candidate: Probe,
    given: Input,
    result: InputResult,
    pairs: Sequence[tuple[Image, Image]],
    plan: Plan | None,
    cut_alike: bool,
) -> InputResult:
    """Say what kind of wrong an image is, in the first way of comparing that fails: without near ties, then as run."""
    manifest = setup.needs.manifest
    cut, unit = (plan or plan_of_pieces(given, setup.needs)), "piece" if plan is None else "tile"
    if not cut_alike and len(pairs) > 1:
        pairs = pairs[1:]  # Other tiles make another image as run; with the same graphs both are cut alike.
    elif result.same_graphs is not None:
        found = typical(*pairs[0], manifest.value_range, places(cut, manifest.scale, pairs[0][0].shape[:2]))
        result = dataclasses.replace(result, typical=found)
    if judge([result], result.stages, setup.precisions(candidate), setup.at_least).good:
        return result
    if len(pairs) > 1 and any(stage.beyond_tolerance for stage in result.stages):
        pairs = pairs[1:]  # Other neighbours make another image as run: what is wrong is said of the stage.
    for candidates, references in reversed(pairs):
        causes = diagnose(
            candidates,
            references,
            manifest.value_range,
            cut,
            manifest.scale,
            threshold=setup.threshold(candidate),
            unit=unit,
        )
        if causes:
            return dataclasses.replace(result, causes=causes)
    return result


def _as_run(
    setup: _Setup, given: Input, step: Callable[[], None]
) -> tuple[Sequence[Image], Sequence[Plan | None], list[list[str]]]:
    """Every side as users run it, the reference first; how each was cut, and what must be said of it."""
    if setup.tile is not None:
        restored = []
        for probe in setup.sides:
            restored.append(_through_the_runtime(setup, probe, given))
            step()
        plans = [plan for _, plan, _ in restored]
        said = [[f"{given.name}: {line}" for line in lines] for _, _, lines in restored]
        finite = [bool(np.isfinite(image).all()) for image, _, _ in restored]
        for lines, plan, whole in zip(said, plans, finite, strict=True):
            if plan != plans[0] and whole and finite[0]:  # Else one stopped, and was cut to show where it is wrong.
                lines.append(f"{given.name}: the sides cut it into other tiles; --tile N makes them the same")
        return [image for image, _, _ in restored], plans, said

    def ways(images: Image, *extras: Image) -> Image:
        return np.stack([probe.run(images, _given(probe, setup.k), *extras) for probe in setup.sides])

    said = [[f"{given.name}: {line}" for line in given.notices], *([] for _ in setup.candidates)]
    return list(in_pieces(given, setup.needs, ways, step)), [None] * len(setup.sides), said


def _through_the_runtime(setup: _Setup, probe: Probe, given: Input) -> tuple[Image, Plan, tuple[str, ...]]:
    """One side through the tiled pipeline: its image in the value range, its tiles, and what must be said."""
    manifest = setup.needs.manifest
    arrays = floats(given, manifest)
    image = arrays.pop(IMAGE_INPUT)
    low, high = manifest.value_range
    k = _given(probe, setup.k)
    assert setup.tile is not None
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
        plan = _plan(setup, given)
        values = in_tiles(given, setup.needs, plan, lambda images, *extras: probe.run(images, k, *extras)[None])[0]
        if np.isfinite(values).all():  # Exact tiles compute otherwise.
            values = np.full_like(values, np.nan)
        return values, plan, (f"{probe.name}: {str(error).partition(';')[0]}",)
    values = restored.image if restored.image.ndim == 3 else restored.image[:, :, None]
    if (low, high) != (0.0, 1.0):
        values = values * np.float32(high - low) + np.float32(low)
    return values, restored.plan, restored.notices


def _same_graphs(
    setup: _Setup, candidate: Probe, given: Input, step: Callable[[], None]
) -> tuple[Image, tuple[StageAgreement, ...]]:
    """The candidate, and the reference with the candidate's graphs, [2, H', W', C']; and how both chose."""
    reference, k = setup.reference, setup.k
    assert k is not None
    allowed = tolerance((candidate.manifest.precision, reference.manifest.precision)).similarity
    stages: list[StageAgreement] = []

    def ways(images: Image, *extras: Image) -> Image:
        nonlocal stages
        recorded, chosen = candidate.record(images, _given(candidate, k), *extras)
        graphs = [selection.graph for selection in chosen]
        forced, overruled = reference.force(images, _given(reference, k), graphs, *extras)
        found = agreements(chosen, overruled, k, allowed)
        stages = [a + b for a, b in zip(stages, found, strict=True)] if stages else found
        return np.stack([recorded, forced])

    if setup.tile is None:
        both = in_pieces(given, setup.needs, ways, step)
    else:
        both = in_tiles(given, setup.needs, _plan(setup, given), ways)
        step()
    return both, tuple(stages)


def _overlap(setup: _Setup, given: Input) -> int | str:
    """The same for all sides, whatever each was calibrated with, where they take the same tiles."""
    if not isinstance(setup.tile, int) or setup.needs.manifest.global_statistics:
        return "auto"
    return _sizing(setup, given).overlap


def _plan(setup: _Setup, given: Input) -> Plan:
    """The tiles that were asked for."""
    return _sizing(setup, given).plan


def _sizing(setup: _Setup, given: Input) -> TileChoice:
    """Tiles that suit all sides, with the largest overlap that one of them was calibrated with."""
    needs = setup.needs
    calibrated = [probe.manifest.tiling for probe in setup.sides if probe.manifest.tiling is not None]
    tiling = max(calibrated, key=lambda one: one.overlap, default=None)
    common = dataclasses.replace(needs.manifest, size_multiple=needs.multiple, shape=needs.shape, tiling=tiling)
    assert setup.tile is not None
    return choose(common, given.request.height, given.request.width, tile=setup.tile)


def _trace(setup: _Setup, candidate: Probe, given: Input, judged: tuple[Image, Image]) -> Traced:
    """The blocks on the piece of an image where the two restored images are furthest apart."""
    inputs, (top, left, height, width) = worst_piece(given, setup.needs, distances(*judged), TRACED)
    ks = _given(candidate, setup.k), _given(setup.reference, setup.k)
    found = trace(candidate, setup.reference, inputs, ks, setup.threshold(candidate))
    if (height, width) == (given.request.height, given.request.width):
        return found
    where = f"{given.name}: blocks on the {width}x{height} pixels at {left},{top}, where the results differ the most"
    return dataclasses.replace(found, notices=(where, *found.notices))


def _against_clean(setup: _Setup, candidate: Image, reference: Image, clean: Image) -> CleanPsnr:
    low, high = setup.needs.manifest.value_range
    wanted = np.clip(clean, low, high)
    return CleanPsnr(*(psnr(np.clip(image, low, high), wanted, (low, high)) for image in (candidate, reference)))


def _comparison(setup: _Setup, index: int, compared: Sequence[_Compared]) -> Comparison:
    """All images of one candidate."""
    candidate, reference = setup.candidates[index], setup.reference
    results = [found.results[index] for found in compared]
    stages = tuple(reduce(operator.add, stage) for stage in zip(*(result.stages for result in results), strict=True))
    notices = [line for found in compared for line in found.notices[index]]
    same_weights = candidate.manifest.weights_sha256 == reference.manifest.weights_sha256
    if not same_weights:
        notices.append("the two were made from different weights (SHA-256 in their manifests)")
    if setup.k is not None and not setup.with_graphs(candidate):
        silent = next(probe for probe in (candidate, reference) if not probe.tells_graphs)
        notices.append(f"{silent.name} tells no key graphs: it is judged as run, and near ties count as errors")
    verdict = judge(results, stages, setup.precisions(candidate), setup.at_least)
    blocks = merged([found.traced[index].blocks for found in compared if found.traced])
    start = None
    if setup.blocks and not blocks:
        notices.append("no block could be compared: the sides have none of the same name and shape")
    elif setup.blocks:
        restored = [found.traced[index].restored for found in compared]
        start = origin(blocks, float(np.min(restored)), setup.threshold(candidate))
        if not verdict.good:
            verdict = dataclasses.replace(verdict, reasons=(*verdict.reasons, start.words))
        elif start.kind == "hint":
            notices.append(f"all agree within the rule, but a block stands out: {start.words}")
        elif start.kind != "nowhere":
            notices.append(f"the images agree, but not every block: {start.words}")
    return Comparison(
        candidate=Side(candidate.name, candidate.description, candidate.manifest),
        reference=Side(reference.name, reference.description, reference.manifest),
        k=setup.k,
        same_weights=same_weights,
        inputs=tuple(results),
        stages=stages,
        verdict=verdict,
        notices=tuple(dict.fromkeys(notices)),
        threshold=setup.threshold(candidate),
        blocks=blocks,
        origin=start,
    )


def _needs(candidates: Sequence[Probe], reference: Probe) -> Demands:
    return demands(*(probe.manifest for probe in candidates), reference.manifest)


def _require_blocks(sides: Sequence[Probe]) -> None:
    for probe in sides:
        if not probe.tells_blocks:
            raise InputError(
                f"{probe.name} tells no blocks, since TensorRT fuses across them; leave blocks out, or compare those "
                "of the ONNX file that it was built from, without TensorRT"
            )


def check_comparable(candidate: Probe | Side, reference: Probe | Side) -> None:
    """Raise an `InputError` unless both are forms of one network."""
    ours, theirs = candidate.manifest, reference.manifest
    for name in _INTERFACE:
        _require_same(candidate, reference, name.replace("_", " "), getattr(ours, name), getattr(theirs, name))
    for name in sorted(ours.configuration.keys() | theirs.configuration.keys()):
        if name not in _FREE_SETTINGS:
            values = (manifest.configuration.get(name) for manifest in (ours, theirs))
            _require_same(candidate, reference, name, *map(_listed, values))
    if (ours.neighbours is None) != (theirs.neighbours is None):
        without = candidate.name if ours.neighbours is None else reference.name
        raise InputError(f"{without} has no key graph, the other has; compare two forms of one network")


def _require_same(candidate: Probe | Side, reference: Probe | Side, name: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise InputError(
            f"{candidate.name} and {reference.name} are different networks: {name} is {ours} and {theirs}; "
            "compare two forms of one network"
        )


def _listed(value: Any) -> Any:
    """A tuple as a list: configurations that have been JSON hold lists."""
    return list(value) if isinstance(value, tuple) else value


def _given(probe: Probe, k: int | None) -> int | None:
    return given_k(probe.name, probe.manifest, k)
