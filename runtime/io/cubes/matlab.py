"""Cubes in MATLAB's ``.mat`` files: version 5 (and 4) through SciPy, 7.3 (HDF5) through h5py.

Version 7.3 has MATLAB's column-major order, so that HDF5 lists the axes in reverse: a cube of H x W x C is a dataset of
C x W x H. That is so in files written by MATLAB, by hdf5storage (NTIRE's ARAD_1K and the results of the released
MST++), and by keygraph: they have a user block that names MATLAB, or name each dataset's MATLAB class. A plain HDF5
file that is only called ``.mat`` has neither, and its axes are as HDF5 lists them.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import InputError
from ...hdf5_sources import USER_BLOCK, is_hdf5, places
from . import matlab_layout
from .contents import Contents, Stored, library, native, stored
from .cube import Field

#: A variable of this many bytes or more does not fit into version 5.
VERSION_5_BYTES = 2**31 - 2**10

#: MATLAB's numeric classes -> NumPy's types; logical is 0 and 1.
_CLASSES = {
    "double": "f8",
    "single": "f4",
    "logical": "?",
    **{f"{sign}int{bits}": f"{kind}{bits // 8}" for sign, kind in (("", "i"), ("u", "u")) for bits in (8, 16, 32, 64)},
}


#: Attributes of netCDF that describe the values of the samples.
_OF_SAMPLES = ("scale_factor", "add_offset", "_FillValue", "missing_value", "valid_min", "valid_max", "valid_range")

#: Beginnings of attributes that say how MATLAB, hdf5storage and netCDF store an array.
_WRITERS_ATTRIBUTES = ("MATLAB_", "Python.", "H5PATH", "DIMENSION_", "REFERENCE_LIST", "CLASS", "_Netcdf4", "_NC")


def open_mat(path: Path) -> Contents:
    """Open a ``.mat`` file of any version."""
    return _open_hdf5(path) if is_hdf5(path) else _open_version_5(path)


def write_version_5(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write arrays by name, each smaller than `VERSION_5_BYTES`, as version 5."""
    library("scipy.io", path).savemat(path, arrays, appendmat=False, oned_as="row")


