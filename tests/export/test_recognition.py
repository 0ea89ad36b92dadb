"""Attentions to a top-k are found however they are written, and nothing else is taken for one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from attention_dialects import CHANNELS, DIALECTS, LOOKALIKES, NODES, PACKED, Attention, Dialect, K
from keygraph.export.attention_forms import unify_attentions
from keygraph.export.functions import DOMAIN, OPSET, VERSION, operator_functions
from keygraph.export.recognition import (
    Case,
    Recognition,
    Verdict,
    recognize,
    recognize_verified,
    verification_cases,
)
from keygraph.export.recognition.verification import check_attentions
from keygraph.export.schemas import translation_table
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Interpreter, Node

KEY_GRAPH, ATTENTION = torch.ops.keygraph.key_graph.default, torch.ops.keygraph.key_graph_attention.default


class Several(nn.Module):
    """Every dialect on the same nodes; a module's path is the dialect's name."""

    def __init__(self, dialects: dict[str, Dialect]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.names = list(dialects)
        for name, function in dialects.items():
            self.add_module(name, Attention(function))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [getattr(self, name)(x) for name in self.names]


def exported(module: nn.Module, *inputs: Tensor, dynamic: Any = None) -> ExportedProgram:
    dynamic = dynamic or tuple({0: 2 * Dim("images", max=32)} for _ in inputs)
    program: ExportedProgram = torch.export.export(module.eval(), inputs, dynamic_shapes=dynamic)
    decomposed: ExportedProgram = program.run_decompositions({})
    return decomposed


def nodes(seed: int, windows: int) -> Tensor:
    return torch.randn(windows, NODES, CHANNELS, generator=torch.Generator().manual_seed(seed))


def targets(program: ExportedProgram) -> list[Any]:
    return [node.target for node in program.graph.nodes]


Found = tuple[dict[str, Tensor], dict[str, Tensor], list[Verdict], set[Any]]

#: Dialects in one program: tracing takes longer for each in a large one.
PROGRAM = 12


def _found(dialects: dict[str, Dialect]) -> Found:
    """Each dialect's result by itself and in a rewritten program, for another batch than that was traced with."""
    expected: dict[str, Tensor] = {}
    computed: dict[str, Tensor] = {}
    verdicts: list[Verdict] = []
    left: set[Any] = set()
    names, x = list(dialects), nodes(1, 4)
    for start in range(0, len(names), PROGRAM):
        some = names[start : start + PROGRAM]
        module = Several({name: dialects[name] for name in some})
        found = recognize(exported(module, nodes(0, 6)))
        with torch.no_grad():
            expected |= zip(some, module(x), strict=True)
            computed |= zip(some, found.program.module()(x), strict=True)
        verdicts += found.verdicts
        left |= set(targets(found.program))
    return expected, computed, verdicts, left


@pytest.fixture(scope="module")
def dialects() -> Found:
    return _found(DIALECTS)


@pytest.fixture(scope="module")
def packed() -> Found:
    return _found({name: function for name, (function, _) in PACKED.items()})


@pytest.fixture(scope="module")
def lookalikes() -> Found:
    torch.manual_seed(0)
    return _found({name: function for name, (function, _) in LOOKALIKES.items()})


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_is_fused(name: str, dialects: Found) -> None:
    expected, computed, found, _ = dialects
    verdicts = [verdict for verdict in found if verdict.module == name]
    assert verdicts
    assert [str(verdict) for verdict in verdicts if not verdict.fused] == []
    assert {verdict.k for verdict in verdicts} == {K}
    # In bfloat16, whose numbers are 2^-8 apart, the module itself rounds its scores and weights.
    tolerance = 2**-6 if name == "autocast" else 1e-5
    size = expected[name].max() - expected[name].min()
    assert (computed[name] - expected[name]).abs().max() <= tolerance * size


