from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import pytest
from keygraph.errors import InputError
from keygraph.runtime.restore_options import RestoreOptions
from keygraph.runtime.video.colour import Coding, PixelFormat
from keygraph.runtime.video.pipe import restore_stream
from keygraph.runtime.video.raw_frames import frame_bytes, parse_raw

ModelFile = Callable[..., Path]

FULL = partial(Coding, matrix="bt709", full=True)


class InPieces(io.RawIOBase):
    """A pipe that gives at most seven bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readinto(self, buffer: Any) -> int:
        part = self._data.read(min(7, len(buffer)))
        buffer[: len(part)] = part
        return len(part)


def restored(data: bytes, model: Path, raw: str, **options: Any) -> tuple[bytes, list[str]]:
    written, notices = io.BytesIO(), list[str]()
    with keygraph.load(model) as restorer:
        source: Any = InPieces(data)
        restore_stream(
            restorer, source, written, RestoreOptions(), raw=parse_raw(raw), notice=notices.append, **options
        )
    return written.getvalue(), notices


def random_frames(raw: str, frames: int = 3) -> bytes:
    parsed = parse_raw(raw)
    layout = parsed.coding.format
    count = frames * frame_bytes(layout, parsed.height, parsed.width) // layout.dtype.itemsize
    values = np.random.default_rng(0).integers(0, 1 << layout.bits, count)
    return values.astype(layout.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize(
    ("name", "coding", "size"),
    [
        ("rgb24", FULL(PixelFormat("rgb", 8)), 105),
        ("bgr48le", FULL(PixelFormat("rgb", 16)), 210),
        ("gray", FULL(PixelFormat("gray", 8)), 35),
        ("gray12le", FULL(PixelFormat("gray", 12)), 70),
        ("gbrp10le", FULL(PixelFormat("rgb", 10)), 210),
        ("yuv420p", Coding(PixelFormat("yuv", 8, (True, True)), "bt709", full=False), 59),
        ("yuv422p10le", Coding(PixelFormat("yuv", 10, (False, True)), "bt709", full=False), 150),
        ("yuvj444p", FULL(PixelFormat("yuv", 8), location="center"), 105),
    ],
)
def test_formats(name: str, coding: Coding, size: int) -> None:
    """5 rows of 7 pixels: chroma of half the size is rounded up."""
    parsed = parse_raw(f"7x5:{name}")
    assert parsed.coding == coding
    assert (parsed.width, parsed.height) == (7, 5)
    assert frame_bytes(coding.format, 5, 7) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--raw is ''"),
        ("rgb24", "such as 640x480:rgb24"),
        ("0x4:rgb24", "--raw is '0x4:rgb24'"),
        ("6x99999:rgb24", "--raw is"),
        ("-6x4:rgb24", "--raw is"),
        ("6x4", "pixel format ''"),
        ("6x4:rgba", "pixel format 'rgba', which is not read; convert it to rgb24"),
        ("6x4:nv12", "pixel format 'nv12'"),
        ("6x4:yuv420p11le", "pixel format 'yuv420p11le'"),
        ("6x4:yuvj420p10le", "pixel format 'yuvj420p10le'"),
        ("6x4:rgb24 ", "pixel format 'rgb24 '"),
    ],
)
def test_bad_formats(text: str, message: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_raw(text)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "name", ["rgb24", "bgr24", "rgb48le", "gray", "gbrp12le", "yuv420p", "yuv444p10le", "yuvj422p"]
)
def test_a_model_that_changes_nothing_changes_no_byte(make_model: ModelFile, name: str) -> None:
    data = random_frames(f"6x4:{name}")
    written, notices = restored(data, make_model("identity"), f"6x4:{name}")
    assert written == data
    assert any("the colour matrix is taken as bt601" in line for line in notices) == name.startswith("yuv")
    assert any("the range as limited" in line for line in notices) == name.startswith("yuv4")


def test_the_order_of_channels_is_that_of_the_name(make_model: ModelFile) -> None:
    """A model that doubles the size; each pixel of the result is one of the frame."""
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3)
    written, notices = restored(pixels.tobytes(), make_model("nearest", scale=2), "6x4:bgr24")
    np.testing.assert_array_equal(np.frombuffer(written, np.uint8).reshape(8, 12, 3), pixels.repeat(2, 0).repeat(2, 1))
    assert notices == ["the result is raw frames too, of 12x8:bgr24"]
    (frame,) = parse_raw("6x4:bgr24").read_frames(io.BytesIO(pixels.tobytes()))
    np.testing.assert_array_equal(np.stack(frame, -1), pixels[:, :, [1, 0, 2]])


def test_a_stream_that_does_not_fit(make_model: ModelFile) -> None:
    data = random_frames("6x4:rgb24")
    with pytest.raises(InputError, match="ends within frame 3, after 71 of 72 bytes; --raw names another size or"):
        restored(data[:-1], make_model("identity"), "6x4:rgb24")
    with pytest.raises(InputError, match="standard input is empty"):
        restored(b"", make_model("identity"), "6x4:rgb24")


def test_command(make_model: ModelFile, tmp_path: Path) -> None:
    data = random_frames("6x4:rgb24")
    words = [sys.executable, "-m", "keygraph", "restore"]
    ending = ["--model", str(make_model("identity")), "--raw"]
    done = subprocess.run([*words, "-", "-o", "-", *ending, "6x4:rgb24"], input=data, capture_output=True, check=True)
    assert done.stdout == data
    for names, raw, message in (
        (["-", "-o", "-"], "6x4", b"pixel format ''"),
        ([str(tmp_path / "a.mkv"), "-o", str(tmp_path / "b.mkv")], "6x4:rgb24", b"--raw is for frames in a pipe"),
        ([str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png")], "6x4:rgb24", b"--raw is for videos"),
    ):
        refused = subprocess.run([*words, *names, *ending, raw], input=data, capture_output=True)
        assert (refused.returncode, refused.stdout) == (2, b"")
        assert message in refused.stderr
