"""Small videos for tests, written and read with PyAV alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

av: Any = pytest.importorskip("av", reason="videos need the package av")

#: color_range, colorspace, color_primaries and color_trc: nothing is said.
UNSPECIFIED = (0, 2, 2, 2)


@dataclass
class Clip:
    """What a video holds.

    Attributes
    ----------
    planes
        Of each frame.
    times
        Time stamps of the frames.
    time_base, tags, pixel_format, rotation, aspect
        Of the video stream.
    packets
        Of the other streams by index: (time in seconds, bytes).
    metadata, chapters, attachments
        Of the container.
    """

    planes: list[list[np.ndarray[Any, Any]]]
    times: list[int]
    time_base: Fraction
    tags: tuple[int, ...]
    pixel_format: str
    rotation: int
    aspect: Fraction | None
    packets: dict[int, list[tuple[float, bytes]]] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    chapters: list[Any] = field(default_factory=list)
    attachments: list[bytes] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)


def write_clip(
    path: Path,
    *,
    count: int = 6,
    size: tuple[int, int] = (32, 48),
    pix_fmt: str = "yuv420p",
    codec: str = "ffv1",
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 1000),
    tags: tuple[int, int, int, int] = UNSPECIFIED,
    rotation: int = 0,
    aspect: Fraction | None = None,
    others: bool = False,
    options: dict[str, str] | None = None,
    flags: int = 0,
) -> None:
    """Write frames of noise.

    Parameters
    ----------
    path
        The file; its suffix gives the container.
    count, size
        Frames, and their height and width.
    pix_fmt, codec, options, flags
        Of the encoder.
    times, time_base
        Time stamps of the frames; 40 ms apart by default.
    tags
        color_range, colorspace, color_primaries and color_trc.
    rotation
        Degrees of the display matrix.
    aspect
        Of a pixel.
    others
        Also sound, subtitles, an attachment, chapters and metadata; in Matroska.
    """
    rng = np.random.default_rng(count)
    times = [40 * number for number in range(count)] if times is None else times
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, 25)
        context = stream.codec_context
        context.height, context.width = size
        context.pix_fmt, context.time_base = pix_fmt, time_base
        stream.time_base = time_base
        context.color_range, context.colorspace, context.color_primaries, context.color_trc = tags
        context.flags |= flags
        context.options = options or {}
        if aspect is not None:
            context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        if others:
            _add_others(file)
        for time in times:
            frame = av.VideoFrame(size[1], size[0], pix_fmt)
            bits = frame.format.components[0].bits
            for plane in frame.planes:
                dtype = np.uint8 if bits == 8 else np.uint16
                rows = np.frombuffer(plane, dtype)
                rows[:] = rng.integers(0, 1 << bits, rows.shape)
            frame.pts, frame.time_base = time, time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if others:
            _write_others(file)


def _add_others(file: Any) -> None:
    sound = file.add_stream("pcm_s16le", 8000)
    sound.codec_context.layout = "mono"
    sound.metadata["language"] = "deu"
    words = file.add_mux_stream("subrip")
    words.metadata.update(language="eng", title="Words")
    words.time_base = Fraction(1, 1000)
    file.add_attachment("font.ttf", "font/ttf", b"not really a font")
    file.metadata["title"] = "A clip"
    file.set_chapters(
        [{"id": 1, "start": 0, "end": 120, "time_base": Fraction(1, 1000), "metadata": {"title": "Beginning"}}]
    )


def _write_others(file: Any) -> None:
    sound, words = file.streams.audio[0], file.streams.subtitles[0]
    samples = np.random.default_rng(0).integers(-1000, 1000, (1, 800)).astype(np.int16)
    for number in range(2):
        frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
        frame.sample_rate, frame.pts = 8000, 800 * number
        file.mux(sound.encode(frame))
    for number, text in enumerate((b"first words", b"second words")):
        packet = av.Packet(text)
        packet.stream, packet.time_base = words, Fraction(1, 1000)
        packet.pts = packet.dts = 80 * number
        packet.duration, packet.is_keyframe = 60, True
        file.mux(packet)


def read_clip(path: Path) -> Clip:
    """Read everything of a video."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        planes, times = [], []
        frame = None
        for frame in file.decode(stream):
            dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
            planes.append(
                [np.frombuffer(one, dtype).reshape(one.height, -1)[:, : one.width].copy() for one in frame.planes]
            )
            times.append(frame.pts)
        assert frame is not None
        clip = Clip(
            planes=planes,
            times=times,
            time_base=stream.time_base,
            tags=tuple(
                int(getattr(frame, name)) for name in ("color_range", "colorspace", "color_primaries", "color_trc")
            ),
            pixel_format=frame.format.name,
            rotation=frame.rotation,
            aspect=stream.sample_aspect_ratio,
            metadata=dict(file.metadata),
            chapters=file.chapters(),
            attachments=[one.data for one in file.streams.attachments],
            kinds=[f"{one.type}:{one.metadata.get('language', '')}" for one in file.streams],
        )
    with av.open(str(path)) as file:
        others = [one for one in file.streams if one.type in ("audio", "subtitle")]
        for packet in file.demux(*others) if others else ():
            if packet.size:
                time = float(packet.pts * packet.time_base)
                clip.packets.setdefault(packet.stream_index, []).append((time, bytes(packet)))
    return clip
