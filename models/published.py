"""Sizes that papers and authors state, to stand beside our own counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_GLMHA = "arXiv 2410.00380"
_MST = "caiyuanhao1998/MST, README"


@dataclass(frozen=True)
class Published:
    """What somebody states for a network.

    Attributes
    ----------
    architecture, fields
        Name, and values of the configuration that the figures are for.
    words
        The figures, in the source's own rounding. "FLOPs" of these sources are multiply-accumulates.
    source
        Where they are from.
    """

    architecture: str
    fields: Mapping[str, Any]
    words: str
    source: str


_RESTORMER = {"in_channels": 3, "channels": 48, "blocks": (4, 6, 6, 8), "refinement_blocks": 4, "dual_pixel": False}

PUBLISHED = (
    Published("restormer", {**_RESTORMER, "attention": "csa"}, "140.99 G, without attention products", _GLMHA),
    Published(
        "restormer", {**_RESTORMER, "attention": "glmha"}, "motion deblurring: 370k and 7.72 G less than csa", _GLMHA
    ),
    Published("restormer", {**_RESTORMER, "attention": "glmha"}, "deraining: 350k and 6.46 G less than csa", _GLMHA),
    Published("mst", {"blocks": (2, 2, 2), "mask_guided": True, "attention": "csa"}, "0.93 M, 12.96 G", _MST),
    Published("mst", {"blocks": (2, 4, 4), "mask_guided": True, "attention": "csa"}, "1.50 M, 18.07 G", _MST),
    Published("mst", {"blocks": (4, 7, 5), "mask_guided": True, "attention": "csa"}, "2.03 M, 28.15 G", _MST),
    Published("mst", {"blocks": (4, 7, 5), "attention": "glmha"}, "MST-L: 27k and 1.14 G less than csa", _GLMHA),
    Published(
        "mst_plus_plus",
        {"stages": 3, "blocks": (1, 1, 1), "channels": 31, "attention": "csa"},
        "1.62 M, 23.05 G",
        "caiyuanhao1998/MST-plus-plus, README",
    ),
    Published(
        "mst_plus_plus",
        {"stages": 3, "blocks": (1, 1, 1), "channels": 31, "attention": "glmha"},
        "20k and 0.92 G less than csa",
        _GLMHA,
    ),
)


def published(architecture: str, config: Any) -> list[Published]:
    """The figures that are for a configuration, whatever its fields that `PUBLISHED` leaves open."""
    return [
        entry
        for entry in PUBLISHED
        if entry.architecture == architecture
        and all(getattr(config, name, None) == value for name, value in entry.fields.items())
    ]
