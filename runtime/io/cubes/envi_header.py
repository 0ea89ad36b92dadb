"""ENVI headers: ``name = value`` lines, of which some describe the samples and all others belong to the user."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import InputError
from .cube import Field, HoldsFor
from .wavelengths import nanometres

#: ENVI's data types -> NumPy's types. 7, 8, 10 and 11 are text, structures and pointers.
DATA_TYPES = {
    1: "u1",
    2: "i2",
    3: "i4",
    4: "f4",
    5: "f8",
    6: "c8",
    9: "c16",
    12: "u2",
    13: "u4",
    14: "i8",
    15: "u8",
}

#: Interleave -> axes in the file of samples, the slowest first.
INTERLEAVES = {
    "bsq": ("bands", "rows", "columns"),
    "bil": ("rows", "bands", "columns"),
    "bip": ("rows", "columns", "bands"),
}

#: Fields that say where and how the samples are stored. A writer makes its own.
_STORAGE = {
    "samples",
    "lines",
    "bands",
    "header offset",
    "file type",
    "data type",
    "interleave",
    "byte order",
    "file compression",
    "major frame offsets",
    "minor frame offsets",
}

#: Fields that `EnviHeader.gains`, `offsets` and `divisor` hold; after they are applied they no longer are true.
_APPLIED = {"data gain values", "data offset values", "reflectance scale factor"}

#: Fields that hold for an image of the same size only.
_OF_SIZE = {
    "map info",
    "projection info",
    "coordinate system string",
    "pixel size",
    "geo points",
    "rpc info",
    "x start",
    "y start",
}

#: Fields that hold for the same bands only, whatever their length.
_OF_BANDS = {
    "wavelength",
    "wavelength units",
    "fwhm",
    "band names",
    "bbl",
    "default bands",
    "solar irradiance",
    "spectra names",
}

#: Fields that describe the values of the samples.
_OF_SAMPLES = {
    "data ignore value",
    "default stretch",
    "z plot range",
    "z plot average",
    "data reflectance gain values",
    "data reflectance offset values",
    "classes",
    "class lookup",
    "class names",
    "complex function",
}

#: A header is text of some kilobytes; a larger file is something else.
_MAX_BYTES = 16 * 2**20


@dataclass(frozen=True)
class EnviHeader:
    """What a header says.

    Attributes
    ----------
    rows, columns, bands
        Size of the image.
    dtype
        Type of the stored samples, in their byte order.
    interleave
        A key of `INTERLEAVES`.
    offset
        Bytes before the first sample.
    compressed
        True when the file of samples is compressed by gzip.
    gains, offsets
        Of each band: value = sample * gain + offset. Empty where they change nothing.
    divisor
        The reflectance scale factor: value = sample / divisor.
    no_data
        The value of samples without data, as text; empty where there is none.
    wavelengths
        Wavelengths of the bands in nm; empty where unknown.
    fields
        All other fields; the values are text as in the file, with their braces.
    """

    rows: int
    columns: int
    bands: int
    dtype: np.dtype[Any]
    interleave: str
    offset: int
    compressed: bool
    gains: tuple[float, ...]
    offsets: tuple[float, ...]
    divisor: float
    no_data: str
    wavelengths: tuple[float, ...]
    fields: dict[str, Field]

    @property
    def bytes(self) -> int:
        """Size of the file of samples, without compression."""
        return self.offset + self.rows * self.columns * self.bands * self.dtype.itemsize


def read_header(path: Path) -> EnviHeader:
    """Read a header.

    Raises
    ------
    InputError
        The file is a whole header, but not of an image, or of a kind that is not supported.
    ValueError
        It is no header, a field is missing, or a field's value is impossible.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if not data.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"ENVI") or len(data) > _MAX_BYTES:
        raise ValueError("an ENVI header is text that starts with ENVI")
    texts = _parsed(_decoded(data))
    kind = texts.get("file type", "ENVI Standard").lower()
    if kind not in ("envi standard", "envi", "envi classification"):
        raise InputError(f"{path} is of ENVI's file type {texts['file type']!r}, not an image (ENVI Standard)")
    if any(value for name in ("major frame offsets", "minor frame offsets") for value in _reals(texts, name)):
        raise InputError(
            f"{path} has frame offsets: bytes between its lines or bands; save it again without them, for instance "
            "with gdal_translate -of ENVI"
        )
    rows, columns, bands = (_integer(texts, name, 1) for name in ("lines", "samples", "bands"))
    dtype = _sample_type(texts)
    interleave = _required(texts, "interleave").lower()
    if interleave not in INTERLEAVES:
        raise ValueError(f"its interleave is {interleave!r}, not {', '.join(INTERLEAVES)}")
    gains, offsets = _gains(texts, bands)
    divisor = (_reals(texts, "reflectance scale factor") or [1.0])[0]
    if not 0 < divisor < math.inf:
        raise ValueError(f"its reflectance scale factor is {divisor:g}")
    if gains and divisor != 1:
        raise InputError(
            f"{path} has data gain values and a reflectance scale factor, and only one of them can be meant; delete "
            "the other one from the header"
        )
    wavelengths, fields = _described_bands(texts, bands)
    return EnviHeader(
        rows,
        columns,
        bands,
        dtype,
        interleave,
        _integer(texts, "header offset", 0, default=0),
        _integer(texts, "file compression", 0, default=0) != 0,
        gains,
        offsets,
        divisor,
        texts.get("data ignore value", ""),
        wavelengths,
        fields,
    )


