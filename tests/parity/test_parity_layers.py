"""Inside `parity`, modules import only from the layers below them: no step of a comparison calls back up."""

from __future__ import annotations

from test_layers import ROOT, _graph

#: From the top. Modules of one layer do not import each other, but those of one folder may.
LAYERS = (
    {"polygraphy", "modules"},
    {"comparison"},
    {"evaluation"},
    {"execution"},
    {"setup", "output"},
    {"pass_criteria"},
    {"results"},
    {"localize.blockwise"},
    {"rounding"},
    {"sides"},
    {"localize"},
    {"metrics"},
    {"piecewise"},
    {"inputs"},
    {"compatibility", "disk_arrays"},
)


def _place(module: str) -> tuple[int, str]:
    """The layer of a module, and the name by which it stands there: its own, or its folder's.

    A module that is not listed is above all others: it may import any, and none may import it.
    """
    names = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    parts = module.split(".")[1:]
    found = max((name for name in names if f"{'.'.join(parts)}.".startswith(f"{name}.")), key=len, default=module)
    return names.get(found, -1), found


def test_no_module_of_a_comparison_imports_from_above() -> None:
    graph = {name: others for name, others in _graph(ROOT).items() if name.startswith("parity.")}
    checked = 0
    for name, others in graph.items():
        for other in (other for other in others if other.startswith("parity.")):
            (above, own), (below, its) = _place(name), _place(other)
            assert above < below or own == its, f"{name} imports {other}"
            checked += 1
    assert checked > 60
