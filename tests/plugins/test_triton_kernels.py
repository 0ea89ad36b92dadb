"""Every variant of the Triton kernels against the float64 oracle: on a GPU, or without one in Triton's interpreter.

Interpreting takes about a millisecond per operation of a program, so each variant gets the cases that can go wrong in
its own way, as small as they may be.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import operator_oracle as oracle
import pytest
import torch
import triton
import triton.language as tl
from keygraph.plugins.triton.bits import permute_bytes
from operator_cases import (
    ATTENTION_CASES,
    BFLOAT16,
    GRAPH_CASES,
    PACK_CASES,
    TOLERANCE,
    TOP_K_CASES,
    AttentionCase,
    GraphCase,
    PackCase,
    TopKCase,
    attention_inputs,
    graph_inputs,
    pack_inputs,
    top_k_inputs,
)
from operator_hosts import Triton, triton_variants

DTYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": BFLOAT16, "i8": np.bool_}
GRAPH_VARIANTS = triton_variants("KeyGraph")
PACK_VARIANTS = triton_variants("PackGraph")
TOP_K_VARIANTS = triton_variants("TopKGraph")
ATTENTION_VARIANTS = triton_variants("KeyGraphAttention")

#: One variant of each kind: the others differ in the sizes of their blocks.
ONE_OF_A_KIND = list(
    {(v.kernel, v.dtype, v.bias, v.constants.get("WHOLE_ROWS")): v for v in ATTENTION_VARIANTS}.values()
)

#: All variants, those beyond one of a kind marked slow.
EVERY_ATTENTION_VARIANT = [
    pytest.param(variant, marks=() if variant in ONE_OF_A_KIND else pytest.mark.slow, id=variant.name)
    for variant in ATTENTION_VARIANTS
]

#: Cases that take the interpreter minutes; a GPU runs them (tests/gpu).
_LONG = {
    "window",
    "several tasks",
    "scores of a window",
    "scores, several tasks",
    "window, dense",
    "wide",
    "several blocks of nodes",
    "several dense steps",
}
SHORT_GRAPH_CASES = [case for case in GRAPH_CASES if case.name not in _LONG]
SHORT_PACK_CASES = [case for case in PACK_CASES if case.name not in _LONG]
SHORT_TOP_K_CASES = [case for case in TOP_K_CASES if case.name not in _LONG]
SHORT_ATTENTION_CASES = [case for case in ATTENTION_CASES if case.name not in _LONG]


def skip_bfloat16(variant: Any) -> None:
    if variant.dtype == "bf16" and Triton.device() == "cpu":
        pytest.skip("Triton's interpreter does not support bfloat16")


def check_graph(variant: Any, case: GraphCase) -> None:
    query, key = graph_inputs(case, DTYPES[variant.dtype])
    oracle.check_graph(Triton(variant).key_graph(query, key, case.k), query, key, case.k, case.exact)


def check_attention(variant: Any, case: AttentionCase, heads_last: bool = False) -> None:
    dtype = DTYPES[variant.dtype]
    inputs = attention_inputs(case, dtype)
    selected = oracle.unpack(inputs["graph"], case.nodes)
    expected = oracle.key_graph_attention(inputs["q"], inputs["k"], inputs["v"], selected, inputs["bias"], case.scale)
    output = Triton(variant, heads_last).key_graph_attention(**inputs, scale=case.scale)
    assert output.dtype == dtype
    oracle.check_attention(output, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("case", SHORT_GRAPH_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("form", ["resident", "streamed"])
def test_key_graph(form: str, case: GraphCase) -> None:
    """Both forms, every case; float32, whose ties and NaN are those of all types."""
    variant = next(v for v in GRAPH_VARIANTS if form in v.name and v.dtype == "fp32")
    check_graph(variant, case)


@pytest.mark.parametrize("variant", GRAPH_VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_of_key_graph(variant: Any) -> None:
    """More rows than a block, and nodes in the last places that it may have."""
    skip_bfloat16(variant)
    nodes = min(variant.max_nodes or 2 * variant.constants["BLOCK_NODES"], 300) - 7
    channels = 20 // variant.channel_multiple * variant.channel_multiple
    case = GraphCase("variant", batch=2, rows=variant.block_rows + 3, nodes=nodes, channels=channels, k=40)
    check_graph(variant, case)


def check_packed(variant: Any, case: PackCase) -> None:
    inputs = pack_inputs(case, DTYPES[variant.dtype])
    packed = Triton(variant).pack_graph(**inputs)
    np.testing.assert_array_equal(packed, oracle.pack(oracle.pack_graph(**inputs)))


@pytest.mark.parametrize("case", SHORT_PACK_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "i8"])
def test_pack_graph(dtype: str, case: PackCase) -> None:
    if dtype == "i8" and case.threshold:
        pytest.skip("a mask of bool takes no threshold")
    variants = [v for v in PACK_VARIANTS if v.dtype == dtype and v.bias == case.threshold]
    check_packed(next(v for v in variants if case.nodes % v.channel_multiple == 0), case)


@pytest.mark.parametrize("variant", PACK_VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_of_pack_graph(variant: Any) -> None:
    """More rows and nodes than a block."""
    skip_bfloat16(variant)
    nodes = 560 if variant.channel_multiple > 1 else 555
    check_packed(variant, PackCase("variant", batch=2, groups=2, rows=11, nodes=nodes, threshold=variant.bias))


def check_top_k(variant: Any, case: TopKCase) -> None:
    scores = top_k_inputs(case, DTYPES[variant.dtype])
    oracle.check_top_k(Triton(variant).top_k_graph(scores, case.k), scores, case.k)


@pytest.mark.parametrize("case", SHORT_TOP_K_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("form", ["resident", "streamed"])
def test_top_k_graph(form: str, case: TopKCase) -> None:
    """Both forms, every case; float32, whose ties and NaN are those of all types."""
    variant = next(v for v in TOP_K_VARIANTS if form in v.name and v.dtype == "fp32")
    multiple = variant.channel_multiple  # The resident form needs rows of whole 16 bytes.
    check_top_k(variant, dataclasses.replace(case, nodes=-(-case.nodes // multiple) * multiple))


@pytest.mark.parametrize("variant", TOP_K_VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_of_top_k_graph(variant: Any) -> None:
    """More rows than a block, in two windows, and for the streamed form more nodes."""
    skip_bfloat16(variant)
    nodes = min(variant.max_nodes - 8, 600) if variant.max_nodes else 555
    check_top_k(variant, TopKCase("variant", batch=2, rows=variant.block_rows + 3, nodes=nodes, k=40))


@pytest.mark.parametrize("case", SHORT_ATTENTION_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("kernel", ["dense", "gather", "skip"])
def test_key_graph_attention(kernel: str, case: AttentionCase) -> None:
    """Each kernel with every case that one of its variants takes."""
    dtype = "fp16" if kernel == "skip" else "fp32"
    # One row per program: more of them are only more of the same, except where each has its own node.
    if kernel == "gather" and case.name != "one selected":
        case = dataclasses.replace(case, rows=min(case.rows, 6))
    host = Triton.fitting(kernel, dtype, case)
    if host is None:
        pytest.skip(f"no {kernel} variant fits")
    check_attention(host.variant, case)


def widest_case(variant: Any, **changes: Any) -> AttentionCase:
    """More rows and nodes than a block, several heads, as many channels as there may be, Dv other than D."""
    widest = variant.max_channels or 40
    case = AttentionCase(
        "variant",
        batch=2,
        heads=3,
        rows=min(variant.block_rows + 2, 70) if variant.block_rows > 1 else 4,
        nodes=150,
        channels=widest - variant.channel_multiple,
        value_channels=widest,
        bias=variant.bias,
        density=0.2,
    )
    return dataclasses.replace(case, **changes)


@pytest.mark.parametrize("variant", EVERY_ATTENTION_VARIANT)
def test_every_variant_of_key_graph_attention(variant: Any) -> None:
    skip_bfloat16(variant)
    check_attention(variant, widest_case(variant))


@pytest.mark.parametrize("variant", ONE_OF_A_KIND, ids=lambda variant: variant.name)
def test_heads_last(variant: Any) -> None:
    skip_bfloat16(variant)
    check_attention(variant, widest_case(variant, nodes=70), heads_last=True)


@pytest.mark.parametrize("values", ["normal", "not finite elsewhere"])
@pytest.mark.parametrize("variant", [v for v in ONE_OF_A_KIND if v.bias], ids=lambda variant: variant.name)
def test_bias_per_window(variant: Any, values: str) -> None:
    """Also where the block is computed again because of what is not finite."""
    skip_bfloat16(variant)
    case = widest_case(variant, batch=4, heads=2, rows=4, nodes=40, bias_windows=2, values=values)
    check_attention(variant, case)


@pytest.mark.parametrize("variant", EVERY_ATTENTION_VARIANT)
def test_every_variant_keeps_apart_what_is_not_finite(variant: Any) -> None:
    skip_bfloat16(variant)
    case = widest_case(variant, batch=1, heads=2, rows=4, nodes=40, values="not finite elsewhere")
    check_attention(variant, case)


@pytest.mark.parametrize("values", ["not finite", "infinitely low"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_what_is_not_finite_is_found_beyond_the_first_blocks(dtype: str, values: str) -> None:
    """Several blocks of rows and nodes, most of which have only finite numbers."""
    case = AttentionCase("blocks", heads=1, rows=150, nodes=200, channels=20, value_channels=24, values=values)
    variant = next(v for v in ATTENTION_VARIANTS if "dense" in v.name and v.dtype == dtype and v.max_channels == 32)
    inputs = attention_inputs(case, DTYPES[dtype])
    turned = {name: inputs[name][:, :, ::-1].copy() for name in ("q", "k", "v")}
    selected = oracle.unpack(inputs["graph"], case.nodes)[:, :, ::-1, ::-1]
    expected = oracle.key_graph_attention(**turned, selected=selected)
    assert not np.isfinite(expected).all()
    assert np.isfinite(expected[:, :, :64]).any()
    output = Triton(variant).key_graph_attention(**turned, graph=oracle.pack(selected))
    oracle.check_attention(output, expected, TOLERANCE[DTYPES[dtype]])


@triton.jit  # type: ignore[untyped-decorator]
def permute_kernel(low, high, selector, result, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.arange(0, COUNT)
    chosen = permute_bytes(tl.load(low + place), tl.load(high + place), tl.load(selector + place))
    tl.store(result + place, chosen)


def test_bytes_are_permuted_as_the_machine_does() -> None:
    """PTX ISA, `prmt`: four bits choose a byte, the highest of them its sign eight times."""
    cases = [
        (0x44332211, 0x88776655, 0x3210, 0x44332211),
        (0x44332211, 0x88776655, 0x7654, 0x88776655),
        (0x44332211, 0x88776655, 0x0375, 0x11448866),
        (0x44332211, 0x88776655, 0xF8B3, 0xFF000044),
        (0x0080FF7F, 0x00008000, 0xA544, 0xFF800000),
        (0x0080FF7F, 0x00008000, 0x8544, 0x00800000),
    ]
    columns = np.array(cases, np.uint32).view(np.int32).T
    # Blocks have a power of two of numbers.
    columns = np.concatenate([columns, columns[:, :2]], axis=1)
    low, high, selector, expected = (torch.from_numpy(c.copy()).to(Triton.device()) for c in columns)
    result = torch.empty_like(low)
    permute_kernel[(1,)](low, high, selector, result, COUNT=len(low))
    assert result.tolist() == expected.tolist()


def test_empty_blocks_are_skipped_correctly() -> None:
    """Bits in one block of 64 nodes out of three, and none in the next chunk's first ones."""
    variant = next(v for v in ATTENTION_VARIANTS if "skip" in v.name and v.dtype == "fp16")
    case = dataclasses.replace(ATTENTION_CASES[0], heads=1, nodes=1400, channels=30, value_channels=30)
    inputs = attention_inputs(case, np.float16)
    selected = np.zeros((1, 1, case.rows, case.nodes), bool)
    selected[..., 70:90] = selected[..., 130:140] = selected[..., 1333:1340] = True
    selected[..., 20:, 70:140] = False
    inputs["graph"] = oracle.pack(selected)
    expected = oracle.key_graph_attention(inputs["q"], inputs["k"], inputs["v"], selected)
    output = Triton(variant).key_graph_attention(**inputs)
    oracle.check_attention(output, expected, TOLERANCE[np.float16])


def test_k_below_1_keeps_one_node() -> None:
    """Nobody looks at k before the device does, and the device cannot raise an error."""
    case = GraphCase("plain", rows=4, nodes=40)
    query, key = graph_inputs(case, np.float32)
    for variant in (GRAPH_VARIANTS[0], next(v for v in GRAPH_VARIANTS if "streamed" in v.name and v.dtype == "fp32")):
        oracle.check_graph(Triton(variant).key_graph(query, key, -5), query, key, 1, exact=False)