def header_text(
    rows: int,
    columns: int,
    bands: int,
    dtype: np.dtype[Any],
    wavelengths: tuple[float, ...],
    fields: dict[str, str],
) -> str:
    """Return the header of samples that are stored band by band (bsq) without an offset.

    Parameters
    ----------
    rows, columns, bands
        Size of the image.
    dtype
        Type of the samples; one of `DATA_TYPES`, in this machine's byte order.
    wavelengths
        Wavelengths of the bands in nm; empty where unknown.
    fields
        Other fields, as `EnviHeader.fields` has them.
    """
    codes = {np.dtype(name): code for code, name in DATA_TYPES.items()}
    values: dict[str, object] = {
        "samples": columns,
        "lines": rows,
        "bands": bands,
        "header offset": 0,
        "file type": "ENVI Standard",
        "data type": codes[dtype],
        "interleave": "bsq",
        "byte order": 0 if np.little_endian else 1,
    }
    if wavelengths:
        values["wavelength units"] = "Nanometers"
        values["wavelength"] = f"{{{', '.join(f'{value:.10g}' for value in wavelengths)}}}"
    return "".join(f"{line}\n" for line in ["ENVI", *(f"{name} = {text}" for name, text in (values | fields).items())])


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _parsed(text: str) -> dict[str, str]:
    """Return the fields by lower-case name."""
    fields: dict[str, str] = {}
    lines = text.splitlines()[:0:-1]  # the next one last
    while lines:
        line = lines.pop()
        name, equals, value = line.partition("=")
        name, value = " ".join(name.lower().split()), value.strip()
        if not equals or line.lstrip().startswith(";"):
            continue
        if value.startswith("{"):
            parts = [value]
            while "}" not in parts[-1] or _goes_on(parts[-1], lines):
                if not lines:
                    raise ValueError(f"its field {name!r} has no closing brace")
                parts.append(lines.pop().rstrip())
            value = "\n".join(parts)
            value = value[: value.rindex("}") + 1]
        if fields.get(name, value) != value:
            raise ValueError(f"its field {name!r} is there twice, with different values")
        fields[name] = value
    return fields


def _goes_on(part: str, lines: list[str]) -> bool:
    """Return whether a line with a closing brace and text behind it is not a value's last: no field comes next."""
    return bool(not part.endswith("}") and lines and "}" in lines[-1] and "=" not in lines[-1])


