"""Directories and tags of TIFF files (TIFF 6.0, BigTIFF, GeoTIFF)."""

from __future__ import annotations

import dataclasses
import re
import shutil
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from . import exif
from .fields import Block, Contents, Metadata
from .ifd import (
    BYTE,
    IFD,
    UNDEFINED,
    Directory,
    Reader,
    StructureError,
    Value,
    pack,
    resolution_values,
    shorts,
    swapped,
)
from .tiff_levels import aperio_resolution, is_aperio, is_tiled, levels
from .tiff_samples import (
    EXTRA_SAMPLES,
    PALETTE,
    PHOTOMETRIC,
    extra_band,
    holds_jpeg,
    misread,
    missing,
    premultiplied,
    unsupported,
    white_is_zero_float,
)

_WIDTH, _DESCRIPTION, _SUBIFDS, _XMP, _IPTC, _PHOTOSHOP = 256, 270, 330, 700, 33723, 34377
_RESOLUTION = (282, 283, 296)

_REDUCED = "reduced copies of the picture"

#: Tags whose content libvips returns.
_EXPECTED = {34675: "ICC profile", _XMP: "XMP", _IPTC: "IPTC"}

#: Tags that are kept from TIFF to TIFF.
_KEPT = {
    **dict.fromkeys((33550, 33922, 34264, 34735, 34736, 34737), "GeoTIFF tags"),
    42112: "GDAL metadata",
    42113: "GDAL no-data value",
    **dict.fromkeys((269, 285), "document and page name"),
    **dict.fromkeys((301, 318, 319), "colour space (TIFF tags)"),
}

#: Tags of no account for the restored picture: the layout of the samples, and what libvips returns.
_STRUCTURE = frozenset(
    (
        *(*range(254, 269), *range(273, 285), 286, 287, *range(288, 294), 296, 297, 317, *range(320, 348), 351),
        *(*range(512, 533), 559, _XMP, 32995, 32996, 32997, 32998, _IPTC, 34675),
    )
)

#: Descriptions that programs store for themselves: they are of the file as it was.
_LAYOUT = re.compile(
    rb"\s*(\{\s*\"shape\":|ImageJ=|SCANIMAGE|Aperio|(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<OME)", re.DOTALL
)


@dataclass(frozen=True)
class Page:
    """A directory with a picture.

    Attributes
    ----------
    directory
        Its fields.
    number
        Its place in the chain of directories, from 0.
    inner
        Its place among the directories that the one at `number` points to; None for one of the chain.
    reduced, mask
        What it is marked as: a smaller copy of another page, or a mask of one.
    """

    directory: Directory
    number: int
    inner: int | None
    reduced: bool
    mask: bool

    @property
    def full(self) -> bool:
        """True when it is a picture of its own."""
        return not self.reduced and not self.mask


def pages(reader: Reader, inner: bool = False) -> Iterator[Page]:
    """Yield the pages of a TIFF file.

    Parameters
    ----------
    reader
        The file.
    inner
        True to also yield those that a directory points to, after it.
    """
    for number, directory in enumerate(reader.directories()):
        page = _page(reader, directory, number, None)
        yield page
        if inner:
            yield from _below(reader, page)


def _below(reader: Reader, page: Page) -> Iterator[Page]:
    """Yield the pages that a page of the chain points to."""
    for index, place in enumerate(reader.numbers(page.directory, _SUBIFDS)):
        yield _page(reader, reader.directory(place), page.number, index)


def _page(reader: Reader, directory: Directory, number: int, inner: int | None) -> Page:
    kind = reader.number(directory, 254, 0)
    reduced = bool(kind & 1) or reader.number(directory, 255, 1) == 2
    return Page(directory, number, inner, reduced, bool(kind & 4))


