"""Time of restoring a video against its parts, and the colour error of six kinds of videos with a model of no effect.

Times, of `--frames` frames of a moving picture:

- command: ``keygraph restore`` in a process of its own, from start to end;
- restore: the same inside this process, the model loaded;
- session: the runs of the model in it;
- codec: decoding and encoding alone, one after the other, of the same frames with the same settings.

Decoding and encoding run beside the model, so that `restore` should be near the larger of `session` and `codec` where
there are cores for both. The kinds are clips of noise, which has all codes of a format, restored without loss by a
network whose result is its image: `levels` is the largest difference of a sample, and `times` and `streams` say
whether the times of frames, and the other streams' packets, chapters and tags are those of the clip.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
from keygraph.runtime.restore_options import RestoreOptions
from keygraph.runtime.restorer import Restorer
from keygraph.runtime.video.encoder import encode
from keygraph.runtime.video.restore import VideoOptions, plan_video, run_video
from keygraph.runtime.video.source import SourceFrames
from pipeline import Timed
from streaming import write_identity
from timing import features

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "runtime" / "video"))

from clips import Clip, av, read_clip, write_clip

#: color_range, colorspace, color_primaries and color_trc of the recommendations.
BT601, BT709, BT2020 = (1, 6, 6, 6), (1, 1, 1, 1), (1, 9, 9, 14)
FULL_BT709 = (2, 1, 1, 1)

#: Kind -> how its clip is written, `clips.write_clip`.
KINDS: dict[str, dict[str, Any]] = {
    "variable frame rate": {"tags": BT709, "times": [7 * number**2 for number in range(12)]},
    "10 bits, BT.2020": {"tags": BT2020, "pix_fmt": "yuv420p10le"},
    "full range, BT.709": {"tags": FULL_BT709},
    "limited range, BT.601": {"tags": BT601},
    "turned by 90 degrees": {"tags": BT709, "rotation": 90, "suffix": ".mp4", "codec": "libx264", "lossless": True},
    "sound, subtitles, chapters": {"tags": BT709, "others": True},
}


def write_moving_picture(path: Path, frames: int, height: int, width: int) -> None:
    """Write a video of waves that move, with noise, as H.264.

    Parameters
    ----------
    path
        The file.
    frames, height, width
        Their number and size.
    """
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            waves = 128 + 80 * np.sin(rows / 19 + number / 5) * np.cos(columns / 23 - number / 7)
            picture = waves[:, :, None] * (1.0, 0.8, 0.6) + rng.normal(0, 8, (height, width, 3))
            frame = av.VideoFrame.from_ndarray(np.clip(picture, 0, 255).astype(np.uint8), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def times(model: Path, source: Path, target: Path) -> dict[str, Any]:
    """Return seconds of restoring a video, and of its parts.

    Parameters
    ----------
    model
        An exported file of scale 1.
    source, target
        The video and its result.
    """
    began = time.perf_counter()
    line = [
        sys.executable,
        "-m",
        "keygraph",
        "restore",
        str(source),
        "-o",
        str(target),
        "--model",
        str(model),
        "--quiet",
    ]
    subprocess.run(line, check=True)
    command = time.perf_counter() - began

    session = keygraph.load(model).session
    timed = Timed(session.manifest, session.run)
    job = plan_video(Restorer(timed), model, source, target, RestoreOptions(), VideoOptions())
    began = time.perf_counter()
    report = run_video(Restorer(timed), job)
    restore = time.perf_counter() - began

    began = time.perf_counter()
    with closing(SourceFrames(job.video)) as frames:
        numbered = iter(frames)
        while segment := list(itertools.islice(numbered, job.segment)):
            for _packet in encode(job.encoding.open(), job.encoding, segment):
                pass
    codec = time.perf_counter() - began
    seconds = {"command": command, "restore": restore, "session": timed.seconds, "codec": codec}
    return {
        "frames": report.frames,
        "size": f"{report.width}x{report.height}",
        **{name: round(value, 2) for name, value in seconds.items()},
        "restore_over_larger_part": round(restore / max(timed.seconds, codec), 2),
    }


def kind(model: Path, folder: Path, name: str) -> dict[str, Any]:
    """Restore a clip of a kind with a network of no effect; return what differs.

    Parameters
    ----------
    model
        The network.
    folder
        For the clips.
    name
        One of `KINDS`.
    """
    settings = dict(KINDS[name])
    suffix, codec = settings.pop("suffix", ".mkv"), ["--codec", "ffv1"]
    if settings.pop("lossless", False):
        codec, settings["options"] = ["--codec", "libx264", "--crf", "0"], {"crf": "0"}
    source, target = folder / f"a{suffix}", folder / f"b{suffix}"
    write_clip(source, count=12, size=(64, 96), time_base=Fraction(1, 1000), **settings)
    line = [sys.executable, "-m", "keygraph", "restore", source, "-o", target, "--model", model, *codec, "--quiet"]
    subprocess.run([str(word) for word in line], check=True)
    before, after = read_clip(source), read_clip(target)
    return {
        "kind": name,
        "pixel_format": after.pixel_format,
        "levels": _difference(before, after),
        "times": [one * after.time_base for one in after.times] == [one * before.time_base for one in before.times],
        "streams": all(
            getattr(before, field) == getattr(after, field)
            for field in ("tags", "rotation", "packets", "chapters", "attachments", "kinds")
        ),
    }


def _difference(before: Clip, after: Clip) -> int | None:
    """Return the largest difference of a sample; None where the frames or their format differ."""
    if before.pixel_format != after.pixel_format or len(before.planes) != len(after.planes):
        return None
    pairs = zip(itertools.chain(*before.planes), itertools.chain(*after.planes), strict=True)
    return max(int(np.abs(one.astype(int) - other.astype(int)).max()) for one, other in pairs)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="an exported file for the times; by default one of no effect")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "videos.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        identity = folder / "identity.onnx"
        write_identity(identity)
        kinds = []
        for one in KINDS:
            kinds.append(kind(identity, folder, one))
            print(json.dumps(kinds[-1]), flush=True)
        source = folder / "moving.mp4"
        write_moving_picture(source, given.frames, *given.size)
        measured = times(given.model or identity, source, folder / "restored.mp4")
        print(json.dumps(measured), flush=True)
    model = given.model.name if given.model else "identity"
    given.output.parent.mkdir(exist_ok=True)
    results = {"machine": features(0), "model": model, "kinds": kinds, "times": measured}
    given.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
