"""What the operators use beyond inputs and outputs: at most 2 MB per thread, by measurement, for large windows too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from operator_hosts import instruction_sets

MEASURE = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from operator_hosts import Cpu, cpu_library

def peak(host, call):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    def read(name):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(name))
    before = read("VmRSS")
    call()
    return (read("VmHWM") - before) / 1024

windows, heads, nodes, channels, k = map(int, sys.argv[2:7])
operator, isa, threads = sys.argv[7], sys.argv[8], int(sys.argv[9])
random = np.random.default_rng(0)
host = Cpu(isa, threads)
# Small calls first: Python's own threads and the libraries' pages are not what is measured.
small = random.standard_normal((4, 1, 64, 8), dtype=np.float32)
host.key_graph_attention(small, small, small, host.key_graph(small, small, 9))
words = (nodes + 31) // 32
outputs = []
full = np.full
def kept(shape, value, dtype):
    return outputs.pop() if outputs else full(shape, value, dtype=dtype)
np.full = kept
if operator == "graph":
    query = random.standard_normal((windows, 1, nodes, 60), dtype=np.float32)
    outputs.append(full((windows, 1, nodes, words), 1, dtype=np.int32))
    print(peak(host, lambda: host.key_graph(query, query, k)))
elif operator == "pack":
    scores = random.standard_normal((windows, 1, nodes, nodes), dtype=np.float32)
    threshold = np.ascontiguousarray(scores[..., :1])
    outputs.append(full((windows, 1, nodes, words), 1, dtype=np.int32))
    print(peak(host, lambda: host.pack_graph(scores, threshold)))
elif operator == "top k":
    scores = random.standard_normal((windows, 1, 64, nodes), dtype=np.float32)
    outputs.append(full((windows, 1, 64, words), 1, dtype=np.int32))
    print(peak(host, lambda: host.top_k_graph(scores, k)))
else:
    q, key, v = (random.standard_normal((windows, heads, nodes, channels), dtype=np.float32) for _ in range(3))
    graph = np.full((windows, 1, nodes, words), -1, np.int32)
    while k < nodes:  # each time half of the nodes are left, about
        graph &= random.integers(-(1 << 31), 1 << 31, graph.shape, dtype=np.int32)
        k *= 2
    outputs.append(full(q.shape, 1, dtype=np.float32))
    print(peak(host, lambda: host.key_graph_attention(q, key, v, graph)))
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's account of the peak")

CASES = [(4, 6, 256, 30, 64), (16, 1, 512, 30, 64), (2, 6, 1024, 30, 256), (1, 1, 16384, 30, 512)]


def measure(case: tuple[int, ...], operator: str, isa: str, threads: int) -> float:
    """Megabytes."""
    folder = str(Path(__file__).parent)
    arguments = [folder, *map(str, case), operator, isa, str(threads)]
    result = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return float(result.stdout)


@pytest.mark.parametrize("operator", ["graph", "attention"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"N={case[2]},k={case[4]}")
def test_extra_memory(case: tuple[int, ...], operator: str) -> None:
    check(case, operator)


def test_extra_memory_of_packing() -> None:
    check((2, 1, 2048, 0, 0), "pack")


def test_extra_memory_of_the_largest_scores() -> None:
    check((4, 1, 16384, 0, 512), "top k")


def check(case: tuple[int, ...], operator: str) -> None:
    threads = 2
    # Half a megabyte for Python's own part.
    assert measure(case, operator, instruction_sets()[-1], threads) <= 2 * threads + 0.5
