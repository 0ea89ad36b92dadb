"""Peak memory, disk space and time of restoring one large picture from file to file, each size in its own process.

Without --model, the network is one convolution that changes nothing, so that the figures are of everything beside the
network: decoding, tiles, blending, the journal, encoding. Memory is counted above that of the loaded session after one
tile. `--plot` draws time and memory over the number of pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
from timing import THREADS, features


def write_identity(path: Path) -> None:
    """Write a network of one convolution whose result is its image.

    Parameters
    ----------
    path
        The ONNX file.
    """
    from keygraph.manifest import IMAGE_INPUT, IMAGE_OUTPUT, METADATA_KEY, Manifest
    from onnx import TensorProto, helper, numpy_helper, save

    manifest = Manifest(
        architecture="identity",
        configuration={},
        task="",
        scale=1,
        in_channels=3,
        out_channels=3,
        value_range=(0.0, 1.0),
        size_multiple=8,
        global_statistics=False,
        shape=None,
        neighbours=None,
        precision="fp32",
        weights_sha256="0" * 64,
    )
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[range(3), range(3), 1, 1] = 1
    sides: list[str | int] = ["batch", 3, "height", "width"]
    graph = helper.make_graph(
        [helper.make_node("Conv", [IMAGE_INPUT, "kernel"], [IMAGE_OUTPUT], pads=[1, 1, 1, 1])],
        "identity",
        [helper.make_tensor_value_info(IMAGE_INPUT, TensorProto.FLOAT, sides)],
        [helper.make_tensor_value_info(IMAGE_OUTPUT, TensorProto.FLOAT, sides)],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    save(model, path)


def write_picture(path: Path, side: int) -> None:
    """Write a square TIFF of waves with some noise, without holding it in memory.

    Parameters
    ----------
    path
        The file.
    side
        Its height and width.
    """
    import pyvips

    block = pyvips.Image.gaussnoise(512, 512, sigma=6, mean=0, seed=1).copy_memory()
    noise = block.replicate(-(-side // 512), -(-side // 512)).crop(0, 0, side, side)
    waves = pyvips.Image.sines(side, side, hfreq=5, vfreq=7) * 90 + 128
    picture = (waves + noise).bandjoin([waves * 0.8 + noise, waves * 0.5 + 30])
    picture.cast("uchar").copy(interpretation="srgb").tiffsave(str(path), bigtiff=True)


def child(model: Path, source: Path, target: Path, tile: int) -> dict[str, Any]:
    """Restore in this process; return time, memory and disk space.

    Parameters
    ----------
    model, source, target
        The exported file, the picture and the result.
    tile
        Side of the tiles in pixels.
    """
    from keygraph.runtime.device.memory import growth, resident
    from keygraph.runtime.reports import Report
    from keygraph.runtime.restore_files import restore_file

    restorer = keygraph.load(model, threads=THREADS)
    restorer(np.zeros((tile, tile, 3), np.uint8), tile="none")
    session = resident()
    disk = os.statvfs(target.parent)
    free, least, done = disk.f_bavail, disk.f_bavail, threading.Event()
    reports: list[Report] = []

    def watch() -> None:
        nonlocal least
        while not done.wait(0.2):
            least = min(least, os.statvfs(target.parent).f_bavail)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    grown = growth(lambda: reports.append(restore_file(restorer, source, target, tile=tile, scratch=target.parent)))
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    return {
        "megapixels": reports[0].height * reports[0].width / 2**20,
        "tiles": reports[0].tiles,
        "session_bytes": session,
        "above_session_bytes": grown,
        "seconds": round(seconds, 2),
        "network_seconds": reports[0].seconds,
        "disk_bytes": (free - least) * disk.f_frsize,
        "result_bytes": target.stat().st_size,
    }


def check(source: Path, target: Path) -> None:
    """Check that a result of the identity is its picture.

    Parameters
    ----------
    source, target
        The picture and the result.
    """
    import pyvips

    first, second = (pyvips.Image.new_from_file(str(path), access="sequential") for path in (source, target))
    if (first - second).abs().max() > 0:
        raise SystemExit(f"{target} is not its picture")


def plot(path: Path, runs: list[dict[str, Any]]) -> None:
    """Draw time and memory over the number of pixels, on logarithmic axes, as SVG.

    Parameters
    ----------
    path
        The file.
    runs
        What `child` returned.
    """
    width, height, left, bottom = 640, 400, 60, 50
    series = {
        "seconds": ([run["seconds"] for run in runs], "#1f5fa8"),
        "MB above the session": ([run["above_session_bytes"] / 1e6 for run in runs], "#b3541e"),
    }
    pixels = np.log10([run["megapixels"] for run in runs])
    values = np.log10(np.concatenate([np.maximum(of_one, 1e-2) for of_one, _ in series.values()]))
    low, high = np.floor(values.min()), np.ceil(values.max())
    span = max(pixels.max() - pixels.min(), 1)

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (x - pixels.min()) / span * (width - left - 20)
        return across, height - bottom - (y - low) / (high - low) * (height - bottom - 40)

    parts = []
    for power in np.arange(low, high + 1):
        y = place(pixels.min(), power)[1]
        parts.append(f'<path d="M{left} {y:.1f}H{width - 20}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{10**power:g}</text>')
    for run, x in zip(runs, pixels, strict=True):
        label = f"{run['megapixels']:g} MP"
        parts.append(f'<text x="{place(x, low)[0]:.1f}" y="{height - 28}" text-anchor="middle">{label}</text>')
    for number, (name, (of_one, colour)) in enumerate(series.items()):
        points = [place(x, np.log10(max(value, 1e-2))) for x, value in zip(pixels, of_one, strict=True)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(f'<text x="{left + 10 + 140 * number}" y="24" fill="{colour}">{name}</text>')
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an exported file for colour pictures; without one, the identity")
    parser.add_argument("--megapixels", type=int, nargs="+", default=[1, 4, 16, 64], help="of 2^20 pixels each")
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--suffix", default=".tif", help="format of the result")
    parser.add_argument("--scratch", type=Path, help="where pictures and results are written meanwhile")
    parser.add_argument("--plot", type=Path, help="an SVG to draw")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "streaming.json")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        model, source, target = map(Path, arguments.child)
        print(json.dumps(child(model, source, target, arguments.tile)))
        return

    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as name:
        folder = Path(name)
        model = arguments.model
        if model is None:
            model = folder / "identity.onnx"
            write_identity(model)
        source, target = folder / "picture.tif", folder / f"restored{arguments.suffix}"
        for megapixels in arguments.megapixels:
            write_picture(source, round((megapixels * 2**20) ** 0.5))
            command = [sys.executable, __file__, "--tile", str(arguments.tile)]
            command += ["--child", str(model), str(source), str(target)]
            run = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            if arguments.model is None and arguments.suffix in (".tif", ".png"):
                check(source, target)
            runs.append(run)
            print(
                f"{run['megapixels']:6.0f} MP  {run['tiles']:6} tiles  session {run['session_bytes'] / 1e6:4.0f} MB  "
                f"above it {run['above_session_bytes'] / 1e6:4.0f} MB  {run['seconds']:7.1f} s  "
                f"{run['seconds'] / run['megapixels']:.3f} s/MP  disk {run['disk_bytes'] / 1e9:.2f} GB",
                flush=True,
            )
            target.unlink()
    report = {
        "machine": features(THREADS),
        "model": arguments.model.name if arguments.model else "identity, one convolution",
        "tile": arguments.tile,
        "runs": runs,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(arguments.output)
    if arguments.plot is not None:
        plot(arguments.plot, runs)


if __name__ == "__main__":
    main()
