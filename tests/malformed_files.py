"""Files that are damaged or odd, by kind: whole files of every format, and what can happen to any of them."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import tifffile
import torch
from fuzz import make_corpus
from PIL import Image

Array = np.ndarray[Any, Any]
Damage = Callable[[bytes], bytes]

CUBE = (np.random.default_rng(7).random((12, 20, 5)) * 200).astype(np.float32)
# Smooth, so that JPEG is close to it.
PICTURE = (np.mgrid[:24, :20, :3] * np.array([3, 4, 30]).reshape(3, 1, 1, 1)).sum(axis=0).astype(np.uint8)


def _pillow(kind: str, pixels: Array = PICTURE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _saved(save: Callable[..., Any], *arguments: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *arguments, **options)
    return buffer.getvalue()


def _torch(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _hdf5(matlab: bool) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", userblock_size=512 if matlab else 0) as file:
        dataset = file.create_dataset("cube", data=CUBE.T if matlab else CUBE)
        if matlab:
            dataset.attrs["MATLAB_class"] = np.bytes_("single")
    start = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" if matlab else b""
    return start + buffer.getvalue()[len(start) :]


def _gray_pages() -> bytes:
    return _saved(tifffile.imwrite, CUBE.transpose(2, 0, 1), photometric="minisblack", metadata=None)


#: Name -> a whole picture.
PICTURES: dict[str, bytes] = {
    "rgb.png": _pillow("PNG"),
    "photo.jpg": _pillow("JPEG", quality=95, subsampling=0),
    "deflated.tif": _pillow("TIFF", compression="tiff_adobe_deflate"),
    "lossless.webp": _pillow("WebP", lossless=True),
}

#: Name -> a whole cube, `CUBE` each; an ENVI header's samples lie beside it.
CUBES: dict[str, bytes] = {
    "a.npy": _saved(np.save, CUBE),
    "a.npz": _saved(np.savez_compressed, cube=CUBE),
    "5.mat": _saved(scipy.io.savemat, {"cube": CUBE}),
    "5z.mat": _saved(scipy.io.savemat, {"cube": CUBE}, do_compression=True),
    "7.mat": _hdf5(True),
    "plain.mat": _hdf5(False),
    "pages.tif": _gray_pages(),
    "a.hdr": b"ENVI\nsamples = 20\nlines = 12\nbands = 5\nheader offset = 0\nfile type = ENVI Standard\n"
    b"data type = 4\ninterleave = bip\nbyte order = 0\n",
}


def write(path: Path, data: bytes) -> Path:
    """Write a file, and the samples beside an ENVI header."""
    path.write_bytes(data)
    if path.suffix == ".hdr":
        path.with_suffix(".img").write_bytes(CUBE.tobytes())
    return path


def _flipped(data: bytes, seed: int, count: int = 1) -> bytes:
    rng, changed = random.Random(seed), bytearray(data)
    for _ in range(count):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwritten(data: bytes, at: float, size: int, value: int) -> bytes:
    start = int(len(data) * at)
    return (data[:start] + bytes([value]) * size + data[start + size :])[: len(data)]


#: What leaves nothing of a file: it has to be refused.
LOST: dict[str, Damage] = {
    "empty": lambda data: b"",
    "one byte": lambda data: data[:1],
    "eight bytes": lambda data: data[:8],
    "a web page": lambda data: b"<!DOCTYPE html><html><body>404</body></html>",
    "a Git LFS pointer": lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "zeros": lambda data: bytes(len(data)),
    "noise": lambda data: random.Random(1).randbytes(len(data)),
    "text": lambda data: "naïve text, ".encode() * 40,
    "UTF-16": lambda data: "text".encode("utf-16") * 40,
    "another format": lambda data: b"GIF89a" + data[6:],
    "start lost": lambda data: bytes(16) + data[16:],
    "shifted": lambda data: b"\n" + data,
    "line ends": lambda data: data.replace(b"\n", b"\r\n").replace(b"\0", b"\n") if data[:4] != b"ENVI" else b"",
}


def _cut(share: float) -> Damage:
    return lambda data: data[: int(len(data) * share)]


#: What leaves a part: a reader may give what was in the whole file, or refuse. It never gives something else.
CUT: dict[str, Damage] = {
    **{f"cut to {share:.0%}": _cut(share) for share in (0.1, 0.3, 0.5, 0.7, 0.9)},
    "last byte lost": lambda data: data[:-1],
    "bytes behind": lambda data: data + b"\0" * 100,
    "twice": lambda data: data + data,
}


def _flips(seed: int, count: int) -> Damage:
    return lambda data: _flipped(data, seed, count)


def _overwrites(at: float, value: int) -> Damage:
    return lambda data: _overwritten(data, at, 24, value)


#: What may change values or sizes without a trace, in a format without checksums: it is read, or refused.
CHANGED: dict[str, Damage] = {
    **{f"bit {seed}": _flips(seed, 1) for seed in range(8)},
    **{f"{count} bits": _flips(count, count) for count in (20, 200)},
    **{
        f"{name} at {at:.0%}": _overwrites(at, value)
        for at in (0.02, 0.2, 0.6, 0.95)
        for name, value in (("zeros", 0), ("ones", 255))
    },
}


def npy(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """Return an ``.npy`` file with this header."""
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header) & 0xFFFF)
    return b"\x93NUMPY" + bytes(version) + size + header.encode("latin-1") + data


def zipped(**members: bytes) -> bytes:
    """Return a zip archive; the names get ``.npy`` if they have no suffix."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def mat_element(kind: int, data: bytes) -> bytes:
    """Return an element of MATLAB's version 5, padded."""
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def mat_5(*elements: bytes) -> bytes:
    """Return a file of version 5."""
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(elements)


