"""Write a traced network as an ONNX file.

The graph is edited with onnx_ir. Protobuf appears here only, for what surrounds it in the file: functions, opsets, the
producer, and the manifest.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx import ModelProto

from ..manifest import METADATA_KEY, Manifest
from ..runtime.backends.onnx_file import read_onnx_file
from ..runtime.companion_files import external_data_path
from .functions import DOMAIN, VERSION, operator_functions
from .precision import OPSETS

#: Above this size the weights are stored in a file beside the model: protobuf is limited to 2 GB.
EXTERNAL_DATA_BYTES = 1_500_000_000

#: Opset -> the IR version that ONNX released with it. A newer one would need a newer ONNX Runtime without any use: with
#: IR 9, files run in ONNX Runtime 1.17.
IR_VERSIONS = {20: 9, 22: 10}


def save(traced: ir.Model, manifest: Manifest, path: Path) -> Manifest:
    """Write a traced network as an ONNX file with its operators' functions and its manifest.

    Parameters
    ----------
    traced
        The network after `canonicalize`, in the manifest's precision. It is not changed.
    manifest
        The manifest to store in the file.
    path
        The file; above `EXTERNAL_DATA_BYTES` the weights go to ``<path>.data``.

    Returns
    -------
    Manifest
        The manifest in the file, with the digest of its content.
    """
    proto = ir.to_proto(traced)
    proto.producer_name, proto.producer_version = "keygraph", manifest.made_with["keygraph"]
    used = {node.op_type for node in proto.graph.node if node.domain == DOMAIN}
    opset = OPSETS[manifest.precision]
    proto.ir_version = IR_VERSIONS[opset]
    functions = operator_functions(*_attention_form(proto), opset, _one_pack_form(proto))
    proto.functions.extend(function for function in functions if function.name in used)
    del proto.opset_import[:]
    proto.opset_import.append(onnx.helper.make_opsetid("", opset))
    if used:
        proto.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    del proto.metadata_props[:]
    if proto.ByteSize() > EXTERNAL_DATA_BYTES:
        location = external_data_path(path).name
        onnx.save(proto, path, save_as_external_data=True, all_tensors_to_one_file=True, location=location)
    else:
        path.write_bytes(proto.SerializeToString(deterministic=True))
    return set_manifest(path, replace(manifest, digest=read_onnx_file(path).digest))


def _attention_form(proto: ModelProto) -> tuple[bool, bool]:
    """Tell whether the KeyGraphAttention nodes have a bias, and whether their heads are last: all or none of them."""
    nodes = [node for node in proto.graph.node if node.op_type == "KeyGraphAttention"]
    bias = any(len(node.input) > 4 for node in nodes)
    return bias, any(attribute.name == "heads" for node in nodes for attribute in node.attribute)


def _one_pack_form(proto: ModelProto) -> bool:
    """Tell whether the PackGraph nodes have a threshold; where only some do, compare before those, so that none has."""
    nodes = [node for node in proto.graph.node if node.domain == DOMAIN and node.op_type == "PackGraph"]
    thresholded = [node for node in nodes if len(node.input) == 2]
    if len(thresholded) == len(nodes):
        return bool(nodes)
    changed = []
    for node in proto.graph.node:
        if node in thresholded:
            mask = f"{node.output[0]}_mask"
            compared = [node.input[1], node.input[0]]  # as in the function
            changed.append(onnx.helper.make_node("LessOrEqual", compared, [mask], f"{node.name}_LessOrEqual"))
            node.input[:] = [mask]
        changed.append(node)
    if thresholded:
        copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in changed]
        del proto.graph.node[:]
        proto.graph.node.extend(copied)
    return False


def set_manifest(path: Path, manifest: Manifest) -> Manifest:
    """Replace the manifest in an ONNX file, and return it with the digest of its own text."""
    manifest = manifest.sealed()
    proto = onnx.load(path, load_external_data=False)
    del proto.metadata_props[:]
    proto.metadata_props.add(key=METADATA_KEY, value=manifest.to_json())
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return manifest
