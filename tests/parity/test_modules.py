"""`compare_modules`: modules of any kind against other modules, functions and ONNX files."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from keygraph.errors import InputError
from keygraph.parity import compare_modules
from keygraph.parity.rounding.long_sums import LongSums
from keygraph.parity.rounding.network import rms_error
from numpy.typing import NDArray
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
    words = f"in {block}, given the same input; within it everywhere else; it computes as with {suspect}"
    assert words in found.reasons[-1]
    assert words in " ".join(str(found).split())


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
    found = compare_modules(faulty, path, data(net))
    assert "DIFFERENT: the rule is: every value finite" in str(found)
    assert found.reasons[1:] == ("the candidate computes as the module with an epsilon of 1e-05",)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.groups = nn.GroupNorm(2, 6)
        self.instances = nn.InstanceNorm2d(6, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return norms, means and a sum over pixels."""
        y = self.groups(x) + self.instances(x)
        return y + x.mean((0, 2), keepdim=True) + x.mean(1).sum() + x.mean()  # type: ignore[no-any-return]


def test_sums_one_value_after_the_other_change_rounding_only() -> None:
    net, x = Pooled().eval(), torch.rand(2, 6, 30, 31) + 3
    with torch.no_grad():
        plain, exact = net(x).numpy(), Pooled().double()(x.double()).numpy()
        with LongSums():
            summed = net(x).numpy()
    size = rms_error(exact, np.zeros(()))
    assert not np.array_equal(plain, summed)
    assert 1e-8 * size < rms_error(summed, exact) < 1e-6 * size


def test_a_runtime_that_sums_pixels_one_after_the_other(tmp_path: Path) -> None:
    """ONNX Runtime's error is 7 times that of PyTorch's pairwise sums."""
    net, x = nn.Sequential(nn.GroupNorm(1, 3)).eval(), data(convnet).new_ones(1, 3, 64, 64)
    x += torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) - 1
    torch.onnx.export(net, (x,), tmp_path / "pixels.onnx", dynamo=True, verbose=False)
    found = compare_modules(net, tmp_path / "pixels.onnx", x)
    assert found.passed, str(found)


class Normed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Divide each channel by its norm over the pixels."""
        norm: Tensor = torch.linalg.vector_norm(x.flatten(2), dim=-1, keepdim=True)
        return x / norm.unsqueeze(-1)


def test_a_runtime_that_adds_squares_to_one_number(tmp_path: Path) -> None:
    """ONNX Runtime's ReduceL2 over 16,384 pixels rounds several times as much as PyTorch's norm."""
    x = torch.rand(1, 24, 128, 128, generator=torch.Generator().manual_seed(0))
    torch.onnx.export(Normed().eval(), (x,), tmp_path / "norm.onnx", dynamo=True, verbose=False)
    found = compare_modules(Normed().eval(), tmp_path / "norm.onnx", x)
    assert found.passed, str(found)
    other = compare_modules(Normed().eval(), lambda image: Normed()(image) * (1 + 1e-5), x)
    assert not other.passed


def test_functions_get_what_was_given() -> None:
    net, x, kinds = encoder(), data(encoder), list[type]()

    def candidate(values: NDArray[Any] | Tensor) -> NDArray[Any] | Tensor:
        kinds.append(type(values))
        result: Tensor = net(torch.as_tensor(values))
        values *= 0  # What it does to its input is its own affair.
        return result.numpy() if isinstance(values, np.ndarray) else result

    for given in (x, x.numpy().astype(np.float64), [x]):
        found = compare_modules(net, candidate, given)
        assert (found.passed, found.blocks, found.candidate) == (True, (), "candidate")
    assert kinds == [Tensor, np.ndarray, Tensor]
    assert torch.equal(x, data(encoder))
    assert not compare_modules(net, lambda values: net(values) * 1.001, x).passed


class Scaled(nn.Module):
    """Computes something beside its modules, which return tuples and take keywords."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.sequence = nn.LSTM(8, 8, batch_first=True)
        self.factor = factor

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """Return features of the shape of x."""
        attended, _ = self.attention(x, key=memory, value=memory, need_weights=False)
        found: Tensor = self.sequence(attended)[0]
        return found * self.factor


