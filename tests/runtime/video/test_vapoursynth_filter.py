from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
from keygraph.errors import InputError, MissingDependencyError

ModelFile = Callable[..., Path]

missing = importlib.util.find_spec("vapoursynth") is None


@pytest.mark.skipif(missing, reason="VapourSynth is not installed")
@pytest.mark.parametrize("kind", ["RGBS", "RGB24", "RGB48"])
def test_frames_and_properties(make_model: ModelFile, kind: str) -> None:
    import vapoursynth as vs

    blank = vs.core.std.BlankClip(format=getattr(vs, kind), width=40, height=24, length=3)

    def noise(n: int, f: Any) -> Any:
        frame = f.copy()
        for plane in range(3):
            samples = np.asarray(frame[plane])
            most = 1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
            samples[:] = np.random.default_rng(n).uniform(0, most, samples.shape)
        frame.props["Mark"] = n
        return frame

    clip = blank.std.ModifyFrame(blank, noise)
    with keygraph.load(make_model("nearest", scale=2)) as model:
        larger = keygraph.vapoursynth.restore(clip, model, tile="none")
        assert (larger.width, larger.height, larger.format.id) == (80, 48, clip.format.id)
        for number in range(3):
            before, after = clip.get_frame(number), larger.get_frame(number)
            assert after.props["Mark"] == number
            for plane in range(3):
                expected = np.asarray(before[plane]).repeat(2, 0).repeat(2, 1)
                np.testing.assert_array_equal(np.asarray(after[plane]), expected)


@pytest.mark.skipif(missing, reason="VapourSynth is not installed")
def test_other_clips_are_refused(make_model: ModelFile) -> None:
    import vapoursynth as vs

    with keygraph.load(make_model("identity")) as model:
        for clip, message in (
            (vs.core.std.BlankClip(format=vs.YUV420P8), "the clip is YUV420P8, 640x480"),
            (np.zeros(3), "the clip is a ndarray"),
        ):
            with pytest.raises(InputError, match=message):
                keygraph.vapoursynth.restore(clip, model)


@pytest.mark.skipif(not missing, reason="VapourSynth is installed")
def test_without_vapoursynth_it_says_how_to_install_it(make_model: ModelFile) -> None:
    with (
        keygraph.load(make_model("identity")) as model,
        pytest.raises(MissingDependencyError, match=r"install vapoursynth \(its wheel needs Python 3.12\)"),
    ):
        keygraph.vapoursynth.restore(None, model)
