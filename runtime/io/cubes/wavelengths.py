"""Wavelengths of bands, whatever unit a file has them in, in nanometres."""

from __future__ import annotations

from collections.abc import Sequence

#: Nanometres in one of each unit, by the names in ENVI headers and in variables' attributes, in lower case.
_NANOMETRES = {
    **dict.fromkeys(("nm", "nanometers", "nanometres", "nanometer", "nanometre"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micrometers", "micrometres", "micrometer", "micrometre", "microns"), 1e3),
    **dict.fromkeys(("a", "å", "angstroms", "angstrom"), 0.1),
    **dict.fromkeys(("mm", "millimeters", "millimetres"), 1e6),
    **dict.fromkeys(("m", "meters", "metres"), 1e9),
}

#: Units that say no more than none at all.
_UNSAID = ("", "unknown", "none")


def nanometres(values: Sequence[float], unit: str = "") -> tuple[float, ...]:
    """Convert wavelengths to nanometres.

    Parameters
    ----------
    values
        One for each band.
    unit
        As the file says it. Where it says none, values of 100 and more are nanometres, and values below 100 that are
        not all whole are micrometres.

    Returns
    -------
    Nanometres; empty where these are no wavelengths: band numbers, wave numbers, or not all positive.
    """
    unit = unit.strip().lower()
    if unit in _UNSAID:
        if all(value >= 100 for value in values):
            unit = "nm"
        elif all(0 < value < 100 for value in values) and any(value != int(value) for value in values):
            unit = "um"
    if unit not in _NANOMETRES or not all(0 < value < float("inf") for value in values):
        return ()
    # Rounded to a femtometre, so that 0.41 micrometres are 410 nm.
    return tuple(round(float(value) * _NANOMETRES[unit], 6) for value in values)