def read(file: BinaryIO, page: int = 1) -> Contents:
    """Return what a TIFF file holds beside the samples of one page.

    Parameters
    ----------
    file
        The file, from its start.
    page
        Which of the pages of full size, from 1; the last where there are fewer.

    Raises
    ------
    StructureError
        The file is damaged.
    """
    reader = Reader(file)
    chain, whole = _chain(reader)
    slide = bool(chain) and is_aperio(reader, chain[0].directory)
    if slide:
        chain[1:] = [dataclasses.replace(one, reduced=True) for one in chain[1:]]
    full = [one for one in chain if one.full]
    if not full:
        full = [one for one in pages(reader, inner=True) if one.full] or chain[:1]
    if not full:
        raise StructureError("it has no page")
    chosen = full[min(page, len(full)) - 1]
    notices = [] if whole else [f"damaged behind page {len(full)}: further pages are lost"]
    below, copies, lost = _pages_below(reader, chosen)
    larger = max(below, key=lambda one: _area(reader, one), default=chosen)
    if _area(reader, larger) > _area(reader, chosen):
        notices.append("the page itself is smaller than the picture below it (SubIFD), which is restored")
        full[full.index(chosen)] = chosen = larger
    elif below:
        lost.append("pictures below the page (SubIFD)")
    try:
        metadata, dropped = _metadata(reader, chosen.directory)
    except (StructureError, struct.error):
        metadata, dropped = Metadata(), []
        notices.append("metadata dropped: the structure of the file is damaged")
    copies += [one for one in chain if one.reduced]
    pyramid = levels(reader, chosen.directory, [one.directory for one in copies])
    if len(pyramid) < len(copies):
        dropped.append("thumbnail, label and overview of the slide" if slide else _REDUCED)
    dropped += lost
    metadata = dataclasses.replace(
        metadata, layout="pyramid" if pyramid else "tiles" if is_tiled(reader, chosen.directory) else "rows"
    )
    if slide and (size := aperio_resolution(reader, chosen.directory)) is not None:
        metadata = dataclasses.replace(metadata, resolution=size, aspect=None, measured=True)
    if any(one.mask for one in chain):
        dropped.append("mask")
    if len(full) > 1:
        which = "the first" if chosen is full[0] else f"page {page}"
        notices.append(f"only {which} of {len(full)} pages (FILE:N is page N)")
    if reader.number(chosen.directory, PHOTOMETRIC, 1) == PALETTE:
        notices.append("palette expanded")
    if premultiplied(reader, chosen.directory):
        notices.append("premultiplied alpha divided out of the colours")
    options = [("page", chosen.number)] if chosen.number else []
    if chosen.inner is not None:
        options.append(("subifd", chosen.inner))
    return Contents(
        metadata,
        tuple(dropped),
        tuple(notices),
        tuple(options),
        extra_band(reader, chosen.directory),
        white_is_zero_float(reader, chosen.directory),
        unsupported(reader, chosen.directory),
        missing(reader, chosen.directory),
        len(full),
        tuple(title for tag, title in _EXPECTED.items() if tag in chosen.directory.fields),
        misread(reader, chosen.directory),
        holds_jpeg(reader, chosen.directory),
    )


def _chain(reader: Reader) -> tuple[list[Page], bool]:
    """Return the pages of the chain, and whether it is whole; one that breaks behind a page of full size counts."""
    chain = list[Page]()
    try:
        for one in pages(reader):
            chain.append(one)
    except (StructureError, struct.error):
        if not any(one.full for one in chain):
            raise
        return chain, False
    return chain, True


def _pages_below(reader: Reader, page: Page) -> tuple[list[Page], list[Page], list[str]]:
    """Return the pages below one of the chain: those of their own, reduced copies, and names of what is lost."""
    if page.inner is not None or _SUBIFDS not in page.directory.fields:
        return [], [], []
    try:
        below = list(_below(reader, page))
    except (StructureError, struct.error):
        return [], [], ["pictures below the page (damaged)"]
    return [one for one in below if one.full], [one for one in below if not one.full], []


def _area(reader: Reader, page: Page) -> int:
    return reader.number(page.directory, 256, 0) * reader.number(page.directory, 257, 0)


