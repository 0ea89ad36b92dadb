"""Draw a key graph on the photograph: which nodes of its window some pixels attend to, in every stage.

    python examples/key_graph_picture.py -o key-graph.svg

The network is the demo's denoiser, the photograph the noisy one that was not used in training.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from keygraph.export import export
from keygraph.instrumentation.key_graph_statistics import unpacked
from keygraph.instrumentation.key_graphs import GraphProbe
from keygraph.models import load_checkpoint
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from photos import add_noise, unseen_photo

CHECKPOINT = Path(__file__).parent / "kgt-denoise-tiny.ckpt"
SIGMA = 25.0
WINDOW = 16
#: Stages at full resolution whose windows are not shifted.
STAGES = ("body.0", "body.2")
#: Windows (row, column) of the part of the photograph that is looked at, and a pixel (y, x) of each.
PIXELS = (((7, 4), (4, 8)), ((6, 9), (10, 5)), ((2, 12), (8, 8)))


def graphs(image: NDArray[np.float32], k: int) -> dict[str, NDArray[np.int32]]:
    """Return every stage's key graph, int32[windows, 1, nodes, words], by name."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kgt.onnx"
        export(load_checkpoint(CHECKPOINT), file, verification=False)
        _, selections = GraphProbe(file).record(image, k)
    return {selection.name: selection.graph for selection in selections}


def draw(photo: NDArray[np.uint8], found: dict[str, NDArray[np.int32]], k: int, path: Path) -> None:
    """Draw the photograph with the windows, and each window enlarged with the neighbours of its pixel.

    Parameters
    ----------
    photo
        uint8[H, W, 3]; H and W are multiples of the window.
    found
        The key graphs by stage.
    k
        Neighbours of each node, for the title.
    path
        The picture, .png or .svg.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    parts = figure.subfigures(1, 2, width_ratios=(1, 1.25), squeeze=False)
    left, right = parts[0]
    axes = left.subplots()
    axes.imshow(photo, interpolation="none")
    axes.set_axis_off()
    axes.set_title("noisy photograph, and three windows", fontsize="medium")
    panels = right.subplots(len(STAGES), len(PIXELS))
    across = photo.shape[1] // WINDOW
    for column, ((row, at), (y, x)) in enumerate(PIXELS):
        top, start = row * WINDOW, at * WINDOW
        colour = f"C{column}"
        axes.add_patch(Rectangle((start - 0.5, top - 0.5), WINDOW, WINDOW, fill=False, color=colour, linewidth=2))
        window = photo[top : top + WINDOW, start : start + WINDOW]
        for stage, panel in zip(STAGES, panels[:, column], strict=True):
            linked = unpacked(found[stage][row * across + at, 0], WINDOW * WINDOW)[y * WINDOW + x]
            panel.imshow(window, interpolation="none")
            # What is not attended to is darkened.
            shade = np.zeros((WINDOW, WINDOW, 4))
            shade[..., 3] = np.where(linked.reshape(WINDOW, WINDOW), 0, 0.75)
            panel.imshow(shade, interpolation="none")
            panel.plot(x, y, "s", markerfacecolor="none", markeredgecolor=colour, markersize=9, markeredgewidth=2)
            panel.set_xticks([])
            panel.set_yticks([])
            for spine in panel.spines.values():
                spine.set_color(colour)
                spine.set_linewidth(2)
            if column == 0:
                panel.set_ylabel(stage)
    right.suptitle(f"the {k} nodes of the window that the marked pixel attends to", fontsize="medium")
    figure.savefig(path, dpi=100)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, type=Path, help="the picture, .png or .svg")
    parser.add_argument("--k", type=int, default=64)
    options = parser.parse_args()
    photo = add_noise(unseen_photo()[22:278, 97:353], SIGMA, seed=0)
    image = photo.astype(np.float32).transpose(2, 0, 1)[None] / 255
    draw(photo, graphs(image, options.k), options.k, options.output)


if __name__ == "__main__":
    main()
