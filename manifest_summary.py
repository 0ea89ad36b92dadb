"""A manifest in words: what `inspect` prints of checkpoints, ONNX files and engines, and `export` of a new file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from .errors import counted
from .integrity import CHANGED, Integrity
from .manifest import Attention, GlobalStatistics, HalfPrecision, Manifest, Neighbours

#: What a file is: title -> plain values, which are printed as a table or as JSON.
Description = dict[str, Any]

#: `manifest.NORMALISATIONS` in words.
_NORMALISATIONS = {
    "type": "integers over their type's white level, floats as they are",
    "range": "the whole image from its least sample to its largest",
    "peak": "negative samples to 0, the whole image over its largest sample, times {gain:g}",
    "none": "none, samples as they are",
}


def summarize_model(manifest: Manifest) -> Description:
    """Return what is known of a model before it is exported: its architecture, its inputs and its result."""
    return {
        "architecture": manifest.architecture,
        "task": manifest.task or "not said",
        "image": f"{manifest.in_channels} -> {manifest.out_channels} channels, scale {manifest.scale}, "
        f"values {manifest.value_range[0]:g} to {manifest.value_range[1]:g}",
        **_inputs(manifest),
        "size rule": _size_rule(manifest),
        **({"statistics": "over the whole image: tiles change the result"} if manifest.global_statistics else {}),
        **_result(manifest),
        "k": _neighbours(manifest.neighbours),
    }


def summarize_export(manifest: Manifest, integrity: Integrity) -> Description:
    """Return everything that the manifest of an exported file or of an engine says, and whether it still holds.

    Parameters
    ----------
    manifest
        The manifest.
    integrity
        Whether the file is the one that was exported, or the engine was built from it.
    """
    tiling = manifest.tiling
    before = "before the change" if integrity.state == CHANGED else ""
    if "manifest" in integrity.changed:
        before = "as the changed manifest says"
    precision = [manifest.precision]
    if manifest.half is not None:
        lines = half_precision_lines(manifest.precision, manifest.half)
        precision = [*lines, f"policy: {', '.join(manifest.half.keep_fp32)}"]
    if before:
        precision[0] = f"{before}: {precision[0]}"
    return {
        **summarize_model(manifest),
        "shape": _shape(manifest),
        "precision": precision if len(precision) > 1 else precision[0],
        "tiles": "not measured"
        if tiling is None
        else f"{tiling.tile} pixels, overlap {tiling.overlap}: {tiling.psnr:.1f} dB against whole",
        **({} if manifest.statistics is None else {"statistics": statistics_lines(manifest.statistics)}),
        **({"attentions": attention_lines(manifest.attentions)} if manifest.attentions else {}),
        "integrity": integrity.words,
        "verified": _verification_lines(manifest.verification, before + ": " if before else ""),
        "made with": manifest.made_with,
        "configuration": manifest.configuration,
        "weights": manifest.weights_sha256 + (f" ({before})" if {"weights", "manifest"} & {*integrity.changed} else ""),
    }


def _size_rule(manifest: Manifest) -> str:
    least = f", at least {manifest.smallest}" if manifest.smallest > 1 else ""
    if manifest.size_multiple == 1:
        return f"any height and width{least}"
    return f"height and width are multiples of {manifest.size_multiple}{least}"


def _shape(manifest: Manifest) -> str:
    shape = manifest.shape
    if shape is not None:
        return f"only batch {shape[0]}, {shape[1]} x {shape[2]} (height x width)"
    batch = "batch 1, any" if manifest.profiles and manifest.profiles[0].batch[2] == 1 else "any batch,"
    return f"{batch} height and width within the size rule"


def half_precision_lines(precision: str, half: HalfPrecision) -> list[str]:
    """Return what computes in half precision and how far the activations are from overflow, one line for each fact."""
    ends = "half" if half.half_io else "FP32"
    lines = [f"{precision}, {half.nodes_fp32} of {half.nodes} computing nodes in FP32; image in and out in {ends}"]
    if half.target_psnr is not None:
        added = f"by keeping {', '.join(half.found)} in FP32" if half.found else "with nothing more in FP32"
        lines.append(f"auto: {half.target_psnr:g} dB reached {added}")
    if half.largest:
        top = ", ".join(f"{name} {value:g}" for name, value in half.largest[:3])
        measured = f"on {counted(len(half.pictures), 'image')}"
        lines.append(f"head-room {half.headroom:.4g} times before overflow {measured}; largest: {top}")
    else:
        lines.append("ranges not measured")
    return lines


def statistics_lines(statistics: GlobalStatistics) -> list[str]:
    """Return what statistics over the whole image cost in accuracy, memory and disk, one line for each fact."""
    lines = [f"plain tiles of {tiling.tile}: {tiling.psnr:.1f} dB against whole" for tiling in statistics.tilings]
    if statistics.memory is not None:
        lines.append(f"whole images take {statistics.memory / 1e3:.1f} GB per megapixel on a CPU")
    exact = statistics.exact
    if exact is None:
        lines.append("no exact tiles")
    else:
        lines.append(
            f"exact tiles of {exact.tile}: {exact.psnr:.1f} dB against whole, in {counted(exact.sweeps, 'sweep')} with "
            f"{exact.disk / 1e3:.2f} GB of disk per megapixel"
        )
    return lines


def _inputs(manifest: Manifest) -> Description:
    """Return the inputs other than one plain image, and the normalisation of the image."""
    summary: Description = {}
    if manifest.views:
        views = " and ".join(manifest.views)
        summary["views"] = f"{views}, {manifest.in_channels // len(manifest.views)} channels each"
    if any(manifest.margin):
        summary["margin"] = f"the image is {_size_beside_result(manifest.margin)}"
    if manifest.extra_inputs:
        summary["inputs beside it"] = [
            f"{extra.name}: {counted(extra.channels, 'channel')}, {_size_beside_result(extra.margin)}"
            for extra in manifest.extra_inputs
        ]
    return summary | {"normalisation": _NORMALISATIONS[manifest.normalisation].format(gain=manifest.gain)}


def _size_beside_result(margin: tuple[int, int]) -> str:
    parts = [f"{more} {what}" for more, what in zip(margin, ("rows", "columns"), strict=True) if more]
    return f"{' and '.join(parts)} larger than the result" if parts else "as large as the result"


def _result(manifest: Manifest) -> Description:
    """Return the result's bands and its limits, where it is not just an RGB image."""
    summary: Description = {}
    if manifest.wavelengths:
        summary["bands"] = _wavelengths(manifest.wavelengths)
    if manifest.clamp is not None:
        summary["result"] = f"cut to {manifest.clamp[0]:g} to {manifest.clamp[1]:g}"
    return summary