def mat_array(sizes: tuple[int, ...], samples: bytes, kind: int = 7, array_class: int = 7) -> bytes:
    """Return an array called ``cube``; kind and class 7 are float32."""
    parts = mat_element(6, struct.pack("<II", array_class, 0)) + mat_element(5, struct.pack(f"<{len(sizes)}i", *sizes))
    return mat_element(14, parts + mat_element(1, b"cube") + mat_element(kind, samples))


def nested_cells(depth: int) -> bytes:
    """Return a cell in a cell in a cell ..."""
    inner = mat_array((1, 1), bytes(4))
    for _ in range(depth):
        parts = mat_element(6, struct.pack("<II", 1, 0)) + mat_element(5, struct.pack("<ii", 1, 1))
        inner = mat_element(14, parts + mat_element(1, b"cube") + inner)
    return mat_5(inner)


def mat_4(kind: int, rows: int, columns: int, imaginary: int, length: int, rest: bytes) -> bytes:
    """Return a variable of version 4."""
    return struct.pack("<5i", kind, rows, columns, imaginary, length) + rest


#: Name -> a cube's file that cannot be read.
BAD_CUBES: dict[str, bytes] = {
    "version.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }\n", bytes(16), (9, 0)),
    "code.npy": npy("__import__('os').getcwd()\n"),
    "no dictionary.npy": npy("[1, 2, 3]\n"),
    "keys.npy": npy("{'descr': '<f4', 'shape': (2, 2), }\n", bytes(16)),
    "negative.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 2), }\n", bytes(16)),
    "huge.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }\n", bytes(16)),
    "float size.npy": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2.0, 2), }\n", bytes(16)),
    "type.npy": npy("{'descr': '<q9', 'fortran_order': False, 'shape': (2, 2), }\n", bytes(16)),
    "nested.npy": npy(f"{'(' * 3000}{')' * 3000}\n"),
    "objects.npy": _saved(np.save, np.array([{}, []], dtype=object), allow_pickle=True),
    "fields.npy": _saved(np.save, np.zeros((2, 2), dtype=[("a", "f4"), ("b", "i4")])),
    "dates.npy": _saved(np.save, np.zeros((2, 2), dtype="M8[s]")),
    "no arrays.npz": zipped(**{"readme.txt": b"text"}),
    "empty.npz": zipped(),
    "no array.npz": zipped(**{"cube.npy": b"text"}),
    "two.npz": _saved(np.savez, a=CUBE, b=CUBE),
    "cell.mat": _saved(scipy.io.savemat, {"cube": np.array([1, "x"], dtype=object)}),
    "struct.mat": _saved(scipy.io.savemat, {"cube": {"a": 1}}),
    "deep.mat": nested_cells(3000),
    "negative.mat": mat_5(mat_array((-2, 3), bytes(24))),
    "overflow.mat": mat_5(mat_array((2**31 - 1, 2**31 - 1), bytes(24))),
    "too few.mat": mat_5(mat_array((20, 30), bytes(24))),
    "unknown class.mat": mat_5(mat_array((2, 3), bytes(24), array_class=99)),
    "unknown type.mat": mat_5(mat_array((2, 3), bytes(24), kind=99)),
    "no variable.mat": mat_5(
        mat_element(
            14,
            mat_element(6, struct.pack("<II", 9, 0))
            + mat_element(5, struct.pack("<ii", 4, 5))
            + mat_element(1, b"")
            + mat_element(0, bytes(20)),
        )
    ),
    "no deflate.mat": mat_5(mat_element(15, b"no deflate" * 9)),
    "bomb.mat": mat_5(mat_element(15, zlib.compress(bytes(10**6)))),
    "length.mat": mat_5(struct.pack("<II", 14, 2**31) + bytes(64)),
    "backwards.mat": mat_4(0, -1, 5, 0, 1, bytes(80)),
    "no name.mat": mat_4(0, 2, 2, 0, -1, bytes(80)),
    "unknown.mat": mat_4(70, 2, 2, 0, 5, b"cube\0" + bytes(32)),
    "half.mat": mat_4(0, 4, 4, 0, 5, b"cube\0" + bytes(32)),
}


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0, data: bytes = bytes(4096)) -> bytes:
    """Return a TIFF with one directory: (code, type, count, value) each."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", following) + data


def _tags(**changes: int) -> list[tuple[int, int, int, int]]:
    tags = {
        "width": (256, 3, 1, 20), "height": (257, 3, 1, 24), "bits": (258, 3, 1, 8), "compression": (259, 3, 1, 1),
        "photometric": (262, 3, 1, 1), "offset": (273, 4, 1, 200), "samples": (277, 3, 1, 1), "rows": (278, 3, 1, 24),
        "bytes": (279, 4, 1, 480),
    }  # fmt: skip
    return [(*tags[name][:3], changes.get(name, tags[name][3])) for name in tags if changes.get(name) != -1]


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, *chunks: bytes, data: bytes | None = None) -> bytes:
    """Return a PNG with zeros for samples, unless compressed `data` is given."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    rows = (1 + (width * channels * depth + 7) // 8) * height
    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    image = chunk(b"IDAT", zlib.compress(bytes(min(rows, 10**5))) if data is None else data)
    return b"\x89PNG\r\n\x1a\n" + start + b"".join(chunks) + image + chunk(b"IEND", b"")


