"""Random shapes, k, ties and NaN: the CPU kernels against the float64 oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import operator_oracle as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_hosts import Cpu, instruction_sets

sizes = st.integers(1, 70)
every_isa = pytest.mark.parametrize("isa", instruction_sets())
dtypes = st.sampled_from([np.float32, np.float16])


def exact_values(random: np.random.Generator, shape: tuple[int, ...], special: str) -> np.ndarray:
    """Small integers, whose sums of products float32 holds exactly, and a few special values among them."""
    values = random.integers(-2, 3, shape).astype(float)
    if special == "zeros":
        values[random.random(shape) < 0.5] = -0.0
    elif special == "nan":
        values[random.random(shape) < 0.05] = np.nan
    elif special == "infinite":
        values[random.random(shape) < 0.05] = np.inf
        values[random.random(shape) < 0.05] = -np.inf
    return values


@every_isa
@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_key_graph(isa: str, data: Any) -> None:
    rows, nodes, channels = data.draw(sizes), data.draw(st.integers(1, 200)), data.draw(st.integers(1, 9))
    special = data.draw(st.sampled_from(["none", "zeros", "nan", "infinite"]))
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    dtype = data.draw(dtypes)
    windows = 2
    same = data.draw(st.booleans())
    if same:  # many windows of whole blocks of rows may go another way
        windows = data.draw(st.sampled_from([2, 16]))
        rows = nodes = data.draw(st.sampled_from([rows, 32, 64]))
    k = data.draw(st.integers(1, nodes + 3))
    query = exact_values(random, (1, windows, rows, channels), special).astype(dtype)
    key = query if same else exact_values(random, (1, windows, nodes, channels), special).astype(dtype)
    oracle.check_graph(Cpu(isa).key_graph(query, key, k), query, key, k, exact=True)


@every_isa
@settings(max_examples=75, deadline=None, derandomize=True)
@given(data=st.data())
def test_key_graph_of_any_floats(isa: str, data: Any) -> None:
    """One channel, query 1: the similarities are the key's own bits, of all magnitudes."""
    words = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=100))
    key = np.array(words, dtype=np.uint32).view(np.float32).reshape(1, 1, -1, 1)
    k = data.draw(st.integers(1, len(words)))
    query = np.ones((1, 1, 3, 1), dtype=np.float32)
    oracle.check_graph(Cpu(isa).key_graph(query, key, k), query, key, k, exact=True)


@every_isa
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_pack_graph_of_any_bits(isa: str, data: Any) -> None:
    """Any bytes as a mask of each type: all magnitudes, NaN with any payload, any byte for true."""
    dtype, bits = data.draw(st.sampled_from([(np.float32, np.uint32), (np.float16, np.uint16), (np.bool_, np.uint8)]))
    rows, nodes = data.draw(sizes), data.draw(st.integers(1, 200))
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    mask = random.integers(0, 1 << 8 * dtype(0).nbytes, (2, 1, rows, nodes)).astype(bits)
    mask[random.random(mask.shape) < 0.3] = 0
    mask[random.random(mask.shape) < 0.1] = 1
    threshold = None
    if dtype is not np.bool_ and data.draw(st.booleans()):
        threshold = mask[..., nodes // 2 : nodes // 2 + 1].copy().view(dtype)
    # True is 1 byte that is not 0: NumPy's own comparison with 0 is of the byte.
    expected = mask != 0 if dtype is np.bool_ else oracle.pack_graph(mask.view(dtype), threshold)
    np.testing.assert_array_equal(Cpu(isa).pack_graph(mask.view(dtype), threshold), oracle.pack(expected))


@every_isa
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_top_k_graph_of_any_bits(isa: str, data: Any) -> None:
    """Any bytes as scores of each type, with ties: all magnitudes, NaN with any payload."""
    dtype, bits = data.draw(st.sampled_from([(np.float32, np.uint32), (np.float16, np.uint16)]))
    rows, nodes = data.draw(sizes), data.draw(st.integers(1, 200))
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    scores = random.integers(0, 1 << 8 * dtype(0).nbytes, (2, 1, rows, nodes)).astype(bits)
    scores[random.random(scores.shape) < data.draw(st.sampled_from([0.0, 0.3, 0.9]))] = scores[0, 0, 0, 0]
    k = data.draw(st.integers(1, nodes + 3))
    oracle.check_top_k(Cpu(isa).top_k_graph(scores.view(dtype), k), scores.view(dtype), k)


@every_isa
@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_key_graph_attention(isa: str, data: Any) -> None:
    rows, nodes = data.draw(sizes), data.draw(st.integers(1, 200))
    channels, value_channels = data.draw(sizes), data.draw(sizes)
    heads = data.draw(st.integers(1, 3))
    groups = data.draw(st.sampled_from([1, heads]))
    density = data.draw(st.floats(0, 1))
    random = np.random.default_rng(data.draw(st.integers(0, 1 << 32)))
    dtype = data.draw(dtypes)
    windows = data.draw(st.sampled_from([None, (), (1,), (2,), (3,)]))  # None: no bias; else what precedes [H, M, N]
    batch = 2 * max(windows or (1,))
    q = random.standard_normal((batch, heads, rows, channels)).astype(dtype)
    k = random.standard_normal((batch, heads, nodes, channels)).astype(dtype)
    v = random.standard_normal((batch, heads, nodes, value_channels)).astype(dtype)
    bias = None if windows is None else random.standard_normal((*windows, heads, rows, nodes)).astype(dtype)
    selected = random.random((batch, groups, rows, nodes)) < density
    output = Cpu(isa).key_graph_attention(q, k, v, oracle.pack(selected), bias)
    expected = oracle.key_graph_attention(q, k, v, selected, bias)
    oracle.check_attention(output, expected, 1e-5 if dtype is np.float32 else 2e-3)
