"""The two operators on a GPU, against what PyTorch offers and against the GPU's roofline.

Medians of CUDA events; several inputs, together larger than the L2 cache, taken in turn; random data; TF32 off. Masks,
lists of neighbours and whatever else an alternative needs are made beforehand: only the operator itself is timed. An
alternative that does not run, or whose result differs from float64's, is listed with the reason. The roofline is
counted as in `keygraph.bench.roofline`; the share is the roofline's time over ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gpu_script import Report, gpus, options, require_gpu
from keygraph.bench.data_sheets import Gpu
from keygraph.bench.implementations import family
from keygraph.bench.launched import launched_variants
from keygraph.bench.operators import OURS, Times, measure
from keygraph.bench.problem import DTYPES, Problem
from keygraph.bench.roofline import attention_roofline, graph_roofline

SIZES = ((64, 1024, 128), (64, 1024, 256), (64, 1024, 512), (256, 256, 64))
#: For a run of the script itself, where there is no GPU.
TINY_SIZES = ((1, 64, 8), (2, 33, 5))
#: The only problem that Torch-Gather is measured on: it is a hundred times slower.
GATHER_AT = SIZES[0]

#: Title -> (operator, families of alternatives of which the fastest counts, least ratio that is wanted).
COMPARISONS: dict[str, tuple[str, tuple[str, ...], float]] = {
    "fastest of SDPA and Flex": ("KeyGraphAttention", ("sdpa", "flex"), 1.5),
    "Torch-Mask": ("KeyGraphAttention", ("mask",), 10),
    "Torch-Gather": ("KeyGraphAttention", ("gather",), 50),
    "matmul + topk + scatter": ("KeyGraph", ("topk + scatter",), 5),
}
_ROOFLINES = {"KeyGraphAttention": attention_roofline, "KeyGraph": graph_roofline}


def sizes(problem: Problem) -> str:
    """Return the sizes of a problem as text."""
    return f"{problem.windows} x {problem.heads} x {problem.nodes} x {problem.channels}, {problem.k}"


def alternatives(times: Times, families: Sequence[str]) -> list[str]:
    """Return the names of the alternatives that ran, of some families."""
    return [name for name in times.milliseconds if name != OURS and (name in families or family(name) in families)]


def cell(times: Times, families: Sequence[str], target: float) -> str:
    """Return the fastest alternative's time over ours, marked if it misses the target.

    Parameters
    ----------
    times
        Of one operator.
    families
        Of alternatives that compete; with several, the fastest one's name is added.
    target
        What the ratio should be at least.
    """
    names = alternatives(times, families)
    ratio = times.ratio(*names)
    if ratio is None:
        return "did not run"
    fastest = min(names, key=times.milliseconds.__getitem__)
    missed = "" if ratio >= target else f" (target {target:g})"
    return f"{ratio:.2f}{missed}" + (f": {fastest}" if len(names) > 1 else "")


def row(op: str, problem: Problem, times: Times, figures: dict[str, Gpu], variant: str | None) -> list[str]:
    """Return a problem's line in an operator's table.

    Parameters
    ----------
    op
        ``"KeyGraph"`` or ``"KeyGraphAttention"``.
    problem, times
        What was measured.
    figures
        Source of peak rates -> the rates.
    variant
        Name of the kernel variant that was launched.
    """
    ours = times.milliseconds.get(OURS)
    cells = [sizes(problem), "failed" if ours is None else f"{ours * 1e3:.0f} us", variant or "-"]
    if times.error:
        cells[1] += f" ({times.error})"
    cells += [cell(times, families, target) for of, families, target in COMPARISONS.values() if of == op]
    for gpu in figures.values():
        roofline = _ROOFLINES[op](problem, gpu)
        share = "-" if ours is None else f"{roofline.milliseconds / ours:.0%}"
        cells.append(f"{share} of {roofline.milliseconds * 1e3:.0f} us ({roofline.limit})")
    return cells


def header(op: str, figures: dict[str, Gpu]) -> list[str]:
    """Return the titles of an operator's table."""
    titles = [title for title, (of, *_) in COMPARISONS.items() if of == op]
    return [
        "windows x heads x N x D, k",
        "ours",
        "variant",
        *(f"{title} / ours" for title in titles),
        *(f"roofline ({of})" for of in figures),
    ]


def everyone(results: dict[Problem, Times]) -> tuple[list[str], list[list[str]]]:
    """Return a table of all alternatives in microseconds, with the reasons of those that did not run."""
    names = dict.fromkeys(name for times in results.values() for name in (*times.milliseconds, *times.failures))
    rows = []
    for name in names:
        cells = [name]
        for times in results.values():
            ms = times.milliseconds.get(name)
            ratio = times.ratio(name)
            if ms is None:
                cells.append(times.failures.get(name, "-"))
            else:
                cells.append(f"{ms * 1e3:.1f}" + ("" if ratio is None or name == OURS else f" ({ratio:.2f} x)"))
        rows.append(cells)
    return ["us (times ours)", *map(sizes, results)], rows


def main() -> int:
    """Run the step from the command line; return its exit code."""
    parser = options(__doc__, rounds=12)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float16")
    parser.add_argument("--without", nargs="*", default=[], choices=["sdpa", "flex", "mask", "gather"])
    arguments = parser.parse_args()
    place = require_gpu()
    report = Report(arguments)
    report.values |= {"dtype": arguments.dtype, "cases": []}
    figures = gpus(arguments.ceilings)
    results: dict[str, dict[Problem, Times]] = {op: {} for op in _ROOFLINES}
    rows: dict[str, list[list[str]]] = {op: [] for op in _ROOFLINES}
    for size in TINY_SIZES if arguments.tiny else SIZES:
        windows, nodes, k = size
        problem = Problem(windows, 6, nodes, 30, k, arguments.dtype, graph_channels=180)
        without = {*arguments.without, *(() if arguments.tiny or size == GATHER_AT else ("gather",))}
        with launched_variants() as variants:
            times = measure(problem, place, arguments.rounds, without)
        for op, each in times.items():
            results[op][problem] = each
            rows[op].append(row(op, problem, each, figures, variants.get(op)))
            report.table(f"{op}, {arguments.dtype}", header(op, figures), rows[op])
            report.table(f"{op}, {arguments.dtype}, everyone", *everyone(results[op]))
            if each.error:
                report.errors.append(f"our {op} on {problem}: {each.error}")
        found: dict[str, Any] = {op: {**each.as_json(), "variant": variants.get(op)} for op, each in times.items()}
        for op, one in found.items():
            rooflines = {of: _ROOFLINES[op](problem, gpu) for of, gpu in figures.items()}
            one["rooflines"] = {of: {**asdict(each), "limit": each.limit} for of, each in rooflines.items()}
        report.values["cases"].append({"problem": asdict(problem), "operators": found})
        report.write()
        print(problem, {op: each.milliseconds.get(OURS) for op, each in times.items()}, flush=True)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