#: Name -> a picture's file that cannot be read.
BAD_PICTURES: dict[str, bytes] = {
    "no width.png": png(0, 8, 8, 2),
    "huge.png": png(2**31 - 1, 2**31 - 1, 8, 2),
    "depth.png": png(8, 8, 5, 2),
    "colour.png": png(8, 8, 8, 5),
    "no palette.png": png(8, 8, 8, 3),
    "no deflate.png": png(8, 8, 8, 2, data=b"no deflate"),
    "too little.png": png(8, 8, 8, 2, data=zlib.compress(bytes(30))),
    "checksum.png": PICTURES["rgb.png"][:29] + bytes(4) + PICTURES["rgb.png"][33:],
    "no samples.png": b"\x89PNG\r\n\x1a\n" + png(8, 8, 8, 2)[8:33] + chunk(b"IEND", b""),
    "start.jpg": b"\xff\xd8\xff\xe0",
    "no scan.jpg": PICTURES["photo.jpg"][: PICTURES["photo.jpg"].index(b"\xff\xda")] + b"\xff\xd9",
    "no height.jpg": PICTURES["photo.jpg"].replace(b"\x11\x08\x00\x18", b"\x11\x08\x00\x00"),
    "no tables.jpg": PICTURES["photo.jpg"].replace(b"\xff\xdb", b"\xff\xfe"),
    "size.webp": PICTURES["lossless.webp"][:4] + struct.pack("<I", 2**31) + PICTURES["lossless.webp"][8:40],
    "no image.webp": b"RIFF" + struct.pack("<I", 4) + b"WEBP",
    "no entries.tif": tiff([]),
    "no width.tif": tiff(_tags(width=0)),
    "no width tag.tif": tiff(_tags(width=-1)),
    "no offset.tif": tiff(_tags(offset=-1)),
    "beyond.tif": tiff(_tags(offset=10**6)),
    "huge.tif": tiff(_tags(width=65535, height=65535, rows=65535)),
    "compression.tif": tiff(_tags(compression=60000)),
    "directory beyond.tif": b"II*\0" + struct.pack("<I", 10**6) + bytes(100),
}


class Opens:
    """A pickled object that would run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.getcwd, ()


def _not_deflated() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
    data = buffer.getvalue()
    start = data.index(b"data.pkl") + 8
    return data[:start] + b"\xff" * 4 + data[start + 4 :]


def _recursive() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["params"] = content["state_dict"] = content
    return content


def safetensors(header: Any, data: bytes = b"", size: int | None = None) -> bytes:
    """Return a safetensors file with this header, as JSON or as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def _entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


