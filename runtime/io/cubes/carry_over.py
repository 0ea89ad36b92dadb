"""Decide which of a cube's fields hold for the cube that was restored from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from .cube import Cube, Field, HoldsFor

#: Wavelengths that differ by less than this many nm are taken as equal.
_SAME_WAVELENGTH = 0.5

#: Why a field is not kept.
_REASONS: dict[HoldsFor, str] = {
    "size": "for another size",
    "bands": "for other bands",
    "samples": "about the source's samples",
    "file": "never copied",
}


def restored_cube(source: Cube, pixels: NDArray[Any], wavelengths: tuple[float, ...]) -> tuple[Cube, list[str]]:
    """Return a cube with the samples of the restored image, and the source's fields as far as they hold for it.

    Parameters
    ----------
    source
        The cube that was restored.
    pixels
        [H, W] or [H, W, C]
    wavelengths
        Wavelengths of the result's bands in nm, if the model knows them. Otherwise the source's are kept, if the number
        of bands is the same.

    Returns
    -------
    cube, notices
        The cube, and a line for everything of the source that it has not.
    """
    same_size = pixels.shape[:2] == source.pixels.shape[:2]
    same_count = pixels.shape[2:] == source.pixels.shape[2:]
    same_bands = same_count and _same(source.wavelengths, wavelengths)
    notices = []
    if source.wavelengths and not (wavelengths or same_count):
        notices.append("wavelengths dropped: the result has another number of bands")
    elif source.wavelengths and wavelengths and not same_bands and same_count:
        notices.append(
            f"the source's wavelengths, {_span(source.wavelengths)}, replaced by the model's, {_span(wavelengths)}"
        )
    holds = {"always": True, "size": same_size, "bands": same_bands, "samples": False, "file": False}
    kept = {name: field for name, field in source.fields.items() if holds[field.holds_for]}
    if wavelengths:
        kept = {name: field for name, field in kept.items() if not name.startswith("wavelength")}
    if dropped := {name: field for name, field in source.fields.items() if name not in kept}:
        notices.append(f"of the source's {source.fields_format} file not kept: {_listed_with_reasons(dropped)}")
    cube = Cube(
        pixels,
        wavelengths or (source.wavelengths if same_count else ()),
        fields=kept,
        fields_format=source.fields_format,
    )
    return cube, notices


def fitted_fields(cube: Cube, format_name: str) -> tuple[dict[str, Field], list[str]]:
    """Return the fields that a file of a format keeps, and a line about the others."""
    if cube.fields_format == format_name or not cube.fields:
        return dict(cube.fields), []
    return {}, [dropped_fields(cube, format_name)]


def dropped_fields(cube: Cube, format_name: str) -> str:
    """Return the line which says that a format keeps none of a cube's fields."""
    return f"{_listed(cube.fields)} dropped: of {cube.fields_format}, not kept in {format_name}"


def _same(source: tuple[float, ...], result: tuple[float, ...]) -> bool:
    if not (source and result):
        return True
    return len(source) == len(result) and all(
        abs(a - b) < _SAME_WAVELENGTH for a, b in zip(source, result, strict=True)
    )


def _span(wavelengths: tuple[float, ...]) -> str:
    return f"{min(wavelengths):g} to {max(wavelengths):g} nm"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _listed_with_reasons(fields: dict[str, Field]) -> str:
    groups: dict[HoldsFor, list[str]] = {}
    for name, field in fields.items():
        groups.setdefault(field.holds_for, []).append(name)
    return "; ".join(f"{_listed(names)} ({_REASONS.get(kind, 'replaced')})" for kind, names in groups.items())
