from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
from keygraph.errors import InputError
from keygraph.runtime.restore_options import RestoreOptions
from keygraph.runtime.video.colour import Coding, PixelFormat
from keygraph.runtime.video.pipe import restore_stream
from keygraph.runtime.video.y4m import read_header

ModelFile = Callable[..., Path]

HEADER = b"YUV4MPEG2 W6 H4 F30000:1001 Ip A1:1 C420p10 XYSCSS=420P10 XCOLORRANGE=FULL\n"


def stream_of(header: bytes, frames: int = 3) -> bytes:
    parsed = read_header(io.BytesIO(header))
    layout = parsed.coding.format
    rng = np.random.default_rng(0)
    written = io.BytesIO()
    written.write(header)
    for _ in range(frames):
        shapes = layout.shapes(parsed.height, parsed.width)
        parsed.write_frame(written, [rng.integers(0, 1 << layout.bits, shape).astype(layout.dtype) for shape in shapes])
    return written.getvalue()


def restored(data: bytes, model: Path, **options: Any) -> tuple[bytes, list[str]]:
    written, notices = io.BytesIO(), list[str]()
    with keygraph.load(model) as restorer:
        restore_stream(restorer, io.BytesIO(data), written, RestoreOptions(), notice=notices.append, **options)
    return written.getvalue(), notices


@pytest.mark.parametrize(
    ("colours", "layout", "location"),
    [
        ("", PixelFormat("yuv", 8, (True, True)), "center"),
        (" C420", PixelFormat("yuv", 8, (True, True)), "center"),
        (" C420jpeg", PixelFormat("yuv", 8, (True, True)), "center"),
        (" C420mpeg2", PixelFormat("yuv", 8, (True, True)), "left"),
        (" C420paldv", PixelFormat("yuv", 8, (True, True)), "topleft"),
        (" C422", PixelFormat("yuv", 8, (False, True)), "left"),
        (" C444", PixelFormat("yuv", 8), "left"),
        (" C420p10", PixelFormat("yuv", 10, (True, True)), "left"),
        (" C422p12", PixelFormat("yuv", 12, (False, True)), "left"),
        (" Cmono", PixelFormat("gray", 8), "left"),
        (" Cmono16", PixelFormat("gray", 16), "left"),
    ],
)
def test_headers(colours: str, layout: PixelFormat, location: str) -> None:
    line = f"YUV4MPEG2 W6 H4 F25:1 I? A0:0 XSOMETHING XCOLORRANGE=LIMITED{colours}\n".encode()
    header = read_header(io.BytesIO(line))
    assert header.coding == Coding(layout, "bt709", False, location)
    assert header.resized(8, 12).encode() == line.replace(b"W6 H4", b"W12 H8")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "standard input is empty"),
        (b"RIFF....AVI LIST\n", "no YUV4MPEG2 stream: it begins with 'RIFF....AVI LIST'"),
        (b"\x1aE\xdf\xa3" + b"x" * 9000, "no line where a header should be"),
        (b"YUV4MPEG2 H4\n", "has no width"),
        (b"YUV4MPEG2 W6\n", "has no height"),
        (b"YUV4MPEG2 W0 H4\n", "has the width '0'"),
        (b"YUV4MPEG2 W-6 H4\n", "has the width '-6'"),
        (b"YUV4MPEG2 W6 H99999999\n", "has the height"),
        (b"YUV4MPEG2 W6 W8 H4\n", "the parameter W twice"),
        (b"YUV4MPEG2 W6 H4 Q1\n", "unknown parameter 'Q1'"),
        (b"YUV4MPEG2 W6 H4 F25\n", "frame rate '25'"),
        (b"YUV4MPEG2 W6 H4 A4/3\n", "aspect ratio '4/3'"),
        (b"YUV4MPEG2 W6 H4 It\n", "is interlaced"),
        (b"YUV4MPEG2 W6 H4 Im\n", "is interlaced"),
        (b"YUV4MPEG2 W6 H4 Ix\n", "interlacing 'x'"),
        (b"YUV4MPEG2 W6 H4 C444alpha\n", "alpha channel"),
        (b"YUV4MPEG2 W6 H4 C411\n", "colour space '411'"),
        (b"YUV4MPEG2 W6 H4 C422jpeg\n", "colour space '422jpeg'"),
        (b"YUV4MPEG2 W6 H4 C42010\n", "colour space '42010'"),
        (b"YUV4MPEG2 W6 H4 Cmonop10\n", "colour space 'monop10'"),
        (b"YUV4MPEG2 W6 H4 XCOLORRANGE=TV\n", "XCOLORRANGE=TV"),
    ],
)
def test_bad_headers(header: bytes, message: str) -> None:
    with pytest.raises(InputError) as raised:
        read_header(io.BytesIO(header))
    assert message in str(raised.value)


