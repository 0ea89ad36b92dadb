"""What the compiler makes of the GPU kernels, read from its machine code: no GPU is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "kernel_resources.py"

#: Compiles every kernel for two GPUs.
pytestmark = pytest.mark.slow

#: Problems of base networks, which the automatic choice has to serve well: type, channels of a head, nodes, bias.
USUAL = [
    (dtype, channels, nodes, bias)
    for dtype in ("float16", "bfloat16", "float32")
    for channels in (10, 24, 30, 32, 64)
    for nodes in (256, 1024)
    for bias in (False, True)
]
#: Bytes of a thread's registers that may go to memory.
MOST_SPILLED = 32


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Target -> variant -> its resources. In a process of its own: here kernels may be made for the interpreter."""
    path = tmp_path_factory.mktemp("resources") / "resources.json"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(BENCHMARK), "--targets", "80", "90", "--json", str(path)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    found: dict[str, dict[str, Any]] = json.loads(path.read_text())
    return found


def automatic(op: str, dtype: str, channels: int, nodes: int, bias: bool, capability: int) -> str:
    """Name of the variant that is chosen."""
    import torch
    from keygraph.plugins.triton import jit

    sizes = jit.Sizes(4, 1, nodes, nodes, channels, 6, channels)
    if op == "KeyGraph":
        sizes = jit.Sizes(4, 1, nodes, nodes, 6 * channels)
    return str(jit.fitting(op, getattr(torch, dtype), sizes, bias, capability)[0].name)


def test_products_on_hopper_do_not_wait_for_each_other(resources: dict[str, dict[str, Any]]) -> None:
    """C7515: wgmma instructions are serialized."""
    warned = {name: used["warnings"] for name, used in resources["90"].items() if used["warnings"]}
    assert warned == {}


@pytest.mark.parametrize("capability", [80, 90])
def test_the_automatic_choice_does_not_spill(resources: dict[str, dict[str, Any]], capability: int) -> None:
    chosen = {automatic("KeyGraphAttention", *problem, capability) for problem in USUAL}
    chosen |= {automatic("KeyGraph", *problem[:3], False, capability) for problem in USUAL}
    chosen |= {name for name in resources[str(capability)] if name.startswith(("pack_graph", "top_k_graph"))}
    spilled = {name: resources[str(capability)][name]["stack_bytes"] for name in chosen}
    assert {name: size for name, size in spilled.items() if size > MOST_SPILLED} == {}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_instructions_of_a_score(resources: dict[str, dict[str, Any]], dtype: str) -> None:
    """Heads of 30 channels, which exported networks fill up to 32 (docs/reference/kernels.md), and of 24."""
    for channels in (24, 32):
        name = automatic("KeyGraphAttention", dtype, channels, 1024, False, 90)
        assert resources["90"][name]["instructions_per_score"] <= 9.5, name