def write_version_7_3(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write arrays by name as version 7.3; needs memory for one more band."""
    h5py = library("h5py", path)
    classes = {np.dtype(code): name for name, code in _CLASSES.items()}
    with _ErrorHoldingFile(path, "w+b") as sink:
        with h5py.File(sink, "w", userblock_size=USER_BLOCK) as file:
            for name, given in arrays.items():
                array = np.atleast_2d(given)
                dataset = file.create_dataset(name, shape=array.shape[::-1], dtype=array.dtype)
                dataset.attrs["MATLAB_class"] = np.bytes_(classes[array.dtype])
                for i in range(array.shape[-1]):
                    dataset[i] = array[..., i].T
        sink.seek(0)
        text = b"MATLAB 7.3 MAT-file, Platform: keygraph, HDF5 schema 1.00 ."
        sink.write(text.ljust(116) + bytes(8) + struct.pack("<H", 0x0200) + b"IM")
        if sink.error is not None:
            raise sink.error


class _ErrorHoldingFile(io.FileIO):
    """A file for h5py that stores the first write error instead of raising it.

    After a failed write HDF5 tries again when Python exits, and crashes.
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        left = memoryview(data)
        try:
            # The system may write a part only; writing the rest then raises the reason.
            while len(left) and self.error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        if self.error is None:
            try:
                return super().truncate(size)
            except OSError as error:
                self.error = error
        return size or 0


def _names_matlab(path: Path) -> bool:
    """Tell whether a file begins with MATLAB's user block."""
    with path.open("rb") as file:
        return file.read(6) == b"MATLAB"


def _open_version_5(path: Path) -> Contents:
    scipy_io = library("scipy.io", path)
    version_4 = matlab_layout.is_version_4(path)
    if version_4:
        matlab_layout.check_version_4(path)
    try:
        listed = scipy_io.whosmat(path, appendmat=False)
    except scipy_io.matlab.MatReadError as error:
        raise ValueError(str(error)) from error
    if len({name for name, *_ in listed}) < len(listed):
        raise ValueError("two of its variables have one name")
    arrays = {
        name: Stored(tuple(shape), np.dtype(_CLASSES[kind]) if kind in _CLASSES else None, kind)
        for name, shape, kind in listed
        if name != "__function_workspace__"  # what SciPy calls a variable without a name
    }

    def load(name: str) -> NDArray[Any]:
        if not version_4:
            matlab_layout.check_samples(path, name)
        # In MATLAB's own types: it stores integral doubles in fewer bytes, so a mask of zeros and ones would be read as
        # 8-bit integers. `whosmat` does not tell complex arrays.
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", np.exceptions.ComplexWarning)
                values = scipy_io.loadmat(path, appendmat=False, variable_names=[name], mat_dtype=True)[name]
        except np.exceptions.ComplexWarning:
            raise InputError(
                f"{path}:{name} is complex, not real numbers; save its real part or its magnitude"
            ) from None
        except scipy_io.matlab.MatReadError as error:
            raise ValueError(str(error)) from error
        if arrays[name].kind == "logical":
            values = values.astype(np.bool_)
        return np.asarray(values, dtype=native(values.dtype))

    return Contents(arrays, load)


def _open_hdf5(path: Path) -> Contents:
    h5py = library("h5py", path)
    reverse = _names_matlab(path)
    with h5py.File(path, "r") as file:
        items = {name: _item(file, name) for name in file if not name.startswith("#") and name != "__header__"}
        reversed_names = {
            name for name, item in items.items() if reverse or "MATLAB_class" in getattr(item, "attrs", ())
        }
        arrays = {name: _stored(item, name in reversed_names) for name, item in items.items()}
        fields = _attributes(file)
        fields_of = {name: _attributes(item) for name, item in items.items() if item is not None}

    def load(name: str) -> NDArray[Any]:
        with h5py.File(path, "r") as file:
            dataset = file[name]
            _check_sources(dataset)
            values: NDArray[Any] = dataset[()].T if name in reversed_names else dataset[()]
        if arrays[name].kind == "logical":
            values = values.astype(np.bool_)
        return values.astype(native(values.dtype), copy=False)

    plain = "no MATLAB file but plain HDF5: axes taken in HDF5's order, not reversed"
    notices_of = {
        name: (*([] if name in reversed_names else [plain]), *_not_applied(fields_of.get(name, {}))) for name in arrays
    }
    return Contents(arrays, load, notices_of=notices_of, fields=fields, fields_of=fields_of)


def _attributes(item: Any) -> dict[str, Field]:
    """Return a file's or dataset's attributes, which are only reported, without those of MATLAB and other writers."""
    names = [name for name in item.attrs if not name.startswith(_WRITERS_ATTRIBUTES)]
    return {f"attribute {name}": Field(None, "samples" if name in _OF_SAMPLES else "file") for name in names}


def _not_applied(fields: dict[str, Field]) -> list[str]:
    names = [name for name in _OF_SAMPLES if f"attribute {name}" in fields]
    return [f"the file's {' and '.join(names)} not applied"] if names else []


def _item(file: Any, name: str) -> Any:
    """Return a dataset or group; None for a link to nothing."""
    try:
        return file[name]
    except (KeyError, OSError):
        return None


def _check_sources(dataset: Any) -> None:
    """Check that the files are there, and whole, from which a dataset is read: HDF5 fills in zeros for what is not."""
    h5py = library("h5py", dataset.file.filename)
    path = Path(dataset.file.filename)
    location = f"{path}:{dataset.name.strip('/')}"
    left = dataset.size * dataset.dtype.itemsize
    for name, offset, size in dataset.external or ():
        part = min(size, left)
        left -= part
        # HDF5 looks in the working folder, and in no other, for what has no absolute name.
        if os.path.isfile(name) and os.path.getsize(name) < offset + part:
            raise InputError(
                f"{location} reads {offset + part:,} bytes of {name}, which has {os.path.getsize(name):,}; "
                "give the whole file"
            )
    for source in dataset.virtual_sources() if dataset.is_virtual else ():
        files = [path] if source.file_name == "." else places(source.file_name, path)
        if not files:
            raise InputError(
                f"{location} is put together from {source.file_name}, which is missing; copy it beside {path.name}"
            )
        # HDF5 takes the first place; `%b` stands for the numbers of several files or datasets.
        for place in files[:1] if "%b" not in source.file_name + source.dset_name else ():
            with h5py.File(place, "r") as file:
                if source.dset_name not in file:
                    raise InputError(
                        f"{location} is put together from {place}:{source.dset_name}, which is missing; give the "
                        "file that holds it"
                    )
                _check_sources(file[source.dset_name])


def _stored(item: Any, is_reversed: bool) -> Stored:
    """Describe a dataset, a group (a structure, or a sparse matrix) or a link to nothing (None) of an HDF5 file."""
    if item is None:
        return Stored((), None, "a link to nothing")
    kind = item.attrs.get("MATLAB_class", b"")
    kind = kind.decode(errors="replace") if isinstance(kind, bytes) else str(kind)
    if "MATLAB_empty" in item.attrs:
        return Stored((), None, "empty")
    if not hasattr(item, "shape") or item.shape is None:
        return Stored((), None, "sparse" if "MATLAB_sparse" in item.attrs else kind or "group")
    shape = item.shape[::-1] if is_reversed else item.shape
    if item.dtype.names:
        return Stored(shape, None, "complex")
    if kind not in ("", *_CLASSES):
        return Stored(shape, None, kind)
    if kind == "logical":
        return Stored(shape, np.dtype(np.bool_), kind)
    array = stored(shape, item.dtype)
    return Stored(array.shape, array.dtype, kind or array.kind)