def _wavelengths(wavelengths: tuple[float, ...]) -> str:
    steps = {round(above - below, 6) for below, above in itertools.pairwise(wavelengths)}
    if len(wavelengths) > 2 and len(steps) == 1:
        return f"{len(wavelengths)}, {wavelengths[0]:g} to {wavelengths[-1]:g} nm in steps of {steps.pop():g}"
    return f"{len(wavelengths)}, at {', '.join(f'{wavelength:g}' for wavelength in wavelengths)} nm"


def _neighbours(neighbours: Neighbours | None) -> str:
    if neighbours is None:
        return "no key graph"
    if not neighbours.runtime:
        return f"fixed at {neighbours.default} (of {neighbours.maximum} nodes)"
    trained = neighbours.trained
    known = f", trained with {', '.join(map(str, trained))}" if trained else ""
    return f"1 to {neighbours.maximum} at run time, {neighbours.default} by default{known}"


def _verification_lines(verification: dict[str, Any] | None, before: str) -> list[str]:
    """Return one line for each way in which the file was run and compared, each after the words `before`."""
    if verification is None:
        return ["no (exported with --no-verify)"]
    lines = []
    for way, record in verification.items():
        checks = record["checks"]
        lines.append(
            f"{before}{way}: against {record['against']} in {counted(len(checks), 'case')}, "
            f"worst {min(check['psnr'] for check in checks):.1f} dB ({_limit(record)})"
            + (f"; {record['arithmetic']}" if record.get("arithmetic", "").startswith("float32") else "")
        )
    return lines


def _limit(record: dict[str, Any]) -> str:
    """Return what decided on a verification, in words."""
    times = times_rounding(record)
    if times is None:
        return f"at least {record['tolerance_db']:.0f} needed"
    return f"error at most {times:.2g} times what rounding explains"


def times_rounding(record: dict[str, Any]) -> float | None:
    """Return the largest error of a verification's checks over what rounding explains.

    Parameters
    ----------
    record
        One of `Manifest.verification`.

    Returns
    -------
    float or None
        None where rounding was not measured for every check: files of format 5 and older, for instance.
    """
    checks = record["checks"]
    if any(check.get("expected") is None for check in checks):
        return None
    return max((check["found"] / check["expected"] if check["found"] else 0.0 for check in checks), default=0.0)


def attention_lines(attentions: Sequence[Attention]) -> list[str]:
    """Return what became of each attention, a line for each; equal ones of modules that follow each other in one.

    Parameters
    ----------
    attentions
        From the manifest.
    """
    lines = []
    for words, group in itertools.groupby(attentions, attention_words):
        places = list(dict.fromkeys(one.module or "the model" for one in group))
        named = places[0] if len(places) == 1 else f"{places[0]} to {places[-1]} ({len(places)} modules)"
        lines.append(f"{named}: {words}")
    return lines


def attention_words(attention: Attention) -> str:
    """Return what became of an attention: its verdict, its size, and why it is not fused."""
    size = []
    if attention.nodes is not None:
        size.append(f"k = {attention.k} of {attention.nodes}" if attention.k else f"{attention.nodes} nodes")
    elif attention.k:
        size.append(f"k = {attention.k}")
    if attention.heads is not None:
        size.append(counted(attention.heads, "head") + (f" of {attention.channels}" if attention.channels else ""))
    words = {"by hand": "fused by hand", "unchanged": "as it was"}.get(attention.verdict, attention.verdict)
    reason = f"; {attention.reason}" if attention.reason else ""
    ties = "; of nodes that tie with the k-th, the first are kept, not all" if attention.keeps_ties else ""
    return f"{words}{', ' if size else ''}{', '.join(size)}{reason}{ties}"
