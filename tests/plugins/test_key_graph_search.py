"""KeyGraph's search: how many steps it takes, that they are bounded, and that it is exact whatever the floats are."""

from __future__ import annotations

from typing import Any

import numpy as np
import operator_oracle as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_hosts import Triton, triton_variants
from search_steps import steps

GRAPH_VARIANTS = {variant.name: variant for variant in triton_variants("KeyGraph")}
RESIDENT, STREAMED = "key_graph_resident_fp32_m1_32x256", "key_graph_streamed_fp32_m1_32x64"

#: 8 steps without halving, then at most 32 halvings in every second one.
BOUND = 8 + 2 * 32
#: Besides, a step that looks for the next value reads twice. It cannot be one that halves.
READS = BOUND + 8 + 32
#: The same with quarters.
PASSES = 6 + 2 * 16

counted_by_interpreter = pytest.mark.skipif(Triton.device() == "cuda", reason="counts in Triton's interpreter")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of infinities and NaN
forms = pytest.mark.parametrize("name", [RESIDENT, STREAMED], ids=["resident", "streamed"])


def normal(rows: int, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Query is key: each row has itself as an outlier."""
    key = np.random.default_rng(0).standard_normal((1, 1, nodes, 180)).astype(np.float16)
    return key[:, :, :rows].copy(), key


@counted_by_interpreter
@pytest.mark.parametrize("k", [64, 128, 256, 512])
def test_steps_on_normal_similarities(k: int) -> None:
    query, key = normal(64, 1024)
    assert max(steps(GRAPH_VARIANTS["key_graph_resident_fp16_m4_16x1024_w4"], query, key, k)) <= 13


@counted_by_interpreter
def test_passes_on_normal_similarities() -> None:
    query, key = normal(32, 1024)
    assert max(steps(GRAPH_VARIANTS["key_graph_streamed_fp16_m4_32x128"], query, key, 128)) <= 8


@counted_by_interpreter
def test_a_block_of_few_rows_and_padding_takes_no_longer() -> None:
    query, key = normal(1, 600)
    assert max(steps(GRAPH_VARIANTS["key_graph_resident_fp16_m4_16x1024_w4"], query, key, 75)) <= 13


@counted_by_interpreter
@forms
def test_all_nodes_take_one_step(name: str) -> None:
    query, key = normal(20, 200)
    assert steps(GRAPH_VARIANTS[name], query.astype(np.float32), key.astype(np.float32), 1000) == [1]


def of_any_bits(data: Any) -> np.ndarray:
    """Floats of all magnitudes, some of them neighbours or equal, infinite or NaN."""
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    nodes = data.draw(st.integers(1, 120))
    low = data.draw(st.sampled_from([0, 0x3F800000, 0x7F7FFFF0]))  # 0, 1, nearly infinite
    span = data.draw(st.sampled_from([2, 40, 1 << 20, 1 << 32]))
    signs = random.integers(0, 2, nodes, dtype=np.uint64) << np.uint64(31)
    words = (random.integers(low, low + span, nodes, dtype=np.uint64) ^ signs) & np.uint64(0xFFFFFFFF)
    floats: np.ndarray = words.astype(np.uint32).view(np.float32)
    return floats


def check_any_floats(name: str, data: Any) -> None:
    """One channel, so that the similarities are the key's own bits, or their negatives."""
    key = of_any_bits(data).reshape(1, 1, -1, 1)
    query = np.array([1, -1, 1], np.float32).reshape(1, 1, 3, 1)
    k = data.draw(st.integers(1, key.size))
    variant = GRAPH_VARIANTS[name]
    oracle.check_graph(Triton(variant).key_graph(query, key, k), query, key, k, exact=True)
    assert max(steps(variant, query, key, k)) <= (READS if name == RESIDENT else PASSES)


@counted_by_interpreter
@forms
@settings(max_examples=10, derandomize=True)
@given(data=st.data())
def test_any_floats(name: str, data: Any) -> None:
    check_any_floats(name, data)


@pytest.mark.slow
@counted_by_interpreter
@forms
@settings(max_examples=40, derandomize=True)
@given(data=st.data())
def test_many_floats(name: str, data: Any) -> None:
    check_any_floats(name, data)


@forms
def test_without_nodes_nothing_is_read(name: str) -> None:
    graph = Triton(GRAPH_VARIANTS[name]).key_graph(
        np.ones((1, 1, 5, 4), np.float32), np.empty((1, 1, 0, 4), np.float32), 3
    )
    assert graph.shape == (1, 1, 5, 0)