def scaled(factor: float) -> Scaled:
    torch.manual_seed(0)
    return Scaled(factor).eval()


def test_several_inputs_keywords_and_a_fault_outside_of_the_blocks() -> None:
    inputs = (torch.randn(1, 5, 8), torch.randn(1, 7, 8))
    found = compare_modules(scaled(1.0), scaled(1.0), inputs)
    assert found.passed, str(found)
    assert [block.name for block in found.blocks] == ["attention"]
    found = compare_modules(scaled(1.0), scaled(1.001), inputs)
    assert found.beyond_rounding == ()
    assert found.reasons[-1] == "rounding explains the error of every block: the fault is outside of them"


def test_modules_without_common_names() -> None:
    found = compare_modules(nn.Sequential(encoder()).eval(), encoder(), data(encoder))
    assert found.passed
    assert found.notes == ("only the outputs were compared: no module has the same name and shapes in both",)


def test_a_candidate_that_computes_otherwise_when_it_is_traced() -> None:
    """PyTorch's fused encoder layer runs the GELU that it was made with, whatever `activation` is now."""
    candidate = encoder()
    set_attribute("layers.1", "activation", lambda x: functional.gelu(x, approximate="tanh"))(candidate)
    found = compare_modules(encoder(), candidate, data(encoder))
    assert [one.name for one in found.beyond_rounding] == ["layers.1"]
    assert "while its blocks are read" in found.notes[0]


def test_one_layer_in_half_precision_is_a_fault_and_a_whole_network_is_not() -> None:
    class Half(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x.bfloat16(), self.weight, self.bias).float()

    candidate = convnet()
    candidate[5] = Half(12, 12).eval().bfloat16()  # type: ignore[operator]
    candidate[5].load_state_dict(convnet()[5].state_dict())  # type: ignore[index]
    found = compare_modules(convnet(), candidate, data(convnet))
    assert [one.name for one in found.beyond_rounding] == ["5"]
    assert compare_modules(convnet(), candidate, data(convnet), precision="bf16").passed
    assert not compare_modules(convnet(), convnet().bfloat16(), data(convnet), precision="fp16").passed


def test_values_that_are_not_finite() -> None:
    candidate = convnet()
    change_weight("5.bias", lambda bias: bias.index_fill(0, torch.tensor([3]), torch.nan))(candidate)
    found = compare_modules(convnet(), candidate, data(convnet))
    assert found.reasons == (
        "the candidate gives 2 NaN or infinite values",
        "NaN or infinite values in 5, given the same input; within it everywhere else",
    )
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["error"]["found"] is None


def test_the_result_as_json() -> None:
    found = compare_modules(convnet(), convnet().half(), data(convnet))
    values = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (values["passed"], values["reasons"], values["reference"]) == (True, [], "Sequential")
    assert values["error"]["times"] == pytest.approx(found.error.times)
    assert [block["name"] for block in values["blocks"]] == [block.name for block in found.blocks]
    assert values["blocks"][0]["error"]["times"] == pytest.approx(found.blocks[0].error.times)


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Return x with dropout, also in evaluation mode."""
        return functional.dropout(x)


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Return a product that has no float64."""
        return x @ torch.eye(24)


