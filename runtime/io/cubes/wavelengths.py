"""Convert wavelengths of bands to nanometres."""

from __future__ import annotations

from collections.abc import Sequence

#: Unit -> nanometres, by the lower-case names in ENVI headers and in attributes of variables.
_NANOMETRES = {
    **dict.fromkeys(("nm", "nanometers", "nanometres", "nanometer", "nanometre"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micrometers", "micrometres", "micrometer", "micrometre", "microns"), 1e3),
    **dict.fromkeys(("a", "å", "angstroms", "angstrom"), 0.1),
    **dict.fromkeys(("mm", "millimeters", "millimetres"), 1e6),
    **dict.fromkeys(("m", "meters", "metres"), 1e9),
}

#: Names for an unknown unit.
_UNKNOWN = ("", "unknown", "none")


def nanometres(values: Sequence[float], unit: str = "") -> tuple[float, ...]:
    """Convert wavelengths to nanometres.

    Parameters
    ----------
    values
        One wavelength for each band.
    unit
        The unit's name in the file. If unknown, values of at least 100 are nanometres, and values below 100 that are
        not all whole numbers are micrometres.

    Returns
    -------
    tuple[float, ...]
        Nanometres; empty where the values are not wavelengths: band numbers, wave numbers, or not all positive.
    """
    unit = unit.strip().lower()
    if unit in _UNKNOWN:
        if all(value >= 100 for value in values):
            unit = "nm"
        elif all(0 < value < 100 for value in values) and any(value != int(value) for value in values):
            unit = "um"
    if unit not in _NANOMETRES or not all(0 < value < float("inf") for value in values):
        return ()
    # Rounded to a femtometre, so that 0.41 micrometres are exactly 410 nm.
    return tuple(round(float(value) * _NANOMETRES[unit], 6) for value in values)