def _metadata(reader: Reader, directory: Directory) -> tuple[Metadata, list[str]]:
    """Return what can be kept of a page's tags, and names of the rest."""
    dropped = []
    tags = exif.DESCRIPTIVE
    if _LAYOUT.match(reader.text(directory, _DESCRIPTION)):
        tags -= {_DESCRIPTION}
        dropped.append("description of the file's layout (ImageDescription)")
    if _PHOTOSHOP in directory.fields:
        dropped.append("Photoshop resources")
    blocks, others = [], []
    for tag, one in directory.fields.items():
        if tag in _KEPT and BYTE <= one.kind <= IFD:
            value = reader.value(one)
            value = value if reader.order == "<" else swapped(value)
            blocks.append(Block(_KEPT[tag], "TIFF", one.kind, value.data, tag))
        elif tag not in _STRUCTURE | exif.DESCRIPTIVE | exif.DIRECTORIES | {_PHOTOSHOP}:
            others.append(tag)
    dropped += _named("TIFF tag", others)
    try:
        block = exif.from_tiff(reader, directory, tags)
    except (StructureError, struct.error):
        block = None
        dropped.append("EXIF (damaged)")
    resolution, aspect = reader.resolution(directory), reader.aspect(directory)
    return Metadata(exif=block, resolution=resolution, aspect=aspect, blocks=tuple(blocks)), dropped


def _named(kind: str, tags: Sequence[int]) -> list[str]:
    """Return tags in one name; none for no tags."""
    return [f"{kind}{'s' * (len(tags) > 1)} {', '.join(map(str, tags))}"] if tags else []


def embed(source: BinaryIO, target: BinaryIO, metadata: Metadata, alpha: bool) -> list[str]:
    """Copy a TIFF file that libvips wrote, with metadata.

    Parameters
    ----------
    source
        The file: samples and ICC profile.
    target
        The copy.
    metadata
        What is added.
    alpha
        True when the last sample is alpha; other samples beside the colours are bands.

    Returns
    -------
    list[str]
        Names of what TIFF cannot hold.
    """
    lost = []
    source.seek(0)
    shutil.copyfileobj(source, target, 1 << 20)
    reader = Reader(source)
    directory = reader.directory(reader.first)
    values = {tag: reader.value(one) for tag, one in directory.fields.items() if tag not in _RESOLUTION}
    added = resolution_values(reader.order, metadata.resolution, metadata.aspect)
    if metadata.resolution is not None and metadata.aspect is not None:
        lost.append("pixel aspect ratio")
    if metadata.exif is not None:
        try:
            values_of_exif, others = exif.for_tiff(metadata.exif, reader.order)
            added += values_of_exif
            lost += _named("EXIF tag", sorted(others - _STRUCTURE))
        except StructureError:
            lost.append("EXIF (damaged)")
    if metadata.xmp is not None:
        added.append(Value(_XMP, BYTE, metadata.xmp))
    if metadata.iptc is not None:
        added.append(Value(_IPTC, UNDEFINED, metadata.iptc))
    for block in metadata.blocks_of("TIFF"):
        assert isinstance(block.kind, int)
        value = Value(block.tag, block.kind, block.data)
        added.append(value if reader.order == "<" else swapped(value))
    if extra := len(reader.numbers(directory, EXTRA_SAMPLES)):
        # libvips calls them all alpha.
        added.append(shorts(reader.order, EXTRA_SAMPLES, *[0] * (extra - 1), 2 if alpha else 0))
    values.update({value.tag: value for value in added})
    for level in list(reader.directories())[1:]:
        _set_resolution(reader, target, level, directory, metadata)
    place = target.seek(0, 2)
    place += target.write(bytes(-place % 8))
    target.write(pack(list(values.values()), reader.order, reader.big, place, directory.following))
    head, size = (8, 8) if reader.big else (4, 4)
    target.seek(head)
    target.write(place.to_bytes(size, "little" if reader.order == "<" else "big"))
    return lost


def _set_resolution(reader: Reader, target: BinaryIO, level: Directory, whole: Directory, metadata: Metadata) -> None:
    """Set the resolution of a level of the pyramid, in place: libvips wrote one that is not the picture's."""
    share = reader.number(level, _WIDTH, 1) / reader.number(whole, _WIDTH, 1)
    resolution = (
        None if metadata.resolution is None else (metadata.resolution[0] * share, metadata.resolution[1] * share)
    )
    for value in resolution_values(reader.order, resolution, metadata.aspect):
        one = level.fields.get(value.tag)
        if one is not None and one.size == len(value.data):
            target.seek(one.place)
            target.write(value.data)
