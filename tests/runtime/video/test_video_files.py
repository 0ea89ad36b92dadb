from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import UNSPECIFIED, Clip, av, read_clip, write_clip
from keygraph.cli import main

ModelFile = Callable[..., Path]

BT601, BT709, BT2020 = (1, 6, 6, 6), (1, 1, 1, 1), (1, 9, 9, 14)


def restore(source: Path, target: Path, model: Path, *options: object) -> int:
    given = [str(option) for option in options]
    return main(["restore", str(source), "-o", str(target), "--model", str(model), *given])


def full(tags: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return (2, *tags[1:])


def largest_difference(before: Clip, after: Clip) -> int:
    return max(
        int(np.abs(new.astype(int) - old).max())
        for frames in zip(after.planes, before.planes, strict=True)
        for new, old in zip(*frames, strict=True)
    )


@pytest.mark.parametrize(
    ("pix_fmt", "tags", "size"),
    [
        ("yuv420p", UNSPECIFIED, (32, 48)),
        ("yuv420p", BT601, (32, 48)),
        ("yuv420p", full(BT709), (32, 48)),
        ("yuv420p", BT709, (33, 47)),
        ("yuv422p", BT709, (32, 48)),
        ("yuv444p", full(BT601), (32, 48)),
        ("yuv420p10le", BT709, (32, 48)),
        ("yuv420p10le", BT2020, (32, 48)),
        ("yuv422p10le", full(BT2020), (32, 48)),
        ("yuv444p12le", BT709, (32, 48)),
        ("gray", full(UNSPECIFIED), (32, 48)),
        ("gbrp10le", (2, 0, 1, 1), (32, 48)),
    ],
)
def test_a_model_that_changes_nothing_changes_nothing(
    make_model: ModelFile, tmp_path: Path, pix_fmt: str, tags: tuple[int, int, int, int], size: tuple[int, int]
) -> None:
    # Noise, of variable frame rate: no sample may differ by more than a level, no time and no tag at all.
    times = [0, 33, 70, 71, 200, 201]
    write_clip(tmp_path / "a.mkv", pix_fmt=pix_fmt, tags=tags, size=size, times=times)
    assert restore(tmp_path / "a.mkv", tmp_path / "b.mkv", make_model("identity"), "--codec", "ffv1") == 0
    before, after = read_clip(tmp_path / "a.mkv"), read_clip(tmp_path / "b.mkv")
    assert (after.times, after.time_base, after.tags) == (times, before.time_base, before.tags)
    assert after.pixel_format == pix_fmt
    assert largest_difference(before, after) <= 1


def test_everything_else_in_the_file_is_copied(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "a.mkv", others=True, tags=BT709)
    assert restore(tmp_path / "a.mkv", tmp_path / "b.mkv", make_model("identity"), "--codec", "ffv1", "--json") == 0
    before, after = read_clip(tmp_path / "a.mkv"), read_clip(tmp_path / "b.mkv")
    assert len(before.packets) == 2
    assert after.packets == before.packets
    assert (after.chapters, after.attachments, after.kinds) == (before.chapters, before.attachments, before.kinds)
    assert after.metadata["title"] == "A clip"
    report = json.loads(capsys.readouterr().out)
    assert (report["frames"], report["codec"], report["notices"]) == (6, "ffv1", [])


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_rotation_times_and_default_encoder(make_model: ModelFile, tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    base = Fraction(1, 1000) if suffix == ".mkv" else Fraction(1, 30000)
    times = [1000, 2001, 2502, 4500, 5000, 9000, 9001, 9500, 10000, 12000]
    write_clip(source, codec="libx264", times=times, count=10, time_base=base, rotation=90, tags=BT601)
    assert restore(source, target, make_model("identity"), "--segment", 4) == 0
    before, after = read_clip(source), read_clip(target)
    assert (after.rotation, after.time_base, after.times) == (90, before.time_base, before.times)
    assert after.tags == before.tags == BT601


def test_larger_frames_name_the_matrix_that_a_player_would_not_guess(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "a.mkv", codec="libx264", count=1, size=(32, 720), aspect=Fraction(16, 11))
    assert restore(tmp_path / "a.mkv", tmp_path / "b.mkv", make_model("nearest", scale=2)) == 0
    after = read_clip(tmp_path / "b.mkv")
    assert after.planes[0][0].shape == (64, 1440)
    assert after.aspect == Fraction(16, 11)
    assert after.tags == (1, 6, 2, 2)  # H.264 cannot name a matrix without a range.
    said = capsys.readouterr().out
    assert "does not say its colour matrix, taken as bt601" in said
    assert "the result names its colour matrix, bt601" in said
    assert restore(tmp_path / "a.mkv", tmp_path / "c.mkv", make_model("identity"), "--codec", "ffv1") == 0
    assert "pixels of 16/11 are not kept" in capsys.readouterr().out


def test_encoders_containers_and_pixel_formats(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model("identity")
    write_clip(tmp_path / "rgb.mkv", pix_fmt="bgr0", tags=(2, 0, 1, 13))
    write_clip(tmp_path / "deep.mkv", pix_fmt="yuv420p10le", tags=BT709, size=(64, 64))
    for source, target, options, pix_fmt, tags in (
        ("rgb.mkv", "a.mp4", ("--crf", 5), "yuv444p", (1, 1, 1, 13)),
        ("deep.mkv", "a.webm", ("--codec", "libsvtav1"), "yuv420p10le", BT709),
        ("rgb.mkv", "b.webm", (), "gbrp", (2, 0, 1, 13)),
        ("deep.mkv", "b.mp4", ("--codec", "libx265", "--pix-fmt", "yuv420p"), "yuv420p", BT709),
    ):
        assert restore(tmp_path / source, tmp_path / target, model, *options) == 0
        after = read_clip(tmp_path / target)
        assert (after.pixel_format, after.tags, len(after.times)) == (pix_fmt, tags, 6)
    assert "libx264 does not take bgr0: the result is yuv444p" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("clip", "options", "message"),
    [
        ({"pix_fmt": "yuva420p"}, [], "has an alpha channel"),
        ({"tags": (1, 9, 9, 16)}, [], "is HDR: its transfer is PQ"),
        ({"tags": (1, 9, 9, 18)}, [], "is HDR: its transfer is HLG"),
        ({"tags": (1, 8, 1, 1)}, [], "colour matrix YCgCo"),
        ({"codec": "libx264", "options": {"x264-params": "tff=1"}, "flags": 1 << 18}, [], "is interlaced"),
        ({}, ["--codec", "aac"], "no video encoder aac"),
        ({}, ["--codec", "ffv1", "--crf", "1"], "lossless"),
        ({}, ["--codec", "libvpx-vp9", "--crf", "99"], "does not take"),
        ({}, ["--pix-fmt", "rgb24"], "not given the pixel format rgb24"),
        ({}, ["--matrix", "bt1"], "--matrix is 'bt1'"),
        ({}, ["--segment", "0"], "--segment is 0"),
        ({}, ["--preview", "p.png"], "--preview is for images"),
        ({}, ["--fail-fast"], "--fail-fast is for images"),
        ({}, ["--tile", "7"], "a.mkv: "),
        ({}, ["--codec", "libx265"], "libx265 damages memory with frames of 48x32"),
        ({"size": (33, 47)}, [], "4:2:0 needs an even size"),
    ],
)
def test_what_is_not_restored_is_said_before_work(
    make_model: ModelFile,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    clip: dict[str, Any],
    options: list[str],
    message: str,
) -> None:
    write_clip(tmp_path / "a.mkv", **clip)
    model = make_model("identity")
    before = sorted(os.listdir(tmp_path))
    assert restore(tmp_path / "a.mkv", tmp_path / "b.mkv", model, *options) == 2
    assert message in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == before


def test_names_and_containers_are_checked(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model("identity")
    write_clip(tmp_path / "a.mkv", others=True)
    (tmp_path / "text.mkv").write_text("no video at all " * 100)
    for source, target, message in (
        ("a.mkv", "b.mp4", "has a subtitle stream (srt, number 2), which .mp4 files cannot hold; choose .mkv"),
        ("a.mkv", "b.png", "choose .mkv, .mp4"),
        ("a.mkv", "a.mkv", "is the input itself"),
        ("a.mkv", "b.webm", "has an audio stream (pcm_s16le, number 1), which .webm files cannot hold"),
        ("none.mkv", "b.mkv", "does not exist"),
        ("text.mkv", "b.mkv", "cannot be read as a video"),
        ("a.mkv", "none/b.mkv", "the folder"),
    ):
        assert restore(tmp_path / source, tmp_path / target, model) == 2
        assert message in capsys.readouterr().err
    write_clip(tmp_path / "plain.mkv")
    assert restore(tmp_path / "plain.mkv", tmp_path / "b.webm", model, "--codec", "libx264") == 2
    assert ".webm files do not hold what libx264 makes" in capsys.readouterr().err
    assert main(["restore", *map(str, [tmp_path / "a.mkv", model, "-o", "b.mkv", "--model", model])]) == 2
    assert "one is a video, which is restored alone" in capsys.readouterr().err
    assert main(["restore", *map(str, [tmp_path / "a.png", "-o", "b.png", "--model", model, "--crf", 3])]) == 2
    assert "--crf is for videos" in capsys.readouterr().err


def test_models_for_other_things_are_refused(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path / "a.mkv")
    for model, message in (
        (make_model("bands", out_channels=8), "makes spectra"),
        (make_model("identity", normalisation="range"), "would flicker"),
    ):
        assert restore(tmp_path / "a.mkv", tmp_path / "b.mkv", model) == 2
        assert message in capsys.readouterr().err


#: Restores a video, and is killed after some frames: model, input, output, frames.
_KILLED = """
import os, signal, sys
from pathlib import Path
import keygraph
from keygraph.runtime.restore_options import RestoreOptions
from keygraph.runtime.video.restore import VideoOptions, plan_video, run_video

model, source, target, frames = sys.argv[1:]
restorer = keygraph.load(model)
job = plan_video(restorer, Path(model), Path(source), Path(target), RestoreOptions(), VideoOptions(segment=4))
def stop(done, total):
    if done == int(frames):
        os.kill(os.getpid(), signal.SIGKILL)
run_video(restorer, job, stop)
"""


def test_a_killed_job_goes_on_and_ends_as_if_nothing_had_happened(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, source = make_model("blur"), tmp_path / "a.mp4"
    write_clip(source, codec="libx264", count=18, time_base=Fraction(1, 600), times=[7 * n * n for n in range(18)])
    assert restore(source, tmp_path / "whole.mp4", model, "--segment", 4) == 0
    target = tmp_path / "b.mp4"
    for frames in (6, 15):
        script = [sys.executable, "-c", _KILLED, *map(str, (model, source, target, frames))]
        assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    assert not target.exists()
    parts = next(tmp_path.glob(".keygraph-*.parts"))
    assert len(list(parts.glob("0*.packets"))) == 3
    capsys.readouterr()

    # Changed options, a changed model and a changed input are refused.
    for options, changed in ((["--crf", "30"], "options of encoding"), (["--tile", "none"], "options of restoring")):
        assert restore(source, target, model, "--segment", 4, *options) == 2
        assert changed in capsys.readouterr().err
    assert restore(source, target, make_model("identity"), "--segment", 4) == 2
    assert "the model changed" in capsys.readouterr().err
    content = source.read_bytes()
    source.write_bytes(content + b"\0")
    assert restore(source, target, model, "--segment", 4) == 2
    assert f"the input changed; give the same command and files as before, or begin again after: rm -r {parts}" in (
        capsys.readouterr().err
    )
    source.write_bytes(content)  # At another time, which does not count.

    assert restore(source, target, model, "--segment", 4) == 0
    assert "18 frames, 12 of them of an earlier run" in capsys.readouterr().out
    whole, resumed = read_clip(tmp_path / "whole.mp4"), read_clip(target)
    assert resumed.times == whole.times == read_clip(source).times
    assert largest_difference(whole, resumed) == 0
    assert target.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert not parts.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "header"])
def test_a_damaged_segment_is_made_anew(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    model, source, target = make_model("blur"), tmp_path / "a.mp4", tmp_path / "b.mp4"
    write_clip(source, codec="libx264", count=18)
    assert restore(source, tmp_path / "whole.mp4", model, "--segment", 4) == 0
    script = [sys.executable, "-c", _KILLED, *map(str, (model, source, target, 15))]
    assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    segment = next(tmp_path.glob(".keygraph-*.parts")) / "000001.packets"
    content = bytearray(segment.read_bytes())
    if damage == "flipped":
        content[-5] ^= 4
    elif damage == "header":
        content[34] ^= 1  # The time of its first frame.
    (segment.parent / "result.mp4").write_text("what a kill left")
    segment.write_bytes(content[: {"cut": len(content) - 3, "emptied": 0}.get(damage, len(content))])
    capsys.readouterr()
    assert restore(source, target, model, "--segment", 4) == 0
    said = capsys.readouterr().out
    assert "18 frames, 4 of them of an earlier run" in said
    assert "what an earlier run had kept was damaged in part, and is made anew" in said
    assert target.read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_a_job_without_a_segment_leaves_nothing(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What failed or was killed before its first segment does not stand in the way of other options."""
    from keygraph.runtime.video.segments import Job

    source, target = tmp_path / "a.mkv", tmp_path / "b.mkv"
    write_clip(source)
    assert restore(source, target, make_model("bright_nan")) == 1
    job = Job(target, {})
    job.result.touch()
    job.close()
    assert not list(tmp_path.glob(".keygraph-*"))
    folder = Job(target, {"the options": "others"}).folder
    folder.mkdir(exist_ok=True)  # As after a kill.
    (folder / "job.json").write_text('{"the options": "others"}')
    assert restore(source, target, make_model("identity")) == 0
    folder.mkdir()
    (folder / "000000.packets").write_text("of a job that was complete: its description is removed first")
    assert restore(source, target, make_model("identity")) == 0
    assert read_clip(target).times == read_clip(source).times
    capsys.readouterr()


def test_frames_that_are_damaged_are_said(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """H.264 decoders fill damaged parts with what they guess, and only mark the frame."""
    source = tmp_path / "a.mkv"
    write_clip(source, codec="libx264", size=(64, 96), count=8)
    with av.open(str(source)) as container:
        packet = next(one for one in container.demux(video=0) if one.is_keyframe)
        first = bytes(packet)
    content = source.read_bytes()
    start = content.index(first)
    damaged = bytearray(content)
    for place in range(start + len(first) // 2, start + len(first), 7):
        damaged[place] ^= 0xFF
    source.write_bytes(damaged)
    assert restore(source, tmp_path / "b.mkv", make_model("identity")) == 0
    assert re.search(r"the video is damaged in \d frames? \(1[,)]", capsys.readouterr().out)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".webm"])
def test_the_same_frames_give_the_same_bytes(make_model: ModelFile, tmp_path: Path, suffix: str) -> None:
    write_clip(tmp_path / "a.mkv")
    for name in ("b", "c"):
        assert restore(tmp_path / "a.mkv", tmp_path / f"{name}{suffix}", make_model("identity")) == 0
    assert (tmp_path / f"b{suffix}").read_bytes() == (tmp_path / f"c{suffix}").read_bytes()


def test_two_processes_do_not_write_one_result(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from keygraph.runtime.video.segments import Job

    write_clip(tmp_path / "a.mkv")
    job = Job(tmp_path / "b.mkv", {})
    try:
        assert restore(tmp_path / "a.mkv", tmp_path / "b.mkv", make_model("identity")) == 2
        assert "another process writes" in capsys.readouterr().err
    finally:
        job.close()


def test_frames_that_change_and_damage_are_errors(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model("bright_nan")
    write_clip(tmp_path / "a.mkv")
    assert restore(tmp_path / "a.mkv", tmp_path / "b.mkv", model) == 1
    assert "frame 1: the model gave NaN" in capsys.readouterr().err
    assert not (tmp_path / "b.mkv").exists()


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")
def test_ffprobe_sees_the_same_streams(make_model: ModelFile, tmp_path: Path) -> None:
    def probe(path: Path, entries: str) -> Any:
        line = ["ffprobe", "-v", "error", "-select_streams", "v", "-show_entries", entries, "-of", "json", str(path)]
        return json.loads(subprocess.run(line, check=True, capture_output=True).stdout)

    source, target = tmp_path / "a.mp4", tmp_path / "b.mp4"
    write_clip(source, codec="libx264", pix_fmt="yuv420p10le", tags=BT2020, rotation=180, aspect=Fraction(4, 3))
    assert restore(source, target, make_model("identity")) == 0
    fields = "width,height,pix_fmt,color_range,color_space,color_transfer,color_primaries,time_base,sample_aspect_ratio"
    for entries in (f"stream={fields}:stream_side_data=rotation", "frame=pts"):
        assert probe(target, entries) == probe(source, entries)
    assert av.library_versions