@pytest.mark.parametrize(
    ("module", "candidate", "inputs", "words"),
    [
        (Noisy(), Noisy(), None, "the module gives different outputs in two runs"),
        (Constant(), Constant(), None, "rounding cannot be measured: the network does not run in fp64: expected m1"),
        (nn.LSTM(24, 4), nn.Identity(), None, "the module returns tuple, not one floating-point array or tensor"),
        (nn.Identity(), lambda x: [x], None, "the candidate returns list, not one"),
        (nn.Identity(), lambda x: x.long(), None, "the candidate returns torch.int64, not one"),
        (nn.Identity(), lambda x: x[:1], None, r"the candidate's output has shape \(1, 9, 24\), the module's \(2, 9"),
        (nn.Identity(), lambda x: x[:, :, 99], None, "the candidate fails on these inputs: IndexError: index 99 is"),
        (nn.Linear(24, 2).double(), nn.Identity(), None, "the module's weight is float64 on cpu; it must be float32"),
        (nn.Linear(23, 2), nn.Identity(), None, "the module fails on these inputs: RuntimeError: mat1 and mat2"),
        (nn.Identity(), 3, None, "the candidate is of type int; give a torch.nn.Module, a function or the path"),
        (torch.sin, nn.Identity(), None, "the reference is of type builtin_function_or_method, not a torch.nn.Module"),
        (nn.Identity(), "absent.onnx", None, "absent.onnx: no such file"),
        (nn.Identity(), __file__, None, "ONNX Runtime cannot open it: "),
        (nn.Identity(), nn.Identity(), torch.ones(3, dtype=torch.int64), "input 0 is torch.int64, not a floating"),
        (nn.Identity(), nn.Identity(), [[1.0]], "input 0 is list, not a floating-point array or tensor"),
        (nn.Identity(), nn.Identity(), (), "there are no inputs"),
        (nn.Identity(), nn.Identity(), torch.ones(0, 3), r"input 0 is empty: its shape is \(0, 3\)"),
        (nn.Identity(), nn.Identity(), torch.tensor([torch.nan]), "the module's output has NaN or infinite values"),
    ],
)
def test_what_cannot_be_used(module: nn.Module, candidate: object, inputs: object, words: str) -> None:
    given = data(encoder) if inputs is None else inputs
    for side in (module, candidate):
        if isinstance(side, nn.Module):
            side.eval()
    with pytest.raises(InputError, match=words) as error:
        compare_modules(module, candidate, given)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_training_mode_and_precision() -> None:
    candidate = encoder()
    candidate.get_submodule("layers.1").train()
    with pytest.raises(InputError, match=re.escape("the candidate: its module layers.1 is in training mode")):
        compare_modules(encoder(), candidate, data(encoder))
    with pytest.raises(InputError, match=re.escape("the module is in training mode; call eval() first")):
        compare_modules(encoder().train(), encoder(), data(encoder))
    with pytest.raises(InputError, match="there is no precision 'int8'; choose from fp32, fp16, bf16"):
        compare_modules(encoder(), encoder(), data(encoder), precision="int8")


def test_files_that_cannot_be_compared(tmp_path: Path) -> None:
    torch.onnx.export(nn.LSTM(4, 4).eval(), (torch.randn(3, 1, 4),), tmp_path / "several.onnx", verbose=False)
    with pytest.raises(InputError, match=r"several.onnx has 3 outputs; only files with one can be compared"):
        compare_modules(encoder(), tmp_path / "several.onnx", data(encoder))
    torch.onnx.export(encoder(), (data(encoder),), tmp_path / "one.onnx", verbose=False)
    with pytest.raises(InputError, match=r"one.onnx has 1 input, not the 2 that are given"):
        compare_modules(scaled(1.0), tmp_path / "one.onnx", (torch.randn(1, 5, 8), torch.randn(1, 7, 8)))


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/how-to/compare-your-modules.md: its code in the order of the page, and the report that it shows."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "compare-your-modules.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    make, compare, others, in_a_test = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(make, names)
    torch.testing.assert_close(names["port"](torch.ones(1, 5, 6)), names["model"](torch.ones(1, 5, 6)))
    exec(compare, names)
    first = names["found"].beyond_rounding[0]
    assert (first.name, first.suspect) == ("encoder.layers.0.norm1", "an epsilon of 1e-06")
    number = r"\d[\d.,e-]*"
    shown = re.search(r"^    candidate  Classifier.*?(?=\n\S)", page, flags=re.DOTALL | re.MULTILINE)
    assert shown is not None
    reports = [" ".join(re.sub(number, "0", text).split()) for text in (shown[0], str(names["found"]))]
    assert reports[0] == reports[1]
    exec(others, names)
    exec(in_a_test, names)
    with pytest.raises(AssertionError, match="DIFFERENT: the rule is"):
        names["test_port"]()
