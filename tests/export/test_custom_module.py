"""Modules of unknown origin: what is found out by running them, what is refused, and the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import onnx
import onnx_ir as ir
import own_modules
import pytest
import torch
from keygraph import manifest as manifests
from keygraph.errors import InputError, KeygraphError
from keygraph.export import export_module, exporter, trace
from keygraph.export.custom import model as custom_model
from keygraph.export.custom.guards import check_guards
from keygraph.export.custom.sizes import Sizes, shapes
from keygraph.export.custom.trial import Trial
from keygraph.export.trace import capture
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")


def examined(name: str, **options: Any) -> custom_model.CustomModel:
    torch.manual_seed(0)
    module = getattr(own_modules, name)().eval()
    return custom_model.examine(module, name, {}, **options)


def runs_as_the_module(path: Path, module: nn.Module, *sizes: tuple[int, int]) -> None:
    with keygraph.load(path) as restore:
        for height, width in sizes:
            image = np.random.default_rng(0).random((height, width, restore.manifest.in_channels), np.float32)
            with torch.inference_mode():
                expected = module.eval()(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
            np.testing.assert_allclose(restore(image, tile="none"), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Conv", {"in_channels": 3, "out_channels": 3, "scale": 1, "size_multiple": 1, "smallest": 1}),
        ("Upscaling", {"in_channels": 1, "out_channels": 1, "scale": 2, "size_multiple": 1}),
        ("UNet", {"in_channels": 3, "size_multiple": 4, "global_statistics": False}),
        ("Padding", {"size_multiple": 1, "smallest": 5, "global_statistics": False}),
        ("BranchingPadding", {"size_multiple": 1, "smallest": 5}),
        ("WindowOf7", {"size_multiple": 7}),
        ("SqueezeExcitation", {"size_multiple": 1, "global_statistics": True}),
        ("ShiftedWindows", {"size_multiple": 8, "global_statistics": False}),
        ("MultiplesOf4Differ", {"size_multiple": 4}),
    ],
)
def test_the_interface_is_found_by_running(name: str, found: dict[str, Any]) -> None:
    interface = examined(name).interface
    assert {field: getattr(interface, field) for field in found} == found


def test_what_was_found_is_said() -> None:
    assert examined("Padding").notes == (
        "3 -> 3 channels",
        "any height and width, at least 5: found by running sizes",
        "no statistics over the whole image: a change 80 pixels away has no effect",
    )
    (*_, last) = examined("MultiplesOf4Differ").notes
    assert last == (
        "it runs with any size, but its code branches on the size, Ne(Mod(width, 4), 0) (own_modules.py:"
        f"{line_of('* 2 if x.shape[-1] % 4')}): traced for multiples of 4"
    )
    channels, _, statistics = examined("SqueezeExcitation").notes
    assert channels == "3 -> 3 channels"
    assert statistics.startswith("statistics over the whole image: a change 2000 pixels away changes the result by 0.0")


def line_of(code: str) -> int:
    lines = Path(own_modules.__file__).read_text(encoding="utf-8").splitlines()
    (number,) = [i for i, line in enumerate(lines, 1) if code in line]
    return number


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "BatchInShape",
            r"restores one image, but not a batch of 2.*own_modules\.py:\d+; take the batch from the input",
        ),
        ("FirstOfBatch", r"image 2 of a batch of 2 has another result than alone \(\d+ dB\)"),
        ("MeanOfBatch", "the result of an image depends on the other images of its batch"),
        ("TwoResults", "returns a tuple of 2, not a tensor"),
        ("Dictionary", "returns a dict with the keys 'out', not a tensor"),
        ("DependsOnValues", r"a branch or a size at own_modules\.py:\d+ depends on the values of the image"),
        ("InPlace", r"changes the image that it is given in place; write x = x - mean"),
        ("RandomNoise", "gives another result each time"),
        ("MaskToo", r"takes forward\(x.*mask.*cannot be called with an image alone"),
        ("Downscaling", "returns 32 x 32 pixels for 64 x 64"),
        ("Vector", r"returns a tensor of shape \[1, 3\] for images of shape \[1, 3, 64, 64\]"),
        ("OneSize", r"The size of tensor a.*own_modules\.py:\d+ \(tried: 3, 1, .*with --shape, for instance 1x256x256"),
        ("FixedWidth", r"the program holds only where the width is \d+; write"),
        ("LargeBranch", r"the program holds only where width <= 300 \(own_modules\.py:\d+\)"),
    ],
)
def test_what_cannot_be_exported_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        examined(name)
    assert str(refused.value).startswith(name)
    assert len(str(refused.value)) < 600


def test_what_onnx_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"torch\.onnx does not translate aten\.scaled_dot_product_attention\.default"):
        export_module(own_modules.Untranslatable(), tmp_path / "x.onnx", shape=(1, 16, 16))
    assert not list(tmp_path.iterdir())


def test_a_module_that_pads_itself_takes_any_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = own_modules.Padding()
    manifest = export_module(module, tmp_path / "padding.onnx", task="denoising")
    assert (manifest.architecture, manifest.task, manifest.size_multiple, manifest.smallest) == (
        *("custom", "denoising", 1, 5),
    )
    runs_as_the_module(tmp_path / "padding.onnx", module, (5, 5), (8, 64), (37, 41), (120, 7))
    # Smaller images are padded by reflection.
    image = np.random.default_rng(0).random((3, 9, 3), np.float32)
    with keygraph.load(tmp_path / "padding.onnx") as restore:
        padded = np.pad(image, ((0, 2), (0, 0), (0, 0)), mode="reflect")
        np.testing.assert_allclose(restore(image), restore(padded)[:3], atol=1e-6)


def test_what_a_module_keeps_of_earlier_images_is_not_in_the_file(tmp_path: Path) -> None:
    module = own_modules.KeepsMask().eval()
    module(torch.zeros(1, 3, 32, 34))
    before = module.mask
    manifest = export_module(module, tmp_path / "mask.onnx")
    assert (module.size, module.mask) == ((32, 34), before)
    assert manifest.size_multiple == 1
    runs_as_the_module(tmp_path / "mask.onnx", module, (32, 34), (7, 50), (1, 1))


def test_the_file_says_where_it_comes_from(tmp_path: Path) -> None:
    manifest = export_module(own_modules.UNet(), tmp_path / "unet.onnx", value_range=(-1, 1))
    metadata = {p.key: p.value for p in onnx.load(tmp_path / "unet.onnx").metadata_props}
    assert manifests.from_metadata(metadata, "unet.onnx") == manifest
    assert manifest.configuration["entry_point"] == "own_modules.UNet"
    assert list(manifest.configuration["source"]) == ["own_modules.py"]
    assert manifest.value_range == (-1, 1)
    assert str(tmp_path) not in json.dumps(manifest.configuration)


def test_verification_tries_batches_sizes_and_contents(tmp_path: Path) -> None:
    manifest = export_module(own_modules.UNet(), tmp_path / "unet.onnx")
    assert manifest.verification is not None
    checks = manifest.verification["standard operators"]["checks"]
    assert {check["content"] for check in checks} == {"picture", "flat", "noise"}
    assert {check["shape"][0] for check in checks} == {1, 2}
    assert len({tuple(check["shape"]) for check in checks}) == 4
    assert all(check["psnr"] > 120 for check in checks)
    assert manifest.tiling is not None


def test_a_wrong_file_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    translate = trace.translate

    def faulty(*arguments: Any) -> ir.Model:
        traced = translate(*arguments)
        (bias,) = (value for value in traced.graph.initializers.values() if value.name == "model.up.bias")
        assert bias.const_value is not None
        bias.const_value = ir.tensor(bias.const_value.numpy() + 0.001, name=bias.name)
        return traced

    monkeypatch.setattr(exporter, "translate", faulty)
    with pytest.raises(KeygraphError, match=r"standard operators failed.*60\.0 dB, error [\d,]+ times what fp32"):
        export_module(own_modules.UNet(), tmp_path / "unet.onnx")
    assert not list(tmp_path.iterdir())


def test_one_size_can_be_exported(tmp_path: Path) -> None:
    module = own_modules.OneSize()
    manifest = export_module(module, tmp_path / "fixed.onnx", shape=(1, 24, 40))
    assert manifest.shape == (1, 24, 40)
    runs_as_the_module(tmp_path / "fixed.onnx", module, (24, 40))
    with pytest.raises(InputError, match="--size-multiple has no effect with a fixed --shape"):
        export_module(module, tmp_path / "fixed.onnx", shape=(1, 24, 40), size_multiple=8)


def test_global_statistics_are_measured(tmp_path: Path) -> None:
    torch.manual_seed(0)
    manifest = export_module(own_modules.SqueezeExcitation(), tmp_path / "se.onnx")
    assert manifest.global_statistics
    assert manifest.statistics is not None
    assert manifest.statistics.exact is not None
    assert manifest.statistics.exact.psnr > 80


def test_the_size_multiple_can_be_given() -> None:
    assert examined("UNet", size_multiple=8).interface.size_multiple == 8
    with pytest.raises(
        InputError, match="--size-multiple 6 does not hold: UNet fails with an image of 1 x 3 x 42 x 54"
    ):
        examined("UNet", size_multiple=6)
    with pytest.raises(InputError, match="--size-multiple is 0"):
        examined("UNet", size_multiple=0)


@pytest.mark.parametrize("value_range", [(1.0, 0.0), (0.0, 0.0), (0.0, float("nan")), (0.0, float("inf"))])
def test_a_value_range_is_checked(value_range: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="--range is"):
        examined("Conv", value_range=value_range)


def test_the_users_module_is_left_as_it_was(tmp_path: Path) -> None:
    module = nn.Sequential(own_modules.Conv(), nn.Dropout(0.5))
    module[0].eval()
    said: list[str] = []
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    export_module(module, tmp_path / "x.onnx", notice=said.append)
    assert said[0] == "Sequential is in training mode: exported in evaluation mode"
    assert [part.training for part in module.modules()] == [True, False, False, True]
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: own_modules.Conv().half(), r"Conv: conv\.weight is float16; export the module in float32"),
        (lambda: own_modules.Conv().to("meta"), r"conv\.weight is on meta; move the module to the CPU"),
        (lambda: torch.relu, "the module is .*; give a torch.nn.Module"),
        (lambda: torch.jit.script(own_modules.Upscaling()), "is TorchScript"),
    ],
)
def test_other_modules_are_refused(tmp_path: Path, make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        export_module(make(), tmp_path / "x.onnx")


def test_half_precision(tmp_path: Path) -> None:
    manifest = export_module(own_modules.UNet(), tmp_path / "half.onnx", precision="fp16")
    assert manifest.precision == "fp16"
    assert manifest.verification is not None
    assert manifest.verification.keys() == {"standard operators", "rounded"}


def test_blocks_of_a_custom_network_can_be_compared(tmp_path: Path) -> None:
    from keygraph.parity.metrics.blocks import block_pattern

    assert block_pattern(export_module(own_modules.UNet(), tmp_path / "a.onnx", verification=False)) == ".+"


@pytest.mark.parametrize("multiple", [1, 2, 7, 16, 64])
def test_sizes_that_are_tried_have_only_the_multiple_in_common(multiple: int) -> None:
    for height, width in shapes(multiple):
        assert np.gcd(height, width) == multiple
        assert min(height, width) >= 32
        assert height // multiple % 2 == width // multiple % 2 == 1


def test_guards_are_tried_where_they_do_not_hold() -> None:
    module = own_modules.LargeBranch().eval()
    interface = examined("Conv").interface
    trial = Trial(module, "LargeBranch", (0.0, 1.0))
    program = capture(module, custom_model.manifest_of(interface, {}))
    found = check_guards(program, trial, 3, Sizes(1, 1))
    assert found is not None
    assert found.startswith("width <= 300 (own_modules.py:")
    harmless = own_modules.Padding().eval()
    program = capture(harmless, custom_model.manifest_of(examined("Padding").interface, {}))
    assert check_guards(program, Trial(harmless, "Padding", (0.0, 1.0)), 3, Sizes(1, 5)) is None
