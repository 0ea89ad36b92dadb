"""Write the files from which the fuzzer starts: ``python tests/fuzz/make_corpus.py FOLDER``; see README.md."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import scipy.sparse
import torch
from keygraph.manifest import (
    ExactTiling,
    ExtraInput,
    GlobalStatistics,
    HalfPrecision,
    Manifest,
    Neighbours,
    Profile,
    Tiling,
)
from keygraph.models import save_checkpoint
from keygraph.models.kgt import KGT, KGTConfig
from safetensors.torch import save

#: A manifest with every field.
MANIFEST = Manifest(
    architecture="kgt",
    configuration={"layers": [1, 1], "body": "columnar"},
    task="denoising",
    scale=2,
    in_channels=3,
    out_channels=3,
    value_range=(0.0, 1.0),
    size_multiple=8,
    global_statistics=True,
    shape=(1, 64, 64),
    neighbours=Neighbours(16, 64, (8, 16), True),
    precision="fp16",
    weights_sha256="0" * 64,
    made_with={"torch": "2.11"},
    verification={"psnr": 120.5},
    tiling=Tiling(64, 8, 90.5),
    half=HalfPrecision(("norm*",), ("mlp*",), 60.0, 10, 2, False, ("a.png",), 12.5, (("conv", 3.5),)),
    profiles=(Profile((1, 1, 4), (64, 128, 256), (64, 128, 256)),),
    views=("left", "right"),
    normalisation="peak",
    gain=0.9,
    margin=(0, 4),
    extra_inputs=(ExtraInput("mask", 28, (0, 54)),),
    clamp=(0.0, 1.0),
    wavelengths=(450.0, 550.0, 650.0),
    statistics=GlobalStatistics(100.5, (Tiling(64, 8, 40.5),), ExactTiling(64, 150.0, 3, 12.5)),
)


def checkpoints() -> Iterator[bytes]:
    """Yield checkpoints in every container."""
    state = {
        "conv.weight": torch.zeros(2, 3, 1, 1),
        "conv.bias": torch.zeros(2, dtype=torch.float16),
        "k": torch.tensor([3]),
    }
    wrapped: list[Any] = [
        state,
        {"params": state},
        {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 3},
    ]
    for content in (*wrapped, {"ema": {"module": state}, "config": {"dim": 8}, "architecture": "kgt"}, [1, "a"]):
        for options in ({}, {"_use_new_zipfile_serialization": False}):
            buffer = io.BytesIO()
            torch.save(content, buffer, **options)
            yield buffer.getvalue()
    for metadata in (None, {"keygraph": json.dumps({"architecture": "kgt", "config": {"dim": 8}})}, {"format": "pt"}):
        yield save(state, metadata)
    yield save({"w": torch.zeros(2).to(torch.float8_e4m3fn), "b": torch.zeros(2, dtype=torch.bfloat16)})
    with tempfile.TemporaryDirectory() as folder:
        network = KGT(KGTConfig(layers=(1,), channels=4, heads=2, window=4, k=5))
        for name in ("a.pt", "a.safetensors"):
            save_checkpoint(Path(folder) / name, network)
            yield (Path(folder) / name).read_bytes()
    yield pickle.dumps({"params": [1, 2.5, None, "text", b"bytes"]})


def manifests() -> Iterator[bytes]:
    """Yield manifests with few and with all fields."""
    yield MANIFEST.to_json().encode()
    plain: dict[str, Any] = {
        "shape": None,
        "neighbours": None,
        "tiling": None,
        "half": None,
        "profiles": (),
        "statistics": None,
    }
    few = dataclasses.replace(
        MANIFEST, **plain, extra_inputs=(), views=(), clamp=None, wavelengths=(), verification=None
    )
    yield few.to_json().encode()
    yield b'{"format_version": 1, "architecture": "kgt"}'


def sidecars() -> Iterator[bytes]:
    """Yield metadata of engines; the second belongs to the engine that the target writes."""
    values: dict[str, Any] = {
        "engine_sha256": "0" * 64,
        "engine_bytes": 9,
        "key": "0" * 64,
        "ingredients": {"graph": "1" * 64},
        "model": "kgt.onnx",
        "backend": "tensorrt-rtx",
        "version": "1.7.1.116",
        "cuda": "13",
        "target": "sm_86",
        "capability": [8, 6],
        "device": "a GPU",
        "plugin": {"name": "libkeygraph_trt.so", "sha256": "0" * 64},
        "compatible": "none",
        "version_compatible": False,
        "host_code": False,
        "stripped": False,
        "tensors": [{"name": "image", "dtype": "float32", "shape": [-1, 3, -1, -1], "output": False, "host": False}],
        "options": {"tile": ["256"], "fp8": True, "k": None},
        "attempts": ["too little memory"],
        "memory": {"weights": 2**20},
        "seconds": 1.5,
        "read_back": "",
        "made_with": {"keygraph": "0.1"},
        "manifest": json.loads(MANIFEST.to_json()),
        "format_version": 1,
    }
    yield json.dumps(values).encode()
    digest = hashlib.sha256(b"an engine").hexdigest()
    yield json.dumps(values | {"plugin": None, "compatible": "ampere-plus", "engine_sha256": digest}).encode()


def envi_files() -> Iterator[bytes]:
    """Yield headers behind the number of bytes of their samples."""
    sizes = "samples = 4\nlines = 3\nbands = 3\nheader offset = 0\nfile type = ENVI Standard\n"
    for code, itemsize in ((1, 1), (2, 2), (4, 4), (6, 8), (12, 2), (14, 8), (15, 8)):
        for interleave in ("bsq", "bil", "bip"):
            text = f"{36 * itemsize}\nENVI\n{sizes}data type = {code}\ninterleave = {interleave}\nbyte order = 1\n"
            yield text.encode()
    text = f"144\nENVI\n{sizes}data type = 4\ninterleave = bsq\nbyte order = 0\n"
    text += "wavelength units = Micrometers\nwavelength = {0.4, 0.5,\n 0.6}\nfwhm = {0.01, 0.01, 0.02}\n"
    text += (
        "map info = {UTM, 1.0, 1.0, 5e5, 4e6, 10, 10, 32, North}\ndescription = {a\nb}\n; a comment\nbbl = {1, 0, 1}\n"
    )
    yield text.encode()
    yield (text + "data gain values = {2, 1, 1}\ndata offset values = {0, -1, 0}\ndata ignore value = -9999\n").encode()
    yield (text + "reflectance scale factor = 10000\nband names = {a, b, c}\n").encode()


def mat_files() -> Iterator[bytes]:
    """Yield files of MATLAB, versions 4, 5 and 7.3, and plain HDF5."""
    cube = np.arange(60, dtype=np.float32).reshape(4, 5, 3)
    arrays: dict[str, Any] = {"cube": cube, "bands": np.array([450.0, 550.0, 650.0])}
    others = {"s": {"a": 1, "b": "text"}, "cell": np.array([1, "x"], dtype=object), "t": "text", "z": np.eye(2) * 1j}
    ways: list[dict[str, Any]] = [{}, {"do_compression": True}, {"oned_as": "column"}]
    for options in ways:
        for content in (arrays, arrays | others, {"m": cube[:, :, 0] > 3}, {"u": cube.astype(np.uint16)}):
            buffer = io.BytesIO()
            scipy.io.savemat(buffer, content, **options)
            yield buffer.getvalue()
    for matrix in (cube[:, :, 0], scipy.sparse.csc_matrix(np.eye(3))):
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, {"m": matrix}, format="4" if isinstance(matrix, np.ndarray) else "5")
        yield buffer.getvalue()
    for matlab in (False, True):
        yield _hdf5(cube, matlab, {})
        yield _hdf5(cube, matlab, {"chunks": (1, 5, 2), "compression": "gzip", "shuffle": True})


def _hdf5(cube: Any, matlab: bool, options: dict[str, Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mat"
        with h5py.File(path, "w", userblock_size=512 if matlab else 0) as file:
            dataset = file.create_dataset("cube", data=cube.T if matlab else cube, **options)
            if matlab:
                dataset.attrs["MATLAB_class"] = np.bytes_("single")
                file.create_group("#refs#")
            file["group/inner"] = [1, 2]
            file["soft"] = h5py.SoftLink("/absent")
        if matlab:
            with path.open("r+b") as raw:
                raw.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
        return path.read_bytes()


#: What makes the files of each target.
CORPORA = {
    "checkpoint": checkpoints,
    "manifest": manifests,
    "sidecar": sidecars,
    "envi": envi_files,
    "mat": mat_files,
}


def main() -> None:
    """Write a folder for each target."""
    for name, make in CORPORA.items():
        folder = Path(sys.argv[1]) / name
        folder.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(make()):
            (folder / f"{number:02}").write_bytes(data)


if __name__ == "__main__":
    main()
