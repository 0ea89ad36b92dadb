"""A study of key graphs as a plot. The package matplotlib is needed to draw, not to import this module."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, MissingDependencyError
from ..files import atomic_path, check_place
from ..installation import install_line
from .key_graph_statistics import BLOCK, pair_distances
from .key_graph_study import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Formats that a plot is written in, by suffix.
FORMATS = (".png", ".svg")


def check_plot(path: Path) -> None:
    """Check, before any work, that a plot can be drawn and written to a path.

    Raises
    ------
    InputError
        The suffix is none of `FORMATS`, or the file cannot be written.
    MissingDependencyError
        matplotlib is not installed.
    """
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"a plot is written as PNG or SVG; give {path} a name that ends with .png or .svg")
    check_place(path)
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError(f"a plot needs the package matplotlib; install it with: {install_line('plots')}")


def plot(found: Study, path: Path) -> None:
    """Draw distances, empty blocks, and the agreement of stages and of numbers of neighbours.

    Parameters
    ----------
    found
        The study.
    path
        Output file, checked by `check_plot`; an existing one is replaced.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(2, 2)
    _distances(axes[0, 0], found)
    _blocks(axes[0, 1], found)
    _stages(axes[1, 0], found)
    _numbers(axes[1, 1], found)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=120)


def _distances(axes: Axes, found: Study) -> None:
    """Draw the share of links by their distance, and what links drawn at random would have."""
    axes.set_title(f"Distance of neighbours, k = {found.k}")
    for stage in found.stages:
        if stage.distances:
            axes.plot(stage.distances, label=stage.name)
    for nodes in sorted({stage.nodes for stage in found.stages if stage.distances}):
        apart = pair_distances(math.isqrt(nodes))
        axes.plot(np.bincount(apart.astype(int).ravel()) / apart.size, "k:", label=f"any two of {nodes} nodes")
    axes.set_xlabel("pixels at the stage's resolution")
    axes.set_ylabel("share of the links")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")


def _blocks(axes: Axes, found: Study) -> None:
    axes.set_title(f"Blocks of {BLOCK} x {BLOCK} nodes without a link")
    orders = list(dict.fromkeys(order for stage in found.stages for order in stage.empty_blocks))
    width = 0.8 / len(orders)
    for index, order in enumerate(orders):
        shares = [100 * stage.empty_blocks.get(order, np.nan) for stage in found.stages]
        axes.bar(np.arange(len(shares)) + (index - (len(orders) - 1) / 2) * width, shares, width, label=order)
    axes.set_xticks(range(len(found.stages)), [stage.name for stage in found.stages], rotation=30, ha="right")
    axes.set_ylabel("% of the blocks")
    axes.legend(title="nodes ordered by", fontsize="small")


def _stages(axes: Axes, found: Study) -> None:
    axes.set_title("Links that two stages share")
    names = [stage.name for stage in found.stages]
    shares = np.array([[np.nan if share is None else share for share in row] for row in found.agreement])
    image = axes.imshow(shares, vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.figure.colorbar(image, ax=axes, label="links of both / links of either")


def _numbers(axes: Axes, found: Study) -> None:
    axes.set_title("Links of a k that the next larger k has, too")
    for index, stage in enumerate(found.stages):
        axes.plot(list(found.kept), [100 * shares[index] for shares in found.kept.values()], "o-", label=stage.name)
    axes.set_xlabel("k")
    axes.set_ylabel("% of the links")
    axes.legend(fontsize="small")
