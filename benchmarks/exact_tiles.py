"""Peak memory and time of exact tiled inference, at several heights of one width, each in a process of its own.

The width is fixed, so that the growth with the height shows. Without --model, a Restormer with a third of the released
channels and one block per level is made with random weights, which needs a twentieth of the arithmetic. Memory per tile
and disk per pixel grow with the channels. `--plain` also measures plain tiles of the same side.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keygraph
from timing import THREADS, features


def reduced_restormer(path: Path) -> None:
    """Export a Restormer of 16 channels with one block per level."""
    import torch
    from keygraph.export import export
    from keygraph.models import LoadedModel
    from keygraph.models.restormer import ARCHITECTURE, RestormerConfig

    torch.manual_seed(0)
    config = RestormerConfig(channels=16, blocks=(1, 1, 1, 1), refinement_blocks=1)
    model = LoadedModel(ARCHITECTURE.build(config).eval(), ARCHITECTURE, config, path, ())
    export(model, path, verification=False)


def write_photo(path: Path, height: int, width: int) -> None:
    """Write an uncompressed TIFF of waves and noise, without holding it in memory.

    Parameters
    ----------
    path
        The file.
    height, width
        Its size.
    """
    import pyvips

    noise = pyvips.Image.gaussnoise(width, height, sigma=12, mean=0)
    waves = pyvips.Image.zone(width, height) * 40 + 128
    photo = (waves + noise).bandjoin([waves * 0.8 + noise, waves * 0.6 + 30]).cast("uchar")
    photo.copy(interpretation="srgb").tiffsave(str(path))


def child(model: Path, source: Path, target: Path, tile: int, way: str, scratch: Path | None) -> dict[str, Any]:
    """Restore in this process; return time, peak memory and disk space.

    Parameters
    ----------
    model, source, target
        The exported file, the image and the result.
    tile
        Side of the tiles in pixels.
    way
        ``"exact"`` or ``"tile"``, as the option --global-statistics.
    scratch
        Folder for the features; None for the system's temporary folder.
    """
    from keygraph.runtime.restore_files import restore_file

    restorer = keygraph.load(model, threads=THREADS)
    began = time.perf_counter()
    report = restore_file(restorer, source, target, tile=tile, global_statistics=way, scratch=scratch)
    result = {
        "way": way,
        "height": report.height,
        "width": report.width,
        "sweeps": report.sweeps,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if way == "exact":
        per_pixel = restorer.session.exact().plan.bytes_per_pixel  # type: ignore[attr-defined]
        result["disk_bytes"] = int(per_pixel * report.height * report.width)
    return result


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an exported file; without one, a reduced Restormer is made")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--heights", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--plain", action="store_true", help="plain tiles, too")
    parser.add_argument("--scratch", type=Path, help="where features are kept")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "exact_tiles.json")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        model, source, target, way = arguments.child
        result = child(Path(model), Path(source), Path(target), arguments.tile, way, arguments.scratch)
        print(json.dumps(result))
        return

    report: dict[str, Any] = {
        "machine": features(THREADS),
        "model": arguments.model.name if arguments.model else "Restormer, 16 channels, one block a level",
        "tile": arguments.tile,
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if model is None:
            model = Path(folder) / "model.onnx"
            # In a process of its own, like the rest: nothing that the parent holds should count.
            subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "import sys, pathlib, exact_tiles as b; b.reduced_restormer(pathlib.Path(sys.argv[1]))",
                    model,
                ],
                check=True,
                cwd=Path(__file__).parent,
            )
        for height in arguments.heights:
            source = Path(folder) / "photo.tif"
            write_photo(source, height, arguments.width)
            for way in ("exact", "tile") if arguments.plain else ("exact",):
                command = [sys.executable, __file__, "--tile", str(arguments.tile)]
                command += ["--scratch", str(arguments.scratch)] if arguments.scratch else []
                command += ["--child", str(model), str(source), str(Path(folder) / "restored.tif"), way]
                run = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                report["runs"].append(run)
                print(
                    f"{run['width']} x {run['height']} ({run['width'] * run['height'] / 2**20:4.1f} MP)  {way:5}  "
                    f"peak {run['peak_bytes'] / 2**20:6.0f} MiB  {run['seconds']:7.1f} s  "
                    f"disk {run.get('disk_bytes', 0) / 1e9:.2f} GB",
                    flush=True,
                )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(arguments.output)


if __name__ == "__main__":
    main()
