"""The operators in float64 NumPy, written from the contract, sharing no code with any implementation."""

from __future__ import annotations

import numpy as np


def unpack(graph: np.ndarray, nodes: int) -> np.ndarray:
    """Graph words [..., ceil(nodes / 32)] to booleans [..., nodes]."""
    words = graph.view(np.uint32)[..., :, None] >> np.arange(32, dtype=np.uint32)
    selected: np.ndarray = (words & 1).astype(bool).reshape(*graph.shape[:-1], -1)[..., :nodes]
    return selected


def pack(selected: np.ndarray) -> np.ndarray:
    """Booleans [..., nodes] to graph words, the inverse of `unpack`."""
    nodes = selected.shape[-1]
    padded = np.zeros((*selected.shape[:-1], (nodes + 31) // 32 * 32), dtype=np.uint32)
    padded[..., :nodes] = selected
    words = padded.reshape(*selected.shape[:-1], -1, 32) << np.arange(32, dtype=np.uint32)
    packed: np.ndarray = words.sum(-1, dtype=np.uint32).view(np.int32)
    return packed


def similarity(query: np.ndarray, key: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        scores: np.ndarray = np.einsum("bgmc,bgnc->bgmn", query.astype(np.float64), key.astype(np.float64))
    return scores


def key_graph(query: np.ndarray, key: np.ndarray, k: int) -> np.ndarray:
    """Booleans [B, G, M, N]: the k largest similarities of each row, lowest node first among equals, NaN last."""
    return top_k_graph(similarity(query, key), k)


def top_k_graph(scores: np.ndarray, k: int) -> np.ndarray:
    """Booleans [B, G, M, N]: the k largest scores of each row, lowest node first among equals, NaN last."""
    scores = scores.astype(np.float64)
    selected = np.zeros(scores.shape, dtype=bool)
    for place in np.ndindex(scores.shape[:-1]):
        row = scores[place]
        numbers = np.flatnonzero(~np.isnan(row))
        ranking = [node for _, node in sorted((-row[node], node) for node in numbers.tolist())]
        ranking += np.flatnonzero(np.isnan(row)).tolist()
        selected[place][ranking[:k]] = True
    return selected


def pack_graph(mask: np.ndarray, threshold: np.ndarray | None = None) -> np.ndarray:
    """Booleans [B, G, M, N]: what is not 0, or not below the row's threshold."""
    numbers = mask.astype(np.float64)
    selected: np.ndarray = numbers != 0 if threshold is None else numbers >= threshold.astype(np.float64)
    return selected


def key_graph_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    selected: np.ndarray,
    bias: np.ndarray | None = None,
    scale: float | None = None,
) -> np.ndarray:
    """Row by row, over the selected nodes only; `bias` [H, M, N] or [W, H, M, N]."""
    batch, heads, rows, channels = q.shape
    windows = None if bias is None else bias[None] if bias.ndim == 3 else bias
    scale = channels**-0.5 if scale is None else scale
    output = np.zeros((batch, heads, rows, v.shape[-1]))
    for b, h, i in np.ndindex(batch, heads, rows):
        nodes = np.flatnonzero(selected[b, h if selected.shape[1] > 1 else 0, i])
        if nodes.size == 0:
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            score = scale * (k[b, h, nodes].astype(np.float64) @ q[b, h, i].astype(np.float64))
            if windows is not None:
                score = score + windows[b % len(windows), h, i, nodes]
            weight = np.exp(score - score.max())
            output[b, h, i] = weight @ v[b, h, nodes].astype(np.float64) / weight.sum()
    return output


def check_graph(
    graph: np.ndarray, query: np.ndarray, key: np.ndarray, k: int, exact: bool, lowest_of_equals: bool = True
) -> None:
    """Compare a packed graph with the oracle's.

    `exact` demands the same bits; it is for inputs whose similarities float32 holds exactly. Otherwise a node may be on
    the other side only where its similarity is within rounding of the k-th one: 2e-6 of the sum of |q_c k_c|.
    Without `lowest_of_equals`, `exact` demands the same similarities instead of the same nodes.
    """
    nodes = key.shape[2]
    assert graph.dtype == np.int32
    assert graph.shape == (*query.shape[:3], (nodes + 31) // 32)
    selected = unpack(graph, nodes)
    np.testing.assert_array_equal(pack(selected), graph, err_msg="bits past the last node are not 0")
    expected = key_graph(query, key, k)
    if exact and lowest_of_equals:
        np.testing.assert_array_equal(selected, expected)
        return
    np.testing.assert_array_equal(selected.sum(-1), min(k, nodes))
    scores = similarity(query, key)
    if exact:
        taken, wanted = (np.sort(np.where(chosen, scores, np.nan)) for chosen in (selected, expected))
        np.testing.assert_array_equal(taken, wanted)
        return
    tolerance = 2e-6 * similarity(np.abs(query), np.abs(key)).max(-1, keepdims=True)
    kth = np.where(expected, scores, np.inf).min(-1, keepdims=True)
    wrong = (selected != expected) & (np.abs(scores - kth) > tolerance)
    assert not wrong.any(), f"{wrong.sum()} nodes are on the wrong side by more than the tolerance"


def check_top_k(graph: np.ndarray, scores: np.ndarray, k: int, lowest_of_equals: bool = True) -> None:
    """Compare a packed graph with the oracle's; without `lowest_of_equals`, the scores that are selected."""
    nodes = scores.shape[3]
    assert graph.dtype == np.int32
    selected, expected = unpack(graph, nodes), top_k_graph(scores, k)
    np.testing.assert_array_equal(pack(selected), graph, err_msg="bits past the last node are not 0")
    if lowest_of_equals:
        np.testing.assert_array_equal(selected, expected)
        return
    np.testing.assert_array_equal(selected.sum(-1), min(k, nodes))
    numbers = scores.astype(np.float64)
    taken, wanted = (np.sort(np.where(chosen, numbers, np.nan)) for chosen in (selected, expected))
    np.testing.assert_array_equal(taken, wanted)


def check_attention(output: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Norm-wise relative error of what is finite; what is not must be the same."""
    assert output.shape == expected.shape
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(output), finite)
    np.testing.assert_array_equal(np.isnan(output), np.isnan(expected))
    difference = np.where(finite, output.astype(np.float64), 0) - np.where(finite, expected, 0)
    norm = float(np.linalg.norm(np.where(finite, expected, 0)))
    assert np.linalg.norm(difference) <= tolerance * max(norm, 1e-30)
