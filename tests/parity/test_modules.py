"""`compare_modules`: modules of any kind against other modules, functions and ONNX files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from keygraph.parity import compare_modules
from torch import Tensor, nn
from torch.nn import functional

pytestmark = pytest.mark.usefixtures("one_thread")

Fault = Callable[[nn.Module], None]


class Residual(nn.Module):
    """As in ResNets: one activation in place that is called twice, and a sum in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x
        return self.relu(y)  # type: ignore[no-any-return]


def convnet(seed: int = 0) -> nn.Module:
    """A classifier of images of any size, with statistics that are not those of a new network."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.GELU(), nn.Sequential(Residual(12), Residual(12))),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 12), nn.Tanh()),
    )
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean, module.running_var = torch.randn(12) / 4, torch.rand(12) + 0.5
    return net.eval()


def encoder(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(24, 4, 48, activation="gelu", batch_first=True)
    net = nn.TransformerEncoder(layer, 2)
    for parameter in net.parameters():  # All layers are copies of one, without biases.
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.2)
    return net.eval()


def data(net: Callable[..., nn.Module], seed: int = 0) -> Tensor:
    shape = (2, 9, 24) if net is encoder else (2, 3, 17, 20)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def set_attribute(path: str, name: str, value: object) -> Fault:
    return lambda net: setattr(net.get_submodule(path), name, value)


def change_weight(path: str, change: Callable[[Tensor], Tensor]) -> Fault:
    return lambda net: net.get_parameter(path).data.copy_(change(net.get_parameter(path).data))  # type: ignore


def by_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


@pytest.mark.parametrize(
    ("net", "fault", "block", "suspect"),
    [
        (encoder, set_attribute("layers.1.norm2", "eps", 1e-6), "layers.1.norm2", "an epsilon of 1e-06"),
        # A function, so no block of its own. PyTorch's fused layer would leave it out for a function that it knows.
        (encoder, set_attribute("layers.0", "activation", by_tanh), "layers.0", "the other form of GELU"),
        (
            encoder,
            change_weight("layers.1.linear2.weight", lambda w: w.bfloat16().float()),
            "layers.1.linear2",
            "weights in bf16",
        ),
        (
            encoder,
            change_weight("layers.0.self_attn.out_proj.weight", lambda w: w.mT.clone()),
            "layers.0.self_attn",
            "a transposed weight",
        ),
        (convnet, set_attribute("2.1.bn1", "eps", 1e-6), "2.1.bn1", "an epsilon of 1e-06"),
        (convnet, set_attribute("1", "approximate", "tanh"), "1", "the other form of GELU"),
        (convnet, change_weight("2.0.conv2.weight", lambda w: w.bfloat16().float()), "2.0.conv2", "weights in bf16"),
        (convnet, change_weight("5.weight", lambda w: w.mT.clone()), "5", "a transposed weight"),
    ],
)
def test_the_block_and_the_fault_are_named(
    net: Callable[[], nn.Module], fault: Fault, block: str, suspect: str
) -> None:
    candidate = net()
    fault(candidate)
    found = compare_modules(net(), candidate, data(net))
    assert not found.passed
    assert [one.name for one in found.beyond_rounding] == [block]
    assert (found.beyond_rounding[0].suspect or "").startswith(suspect)
    assert f"in {block}, given the same input; within it everywhere else; it computes as with {suspect}" in str(found)


@pytest.mark.parametrize("net", [encoder, convnet])
@pytest.mark.parametrize("seed", range(20))
def test_no_false_alarm(net: Callable[[int], nn.Module], seed: int) -> None:
    module, x = net(seed), data(net, seed)
    for candidate in (copy.deepcopy(module), copy.deepcopy(module).half(), copy.deepcopy(module).bfloat16()):
        found = compare_modules(module, candidate, x)
        assert found.passed, str(found)
        assert (
            found.error.precision
            == {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}[
                str(next(candidate.parameters()).dtype).removeprefix("torch.")
            ]
        )
        assert len(found.blocks) >= 14


@pytest.mark.parametrize("net", [encoder, convnet])
def test_a_file_of_torch_export(net: Callable[[], nn.Module], tmp_path: Path) -> None:
    module, path = net(), tmp_path / "theirs.onnx"
    torch.onnx.export(module, (data(net),), path, dynamo=True, verbose=False)
    found = compare_modules(module, path, data(net).numpy())
    assert found.passed, str(found)
    assert (found.blocks, found.error.precision, found.candidate) == ((), "fp32", str(path))
    faulty = net()
    set_attribute("layers.1.norm2" if net is encoder else "2.1.bn2", "eps", 1e-3)(faulty)
    reported = str(compare_modules(faulty, path, data(net)))
    assert "DIFFERENT" in reported
    assert "the candidate computes as the module with an epsilon of 1e-05" in reported
