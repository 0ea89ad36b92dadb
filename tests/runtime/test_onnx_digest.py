"""The digest of an ONNX file: equal for every way of storing the same network, different for every other network."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keygraph.errors import InputError
from keygraph.integrity import FileDigest
from keygraph.runtime.backends.onnx_file import OnnxFile, read_onnx_file
from keygraph.runtime.backends.onnx_file.wire import WireError, fields, numbers
from onnx import ModelProto, TensorProto, helper, numpy_helper
from tiny_kgt import Tiny, key_graphs


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> ModelProto:
    """The tiny KGT; tests change copies of it."""
    return onnx.load(tiny.onnx)


@pytest.fixture(scope="module")
def digest(tiny: Tiny) -> FileDigest:
    """The digest of the tiny KGT."""
    return read_onnx_file(tiny.onnx).digest


def read(model: ModelProto, folder: Path) -> OnnxFile:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return read_onnx_file(path)


def copy_of(model: ModelProto) -> ModelProto:
    made = ModelProto()
    made.CopyFrom(model)
    return made


def documented(model: ModelProto) -> None:
    model.doc_string = model.graph.doc_string = "about"
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        node.doc_string = "about"
        for attribute in node.attribute:
            attribute.doc_string = "about"
    for weight in model.graph.initializer:
        weight.doc_string = "about"
    model.metadata_props.add(key="tool", value="a tool was here")


def renamed(model: ModelProto) -> None:
    model.graph.name, model.producer_name, model.producer_version = "other", "a tool", "3"
    for index, node in enumerate(model.graph.node):
        node.name = f"node{index}"


def reordered(model: ModelProto) -> None:
    weights = list(model.graph.initializer)
    random.Random(0).shuffle(weights)
    functions = list(reversed(model.functions))
    del model.graph.initializer[:], model.functions[:]
    model.graph.initializer.extend(weights)
    model.functions.extend(functions)
    for node in model.graph.node:
        attributes = list(reversed(node.attribute))
        del node.attribute[:]
        node.attribute.extend(attributes)


def stored_as_numbers(model: ModelProto) -> None:
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        typed = helper.make_tensor(weight.name, weight.data_type, values.shape, values.flatten().tolist())
        assert not typed.raw_data
        weight.CopyFrom(typed)


def stated_otherwise(model: ModelProto) -> None:
    """Write the same in other words: versions, ONNX's own domain, optional inputs that are left out."""
    model.ir_version = 12
    for opset in model.opset_import:
        opset.domain = opset.domain or "ai.onnx"
    for node in model.graph.node:
        node.domain = node.domain or "ai.onnx"
        if node.op_type == "Conv":
            node.input.extend([""] * (4 - len(node.input)))


SAME: list[Callable[[ModelProto], None]] = [documented, renamed, reordered, stored_as_numbers, stated_otherwise]


@pytest.mark.parametrize("change", SAME)
def test_the_digest_ignores_how_a_network_is_stored(
    model: ModelProto, digest: FileDigest, tmp_path: Path, change: Callable[[ModelProto], None]
) -> None:
    other = copy_of(model)
    change(other)
    assert other != model
    assert read(other, tmp_path).digest == digest


def test_the_digest_is_kept_by_tools_that_keep_the_network(
    model: ModelProto, digest: FileDigest, tmp_path: Path
) -> None:
    assert read(onnx.shape_inference.infer_shapes(model), tmp_path).digest == digest
    assert read(ir.to_proto(ir.from_proto(model)), tmp_path).digest == digest


@pytest.mark.parametrize("one_file", [True, False])
def test_the_digest_is_that_of_external_data_too(
    model: ModelProto, digest: FileDigest, tmp_path: Path, one_file: bool
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        copy_of(model),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=one_file,
        location="weights" if one_file else None,
        size_threshold=64,
    )
    file = read_onnx_file(path)
    assert len(file.data) == 1 if one_file else len(file.data) > 10
    assert file.digest == digest
    # One bit in a file of weights.
    content = bytearray(file.data[0].read_bytes())
    content[-1] ^= 1
    file.data[0].write_bytes(content)
    changed = read_onnx_file(path).digest
    assert (changed.graph == digest.graph, changed.weights == digest.weights) == (True, False)