def _items(text: str) -> list[str]:
    """Return the items of a list in braces, or a single value."""
    inner = text.strip().removeprefix("{").removesuffix("}").strip()
    return [item.strip() for item in inner.split(",")] if inner else []


def _reals(texts: dict[str, str], name: str) -> list[float]:
    """Return a field's numbers; empty where there is no such field."""
    try:
        return [float(item) for item in _items(texts.get(name, ""))]
    except ValueError:
        raise ValueError(f"its {name} are no numbers") from None


def _required(texts: dict[str, str], name: str) -> str:
    if name not in texts:
        raise ValueError(f"its header has no field {name!r}")
    return texts[name]


def _integer(texts: dict[str, str], name: str, least: int, default: int | None = None) -> int:
    if default is not None and name not in texts:
        return default
    text = _required(texts, name)
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) >= least):
        raise ValueError(f"its {name} is {text[:40]!r}, not a whole number of at least {least}")
    return int(text)


def _sample_type(texts: dict[str, str]) -> np.dtype[Any]:
    code = _integer(texts, "data type", 0)
    if code not in DATA_TYPES:
        raise ValueError(f"its data type is {code}, not {', '.join(map(str, DATA_TYPES))}")
    dtype = np.dtype(DATA_TYPES[code])
    # One byte has no order, and headers of such samples often leave the field out.
    order = _integer(texts, "byte order", 0, default=0 if dtype.itemsize == 1 else None)
    if order > 1:
        raise ValueError(f"its byte order is {order}, not 0 (little-endian) or 1 (big-endian)")
    ordered: np.dtype[Any] = dtype.newbyteorder("<" if order == 0 else ">")
    return ordered


def _gains(texts: dict[str, str], bands: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return gain and offset of each band; empty where they change nothing."""
    gains, offsets = _reals(texts, "data gain values"), _reals(texts, "data offset values")
    for name, values in (("data gain values", gains), ("data offset values", offsets)):
        if values and len(values) != bands:
            raise ValueError(f"it has {len(values)} {name} for {bands} bands")
        if not all(map(math.isfinite, values)):
            raise ValueError(f"its {name} are not finite")
    if any(gain == 0 for gain in gains):
        raise ValueError("one of its data gain values is 0")
    if all(gain == 1 for gain in gains) and all(offset == 0 for offset in offsets):
        return (), ()
    return tuple(gains or [1.0] * bands), tuple(offsets or [0.0] * bands)


def _described_bands(texts: dict[str, str], bands: int) -> tuple[tuple[float, ...], dict[str, Field]]:
    """Return the wavelengths in nm, and the fields that are not about storage; `fwhm` in nm where they are."""
    try:
        values = _reals(texts, "wavelength")
    except ValueError:
        values = []
    wavelengths = nanometres(values, texts.get("wavelength units", "").strip("{} "))
    wavelengths = wavelengths if len(wavelengths) == bands else ()
    rest = {name: text for name, text in texts.items() if name not in _STORAGE | _APPLIED}
    if wavelengths:
        del rest["wavelength"]
        rest.pop("wavelength units", None)
        try:
            widths = [width * (wavelengths[0] / values[0]) for width in _reals(rest, "fwhm")]
        except ValueError:
            widths = []
        if widths:
            rest["fwhm"] = f"{{{', '.join(f'{width:.7g}' for width in widths)}}}"
    return wavelengths, {name: Field(text, _holds_for(name, text, bands)) for name, text in rest.items()}


def _holds_for(name: str, text: str, bands: int) -> HoldsFor:
    if name in _OF_SIZE:
        return "size"
    if name in _OF_SAMPLES:
        return "samples"
    if name in _OF_BANDS or (text.startswith("{") and len(_items(text)) == bands > 1):
        return "bands"
    return "always"