#: Name -> a checkpoint that cannot be read.
BAD_CHECKPOINTS: dict[str, bytes] = {
    "object.pt": _torch({"params": Opens()}),
    "protocol 5.pt": pickle.dumps({"w": Opens()}, 5),
    "recursive.pt": _torch(_recursive()),
    "nested.pt": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    "memo.pt": b"\x80\x02j\xff\xff\xff\x7f.",
    "stack.pt": b"\x80\x02}(u.",
    "number.pt": _torch(3),
    "text.pt": _torch({"params": "text"}),
    "list.pt": _torch([torch.zeros(2)]),
    "none.pt": _torch({"params": None, "state_dict": {}}),
    "archive.pt": zipped(**{"readme.txt": b"text"}),
    "pickle.pt": zipped(**{"a/data.pkl": b"\x80\x02K\x01", "a/version": b"3"}),
    "record.pt": zipped(**{"a/data.pkl": b"\x80\x02}.", "a/version": b"3"}).replace(
        struct.pack("<II", 4, 4), struct.pack("<II", 4000, 4000)
    ),
    "deflated.pt": _not_deflated(),
    "version.pt": zipped(**{"a/data.pkl": b"\x80\x02}.", "a/version": b"x"}),
    "size.safetensors": safetensors(_entry(), bytes(8), size=2**62),
    "size 0.safetensors": safetensors(b""),
    "no JSON.safetensors": safetensors(b"{no"),
    "nested.safetensors": safetensors(b'{"a":' + b"[" * 5000, bytes(8)),
    "list.safetensors": safetensors([1, 2]),
    "type.safetensors": safetensors(_entry("F99"), bytes(8)),
    "negative.safetensors": safetensors(_entry(shape=(-2,)), bytes(8)),
    "overflow.safetensors": safetensors(_entry(shape=(2**62, 8)), bytes(8)),
    "offsets.safetensors": safetensors(_entry(offsets=(8, 0)), bytes(8)),
    "beyond.safetensors": safetensors(_entry(offsets=(0, 800)), bytes(8)),
    "shape.safetensors": safetensors(_entry(shape=(3,)), bytes(8)),
    "nothing.safetensors": safetensors({}),
    "metadata.safetensors": safetensors({"__metadata__": {"keygraph": "[" * 5000}, **_entry()}, bytes(8)),
    "metadata list.safetensors": safetensors({"__metadata__": {"keygraph": "[1]"}, **_entry()}, bytes(8)),
    "metadata type.safetensors": safetensors({"__metadata__": {"keygraph": 1}, **_entry()}, bytes(8)),
    "config.safetensors": safetensors(
        {"__metadata__": {"keygraph": '{"architecture": "kgt", "config": 3}'}, **_entry()}, bytes(8)
    ),
    "huge config.safetensors": safetensors(
        {"__metadata__": {"keygraph": '{"architecture": "kgt", "config": {"channels": 1000000000}}'}, **_entry()},
        bytes(8),
    ),
    "architecture.safetensors": safetensors(
        {"__metadata__": {"keygraph": '{"architecture": "absent"}'}, **_entry()}, bytes(8)
    ),
}


def damaged(whole: dict[str, bytes], kinds: dict[str, Damage]) -> Iterator[tuple[str, str, bytes]]:
    """Yield (kind, name, data) of every whole file in every kind of damage."""
    for name, data in whole.items():
        for kind, damage in kinds.items():
            yield kind, name, damage(data)


_REMOVED = object()


def variants(document: Any, values: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Yield copies of a JSON document with one entry, at any depth, replaced by each of the values, or removed."""
    for path in list(_paths(document)):
        for value in (*values, _REMOVED):
            copy = json.loads(json.dumps(document))
            holder = copy
            for key in path[:-1]:
                holder = holder[key]
            if value is _REMOVED:
                del holder[path[-1]]
            elif type(holder[path[-1]]) is type(value) and holder[path[-1]] == value:
                continue
            else:
                holder[path[-1]] = value
            yield f"{'.'.join(map(str, path))} {'removed' if value is _REMOVED else json.dumps(value)}", copy


def _paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 1)) if isinstance(value, list) else ()
    for key in keys:
        yield (*before, key)
        yield from _paths(value[key], (*before, key))


def whole_sidecar() -> bytes:
    """Return the metadata of an engine."""
    return next(make_corpus.sidecars())
