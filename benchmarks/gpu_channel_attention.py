"""What an operator for channel attention could gain on a GPU: eager PyTorch against the memory's roofline.

A Restormer on 480 x 720 and an MST++ on 488 x 512 in their released sizes, with random weights. Timed are the whole
network and, for every shape that occurs in it, the attention from queries, keys and values to its result (Gram product,
norms, softmax, product with the values). Its roofline reads queries, keys and values once and writes the result once,
at the measured memory bandwidth or the data sheet's. An operator at the roofline would make the network `most` times
faster; where that is little, no operator is worth writing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from gpu_script import Report, gpus, options, require_gpu
from keygraph.bench.data_sheets import Gpu
from keygraph.bench.timing import gpu_medians
from keygraph.models import registry
from keygraph.models.channel_attention import Mixer
from keygraph.models.mst_plus_plus import MSTPlusPlusConfig
from keygraph.models.restormer import RestormerConfig
from torch import Tensor, nn

#: Name -> configuration, height and width, and small ones for a test.
NETWORKS: dict[str, tuple[Any, tuple[int, int]]] = {
    "restormer": (RestormerConfig(), (480, 720)),
    "mst_plus_plus": (MSTPlusPlusConfig(), (488, 512)),
}
TINY: dict[str, tuple[Any, tuple[int, int]]] = {
    "restormer": (RestormerConfig(channels=8, blocks=(1, 1, 1, 1), refinement_blocks=1), (16, 24)),
    "mst_plus_plus": (MSTPlusPlusConfig(in_channels=3, out_channels=4, channels=4, stages=1), (16, 24)),
}

#: An operator is worth adding where it makes the network so many times faster.
WORTH = 1.3

#: Queries and keys of the heads of one layer: (B, heads, d, pixels) and (B, heads, e, pixels).
Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def attention_shapes(model: nn.Module, image: Tensor) -> Counter[Shapes]:
    """Return how often each shape occurs."""
    found: Counter[Shapes] = Counter()

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        q, k, *_ = inputs
        found[tuple(q.shape), tuple(k.shape)] += 1

    handles = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, Mixer)]
    model(image)
    for handle in handles:
        handle.remove()
    return found


def roofline_bytes(shapes: Shapes, itemsize: int) -> int:
    """Return the bytes of queries and result, keys and values, once each."""
    q, k = shapes
    return 2 * itemsize * (torch.Size(q).numel() + torch.Size(k).numel())


def measured(
    name: str,
    config: Any,
    size: tuple[int, int],
    dtype: torch.dtype,
    place: torch.device,
    rounds: int,
    gpu: Gpu | None,
) -> dict[str, Any]:
    """Return the network's time, its attention's, and the roofline if the GPU's rates are known.

    Parameters
    ----------
    name, config
        The network.
    size
        Height and width of the image.
    dtype
        Of weights and activations.
    place
        The GPU.
    rounds
        Number of measurements.
    gpu
        Its peak rates, or None.
    """
    torch.manual_seed(0)
    model = registry.by_name(name).build(config).eval().to(place, dtype)
    image = torch.rand(1, 3, *size).to(place, dtype)
    shapes = attention_shapes(model, image)
    calls: dict[str, Sequence[Callable[[], Any]]] = {"network": [lambda: model(image)]}
    mixer = Mixer()
    for number, (q_shape, k_shape) in enumerate(shapes):
        # Two sets: what one leaves in the cache is not what the other needs.
        sets = [[torch.randn(shape, device=place).to(dtype) for shape in (q_shape, k_shape, k_shape)] for _ in range(2)]
        temperature = torch.ones(q_shape[1], 1, 1, device=place, dtype=dtype)
        calls[str(number)] = [lambda qkv=qkv, t=temperature: mixer(*qkv, t) for qkv in sets]  # type: ignore[misc]
    times = gpu_medians(calls, rounds)
    layers: list[dict[str, Any]] = []
    for number, (found, count) in enumerate(shapes.items()):
        roofline = roofline_bytes(found, image.element_size()) / (gpu.gigabytes * 1e6) if gpu else None
        layers.append({"shapes": found, "layers": count, "milliseconds": times[str(number)], "roofline": roofline})
    attention = sum(layer["layers"] * layer["milliseconds"] for layer in layers)
    report: dict[str, Any] = {"network": name, "size": size, "milliseconds": times["network"]}
    report |= {"attention": attention, "by shape": layers}
    if gpu:
        roofline = sum(layer["layers"] * layer["roofline"] for layer in layers)
        report |= {"roofline": roofline, "most": times["network"] / (times["network"] - attention + roofline)}
    return report


def row(report: dict[str, Any], dtype: str) -> list[str]:
    """Return a row of the table."""
    whole, attention = report["milliseconds"], report["attention"]
    roofline, most = report.get("roofline"), report.get("most")
    height, width = report["size"]
    return [
        f"{report['network']}, {height} x {width}, {dtype}",
        f"{whole:.2f} ms",
        f"{attention:.2f} ms ({attention / whole:.0%})",
        "unknown" if roofline is None else f"{roofline:.2f} ms",
        "unknown" if most is None else f"{most:.2f} ({'worth it' if most >= WORTH else 'no operator'})",
    ]


def main() -> int:
    """Run the step from the command line; return its exit code."""
    parser = options(__doc__, rounds=9)
    types = ["float16", "bfloat16", "float32"]
    parser.add_argument("--dtype", nargs="*", choices=types, default=["float16", "float32"])
    arguments = parser.parse_args()
    place = require_gpu()
    report = Report(arguments)
    report.values["networks"] = []
    # The measured bandwidth, if there is one: it is closer to what a kernel can reach than the data sheet's.
    figures = gpus(arguments.ceilings)
    gpu = figures.get("measured", figures.get("data sheet"))
    rows = []
    with torch.inference_mode():
        for dtype in arguments.dtype:
            for name, (config, size) in (TINY if arguments.tiny else NETWORKS).items():
                found = measured(name, config, size, getattr(torch, dtype), place, arguments.rounds, gpu)
                report.values["networks"].append({"dtype": dtype, **found})
                rows.append(row(found, dtype))
                header = ["network", "eager", "its channel attention", "its roofline", "the most of an operator"]
                report.table("channel attention", header, rows)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
