"""`keygraph.attend` and `key_graph`: against plain PyTorch; training, autocast, torch.compile and torch.export."""

from __future__ import annotations

import doctest
from typing import Any

import keygraph
import pytest
import torch
from keygraph.errors import InputError
from keygraph.plugins.torch import attend as module
from keygraph.plugins.torch import unpack_graph
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, NODES, K = 7, 40, 4


def plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    similarity: tuple[Tensor, Tensor],
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """What `attend` is defined as, heads first; a similarity without heads is shared by them."""
    ranked = similarity[0] @ similarity[1].mT
    chosen = torch.zeros_like(ranked, dtype=torch.bool).scatter(-1, ranked.topk(K).indices, True)
    if chosen.dim() < q.dim():
        chosen = chosen.unsqueeze(-3)
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    attended: Tensor = scores.masked_fill(~chosen, -torch.inf).softmax(-1) @ v
    return attended


def tensors(*lead: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(*lead, ROWS, 5), torch.randn(*lead, NODES, 5), torch.randn(*lead, NODES, 6)


def last(tensor: Tensor) -> Tensor:
    """[..., H, N, D] -> [..., N, H*D]."""
    return tensor.transpose(-3, -2).flatten(-2)


@pytest.mark.parametrize("lead", [(), (3,), (3, 2), (2, 3, 4), (2, 1, 3, 4)])
def test_any_leading_dimensions(lead: tuple[int, ...]) -> None:
    q, k, v = tensors(*lead)
    torch.testing.assert_close(keygraph.attend(q, k, v, k=K), plain(q, k, v, (q, k)))
    graph = keygraph.key_graph(q, k, K)
    assert graph.shape == (*lead, ROWS, 2)
    assert int(unpack_graph(graph, NODES).sum(-1).unique()) == K
    torch.testing.assert_close(keygraph.attend(q, k, v, graph=graph), plain(q, k, v, (q, k)))


def test_nodes_alone_with_heads_last() -> None:
    x = torch.randn(NODES, 6)
    assert torch.equal(
        keygraph.attend(x, x, x, k=K, heads=2), keygraph.attend(x[None], x[None], x[None], k=K, heads=2)[0]
    )


def test_networks_run_without_data() -> None:
    x = torch.randn(3, NODES, 6, device="meta")
    assert keygraph.attend(x, x, x, k=K).shape == (3, NODES, 6)


@pytest.mark.parametrize("transform", [torch.func.grad, lambda f: torch.func.vmap(torch.func.grad(f))])
def test_gradients_of_torch_func_are_an_error_that_names_attend(transform: Any) -> None:
    x = torch.randn(2, NODES, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=r"attend: torch.func's gradients .* use backward\(\) or torch.autograd.grad"):
        transform(lambda x: keygraph.attend(x, x, x, k=K).sum())(x)


def test_a_forward_mode_derivative_is_an_error_and_not_zero() -> None:
    x = torch.randn(NODES, 6)
    with pytest.raises(InputError, match="forward-mode derivatives are not computed"):
        torch.func.jvp(lambda q: keygraph.attend(q, x, x, k=K), (x,), (x,))


@pytest.mark.parametrize("lead", [(3, 2), (2, 3, 4)])
@pytest.mark.parametrize("with_heads", [None, 1, "H"])
def test_heads_last_and_another_similarity(lead: tuple[int, ...], with_heads: int | str | None) -> None:
    q, k, v = tensors(*lead)
    own = {None: lead[:-1], 1: (*lead[:-1], 1), "H": lead}[with_heads]
    x, y = torch.randn(*own, ROWS, 9), torch.randn(*own, NODES, 9)
    bias = torch.randn(lead[-1], ROWS, NODES)
    expected = plain(q, k, v, (x, y), bias, 0.3)
    given: dict[str, Any] = {"similarity": (x, y), "k": K, "bias": bias, "scale": 0.3}
    torch.testing.assert_close(keygraph.attend(q, k, v, **given), expected)
    torch.testing.assert_close(keygraph.attend(last(q), last(k), last(v), heads=lead[-1], **given), last(expected))
    if with_heads == "H":
        expected = last(plain(q, k, v, (q, k)))
        torch.testing.assert_close(keygraph.attend(last(q), last(k), last(v), heads=lead[-1], k=K), expected)


@pytest.mark.parametrize("shape", [(NODES,), (ROWS, NODES), (1, ROWS, NODES), (2, 1, NODES), (1, 1, 2, ROWS, NODES)])
def test_a_bias_broadcasts_to_heads_rows_nodes(shape: tuple[int, ...]) -> None:
    (q, k, v), bias = tensors(3, 2), torch.randn(shape)
    torch.testing.assert_close(keygraph.attend(q, k, v, k=K, bias=bias), plain(q, k, v, (q, k), bias.view(shape[-3:])))


def test_k_may_be_a_tensor_and_exceed_the_nodes() -> None:
    q, k, v = tensors(3, 2)
    assert torch.equal(keygraph.attend(q, k, v, k=torch.tensor([K])), keygraph.attend(q, k, v, k=K))
    assert torch.equal(keygraph.attend(q, k, v, k=torch.tensor(K)), keygraph.attend(q, k, v, k=K))
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(keygraph.attend(q, k, v, k=1000), dense)


def test_first_and_second_gradients_are_those_of_plain_pytorch() -> None:
    q, k, v = tensors(3, 2)
    x, y, bias = torch.randn(3, ROWS, 9), torch.randn(3, NODES, 9), torch.randn(2, ROWS, NODES)

    def gradients(attended: Any) -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in (q, k, v, bias)]
        first = torch.autograd.grad(attended(*leaves).tanh().square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(torch.cat([g.flatten() for g in first]).square().sum(), leaves)
        return (*first, *second)

    ours = gradients(lambda q, k, v, b: keygraph.attend(q, k, v, similarity=(x, y), k=K, bias=b))
    theirs = gradients(lambda q, k, v, b: plain(q, k, v, (x, y), b))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_second_gradient_of_one_input_alone() -> None:
    q, k, v = tensors(3, 2)

    def twice(attended: Any) -> Tensor:
        leaf = q.clone().requires_grad_()
        (first,) = torch.autograd.grad(attended(leaf).square().sum(), leaf, create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaf)[0]

    # The selection is not differentiated, so it may be made by other tensors.
    ours = twice(lambda leaf: keygraph.attend(leaf, k, v, k=K, similarity=(q, k)))
    torch.testing.assert_close(ours, twice(lambda leaf: plain(leaf, k, v, (q, k))), atol=1e-4, rtol=1e-4)


class Attention(nn.Module):
    def __init__(self, k: int = K) -> None:
        super().__init__()
        self.k = k
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)
        self.bias = nn.Parameter(torch.zeros(2, NODES, NODES))

    def forward(self, x: Tensor, k: Tensor | None = None) -> Tensor:
        q, key, v = self.qkv(x).chunk(3, -1)
        kept: Any = self.k if k is None else k
        attended = keygraph.attend(q, key, v, similarity=(x, x), k=kept, bias=self.bias, heads=2)
        changed: Tensor = x + self.proj(attended)
        return changed