@settings(max_examples=25)
@given(data=st.data())
def test_every_bit_of_a_weight_counts(
    model: ModelProto, digest: FileDigest, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("bit")
    other = copy_of(model)
    weights = [weight for weight in other.graph.initializer if weight.raw_data]
    weight = data.draw(st.sampled_from(weights), label="weight")
    content = bytearray(weight.raw_data)
    bit = data.draw(st.integers(0, 8 * len(content) - 1), label="bit")
    content[bit // 8] ^= 1 << bit % 8
    weight.raw_data = bytes(content)
    changed = read(other, folder).digest
    assert (changed.graph == digest.graph, changed.weights == digest.weights) == (True, False)


def first_attribute(model: ModelProto, kind: int) -> onnx.AttributeProto:
    found: onnx.AttributeProto = next(a for node in model.graph.node for a in node.attribute if a.type == kind)
    return found


def function_attribute(model: ModelProto) -> onnx.AttributeProto:
    attributes = (attribute for node in model.functions[0].node for attribute in node.attribute)
    found: onnx.AttributeProto = next(one for one in attributes if one.type == onnx.AttributeProto.INT)
    return found


def another_integer(model: ModelProto) -> None:
    first_attribute(model, onnx.AttributeProto.INT).i += 1


def another_real_number(model: ModelProto) -> None:
    first_attribute(model, onnx.AttributeProto.FLOAT).f += 1e-6


def another_list(model: ModelProto) -> None:
    first_attribute(model, onnx.AttributeProto.INTS).ints[0] += 1


def a_list_of_nought(model: ModelProto) -> None:
    """[0] is not the empty list, although a single 0 may be left out."""
    node = model.graph.node[0]
    node.attribute.append(helper.make_attribute("list", [0]))


def another_operator(model: ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Add").op_type = "Sub"


def inputs_exchanged(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Add")
    node.input[:] = reversed(node.input)


def a_node_less(model: ModelProto) -> None:
    del model.graph.node[-1]


def another_function(model: ModelProto) -> None:
    function_attribute(model).i += 1


def another_constant_in_a_function(model: ModelProto) -> None:
    tensor = next(
        a.t for f in model.functions for node in f.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR
    )
    tensor.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(tensor), 7), tensor.name))


def another_input_size(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def another_output_type(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def another_opset(model: ModelProto) -> None:
    model.opset_import[0].version += 1


def another_form(model: ModelProto) -> None:
    weight = next(weight for weight in model.graph.initializer if len(set(weight.dims)) == 2)
    weight.dims[:] = reversed(weight.dims)


def another_graph(model: ModelProto) -> None:
    key_graphs(model)[0].input[1] = key_graphs(model)[1].input[1]


DIFFERENT: list[Callable[[ModelProto], None]] = [
    another_integer,
    another_real_number,
    another_list,
    a_list_of_nought,
    another_operator,
    inputs_exchanged,
    a_node_less,
    another_function,
    another_constant_in_a_function,
    another_input_size,
    another_output_type,
    another_opset,
    another_form,
    another_graph,
]


@pytest.mark.parametrize("change", DIFFERENT)
def test_the_digest_of_another_network_is_another(
    model: ModelProto, digest: FileDigest, tmp_path: Path, change: Callable[[ModelProto], None]
) -> None:
    other = copy_of(model)
    change(other)
    assert read(other, tmp_path).digest.graph != digest.graph


def test_weights_that_are_exchanged_are_noticed(model: ModelProto, digest: FileDigest, tmp_path: Path) -> None:
    other = copy_of(model)
    first, second = [weight for weight in other.graph.initializer if len(weight.dims) == 1][:2]
    first.name, second.name = second.name, first.name
    assert read(other, tmp_path).digest.weights != digest.weights


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (TensorProto.FLOAT, [1.5, -2.0]),
        (TensorProto.DOUBLE, [1.5, -2.0]),
        (TensorProto.FLOAT16, [1.5, -2.0]),
        (TensorProto.BFLOAT16, [1.5, -2.0]),
        (TensorProto.INT8, [-1, 2]),
        (TensorProto.UINT8, [255, 2]),
        (TensorProto.INT16, [-1, 2]),
        (TensorProto.INT32, [-1, 2]),
        (TensorProto.INT64, [-(2**40), 2]),
        (TensorProto.UINT32, [2**31, 2]),
        (TensorProto.UINT64, [2**63, 2]),
        (TensorProto.BOOL, [True, False]),
        (TensorProto.INT4, [-1, 2, 7]),
        (TensorProto.COMPLEX64, [1 + 2j, 3j]),
    ],
)
def test_numbers_and_bytes_of_every_type_are_the_same(dtype: int, values: Any, tmp_path: Path) -> None:
    def of(tensor: TensorProto) -> FileDigest:
        node = helper.make_node("Identity", ["weight"], ["out"])
        graph = helper.make_graph(
            [node], "g", [], [helper.make_tensor_value_info("out", dtype, [len(values)])], [tensor]
        )
        return read(helper.make_model(graph), tmp_path).digest

    typed = helper.make_tensor("weight", dtype, [len(values)], values)
    raw = numpy_helper.from_array(numpy_helper.to_array(typed), "weight")
    assert (typed.raw_data == b"", raw.raw_data == b"") == (True, False)
    assert of(typed) == of(raw)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_packed_numbers_are_read(values: list[int]) -> None:
    packed = TensorProto(int64_data=values).SerializeToString()
    found = [value for number, value in fields(packed) if number == 7]
    np.testing.assert_array_equal(numbers(found, "<i8"), np.array(values, np.int64))


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\x05ab", b"\x0b", b"\x08" + b"\xff" * 11, b"\x0d\0"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        list(fields(data))


def test_damaged_files_are_refused_or_differ(model: ModelProto, digest: FileDigest, tmp_path: Path) -> None:
    """No other exception, wherever a file is cut, and whatever bytes change in its structure."""
    content = model.SerializeToString()
    path, generator = tmp_path / "damaged.onnx", random.Random(1)
    refused: list[str] = []
    for attempt in range(120):
        damaged = bytearray(content)
        if attempt % 2:
            del damaged[generator.randrange(1, len(content)) :]
        else:
            for _ in range(generator.randrange(1, 4)):
                damaged[generator.randrange(min(20_000, len(content)))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            found = read_onnx_file(path)
        except InputError as error:
            refused.append(str(error))
        else:
            assert attempt % 2 == 0 or found.digest != digest
    assert len(refused) > 60
    assert all(str(path) in line for line in refused)