def test_nothing_is_left_of_fused_attentions(dialects: Found) -> None:
    names = {str(target).split(".")[1] for target in dialects[3] if str(target).startswith("aten.")}
    assert not names & {"topk", "sort", "argsort", "scatter", "gather", "masked_fill", "einsum", "bmm", "one_hot"}
    assert not names & {"scaled_dot_product_attention", "cdist", "where", "exp", "baddbmm"}


@pytest.mark.parametrize("name", PACKED)
def test_other_selections_are_packed(name: str, packed: Found) -> None:
    expected, computed, found, _ = packed
    (verdict,) = (verdict for verdict in found if verdict.module == name)
    assert (verdict.packed, verdict.fused) == (True, False)
    assert PACKED[name][1] in verdict.reason
    fills = name == "above_a_border_added_as_a_number"
    empty = f"; a row that selects no node {'attends to all nodes' if fills else 'becomes zero'}"
    assert str(verdict) == f"`{name}`: packed; {verdict.reason}{'' if verdict.k else empty}"
    # Of a row without nodes the module's softmax is NaN.
    assert (name == "masked_by_two_selections") is bool(expected[name].isnan().any())
    torch.testing.assert_close(computed[name], expected[name].nan_to_num(0.0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("border", [100.0, 1.0, -100.0], ids=["all", "some", "none"])
def test_empty_rows_of_an_added_mask_attend_to_all_nodes(border: float) -> None:
    def added(q: Tensor, k: Tensor, v: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        return (q @ k.mT - 1000.0 * (q @ k.mT <= border) + bias).softmax(-1) @ v

    torch.manual_seed(0)
    module, x = Several({"added": added}), nodes(1, 4)
    found = recognize(exported(module, nodes(0, 6)))
    assert [verdict.packed for verdict in found.verdicts] == [True]
    with torch.no_grad():
        (expected,), (computed,) = module(x), found.program.module()(x)
    # Scores beside -1000 are rounded to 6e-5.
    torch.testing.assert_close(computed, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["added_large_number", "above_a_border_added_as_a_number"])
def test_checking_attentions_keeps_no_more_values_in_a_deeper_network(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 36 layers, each with 25 million scores, did not fit into 23 GB."""
    function = DIALECTS[name] if name in DIALECTS else PACKED[name][0]
    kept = [0]
    run = Interpreter.run_node

    def counted(interpreter: Interpreter, node: Node) -> Any:
        kept[-1] = max(kept[-1], sum(one.op == "call_function" for one in interpreter.env))
        return run(interpreter, node)

    monkeypatch.setattr(Interpreter, "run_node", counted)
    for depth in (2, 6):
        program = exported(nn.Sequential(*(Attention(function) for _ in range(depth))), nodes(0, 6))
        kept.append(0)
        assert check_attentions(program, Case("noise", (nodes(1, 4),))).failures == {}
    assert 0 < kept[2] <= kept[1] + 2


def test_nothing_is_left_of_packed_attentions(packed: Found) -> None:
    names = {str(target).split(".")[1] for target in packed[3] if str(target).startswith("aten.")}
    assert not names & {"masked_fill", "where", "gather", "scaled_dot_product_attention"}


@pytest.mark.parametrize("name", LOOKALIKES)
def test_no_lookalike_is_fused(name: str, lookalikes: Found) -> None:
    expected, computed, found, _ = lookalikes
    verdicts = [verdict for verdict in found if verdict.module == name]
    assert [verdict.fused or verdict.packed for verdict in verdicts] in ([False], [False, False])
    assert any(LOOKALIKES[name][1] in verdict.reason for verdict in verdicts)
    assert all(str(verdict) == f"`{name}`: {verdict.reason}" for verdict in verdicts)
    if name != "random_selection":
        torch.testing.assert_close(computed[name], expected[name], rtol=0, atol=0, equal_nan=True)


def test_selections_that_keep_ties_are_told_apart(dialects: Found) -> None:
    keeping = {verdict.module for verdict in dialects[2] if verdict.keeps_ties}
    assert keeping == {
        *("threshold", "threshold_of_the_dropped", "threshold_of_own_scores", "threshold_by_a_list"),
        *("threshold_expanded", "kthvalue", "sorted_ascending", "strictly_above_the_next"),
    }
    line = next(str(verdict) for verdict in dialects[2] if verdict.module == "threshold")
    assert line == f"`threshold`: fused, k = {K}; of nodes that tie with the k-th, the first are kept, not all"


class Windows(nn.Module):
    """A network of images: windows of 4 x 4, several layers on one similarity."""

    def __init__(self, *attend: Callable[..., Tensor], scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.qkv = nn.ModuleList(nn.Linear(8, 24) for _ in attend)
        self.attend, self.scale = attend, scale
        self.bias = nn.Parameter(torch.randn(2, 16, 16))

    def forward(self, image: Tensor) -> Tensor:
        features = self.head(image)
        b, c, h, w = features.shape
        x = features.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        similarity = x @ x.mT
        for qkv, attend in zip(self.qkv, self.attend, strict=True):
            q, k, v = qkv(x).view(-1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            x = x + attend(q * self.scale, k, v, similarity, self.bias).transpose(1, 2).flatten(2)
        x = x.view(b, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        result: Tensor = self.tail(x)
        return image + result


def scattered(q: Tensor, k: Tensor, v: Tensor, similarity: Tensor, bias: Tensor) -> Tensor:
    selected = torch.zeros_like(similarity, dtype=torch.bool).scatter(-1, similarity.topk(5).indices, True)
    return (q @ k.mT).masked_fill(~selected[:, None], -torch.inf).softmax(-1) @ v


def thresholded(q: Tensor, k: Tensor, v: Tensor, similarity: Tensor, bias: Tensor) -> Tensor:
    selected = similarity >= similarity.topk(5).values[..., -1:]
    return (q @ k.mT + bias).masked_fill(~selected[:, None], -torch.inf).softmax(-1) @ v


def sorted_out(q: Tensor, k: Tensor, v: Tensor, similarity: Tensor, bias: Tensor) -> Tensor:
    chosen = similarity.argsort(-1, descending=True)[..., :5]
    selected = torch.zeros_like(similarity).scatter(-1, chosen, 1.0)
    return (q @ k.mT + bias).masked_fill(selected[:, None] == 0, -1e9).softmax(-1) @ v


def filled_with_minus_100(q: Tensor, k: Tensor, v: Tensor, similarity: Tensor, bias: Tensor) -> Tensor:
    selected = torch.zeros_like(similarity, dtype=torch.bool).scatter(-1, similarity.topk(5).indices, True)
    return (q @ k.mT - 200 * (bias > 0)).masked_fill(~selected[:, None], -100.0).softmax(-1) @ v


def saturated(q: Tensor, k: Tensor, v: Tensor, similarity: Tensor, bias: Tensor) -> Tensor:
    chosen = (similarity * 1e4).softmax(-1).topk(5).indices
    selected = torch.zeros_like(similarity, dtype=torch.bool).scatter(-1, chosen, True)
    return (q @ k.mT).masked_fill(~selected[:, None], -torch.inf).softmax(-1) @ v


GOOD = (scattered, scattered, thresholded, sorted_out)


@functools.cache
def windows(*attend: Callable[..., Tensor]) -> tuple[Windows, ExportedProgram]:
    module = Windows(*attend)
    rows, columns = (4 * Dim(name, max=64) for name in ("rows", "columns"))
    dynamic = ({0: Dim("batch", max=64), 2: rows, 3: columns},)
    return module, exported(module, torch.rand(2, 3, 8, 12), dynamic=dynamic)


def verified(module: nn.Module, program: ExportedProgram) -> tuple[Recognition, list[str]]:
    steps: list[str] = []
    return recognize_verified(program, module, verification_cases(3, 4, (0.0, 1.0)), (0.0, 1.0), steps.append), steps


def test_images_of_all_kinds_and_sizes_verify() -> None:
    cases = verification_cases(3, 4, (0.0, 255.0))
    assert {case.name.split()[0] for case in cases} == {"photograph", "flat", "noise"}
    shapes = {tuple(case.inputs[0].shape) for case in cases}
    assert {shape[0] for shape in shapes} == {1, 2}
    assert len({shape[2:] for shape in shapes}) == 3
    assert all(side % 4 == 0 for shape in shapes for side in shape[2:])
    assert max(float(case.inputs[0].max()) for case in cases) > 250


def test_verified_attentions_are_fused_ties_included() -> None:
    module, program = windows(*GOOD)
    found, steps = verified(module, program)
    assert [str(verdict) for verdict in found.verdicts if not verdict.fused] == []
    assert found.fused == 4
    assert steps[0] == "checking attentions on photograph 1x24x48"
    assert steps[-1] == "comparing with the module on noise 1x52x24"
    image = torch.rand(1, 3, 20, 16)
    with torch.no_grad():
        torch.testing.assert_close(found.program.module()(image), module(image), rtol=0, atol=1e-5)


def test_layers_share_a_key_graph_unless_ties_differ() -> None:
    used = targets(recognize(windows(*GOOD)[1]).program)
    assert (used.count(KEY_GRAPH), used.count(ATTENTION)) == (3, 4)


def test_attention_that_computes_something_else_is_not_fused() -> None:
    module, program = windows(scattered, filled_with_minus_100, saturated)
    assert recognize(program).fused == 3
    found, _ = verified(module, program)
    assert [verdict.fused for verdict in found.verdicts] == [True, False, False]
    assert "its result differs by" in found.verdicts[1].reason
    assert "links are selected by one side only" in found.verdicts[2].reason
    assert all("its verification failed on photograph" in verdict.reason for verdict in found.verdicts[1:])
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(found.program.module()(image), module(image), rtol=0, atol=1e-5)


def test_network_that_differs_from_its_program_is_not_fused() -> None:
    found, _ = verified(Windows(*GOOD, scale=2.0).eval(), windows(*GOOD)[1])
    assert found.fused == 0
    assert all("dB from the module's" in verdict.reason for verdict in found.verdicts)


def test_excluded_attentions_stay() -> None:
    _, program = windows(*GOOD)
    first, *others = recognize(program).verdicts
    found = recognize(program, {first.softmax: "told so"})
    assert found.verdicts == (Verdict("", first.softmax, False, reason="told so", nodes=16), *others)
    assert str(found.verdicts[0]) == "the model: told so"
    assert targets(found.program).count(ATTENTION) == 3


def test_the_given_program_is_not_changed() -> None:
    _, program = windows(*GOOD)
    before = program.graph_module.code
    assert recognize(program).fused == 4
    assert program.graph_module.code == before
    assert not any("keygraph_value" in node.meta for node in program.graph.nodes)


def test_heads_are_last_and_biases_are_only_where_they_were() -> None:
    program = recognize(windows(*GOOD)[1]).program
    attentions = [node for node in program.graph.nodes if node.target is ATTENTION]
    assert [node.args[6] for node in attentions] == [2] * 4
    assert 0 < sum(node.args[4] is not None for node in attentions) < 4
    # Heads are last in q, k and v without being moved there.
    assert {str(each.target) for node in attentions for each in node.args[1:3]} == {"aten.reshape.default"}
    assert {str(each.args[0].target) for node in attentions for each in node.args[1:3]} == {"aten.select.int"}


class Headless(nn.Module):
    """Windows beside the batch, [B, W, N, C], and no heads."""

    def __init__(self, by: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head, self.qkv, self.by = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 24), by
        self.tail, self.bias = nn.Conv2d(8, 3, 3, padding=1), nn.Parameter(torch.randn(16, 16))

    def forward(self, image: Tensor) -> Tensor:
        features = self.head(image)
        b, c, h, w = features.shape
        x = features.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(b, -1, 16, c)
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.mT
        ranked = {"scores": scores, "bias": scores + self.bias, "other": scores.abs()}[self.by]
        selected = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, ranked.topk(5).indices, True)
        x = x + (scores + self.bias).masked_fill(~selected, -torch.inf).softmax(-1) @ v
        x = x.view(b, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        result: Tensor = image + self.tail(x)
        return result


@pytest.mark.parametrize(("by", "fused"), [("scores", 1), ("bias", 0), ("other", 0)])
def test_windows_of_a_number_that_depends_on_the_size_are_no_heads(by: str, fused: int) -> None:
    module = Headless(by).eval()
    rows, columns = (4 * Dim(name, max=64) for name in ("rows", "columns"))
    program = exported(module, torch.rand(2, 3, 8, 12), dynamic=({0: Dim("batch", max=64), 2: rows, 3: columns},))
    found, _ = verified(module, program)
    assert (found.fused, found.packed) == (fused, 1 - fused)
    image = torch.rand(3, 3, 20, 16)
    with torch.no_grad():
        torch.testing.assert_close(found.program.module()(image), module(image), rtol=0, atol=1e-5)


def test_program_becomes_an_onnx_file() -> None:
    module, original = windows(*GOOD)
    traced = torch.onnx.export(
        recognize(original).program,
        (),
        dynamo=True,
        opset_version=OPSET,
        custom_translation_table=translation_table(),
        verbose=False,
    )
    assert traced is not None
    unify_attentions(traced.model.graph)
    proto = traced.model_proto
    used = [node.op_type for node in proto.graph.node if node.domain == DOMAIN]
    assert (used.count("KeyGraph"), used.count("KeyGraphAttention")) == (1, 4)
    proto.functions.extend(operator_functions(bias=True, heads_last=True))
    if DOMAIN not in {given.domain for given in proto.opset_import}:
        proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    image = torch.rand(3, 3, 12, 20)
    (restored,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(restored, module(image).numpy(), rtol=0, atol=1e-5)


class Channels(nn.Module):
    """Attention between channels, whose vectors are as long as the image."""

    def forward(self, x: Tensor) -> Tensor:
        q = nn.functional.normalize(x.flatten(2), dim=-1)
        attention = q @ q.mT
        selected = torch.zeros_like(attention).scatter(-1, attention.topk(3).indices, 1.0)
        weights = torch.where(selected > 0, attention, -torch.inf).softmax(-1)
        return (weights @ x.flatten(2)).view(x.shape)


def test_attention_between_channels_stays_dense() -> None:
    dynamic = ({2: Dim("rows", max=64), 3: Dim("columns", max=64)},)
    (verdict,) = recognize(exported(Channels(), torch.rand(1, 8, 4, 6), dynamic=dynamic)).verdicts
    assert verdict.reason == "it is faster as it is: 8 nodes of as many channels as the image has pixels"


class Whole(nn.Module):
    """Attention between all pixels, to a share of them."""

    def forward(self, x: Tensor) -> Tensor:
        attention = x @ x.mT
        chosen = attention.argsort(-1, descending=True)[..., : x.shape[1] // 2]
        selected = torch.zeros_like(attention, dtype=torch.bool).scatter(-1, chosen, True)
        return attention.masked_fill(~selected, -torch.inf).softmax(-1) @ x


def test_a_share_of_the_nodes_is_no_k() -> None:
    dynamic = ({1: 2 * Dim("n", min=2, max=64)},)
    (verdict,) = recognize(exported(Whole(), torch.rand(1, 12, 4), dynamic=dynamic)).verdicts
    assert verdict.reason == "k depends on the image's size"


def test_a_program_without_attention_is_returned() -> None:
    found = recognize(exported(nn.Linear(4, 4), torch.rand(4, 4)))
    assert found.verdicts == ()
    assert targets(found.program).count(ATTENTION) == 0
    assert found.program.module()(torch.ones(2, 4)).shape == (2, 4)