def test_damaged_frames() -> None:
    data = stream_of(HEADER)
    start = len(HEADER)
    for damaged, message in (
        (data[:-1], "ends within frame 3"),
        (data[: start + 6], "ends within frame 1"),
        (data[:start] + b"FRAMES" + data[start + 5 :], "frame 1 of the YUV4MPEG2 stream begins with 'FRAMES'"),
        (data + b"junk\n", "frame 4 of the YUV4MPEG2 stream begins with 'junk'"),
        (data + b"\n", "frame 4"),
    ):
        stream = io.BytesIO(damaged)
        with pytest.raises(InputError) as raised:
            list(read_header(stream).read_frames(stream))
        assert message in str(raised.value)


@pytest.mark.parametrize("colours", [b"C420jpeg", b"C422p10", b"C444", b"Cmono12"])
def test_a_model_that_changes_nothing_changes_no_byte(make_model: ModelFile, colours: bytes) -> None:
    data = stream_of(HEADER.replace(b"C420p10", colours))
    written, notices = restored(data, make_model("identity"))
    assert written == data
    assert len(notices) == 1
    assert "gray image" in notices[0] or "the colour matrix is taken as bt601" in notices[0]


def test_larger_frames_and_named_matrix(make_model: ModelFile) -> None:
    written, notices = restored(stream_of(HEADER), make_model("nearest", scale=2), matrix="bt2020")
    assert written.startswith(HEADER.replace(b"W6 H4", b"W12 H8"))
    stream = io.BytesIO(written)
    frames = list(read_header(stream).read_frames(stream))
    assert [frame[0].shape for frame in frames] == [(8, 12)] * 3
    assert notices == []


def command(model: Path, *options: object) -> list[str]:
    return [sys.executable, "-m", "keygraph", "restore", "-", "-o", "-", "--model", str(model), *map(str, options)]


def test_nothing_but_frames_goes_to_standard_output(make_model: ModelFile) -> None:
    data = stream_of(HEADER)
    done = subprocess.run(command(make_model("identity")), input=data, capture_output=True, check=True)
    assert done.stdout == data
    assert b"the colour matrix is taken as bt601" in done.stderr
    quiet = subprocess.run(command(make_model("identity"), "--quiet"), input=data, capture_output=True, check=True)
    assert (quiet.stdout, quiet.stderr) == (data, b"")
    for options, message in ((["--crf", 3], b"--crf is for files"), (["--json"], b"--json is for files")):
        refused = subprocess.run(command(make_model("identity"), *options), input=data, capture_output=True)
        assert (refused.returncode, refused.stdout) == (2, b"")
        assert message in refused.stderr


def test_a_reader_that_goes_away_ends_it_quietly(make_model: ModelFile) -> None:
    data = stream_of(HEADER.replace(b"W6 H4", b"W320 H240"), frames=20)
    with subprocess.Popen(
        command(make_model("identity"), "--quiet"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        try:
            process.stdin.write(data)
            process.stdin.close()
        except BrokenPipeError:
            process.stdin = None
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
def test_the_documented_pipe(make_model: ModelFile, tmp_path: Path) -> None:
    quiet = "ffmpeg -nostdin -v error"
    line = " ".join(command(make_model("identity"), "--matrix", "bt709"))
    script = (
        f"set -o pipefail; cd {tmp_path}; "
        f"{quiet} -f lavfi -i testsrc2=size=64x48:rate=30 -frames:v 10 -pix_fmt yuv420p -c:v ffv1 in.mkv && "
        f"{quiet} -i in.mkv -f yuv4mpegpipe - | {line} | {quiet} -i - -c:v ffv1 out.mkv && "
        f"{quiet} -i in.mkv -f framemd5 in.md5 && {quiet} -i out.mkv -f framemd5 out.md5"
    )
    subprocess.run(["bash", "-c", script], check=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    digests = [
        [row.split(",")[-1] for row in (tmp_path / name).read_text().splitlines() if not row.startswith("#")]
        for name in ("in.md5", "out.md5")
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 10