def trained(step: Any, network: Attention) -> float:
    """Learn the mean over the nodes; return the last loss."""
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    torch.manual_seed(1)
    for _ in range(8):
        x = torch.randn(4, NODES, 8)
        loss = (step(x) - x.mean(-2, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    return float(loss.detach())


def test_training_by_itself_and_compiled_are_the_same() -> None:
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        network = Attention()
        x = torch.randn(4, NODES, 8)
        before = float((network(x) - x.mean(-2, keepdim=True)).square().mean().detach())
        step = torch.compile(network, fullgraph=True, backend="aot_eager") if compiled else network
        losses.append(trained(step, network))
        assert losses[-1] < 0.8 * before
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_exported_programs_have_single_nodes_and_take_k() -> None:
    torch.manual_seed(0)
    network, x = Attention(), torch.randn(2, NODES, 8)
    sizes = {"x": {0: torch.export.Dim("windows")}, "k": {}}
    program = torch.export.export(network, (x, torch.tensor([K])), dynamic_shapes=sizes).run_decompositions({})
    called = [str(node.target) for node in program.graph.nodes if "keygraph" in str(node.target)]
    assert called == ["keygraph.key_graph.default", "keygraph.key_graph_attention.default"]
    more = torch.randn(5, NODES, 8)
    for k in (1, 9):
        torch.testing.assert_close(program.module()(more, torch.tensor([k])), Attention.forward(network, more, k))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(kind: torch.dtype) -> None:
    """The operators accumulate in float32: of inputs in half precision the result is the rounded one of float32."""
    q, k, v = (t.to(kind) for t in tensors(3, 2))
    expected = plain(q.float(), k.float(), v.float(), (q.float(), k.float())).to(kind)
    computed = keygraph.attend(q, k, v, k=K)
    assert computed.dtype == kind
    torch.testing.assert_close(computed, expected)


def test_autocast_casts_the_attention_and_leaves_the_selection() -> None:
    torch.manual_seed(0)
    q, k, v = (t.requires_grad_() for t in tensors(3, 2))
    x, y = torch.randn(3, 200, 30), torch.randn(3, NODES, 30)
    bias = nn.Parameter(torch.randn(2, ROWS, NODES))
    graph = keygraph.key_graph(x, y, K)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(keygraph.key_graph(x, y, K), graph)  # In bfloat16 some nodes would be others.
        result = keygraph.attend(q, k, v.to(torch.bfloat16), similarity=(q.detach(), k.detach()), k=K, bias=bias)
    assert not torch.equal(keygraph.key_graph(x.bfloat16(), y.bfloat16(), K), graph)
    rounded = [t.to(torch.bfloat16) for t in (q, k, v)]
    expected = keygraph.attend(
        *rounded, graph=keygraph.key_graph(q.detach(), k.detach(), K), bias=bias.to(torch.bfloat16)
    )
    assert torch.equal(result, expected)
    result.float().sum().backward()
    assert q.grad is not None
    assert bias.grad is not None
    assert bias.grad.dtype == torch.float32


Q, KEY, V = tensors(3, 2)


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((Q, KEY, V), {}, "give k, the number of nodes to attend to, or graph"),
        ((Q, KEY, V), {"k": 3, "graph": Q}, "graph says which nodes are attended to; leave k and similarity out"),
        ((Q, KEY, V), {"graph": Q > 0}, "graph is bool; give the int32 that keygraph.key_graph returns"),
        ((Q.numpy(), KEY, V), {"k": 3}, "query is ndarray; give a tensor"),
        ((Q, KEY[..., :0, :], V[..., :0, :]), {"k": 3}, r"key has shape \[3, 2, 0, 5\], without a node to select"),
        ((Q, KEY, V), {"k": torch.ones(1, dtype=torch.int64, device="meta")}, "k is on meta, and query on cpu; give"),
        ((Q, KEY, V), {"k": 0}, "k is 0; it must be at least 1"),
        ((Q, KEY, V), {"k": 2.0}, "k is 2.0; give an int of at least 1"),
        ((Q, KEY, V), {"k": torch.tensor([1, 2])}, r"k is a tensor int64 of shape \[2\]; give an int, or int64\[1\]"),
        ((Q, KEY, V), {"k": 3, "similarity": Q}, r"similarity must be a pair of tensors, such as \(x, x\)"),
        ((Q, KEY, V), {"k": 3, "similarity": (Q, Q[..., :4])}, r"key_graph: key has shape \[3, 2, 7, 4\]; it must be"),
        ((Q, KEY, V), {"k": 3, "similarity": (Q[:2], KEY[:2])}, r"the selection has shape \[2, 2, 7, 2\]; it must be"),
        ((Q, KEY, V), {"k": 3, "similarity": (Q[:, 0], Q[:, 0])}, r"selection has shape \[3, 7, 1\]; .* \[3, 7, 2\]"),
        ((Q, KEY[:, :1], V), {"k": 3}, r"key has shape \[3, 1, 40, 5\]; it must be \[3, 2, N, 5\] to match query"),
        ((Q, KEY, V[..., 1:, :]), {"k": 3}, r"value has shape \[3, 2, 39, 6\]; it must be \[3, 2, 40, Dv\]"),
        ((Q, KEY, V), {"k": 3, "heads": 4}, "heads is 4; it must divide the last dimension of query, 5"),
        ((Q[0, 0, 0], KEY, V), {"k": 3}, r"query has shape \[5\]; it must be \[..., M, D\]"),
        ((Q, KEY, V), {"k": 3, "bias": torch.zeros(3, 2, 7, 40)}, r"bias has shape \[3, 2, 7, 40\]; .* all windows"),
        ((Q, KEY, V), {"k": 3, "bias": torch.zeros(40, 7)}, r"bias has shape \[40, 7\]; it must broadcast to"),
        ((Q, KEY, V), {"k": 3, "scale": torch.ones(2)}, "scale must be a number; multiply a learned one into query"),
        ((Q, KEY, V.half()), {"k": 3}, "query, key and value are float32, float32, float16; give"),
        ((Q, KEY.half(), V), {"k": 3}, "key_graph: query is float32 and key float16; give both in one type"),
        ((Q.int(), KEY.int(), V.int()), {"k": 3}, r"is int32; give float32, float16 or bfloat16 \(on the CPU also"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(arguments: Any, named: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        keygraph.attend(*arguments, **named)
    assert len(str(error.value)) < 400


def test_float64_is_exact() -> None:
    exact = keygraph.attend(*(each.double() for each in (Q, KEY, V)), k=3)
    assert exact.dtype == torch.float64
    assert (exact - keygraph.attend(Q, KEY, V, k=3)).abs().amax() < 1e-5
    with torch.no_grad():
        inputs = [each[:1, :, :5].double().clone() for each in (Q, KEY, V)]
    assert torch.autograd.gradcheck(
        lambda *given: keygraph.attend(*given, k=3), [each.requires_grad_() for each in inputs]
    )


def test_its_examples() -> None:
    results = doctest.testmod(module, extraglobs={"torch": torch, "keygraph": keygraph})
    assert results.attempted > 0
    assert results.failed == 0
