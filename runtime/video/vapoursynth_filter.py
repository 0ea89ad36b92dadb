"""A filter for VapourSynth: ``keygraph.vapoursynth.restore(clip, keygraph.load("kgt.onnx"))``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError, MissingDependencyError
from ...installation import package_line
from ..restore_options import RestoreKeywords, RestoreOptions
from ..restorer import Restorer
from .frames import frame_size

if TYPE_CHECKING:
    from typing_extensions import Unpack


def restore(clip: Any, model: Restorer, k: int | None = None, **options: Unpack[RestoreKeywords]) -> Any:
    """Return a clip whose frames are restored when they are asked for.

    Parameters
    ----------
    clip
        A clip of one size in RGBS, RGB24 or RGB48; YUV is converted with ``clip.resize.Bicubic(format=vs.RGBS,
        matrix_in_s="709")``.
    model
        A loaded model, which must stay open as long as frames are asked for.
    k
        Neighbours of each node; None for the model's default.
    **options
        `tile`, `overlap`, `batch`, `global_statistics` and `scratch`; see `RestoreOptions`.

    Returns
    -------
    A clip of the same format, as much larger as the model enlarges; frame properties are kept.

    Raises
    ------
    MissingDependencyError
        VapourSynth is not installed.
    InputError
        The clip or the model is of another kind.
    """
    try:
        import vapoursynth as vs
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"the package vapoursynth is not installed; install it with: {package_line('vapoursynth')} (its wheel "
            "needs Python 3.12)"
        ) from error
    if not isinstance(clip, vs.VideoNode):
        raise InputError(f"the clip is a {type(clip).__name__}; give a video clip of VapourSynth")
    if clip.format is None or clip.format.id not in (vs.RGBS, vs.RGB24, vs.RGB48) or not (clip.width and clip.height):
        name = "of varying format" if clip.format is None else clip.format.name
        raise InputError(
            f"the clip is {name}, {clip.width}x{clip.height}; convert it to one size, and to RGBS, RGB24 or RGB48: "
            'clip.resize.Bicubic(format=vs.RGBS, matrix_in_s="709")'
        )
    height, width = frame_size(model, clip.height, clip.width, 3, RestoreOptions(k, **options))
    blank = clip.std.BlankClip(width=width, height=height, keep=True)

    def restored(n: int, f: Any) -> Any:
        given, result = f[0], f[1].copy()
        image = np.stack([np.asarray(given[plane]) for plane in range(3)], axis=2)
        values = model.restore(image, k, **options).image
        for plane in range(3):
            np.asarray(result[plane])[:] = values[:, :, plane]
        result.props.clear()
        result.props.update(given.props)
        return result

    return blank.std.ModifyFrame([clip, blank], restored)
