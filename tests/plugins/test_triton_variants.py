"""The list of variants as others know it: their numbers are in the C interface and in timing caches."""

from __future__ import annotations

from keygraph.plugins.triton.variants import VARIANTS

#: Every number ever given, with its variant. Append; a line changes only when its variant is removed, to None.
PUBLISHED: dict[int, str | None] = {
    100: "attention_dense_fp32_d16_m1_64x32",
    101: "attention_dense_fp32_d32_m1_64x32",
    102: "attention_dense_fp32_d64_m1_64x32",
    103: "attention_dense_fp32_d32_m1_64x32_bias",
    104: "attention_dense_fp32_any_m1_64x32",
    105: "attention_dense_fp32_any_m1_64x32_bias",
    106: "attention_gather_fp32_d32_m1_h2",
    107: "attention_gather_fp32_d64_m1_h1",
    108: "key_graph_resident_fp32_m1_32x256",
    109: "key_graph_resident_fp32_m1_16x1024",
    110: "key_graph_streamed_fp32_m1_32x64",
    111: "key_graph_resident_fp32_m1_8x1024",
    112: "key_graph_resident_fp32_m1_16x512",
    200: "attention_dense_fp16_d16_m2_128x64",
    201: "attention_dense_fp16_d32_m8_128x64",
    202: "attention_dense_fp16_d32_m2_128x64",
    203: "attention_dense_fp16_d32_m2_64x64",
    204: "attention_dense_fp16_d32_m2_128x64_skip",
    205: "attention_dense_fp16_d64_m8_128x64",
    206: "attention_dense_fp16_d64_m2_64x64",
    207: "attention_dense_fp16_d128_m8_64x64",
    208: "attention_dense_fp16_d32_m2_64x64_bias",
    209: "attention_dense_fp16_any_m1_64x32",
    210: "attention_dense_fp16_any_m1_64x32_bias",
    211: "attention_gather_fp16_d32_m2_h2",
    212: "attention_gather_fp16_d64_m2_h1",
    213: "key_graph_resident_fp16_m4_32x256",
    214: "key_graph_resident_fp16_m4_32x512",
    215: "key_graph_resident_fp16_m4_32x1024",
    216: "key_graph_resident_fp16_m4_16x1024",
    217: "key_graph_resident_fp16_m4_16x2048",
    218: "key_graph_streamed_fp16_m4_32x128",
    219: "key_graph_streamed_fp16_m1_32x128",
    220: "key_graph_resident_fp16_m4_16x256_w1",
    221: "key_graph_resident_fp16_m4_16x512_w2",
    222: "key_graph_resident_fp16_m4_16x1024_w4",
    223: "key_graph_resident_fp16_m4_16x2048_w8",
    224: "key_graph_resident_fp16_m4_32x1024_w8",
    300: "attention_dense_bf16_d16_m2_128x64",
    301: "attention_dense_bf16_d32_m8_128x64",
    302: "attention_dense_bf16_d32_m2_128x64",
    303: "attention_dense_bf16_d32_m2_64x64",
    304: "attention_dense_bf16_d32_m2_128x64_skip",
    305: "attention_dense_bf16_d64_m8_128x64",
    306: "attention_dense_bf16_d64_m2_64x64",
    307: "attention_dense_bf16_d128_m8_64x64",
    308: "attention_dense_bf16_d32_m2_64x64_bias",
    309: "attention_dense_bf16_any_m1_64x32",
    310: "attention_dense_bf16_any_m1_64x32_bias",
    311: "attention_gather_bf16_d32_m2_h2",
    312: "attention_gather_bf16_d64_m2_h1",
    313: "key_graph_resident_bf16_m4_32x256",
    314: "key_graph_resident_bf16_m4_32x512",
    315: "key_graph_resident_bf16_m4_32x1024",
    316: "key_graph_resident_bf16_m4_16x1024",
    317: "key_graph_resident_bf16_m4_16x2048",
    318: "key_graph_streamed_bf16_m4_32x128",
    319: "key_graph_streamed_bf16_m1_32x128",
    320: "key_graph_resident_bf16_m4_16x256_w1",
    321: "key_graph_resident_bf16_m4_16x512_w2",
    322: "key_graph_resident_bf16_m4_16x1024_w4",
    323: "key_graph_resident_bf16_m4_16x2048_w8",
    324: "key_graph_resident_bf16_m4_32x1024_w8",
    400: "attention_dense_fp16_d32_m2_64x32",
    401: "attention_dense_fp16_d64_m2_64x32",
    402: "attention_dense_fp16_any_m1_32x32",
    403: "attention_dense_fp16_any_m1_32x32_bias",
    404: "key_graph_resident_fp16_m4_16x256",
    405: "key_graph_resident_fp16_m4_16x512",
    406: "key_graph_streamed_fp16_m1_16x64",
}


def test_numbers_keep_their_meaning() -> None:
    variants = {variant.number: variant.name for variant in VARIANTS}
    assert len(variants) == len(VARIANTS)
    assert variants == {number: name for number, name in PUBLISHED.items() if name is not None}


def test_names_are_unique() -> None:
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)
