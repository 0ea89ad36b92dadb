"""Tell what a file is that is no checkpoint, for an error message that helps."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from ..errors import InputError
from .pickled.values import printable

#: First bytes -> what the file is.
_STARTS = {
    b"GGUF": "a GGUF file of llama.cpp",
    b"\x89HDF": "an HDF5 file; of Keras, perhaps",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "compressed with gzip; unpack it first (gunzip)",
    b"BZh": "compressed with bzip2; unpack it first (bunzip2)",
    b"\xfd7zXZ": "compressed with xz; unpack it first (unxz)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it first (unzstd)",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\x7fELF": "a program or library",
    b"MZ": "a program or library",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"%PDF": "a PDF document",
    b"SIMPLE  =": "a FITS file",
}


def foreign(path: Path, start: bytes) -> InputError | None:
    """Return an error that says what a file is, by its first 512 bytes; None if that is not known."""
    for magic, what in _STARTS.items():
        if start.startswith(magic):
            return _no_checkpoint(path, what)
    if start[257:262] == b"ustar":
        return _no_checkpoint(
            path, "a tar archive; unpack it first, or, where PyTorch before 0.1.10 wrote it, save it anew"
        )
    # Protocol buffers of a ModelProto: field 1 (ir_version), then another field of it.
    if start[:1] == b"\x08" and len(start) > 2 and start[1] < 32 and start[2] in b"\x12\x1a\x22\x28\x32\x3a\x42":
        return _no_checkpoint(path, "an ONNX model; name it .onnx, or give its checkpoint")
    if start.startswith(b"/annex/objects/") or b"/annex/objects/" in start[:200]:
        return _no_checkpoint(path, "a pointer of git-annex; fetch the file with: git annex get")
    text = _text(start)
    if text is not None:
        return _no_checkpoint(path, f"text that begins with {text!r}; download the file itself")
    return None


def foreign_zip(path: Path, names: list[str]) -> InputError | None:
    """Return an error for a zip archive that is no checkpoint; None for one that ``torch.save`` may have written."""
    parts = [PurePosixPath(name) for name in names]
    if any("code" in part.parts[:2] and part.suffix == ".py" for part in parts) or any(
        part.name == "constants.pkl" for part in parts
    ):
        return _no_checkpoint(
            path,
            "a TorchScript program; save its weights with: "
            f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')",
        )
    if any(part.name == "data.pkl" for part in parts):
        return None
    if any(part.name == "archive_format" for part in parts) or any(part.name == ".data" for part in parts):
        return _no_checkpoint(
            path,
            "a program of torch.export or torch.package; save the weights of its model with: "
            "torch.save(model.state_dict(), 'weights.pth')",
        )
    if parts and all(part.suffix == ".npy" for part in parts):
        return _no_checkpoint(path, "an archive of NumPy arrays (.npz); save them with safetensors or torch.save")
    listed = ", ".join(printable(part) for part in parts[:3]) + (
        f" and {len(parts) - 3} more" if len(parts) > 3 else ""
    )
    return _no_checkpoint(path, f"a zip archive of {listed or 'nothing'}; unpack it and give the checkpoint in it")


def foreign_folder(path: Path) -> InputError:
    """Return an error for a folder that names the checkpoint in it."""
    names = sorted(entry.name for entry in path.iterdir())
    if any(name.endswith(".distcp") for name in names):
        return InputError(
            f"{path} is a folder of torch.distributed.checkpoint; join it with: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} weights.pth"
        )
    found = [name for name in names if name.endswith(".index.json")] or [
        name for name in names if name.endswith((".safetensors", ".ckpt", ".pth", ".pt", ".bin"))
    ]
    if not found:
        return InputError(f"{path} is a folder; give a checkpoint: .ckpt, .pth, .pt or .safetensors")
    listed = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return InputError(f"{path} is a folder; give the checkpoint in it: {listed}")


def zip_names(path: Path) -> list[str]:
    """Return the names in a zip archive; raises `zipfile.BadZipFile`."""
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _text(start: bytes) -> str | None:
    try:
        # The last character may be cut off.
        text = start.decode("utf-8", errors="strict" if len(start) < 512 else "ignore")
    except UnicodeDecodeError:
        return None
    line = text.strip().splitlines()[0][:60] if text.strip() else ""
    return line if len(line) >= 8 and text.isprintable() | all(c.isprintable() or c in "\r\n\t" for c in text) else None


def _no_checkpoint(path: Path, what: str) -> InputError:
    return InputError(f"{path} cannot be read as a checkpoint: it is {what}")
