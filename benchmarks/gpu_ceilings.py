"""Peak rates that this GPU reaches, to compare with its data sheet: copies, matrix products and exponentials.

The products are of 8192 x 8192 matrices of random numbers, since a GPU draws less power and runs faster on zeros. The
exponentials are those of a kernel that computes nothing else, with as many threads as fill the GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from gpu_script import Report, gpus, options, require_gpu
from keygraph.bench.timing import gpu_medians

_COPIED_BYTES, _TINY_COPIED_BYTES = 1 << 31, 1 << 16
_SIDE, _TINY_SIDE = 8192, 64
_BLOCK = 1024
_BLOCKS_PER_MULTIPROCESSOR = 32


@triton.jit  # type: ignore[untyped-decorator]
def exponentials(output, steps, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Compute 2 to the power of numbers in registers, `steps` times one after the other.

    Parameters
    ----------
    output
        Pointer to the results, so that nothing is optimized away.
    steps
        Exponentials of each number.
    BLOCK
        Numbers of one program.
    """
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = offsets.to(tl.float32) * -1e-6
    for _ in range(steps):
        x = tl.exp2(-x)
    tl.store(output + offsets, x)


def main() -> int:
    """Run the step from the command line; return its exit code."""
    arguments = options(__doc__, rounds=10).parse_args()
    place = require_gpu()
    report = Report(arguments)
    side, copied = (_TINY_SIDE, _TINY_COPIED_BYTES) if arguments.tiny else (_SIDE, _COPIED_BYTES)
    multiprocessors = report.values["machine"]["multiprocessors"]
    source = torch.ones(copied // 4, device=place)
    target = torch.empty_like(source)
    half, single = (torch.randn(side, side, device=place, dtype=dtype) for dtype in (torch.float16, torch.float32))
    steps, blocks = (2, 1) if arguments.tiny else (4096, multiprocessors * _BLOCKS_PER_MULTIPROCESSOR)
    results = torch.empty(blocks * _BLOCK, device=place)
    times = gpu_medians(
        {
            "copy": [lambda: target.copy_(source)],
            "float16": [lambda: half @ half],
            "float32": [lambda: single @ single],
            "exponentials": [lambda: exponentials[(blocks,)](results, steps, BLOCK=_BLOCK)],
        },
        arguments.rounds,
    )
    products = 2 * side**3
    ceilings = {
        "tensor_tflops": products / times["float16"] / 1e9,
        "single_tflops": products / times["float32"] / 1e9,
        "gigabytes": 2 * copied / times["copy"] / 1e6,
        "multiprocessors": multiprocessors,
        "exponentials": blocks * _BLOCK * steps / times["exponentials"] * 1e3,
    }
    report.values["ceilings"] = ceilings
    report.write()
    sheet = gpus(None).get("data sheet")
    known = (sheet.tensor_tflops, sheet.single_tflops, sheet.gigabytes, sheet.exponentials / 1e12) if sheet else ()
    rows = [
        ("float16 products, TFLOP/s", ceilings["tensor_tflops"]),
        ("float32 products, TFLOP/s", ceilings["single_tflops"]),
        ("copy, GB/s read and written", ceilings["gigabytes"]),
        ("exponentials, 10^12 a second", ceilings["exponentials"] / 1e12),
    ]
    report.table(
        str(report.values["machine"]["device"]),
        ["", "measured", "data sheet"],
        [[name, f"{x:.4g}", f"{known[i]:.4g}" if known else "unknown"] for i, (name, x) in enumerate(rows)],
    )
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
