"""KGT: shapes, k, configuration, and the properties that the paper states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from keygraph.errors import InputError
from keygraph.models import kgt
from keygraph.models.kgt import KGT, PRESETS, Attention, KGTConfig, Layer, Stage, run_size, stage_levels
from keygraph.models.windows import merge_windows, partition_windows, pixel_unshuffle, rotate
from keygraph.plugins.torch import key_graph, key_graph_attention, recorded_graphs, unpack_graph, use_attention
from torch._subclasses.fake_tensor import FakeTensorMode

UNET = KGTConfig(body="unet", layers=(1, 1, 1, 1), channels=8, heads=2, window=4, k=5)


def first_stage(model: KGT) -> Stage:
    stage = model.body[0]
    assert isinstance(stage, Stage)
    return stage


def random_model(config: KGTConfig) -> KGT:
    torch.manual_seed(0)
    return KGT(config).eval()


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 3), (1, 3), (31, 31)])
def test_columnar_shapes(scale: int, inputs: int, outputs: int) -> None:
    config = KGTConfig(
        layers=(1, 2), channels=8, heads=2, window=4, k=5, scale=scale, in_channels=inputs, out_channels=outputs
    )
    image = torch.rand(2, inputs, 8, 12)
    assert random_model(config)(image).shape == (2, outputs, 8 * scale, 12 * scale)


def test_unet_shapes_and_size_rule() -> None:
    config = KGTConfig(body="unet", layers=(1, 1, 2, 1, 1, 1), channels=8, heads=2, window=4, k=5)
    assert config.size_multiple == 16
    assert stage_levels(config) == [0, 1, 2, 1, 0, 0]
    assert random_model(config)(torch.rand(1, 3, 16, 32)).shape == (1, 3, 16, 32)


def test_k_is_chosen_in_forward_and_every_layer_of_a_stage_shares_one_graph() -> None:
    model = random_model(KGTConfig(layers=(3, 1), channels=8, heads=2, window=4, k=5))
    image = torch.rand(1, 3, 8, 8)
    for k, expected in ((None, 5), (3, 3), (torch.tensor([16]), 16)):
        with recorded_graphs() as graphs:
            model(image, k)
        assert len(graphs) == 2  # One for each stage, not for each layer.
        assert all((unpack_graph(graph, 16).sum(-1) == expected).all() for graph in graphs)


def test_k_changes_the_result() -> None:
    model = random_model(UNET)
    image = torch.rand(1, 3, 8, 8)
    assert not torch.equal(model(image, 2), model(image, 16))


def test_a_layer_attends_to_the_selected_nodes_only() -> None:
    model = random_model(KGTConfig(layers=(1,), channels=8, heads=2, window=4, k=4))
    stage, nodes = first_stage(model), torch.randn(1, 16, 8)
    layer = stage.layers[0]
    assert isinstance(layer, Layer)
    graph = stage.graph(nodes, torch.tensor([4]))
    selected = unpack_graph(graph, 16)[0, 0, 0]
    outside = (~selected).nonzero()[-1]
    changed = nodes.clone()
    changed[0, outside] += 1
    assert torch.equal(layer(nodes[0], graph)[0], layer(changed[0], graph)[0])
    inside = selected.nonzero()[-1]
    changed[0, inside] += 1
    assert not torch.equal(layer(nodes[0], graph)[0], layer(changed[0], graph)[0])


def test_windows_are_independent_without_convolutions_and_shift() -> None:
    stage = first_stage(random_model(KGTConfig(layers=(1,), channels=8, heads=2, window=4, k=16, shift=False)))
    torch.nn.init.dirac_(stage.conv.weight)
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[:, :, :4, :4] += 1
    difference = (stage(x, torch.tensor([16])) != stage(changed, torch.tensor([16]))).any(1)[0]
    assert difference[:4, :4].all()
    assert not difference[4:].any()
    assert not difference[:, 4:].any()


def test_shifted_stages_see_across_window_borders() -> None:
    config = KGTConfig(layers=(1, 1), channels=8, heads=2, window=4, k=16)
    assert [stage.shift for stage in random_model(config).body] == [0, 2]


def test_position_bias_and_cosine_similarity_work() -> None:
    config = KGTConfig(layers=(1,), channels=8, heads=2, window=4, k=5, position_bias=True, similarity="cosine")
    model = random_model(config)
    image = torch.rand(1, 3, 8, 8)
    before = model(image)
    with torch.no_grad():
        model.get_parameter("body.0.layers.0.attention.position_bias.table").normal_()
    assert not torch.equal(before, model(image))


def test_cosine_similarity_ignores_length() -> None:
    stage = first_stage(random_model(KGTConfig(layers=(1,), channels=8, heads=2, window=4, similarity="cosine")))
    nodes = torch.randn(1, 16, 8)
    longer = nodes.clone()
    longer[:, 3] *= 50
    k = torch.tensor([4])
    assert torch.equal(stage.graph(nodes, k), stage.graph(longer, k))


@pytest.mark.parametrize("implementation", ["gather", "sdpa"])
def test_every_attention_gives_the_reference_result(implementation: str) -> None:
    model, image = random_model(UNET), torch.rand(1, 3, 8, 16)
    expected = model(image)
    with use_attention(implementation):
        torch.testing.assert_close(model(image), expected, atol=1e-5, rtol=1e-5)


def test_training_reaches_every_parameter() -> None:
    model = KGT(KGTConfig(layers=(1,), channels=8, heads=2, window=4, k=5, position_bias=True))
    model(torch.rand(1, 3, 4, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_windows_round_trip() -> None:
    x = torch.randn(2, 3, 8, 12)
    nodes = partition_windows(x, 4)
    assert nodes.shape == (12, 16, 3)
    assert torch.equal(nodes[1, 0], x[0, :, 0, 4])
    assert torch.equal(merge_windows(nodes, 4, 8, 12), x)


def test_rotate_and_pixel_unshuffle_are_torchs() -> None:
    x = torch.randn(2, 3, 8, 12)
    assert torch.equal(rotate(x, 3), x.roll((-3, -3), (2, 3)))
    assert torch.equal(rotate(rotate(x, 3), -3), x)
    assert torch.equal(pixel_unshuffle(x), torch.nn.functional.pixel_unshuffle(x, 2))


#: Parameters of each preset, in millions.
MILLIONS = {"kgt-small-sr": 1.36, "kgt-base-sr": 15.83, "kgt-small": 7.22, "kgt-base": 20.18}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name: str) -> None:
    config = PRESETS[name]
    size = config.size_multiple
    with FakeTensorMode():
        network = KGT(config)
        restored = network(torch.rand(1, config.in_channels, size, size))
    assert restored.shape == (1, config.out_channels, size * config.scale, size * config.scale)
    assert sum(parameter.numel() for parameter in network.parameters()) / 1e6 == pytest.approx(
        MILLIONS[name], abs=0.005
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"body": "tower"}, "body"),
        ({"layers": ()}, "layers"),
        ({"layers": (1, 0)}, "layers"),
        ({"body": "unet", "layers": (1, 1, 1)}, "layers"),
        ({"body": "unet", "layers": (1,) * 4, "scale": 2}, "scale"),
        ({"channels": 10, "heads": 3}, "channels"),
        ({"window": 0}, "window"),
        ({"k": 0}, "k"),
        ({"k": 2.5}, "k"),
        ({"scale": 5}, "scale"),
        ({"similarity": "l2"}, "similarity"),
        ({"ffn_ratio": 0}, "ffn_ratio"),
        ({"in_channels": "3"}, "in_channels"),
    ],
)
def test_impossible_configurations_are_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"KGTConfig\.{field} is .*; it must be"):
        KGTConfig(**changes)


@pytest.mark.parametrize(
    ("device", "dtype", "size"),
    [
        ("cuda", torch.float16, 32),
        ("cuda", torch.bfloat16, 32),
        ("cuda", torch.float32, 30),
        ("cpu", torch.float16, 30),
        ("cpu", torch.float32, 30),
    ],
)
def test_heads_are_padded_on_gpus_in_half_precision(device: str, dtype: torch.dtype, size: int) -> None:
    with FakeTensorMode():
        assert run_size(30, torch.empty(1, device=device, dtype=dtype)) == size


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_padded_heads_compute_the_same_with_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bias: bool
) -> None:
    torch.manual_seed(0)
    attention = Attention(channels=60, heads=2, window=8, position_bias=bias).to(dtype)
    tokens = torch.randn(2 * 64, 60).to(dtype)
    nodes = tokens.view(2, 1, 64, 60)
    graph = key_graph(nodes, nodes, torch.tensor([20]))
    sizes = []

    def run(size: int) -> list[torch.Tensor]:
        def attend(q: torch.Tensor, *rest: object, **options: object) -> torch.Tensor:
            sizes.append(q.shape[-1])
            return key_graph_attention(q, *rest, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(kgt, "run_size", lambda _size, _tokens: size)
        monkeypatch.setattr(kgt, "key_graph_attention", attend)
        leaf = tokens.clone().requires_grad_()
        result = attention(leaf, graph)
        return [result, *torch.autograd.grad(result.square().sum(), [leaf, *attention.parameters()])]

    plain, padded = run(30), run(32)
    assert sizes == [60, 64]
    epsilon = torch.finfo(dtype).eps
    for one, other in zip(padded, plain, strict=True):
        # The added zeros may change the order of a sum.
        torch.testing.assert_close(one, other, rtol=0, atol=8 * epsilon * float(other.detach().abs().max()))
    assert padded[0].shape == tokens.shape
