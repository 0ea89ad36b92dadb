"""The conformance suite's cases, as data; `graph_inputs`, `pack_inputs`, `top_k_inputs` and
`attention_inputs` make the arrays."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from operator_oracle import pack

BFLOAT16 = ml_dtypes.bfloat16
#: The operators' types, and how far from the oracle a result may be: relative, norm-wise.
TOLERANCE = {np.float32: 1e-5, np.float16: 2e-3, BFLOAT16: 1.6e-2}
FLOATS = tuple(TOLERANCE)


@dataclass(frozen=True)
class GraphCase:
    """`values`: what fills the tensors. All but "normal" make similarities that float32 holds exactly."""

    name: str
    batch: int = 1
    groups: int = 1
    rows: int = 33
    nodes: int = 33
    channels: int = 7
    k: int = 5
    values: str = "normal"
    same: bool = False  # query is key, the same array

    @property
    def exact(self) -> bool:
        return self.values != "normal"


GRAPH_CASES = [
    GraphCase("plain"),
    GraphCase("window", batch=2, rows=256, nodes=256, channels=60, k=64, same=True),
    GraphCase("wide", rows=64, nodes=1024, channels=180, k=128),
    GraphCase("not square", batch=2, groups=3, rows=5, nodes=77, channels=16, k=9),
    GraphCase("one node", rows=3, nodes=1, k=1),
    GraphCase("one row", rows=1, nodes=100, k=50),
    GraphCase("one channel", rows=40, nodes=40, channels=1, k=7, values="integers"),
    GraphCase("k is 1", k=1),
    GraphCase("k is N - 1", k=32),
    GraphCase("k is N", k=33),
    GraphCase("k past N", k=1000),
    GraphCase("N is 31", nodes=31),
    GraphCase("N is 32", nodes=32),
    GraphCase("N is 65", nodes=65, k=64),
    GraphCase("integers with ties", rows=70, nodes=130, channels=3, k=40, values="integers", same=False),
    GraphCase("integers, query is key", rows=100, nodes=100, channels=4, k=17, values="integers", same=True),
    GraphCase("duplicated nodes", rows=48, nodes=96, k=10, values="duplicates"),
    GraphCase("all rows equal", rows=20, nodes=70, k=11, values="constant"),
    GraphCase("all zero", rows=20, nodes=70, k=35, values="zeros"),
    GraphCase("signed zeros", rows=20, nodes=70, channels=1, k=35, values="signed zeros"),
    GraphCase("some NaN", rows=20, nodes=70, k=12, values="nan"),
    GraphCase("more NaN than numbers", rows=20, nodes=70, k=60, values="mostly nan"),
    GraphCase("all NaN", rows=20, nodes=70, k=13, values="all nan"),
    GraphCase("infinities", rows=40, nodes=70, channels=1, k=30, values="infinities"),
    GraphCase("powers of two", rows=33, nodes=200, channels=1, k=77, values="powers"),
]


def graph_inputs(case: GraphCase, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(len(case.name) * 1000 + case.nodes)
    query_shape = (case.batch, case.groups, case.rows, case.channels)
    key_shape = (case.batch, case.groups, case.nodes, case.channels)
    if case.values == "normal":
        query, key = random.standard_normal(query_shape), random.standard_normal(key_shape)
    else:
        query = random.integers(-3, 4, query_shape).astype(float)
        key = random.integers(-3, 4, key_shape).astype(float)
    if case.values == "duplicates":
        key[:, :, 1::2] = key[:, :, ::2]
    elif case.values == "constant":
        key[:] = key[:, :, :1]
    elif case.values == "zeros":
        query[:] = 0
    elif case.values == "signed zeros":
        query[:] = 1
        key[:] = random.choice([0.0, -0.0, 1.0, -1.0], key_shape, p=[0.4, 0.4, 0.1, 0.1])
    elif case.values in ("nan", "mostly nan", "all nan"):
        share = {"nan": 0.1, "mostly nan": 0.7, "all nan": 1.0}[case.values]
        key[random.random(key_shape[:3]) < share] = np.nan
    elif case.values == "infinities":
        key[:] = random.choice([np.inf, -np.inf, np.nan, 0.0, -1.0, 2.0], key_shape)
        query[:] = random.choice([1.0, -1.0, 2.0, 0.0], query_shape)
    elif case.values == "powers":
        query[:] = 1
        key[:] = np.exp2(random.integers(-14, 15, key_shape)) * random.choice([-1, 1], key_shape)
    query, key = query.astype(dtype), key.astype(dtype)
    return (key, key) if case.same else (query, key)


@dataclass(frozen=True)
class PackCase:
    """`values`: what a mask of floats holds; bool masks are true where it is not 0."""

    name: str
    batch: int = 1
    groups: int = 1
    rows: int = 9
    nodes: int = 70
    values: str = "normal"
    threshold: bool = False


PACK_CASES = [
    PackCase("plain"),
    PackCase("window", batch=2, rows=256, nodes=256),
    PackCase("several tasks", batch=3, groups=2, rows=200, nodes=1024),
    PackCase("one node", nodes=1),
    PackCase("N is 31", groups=3, nodes=31),
    PackCase("N is 32", nodes=32),
    PackCase("N is 33", batch=3, nodes=33),
    PackCase("N is 64", nodes=64),
    PackCase("nothing", values="zeros"),
    PackCase("everything", values="ones"),
    PackCase("signed zeros", values="signed zeros"),
    PackCase("not finite", values="not finite"),
    PackCase("subnormal", values="subnormal"),
    PackCase("scores", threshold=True),
    PackCase("scores of a window", batch=2, rows=256, nodes=256, threshold=True),
    PackCase("scores, several tasks", batch=3, groups=2, rows=200, nodes=1024, threshold=True),
    PackCase("scores, N is 33", groups=2, nodes=33, threshold=True),
    PackCase("scores with ties", values="integers", threshold=True),
    PackCase("scores of signed zeros", values="signed zeros", threshold=True),
    PackCase("scores, not finite", rows=40, values="not finite", threshold=True),
    PackCase("subnormal scores", values="subnormal", threshold=True),
]


def pack_inputs(case: PackCase, dtype: type) -> dict[str, np.ndarray | None]:
    random = np.random.default_rng(len(case.name) * 1000 + case.nodes)
    shape = (case.batch, case.groups, case.rows, case.nodes)
    mask = random.standard_normal(shape)
    if not case.threshold:
        mask[random.random(shape) < 0.5] = 0
    if case.values in ("zeros", "ones"):
        mask[:] = case.values == "ones"
    elif case.values == "integers":
        mask = random.integers(-3, 4, shape).astype(float)
    elif case.values == "signed zeros":
        mask = random.choice([0.0, -0.0, 1.0, -1.0], shape)
    elif case.values == "not finite":
        mask = random.choice([np.inf, -np.inf, np.nan, 0.0, -1.0, 2.0], shape)
    elif case.values == "subnormal":
        mask = random.choice([_smallest(dtype), -_smallest(dtype), 2 * _smallest(dtype), 0.0], shape)
    # One of the row's own scores, in another place of each row.
    place = np.broadcast_to(np.arange(case.rows)[:, None] % case.nodes, (*shape[:3], 1))
    kth = np.take_along_axis(mask, place, -1)
    return {"mask": mask.astype(dtype), "threshold": kth.astype(dtype) if case.threshold else None}


@dataclass(frozen=True)
class TopKCase:
    """`values`: what the scores hold."""

    name: str
    batch: int = 1
    groups: int = 1
    rows: int = 9
    nodes: int = 70
    k: int = 11
    values: str = "normal"


TOP_K_CASES = [
    TopKCase("plain"),
    TopKCase("window", batch=2, rows=256, nodes=256, k=64),
    TopKCase("several tasks", batch=3, groups=2, rows=200, nodes=1024, k=256),
    TopKCase("one row", rows=1, nodes=100, k=50),
    TopKCase("one node", nodes=1, k=1),
    TopKCase("k is 1", k=1),
    TopKCase("k is N - 1", k=69),
    TopKCase("k is N", k=70),
    TopKCase("k past N", k=1000),
    TopKCase("N is 31", groups=3, nodes=31),
    TopKCase("N is 32", nodes=32),
    TopKCase("N is 33", batch=3, nodes=33),
    TopKCase("N is 64, one row more than a block", rows=33, nodes=64),
    TopKCase("ties", rows=40, k=30, values="integers"),
    TopKCase("all equal", values="equal"),
    TopKCase("signed zeros", k=35, values="signed zeros"),
    TopKCase("not finite", rows=40, k=30, values="not finite"),
    TopKCase("all NaN", values="all nan"),
    TopKCase("masked", rows=40, values="masked"),
    TopKCase("fewer are not masked than k", rows=40, k=60, values="masked"),
    TopKCase("subnormal", k=35, values="subnormal"),
]


def top_k_inputs(case: TopKCase, dtype: type) -> np.ndarray:
    random = np.random.default_rng(len(case.name) * 1000 + case.nodes)
    shape = (case.batch, case.groups, case.rows, case.nodes)
    scores = random.standard_normal(shape)
    if case.values == "integers":
        scores = random.integers(-3, 4, shape).astype(float)
    elif case.values == "equal":
        scores[:] = 0.5
    elif case.values == "all nan":
        scores[:] = np.nan
    elif case.values == "signed zeros":
        scores = random.choice([0.0, -0.0, 1.0, -1.0], shape, p=[0.4, 0.4, 0.1, 0.1])
    elif case.values == "not finite":
        scores = random.choice([np.inf, -np.inf, np.nan, 0.0, -1.0, 2.0], shape)
    elif case.values == "masked":
        scores[random.random(shape) < 0.5] = -np.inf
    elif case.values == "subnormal":
        scores = random.choice([_smallest(dtype), -_smallest(dtype), 2 * _smallest(dtype), 0.0], shape)
    made: np.ndarray = scores.astype(dtype)
    return made


def _smallest(dtype: type) -> float:
    """A subnormal number of the type."""
    return 2.0**-24 if dtype is np.float16 else 2.0**-130


@dataclass(frozen=True)
class AttentionCase:
    """`density`: the share of nodes that a row selects, or one share per row, repeated.

    `bias_windows`: W of a bias [W, H, M, N]; 0 for [H, M, N].
    """

    name: str
    batch: int = 1
    heads: int = 2
    groups: int = 1
    rows: int = 33
    nodes: int = 40
    channels: int = 8
    value_channels: int = 8
    density: float | tuple[float, ...] = 0.3
    bias: bool = False
    bias_windows: int = 0
    scale: float | None = None
    magnitude: float = 1.0
    values: str = "normal"


ATTENTION_CASES = [
    AttentionCase("plain"),
    AttentionCase("window", batch=2, heads=6, rows=256, nodes=256, channels=30, value_channels=30, density=0.25),
    AttentionCase("window, dense", heads=6, rows=256, nodes=256, channels=30, value_channels=30, density=0.8),
    AttentionCase("wide", heads=1, rows=64, nodes=1024, channels=30, value_channels=30, density=0.125),
    AttentionCase("several blocks of nodes", heads=1, rows=20, nodes=5000, channels=30, value_channels=30, density=0.1),
    AttentionCase("several dense steps", heads=1, rows=20, nodes=1500, channels=30, value_channels=30, density=0.9),
    AttentionCase("a graph per head", batch=2, heads=3, groups=3),
    AttentionCase("a dense graph per head", batch=2, heads=3, groups=3, density=0.9),
    AttentionCase("one head, one row, one node", heads=1, rows=1, nodes=1, density=1.0),
    AttentionCase("one row", rows=1, nodes=70),
    AttentionCase("one channel", channels=1, value_channels=1),
    AttentionCase("Dv is larger", channels=5, value_channels=37),
    AttentionCase("Dv is smaller", channels=40, value_channels=3),
    AttentionCase("Dv differs, dense", channels=5, value_channels=37, density=0.9),
    AttentionCase("wide heads", channels=129, value_channels=130),
    AttentionCase("wide heads, dense", channels=129, value_channels=130, density=0.9),
    AttentionCase("heads of 64", channels=64, value_channels=64, density=0.2),
    AttentionCase("bias", bias=True),
    AttentionCase("bias, dense", bias=True, density=0.9),
    AttentionCase("bias, a graph per head", heads=3, groups=3, bias=True),
    AttentionCase("bias for one window", batch=2, bias=True, bias_windows=1),
    AttentionCase("bias per window, one image", batch=2, bias=True, bias_windows=2),
    AttentionCase("bias per window, three images", batch=6, heads=3, bias=True, bias_windows=2),
    AttentionCase("bias per window, dense", batch=6, rows=65, bias=True, bias_windows=3, density=0.9),
    AttentionCase("bias per window, a graph per head", batch=4, heads=3, groups=3, bias=True, bias_windows=2),
    AttentionCase("scale", scale=0.5),
    AttentionCase("scale of 0, dense", scale=0.0, density=0.9),
    AttentionCase("negative scale", scale=-2.0),
    AttentionCase("empty rows", density=(0.0, 0.3)),
    AttentionCase("empty rows, dense", density=(0.0, 1.0, 1.0, 1.0), rows=65),
    AttentionCase("nothing selected", density=0.0),
    AttentionCase("all selected", density=1.0),
    AttentionCase("sparse and dense rows", density=(0.02,) * 32 + (0.95,) * 32, rows=130, nodes=130),
    AttentionCase("one selected", rows=64, nodes=64, density=1 / 64),
    AttentionCase("N is 31", nodes=31),
    AttentionCase("N is 32, dense", nodes=32, density=0.9),
    AttentionCase("large scores", magnitude=30.0),
    AttentionCase("large scores, dense", magnitude=30.0, density=0.9),
    AttentionCase("what is not selected is not finite", values="not finite elsewhere"),
    AttentionCase("what is not selected is not finite, dense", values="not finite elsewhere", density=0.9),
    AttentionCase("NaN and infinities", values="not finite"),
    AttentionCase("NaN and infinities, dense", values="not finite", density=0.9),
    AttentionCase("scores of -inf", values="infinitely low"),
    AttentionCase("scores of -inf, dense", values="infinitely low", density=0.9),
    AttentionCase("not finite elsewhere, bias too", values="not finite elsewhere", bias=True),
    AttentionCase("a bias of -inf", values="infinitely low", bias=True),
]


def attention_inputs(case: AttentionCase, dtype: type) -> dict[str, np.ndarray | None]:
    random = np.random.default_rng(len(case.name) * 1000 + case.nodes)
    q = random.standard_normal((case.batch, case.heads, case.rows, case.channels)) * case.magnitude
    k = random.standard_normal((case.batch, case.heads, case.nodes, case.channels))
    v = random.standard_normal((case.batch, case.heads, case.nodes, case.value_channels))
    windows = (case.bias_windows,) if case.bias_windows else ()
    bias = random.standard_normal((*windows, case.heads, case.rows, case.nodes)) if case.bias else None
    density = np.resize(case.density, case.rows)[:, None]
    selected = random.random((case.batch, case.groups, case.rows, case.nodes)) < density
    if case.name == "one selected":
        selected[:] = np.eye(case.rows, dtype=bool)[:, ::-1]
    if case.values == "not finite elsewhere":
        selected[..., :3] = False
        k[..., 0, :], v[..., 0, :] = np.nan, np.nan
        k[..., 1, :], v[..., 1, :] = np.inf, -np.inf
        v[..., 2, :] = np.inf
        if bias is not None:
            bias[..., :3] = np.nan, np.inf, -np.inf
    elif case.values == "infinitely low":
        # Nodes 4 to 7 have the weight 0, by their score or by their bias; row 3 selects no others.
        if bias is not None:
            bias[..., 4:8] = -np.inf
        else:
            q[..., 0], k[..., 4:8, :], k[..., 4:8, 0] = 1, 0, -np.inf
        v[..., 5, 0], v[..., 6, 1] = np.inf, np.nan
        selected[..., 3, :] = False
        selected[..., 3, 4:8] = True
    elif case.values == "not finite":
        q[..., 0, :], q[..., 1, :] = np.nan, np.inf
        k[..., 5, :], v[..., 6, 0] = -np.inf, np.inf
    return {
        "q": q.astype(dtype),
        "k": k.astype(dtype),
        "v": v.astype(dtype),
        "graph": pack(selected),
        "bias": None if bias is None else bias.astype(dtype),
    }
