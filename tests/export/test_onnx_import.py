"""ONNX files that others made: the import of each operator, what is refused, and the whole way through the command."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keygraph
import numpy as np
import onnx
import onnxruntime
import own_modules
import pytest
import torch
import torch.nn.functional as F
from keygraph.cli import export_model
from keygraph.errors import InputError
from keygraph.export.onnx_import.file import read_foreign
from keygraph.export.onnx_import.network import ImportedNetwork
from keygraph.models.onnx_graph.operators import OPERATORS, elementwise
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("one_thread")

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
DYNAMIC = ["batch", 4, "height", "width"]


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), **attributes: Any) -> onnx.NodeProto:
    name = f"the_{operator}" if tuple(outputs) == ("y",) else f"{operator}_{outputs[0]}"
    return helper.make_node(operator, list(inputs), list(outputs), name=name, **attributes)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, Any] | None = None,
    opset: int = 20,
    shape: Sequence[Any] = tuple(DYNAMIC),
    inputs: Sequence[onnx.ValueInfoProto] = (),
) -> Path:
    """Write a file with the input x, the output y, and these nodes."""
    graph = helper.make_graph(
        list(nodes),
        "theirs",
        [helper.make_tensor_value_info("x", FLOAT, list(shape)), *inputs],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.array(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


def f32(*values: Any) -> Any:
    return np.array(values, np.float32)


RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.standard_normal((4, 4)).astype(np.float32)
KERNEL = RANDOM.standard_normal((4, 4, 3, 3)).astype(np.float32)
ONES, HALF = f32(1, 1, 1, 1), f32(0.5, 0.5, 0.5, 0.5)
INDEX = np.array([[[[0, 2, 1, 3]]]]).repeat(2, 0).repeat(4, 1).repeat(8, 2)

#: Name -> nodes, constants, opset. Those that tests by whole networks do not reach, and forms that differ by opset.
CASES: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], int]] = {
    "softmax before opset 13": ([node("Softmax", ["x"])], {}, 11),
    "softmax": ([node("Softmax", ["x"], axis=1)], {}, 13),
    "sum over an attribute": ([node("ReduceSum", ["x"], axes=[1], keepdims=1)], {}, 11),
    "norm": ([node("ReduceL2", ["x", "a"], keepdims=1)], {"a": [3]}, 18),
    "depth to space": ([node("DepthToSpace", ["x"], blocksize=2)], {}, 13),
    "space to depth": ([node("SpaceToDepth", ["x"], blocksize=2)], {}, 13),
    "group norm before opset 21": (
        [node("GroupNormalization", ["x", "s", "b"], num_groups=2)],
        {"s": f32(2, 3), "b": f32(0, 1)},
        20,
    ),
    "group norm": (
        [node("GroupNormalization", ["x", "s", "b"], num_groups=2)],
        {"s": f32(2, 3, 4, 5), "b": f32(0, 1, 2, 3)},
        21,
    ),
    "batch norm": (
        [node("BatchNormalization", ["x", "s", "b", "m", "v"])],
        {"s": ONES, "b": HALF, "m": HALF, "v": ONES},
        15,
    ),
    "reversed": (
        [node("Slice", ["x", "s", "e", "a", "t"])],
        {"s": [-1], "e": [-(2**63)], "a": [2], "t": [-1]},
        13,
    ),
    "padding by axes": ([node("Pad", ["x", "p", "", "a"], mode="reflect")], {"p": [1, 2, 0, 1], "a": [2, 3]}, 18),
    "padding by an input": ([node("Pad", ["x", "p"], mode="edge")], {"p": [0, 0, 1, 0, 0, 0, 2, 1]}, 11),
    "uneven convolution": ([node("Conv", ["x", "w"], pads=[0, 1, 2, 1], strides=[2, 1])], {"w": KERNEL}, 13),
    "transposed convolution": (
        [node("ConvTranspose", ["x", "w"], strides=[2, 2], output_padding=[1, 1], pads=[1, 1, 1, 1])],
        {"w": KERNEL},
        13,
    ),
    "mean of a padded window": (
        [node("AveragePool", ["x"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0)],
        {},
        13,
    ),
    "resized by whole factors": (
        [node("Resize", ["x", "", "f"], mode="nearest")],
        {"f": f32(1, 1, 3, 2)},
        13,
    ),
    "resized to a size": (
        [node("Resize", ["x", "", "", "n"], mode="linear", coordinate_transformation_mode="align_corners")],
        {"n": [2, 4, 11, 5]},
        13,
    ),
    "product with both transposed": (
        [
            node("Reshape", ["x", "flat"], ["rows"]),
            node("Gemm", ["w", "rows", "b"], alpha=0.5, beta=2.0, transA=1, transB=1),
        ],
        {"flat": [-1, 4], "w": WEIGHT, "b": f32(3)},
        13,
    ),
    "smallest": (
        [node("TopK", ["x", "k"], ["y", "i"], largest=0, axis=3)],
        {"k": [2]},
        13,
    ),
    "one hot": (
        [
            node("ArgMax", ["x"], ["i"], axis=3, keepdims=0),
            node("OneHot", ["i", "d", "v"], axis=1),
        ],
        {"d": np.array(6), "v": f32(-1, 2)},
        13,
    ),
    "looked up by element": ([node("GatherElements", ["x", "i"], axis=3)], {"i": INDEX}, 13),
    "added by element": (
        [node("ScatterElements", ["x", "i", "u"], axis=3, reduction="add")],
        {"i": INDEX, "u": INDEX.astype(np.float32)},
        16,
    ),
    "placed by place": ([node("ScatterND", ["x", "i", "u"])], {"i": [[0, 1, 2, 3]], "u": f32(9)}, 13),
    "looked up by place": (
        [node("GatherND", ["x", "i"])],
        {"i": np.array([[0, 1], [1, 3]])},
        13,
    ),
    "bounded": ([node("Clip", ["x", "", "m"])], {"m": np.float32(0.3)}, 13),
    "maximum of several": ([node("Max", ["x", "a", "b"])], {"a": np.float32(0.5), "b": f32(0, 0.9, 0, 0, 0, 0)}, 13),
    "a number minus": ([node("Sub", ["one", "x"])], {"one": np.float32(1)}, 13),
    "compared from the left": (
        [node("Less", ["half", "x"], ["m"]), node("Where", ["m", "half", "x"])],
        {"half": np.float32(0.5)},
        13,
    ),
    "divided integers": (
        [
            node("Mul", ["x", "ten"], ["scaled"]),
            node("Cast", ["scaled"], ["whole"], to=INT64),
            node("Div", ["whole", "three"], ["third"]),
            node("Cast", ["third"], to=FLOAT),
        ],
        {"ten": np.float32(-10), "three": np.array(3)},
        13,
    ),
    "slopes": (
        [node("PRelu", ["c", "s"]), node("Sub", ["x", "h"], ["c"])][::-1],
        {"h": np.float32(0.5), "s": f32(0.1)},
        16,
    ),
    "cumulated": ([node("CumSum", ["x", "a"])], {"a": np.array(2)}, 14),
    "upper triangle": ([node("Trilu", ["x"])], {}, 14),
    "repeated": ([node("Tile", ["x", "n"])], {"n": [1, 2, 1, 3]}, 13),
    "split unevenly": ([node("Split", ["x", "s"], ["a", "b"], axis=1), node("Mul", ["b", "b"])], {"s": [1, 3]}, 13),
    "split of an attribute": ([node("Split", ["x"], ["a", "y"], axis=1, split=[1, 3])], {}, 11),
    "flattened": ([node("Flatten", ["x"], axis=2)], {}, 13),
    "sampled": (
        [
            node("Slice", ["x", "s", "e", "a"], ["two"]),
            node("Transpose", ["two"], ["g"], perm=[0, 2, 3, 1]),
            node("GridSample", ["x", "g"], mode="linear"),
        ],
        {"s": [0], "e": [2], "a": [1]},
        20,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_gives_what_onnx_runtime_gives(name: str, tmp_path: Path) -> None:
    nodes, constants, opset = CASES[name]
    path = save(tmp_path / "theirs.onnx", nodes, constants, opset)
    image = RANDOM.random((2, 4, 8, 6)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": image})
    found = ImportedNetwork(read_foreign(path))(torch.from_numpy(image))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_sizes_are_computed_without_tensors(tmp_path: Path) -> None:
    """Shape arithmetic as exporters write it, traced with symbolic sizes: it fixes none of them."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "two"], ["h"]),
        node("Div", ["h", "half"], ["rows"]),
        node("Cast", ["rows"], ["real"], to=FLOAT),
        node("Floor", ["real"], ["floor"]),
        node("Cast", ["floor"], ["whole"], to=INT64),
        node("Unsqueeze", ["whole", "zero"], ["list"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Concat", ["batch", "keep", "list", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["parts"]),
        node("Equal", ["target", "minus"], ["is_rest"]),
        node("Where", ["is_rest", "ones", "target"], ["expanded"]),
        node("Expand", ["parts", "expanded"], ["all"]),
        node("Reshape", ["all", "shape"]),
    ]
    constants = {
        **{"two": np.array(2), "half": np.array(2), "zero": [0], "keep": [4], "rest": [2, -1]},
        **{"minus": np.array(-1), "ones": np.ones(5, np.int64)},
    }
    network = ImportedNetwork(read_foreign(save(tmp_path / "theirs.onnx", nodes, constants, 13)))
    rows, columns = torch.export.Dim("rows", max=64), torch.export.Dim("columns", max=64)
    sizes = ({0: torch.export.Dim("batch", max=8), 2: 2 * rows, 3: columns},)
    program = torch.export.export(network, (torch.rand(2, 4, 8, 6),), dynamic_shapes=sizes, strict=False)
    image = torch.rand(1, 4, 10, 5)
    assert torch.equal(program.module()(image), image)


IDENTITY = [node("Identity", ["x"])]
OTHER = helper.make_tensor_value_info("sigma", FLOAT, [1])
BRANCH = helper.make_graph([], "branch", [], [])

#: What is wrong -> arguments of `save`, and the message.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"nodes": IDENTITY, "shape": [1, 10]}, "its input x has 2 dimensions; an image batch has four"),
    "channels last": ({"nodes": IDENTITY, "shape": [1, 64, 64, 3]}, "its input x has its channels last"),
    "two inputs": ({"nodes": IDENTITY, "inputs": [OTHER]}, "has 2 inputs \\(x, sigma\\)"),
    "opset": ({"nodes": IDENTITY, "opset": 9}, "is of opset 9; opsets from 11 to 22 are imported"),
    "newer opset": ({"nodes": IDENTITY, "opset": 23}, "is of opset 23; .* export it again with opset_version=22"),
    "quantised": (
        {"nodes": [node("QuantizeLinear", ["x", "s"], ["q"]), *IDENTITY], "constants": {"s": np.float32(1)}},
        "is quantised \\(operator QuantizeLinear of node QuantizeLinear_q\\): give the file from before",
    ),
    "domain": (
        {"nodes": [node("FusedConv", ["x"], domain="com.microsoft")]},
        "operator FusedConv of node the_FusedConv is of domain com.microsoft, which is not standard ONNX",
    ),
    "control flow": (
        {"nodes": [node("If", ["x"], then_branch=BRANCH, else_branch=BRANCH)]},
        "operator If of node the_If is control flow, which is not supported",
    ),
    "operator": (
        {"nodes": [node("Det", ["x"], ["d"]), node("NonZero", ["d"])]},
        "operator Det of node Det_d is not supported, and neither are NonZero",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_imported_is_said(name: str, tmp_path: Path) -> None:
    arguments, message = REFUSED[name]
    path = save(tmp_path / "theirs.onnx", **arguments)
    with pytest.raises(InputError, match=message):
        read_foreign(path)


def test_a_form_that_is_not_imported_names_the_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "theirs.onnx", [node("CumSum", ["x", "a"], reverse=1)], {"a": np.array(2)}, 14)
    assert export_model([str(path), "-o", str(tmp_path / "new.onnx")]) == 2
    assert "node the_CumSum (CumSum): CumSum exclusive or in reverse is not supported" in capsys.readouterr().err
    assert not (tmp_path / "new.onnx").exists()


class Theirs(nn.Module):
    """Somebody's network, in words that both exporters of PyTorch take."""

    def __init__(self, fill: float = -1e4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fill = fill
        self.head, self.tail = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.attention = nn.ModuleDict({"norm": nn.LayerNorm(8), "qkv": nn.Linear(8, 24)})

    def forward(self, x: Tensor) -> Tensor:
        f = self.head(x)
        b, c, h, w = f.shape
        nodes = f.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        q, k, v = self.attention["qkv"](self.attention["norm"](nodes)).chunk(3, -1)
        scores = q @ k.transpose(-2, -1) * 0.35
        chosen = torch.zeros_like(scores).scatter_(-1, scores.topk(5, -1).indices, 1.0)
        nodes = nodes + torch.where(chosen > 0, scores, torch.full_like(scores, self.fill)).softmax(-1) @ v
        f = F.gelu(nodes).view(b, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        return F.pixel_shuffle(self.tail(f), 2)


def export_theirs(module: nn.Module, path: Path, dynamic: bool = True) -> Path:
    """Export a module as its author would have, with `torch.onnx.export`."""
    sizes = {"image": {0: "n", 2: "h", 3: "w"}} if dynamic else None
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.rand(1, 3, 16, 24),),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            dynamic_axes=sizes,
        )
    return path


def operators(path: Path) -> list[str]:
    return [one.op_type for one in onnx.load(path).graph.node if one.domain == "keygraph"]


def test_a_file_of_dynamic_sizes_is_fused_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, new = export_theirs(Theirs(), tmp_path / "theirs.onnx"), tmp_path / "fused.onnx"
    assert export_model([str(theirs), "-o", str(new), "--range", "-1", "1", "--task", "denoising"]) == 0
    out, err = capsys.readouterr()
    assert "note: the model: fused, k = 5\n" in err or ": fused, k = 5\n" in err
    assert "verified against theirs.onnx in ONNX Runtime, in 12 runs" in out
    assert operators(new) == ["KeyGraph", "KeyGraphAttention"]
    manifest = keygraph.load(new).manifest
    assert (manifest.architecture, manifest.task, manifest.scale, manifest.size_multiple) == (
        "custom",
        "denoising",
        2,
        4,
    )
    assert set(manifest.configuration["source"]) == {"theirs.onnx"}
    assert manifest.verification is not None
    assert set(manifest.verification) == {"library", "functions", "original file"}
    # An independent end check: both files as anybody runs them, at a size that no verification has.
    image = np.random.default_rng(5).random((2, 3, 28, 36), np.float32) * 2 - 1
    session = onnxruntime.InferenceSession(str(theirs))
    (expected,) = session.run(None, {"image": image})
    (found,) = onnxruntime.InferenceSession(str(new)).run(["restored"], {"image": image, "k": np.array([5])})
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert export_model([str(new), "-o", str(tmp_path / "again.onnx")]) == 2
    assert "is a file that keygraph exported: it runs as it is" in capsys.readouterr().err


def test_a_file_of_one_size_that_only_looks_alike_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, new = export_theirs(Theirs(fill=0.0), tmp_path / "theirs.onnx", dynamic=False), tmp_path / "new.onnx"
    assert export_model([str(theirs), "-o", str(new), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "theirs.onnx takes 1x16x24 only, and so will the new file" in err
    assert "nodes that are not selected take part in the softmax, with a score of 0" in err
    assert operators(new) == []
    assert json.loads(out)["manifest"]["shape"] == [1, 16, 24]
    assert export_model([str(theirs), "-o", str(tmp_path / "other.onnx"), "--shape", "1x32x32"]) == 2
    assert "--shape has a height of 32, and theirs.onnx takes 16 only" in capsys.readouterr().err


def test_an_import_that_is_wrong_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert OPERATORS["Relu"] is elementwise.OPERATORS["Relu"]
    monkeypatch.setitem(OPERATORS, "Relu", lambda call: F.leaky_relu(call.tensor()))
    theirs = export_theirs(own_modules.UNet(), tmp_path / "theirs.onnx")
    assert export_model([str(theirs), "-o", str(tmp_path / "new.onnx")]) == 1
    assert "theirs.onnx in ONNX Runtime, and as imported, differ" in capsys.readouterr().err
    assert not (tmp_path / "new.onnx").exists()


def test_weights_in_a_file_beside_it(tmp_path: Path) -> None:
    path = save(tmp_path / "theirs.onnx", [node("Conv", ["x", "w"], pads=[1, 1, 1, 1])], {"w": KERNEL}, 13)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="theirs.data", size_threshold=0)
    source = read_foreign(path)
    assert set(source.digests()) == {"theirs.onnx", "theirs.data"}
    found = ImportedNetwork(source)(torch.ones(1, 4, 5, 5))
    torch.testing.assert_close(found, F.conv2d(torch.ones(1, 4, 5, 5), torch.from_numpy(KERNEL), padding=1))
    (tmp_path / "theirs.data").unlink()
    with pytest.raises(InputError, match=r"theirs\.data"):
        read_foreign(path)


def test_what_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, out = str(save(tmp_path / "theirs.onnx", IDENTITY)), str(tmp_path / "new.onnx")
    for arguments, message in (
        ([theirs], "name the file to write with -o FILE.onnx"),
        ([theirs, "-o", theirs], "theirs.onnx"),
        ([theirs, "-o", out, "--entry", "params"], "--entry has no effect"),
    ):
        assert export_model(arguments) == 2
        assert message in capsys.readouterr().err
    assert not Path(out).exists()
