"""Trace a PyTorch module to an ONNX graph with the operators as nodes, by `torch.export`.

A network of the registry is traced in one step (`trace`). A module of unknown origin takes two: `capture` makes a
PyTorch program of it, `translate` an ONNX graph of the program. What rewrites such a program, for instance to recognise
attention in a module that does not call the operators, belongs between the two.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import unittest.mock
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx.node import Node, map_arg
from torch.utils._pytree import tree_leaves

from ..errors import InputError
from ..manifest import IMAGE_OUTPUT, K_INPUT, Manifest
from ..models.registry import OWN
from ..runtime.backends.base import image_inputs
from .functions import OPSET
from .module_state import in_state, state_of
from .opaque import opaque_operator
from .pattern_matching import quick_matching
from .schemas import translation_table
from .size_units import is_in_units, merge_units, split_units, take_whole_images

#: Largest batch, and largest height and width in units of the size multiple, of a file with dynamic shape.
_DIMENSION_LIMIT = 1 << 16


class _Entry(nn.Module):
    """The module that is traced: the network, with a fixed k as a constant where it is no input.

    Images may be given in units (`size_units`).
    """

    def __init__(self, model: nn.Module, k: int | None) -> None:
        super().__init__()
        self.model = model
        if k is not None:
            self.register_buffer("k", torch.tensor([k], dtype=torch.int64), persistent=False)

    def forward(self, *inputs: Tensor) -> Tensor:
        whole = (merge_units(each) if is_in_units(each) else each for each in inputs)
        restored: Tensor = self.model(*whole, *(k for _, k in self.named_buffers(recurse=False)))
        return restored


def trace(model: nn.Module, manifest: Manifest) -> ir.Model:
    """Trace a network to the inputs and outputs that its manifest describes.

    Parameters
    ----------
    model
        Maps float32[B, C, H, W], the manifest's extra inputs (and int64[1], for architectures with a key graph) to
        float32[B, C', sH, sW].
    manifest
        Manifest of the file: channels, margins, size multiple, fixed shape, and whether k is an input.

    Returns
    -------
    ir.Model
        Inputs ``image``, the extra ones and, where it is an input, ``k``; output ``restored``. Node metadata holds the
        modules' names, which `canonicalize` needs.
    """
    return translate(capture(model, manifest), manifest)


def capture(model: nn.Module, manifest: Manifest) -> ExportedProgram:
    """Make a program of a network with `torch.export`.

    What torch.export takes for granted about sizes are the program's guards. A KGT leaves none; those of our other
    networks, for instance that a third of a side is less than the side, are left to the file's verification. Of a
    network of unknown architecture torch.export proves them for a size multiple above 1, as far as it can; the rest
    have to be checked (`custom.guards`), as all of those that pad by themselves: these compute with remainders, about
    which it can prove little.

    Parameters
    ----------
    model, manifest
        As for `trace`; the network takes the image alone, or the size multiple is above 1.

    Returns
    -------
    ExportedProgram
        Inputs as those of `translate`; dynamic sizes unless the manifest has a fixed shape. Modules have their names
        below ``model.``.
    """
    neighbours = manifest.neighbours
    runtime_k = neighbours is not None and neighbours.runtime
    entry = _Entry(model, None if neighbours is None or runtime_k else neighbours.default).eval()
    if manifest.shape is not None:
        return _export(entry, _inputs(manifest, in_units=False)[0], None)
    if manifest.size_multiple == 1:
        return _export(entry, *_inputs_of_any_size(manifest), any_size=True)
    if all(given.margin == (0, 0) for given in image_inputs(manifest)):
        program = _exported_in_units(entry, manifest)
        if program is not None:
            return take_whole_images(program)
    return _export(entry, *_inputs(manifest, in_units=False))


def _exported_in_units(entry: _Entry, manifest: Manifest) -> ExportedProgram | None:
    """Return the program of a network whose images are in units (`size_units`); None where torch.export fails.

    Of units it has to prove more, and does not always find the proof, or fails on the way.
    """
    try:
        return _export(entry, *_inputs(manifest, in_units=True))
    except Exception:  # What it raises for the user's code, the export of whole images raises again.
        return None


#: For each input, the axes that are dynamic.
_DynamicShapes: TypeAlias = tuple[tuple[dict[int, Any], ...], ...]


def _export(
    entry: _Entry, arguments: list[Tensor], dynamic: _DynamicShapes | None, *, any_size: bool = False
) -> ExportedProgram:
    # What the network prints, and PyTorch of a failure, concerns nobody: the exception says it.
    unread = io.StringIO()
    silent = contextlib.redirect_stdout(unread), contextlib.redirect_stderr(unread)
    # Sizes of 0 and 1 are no special cases, which spares guards about the layout in memory; with remainders of sizes in
    # every expression, they take most of the time. With a size multiple it would spare a fifth, but then it cannot be
    # proved of every network that a batch of 1 is right.
    oblivious = torch.fx.experimental._config.patch(backed_size_oblivious=any_size)  # type: ignore[attr-defined]
    # The cache of inferred shapes saves time only where these are short.
    in_units = any(map(is_in_units, arguments))
    with (
        in_state(state_of(entry)),
        oblivious,
        silent[0],
        silent[1],
        _quiet(),
        torch.no_grad(),
        torch._dynamo.config.patch(fake_tensor_cache_enabled=in_units),
    ):
        return torch.export.export(entry, tuple(arguments), dynamic_shapes=dynamic, strict=False)


def functional(program: ExportedProgram) -> ExportedProgram:
    """Return a program without operators that change their arguments, as `recognition` reads it."""
    with _quiet():
        result: ExportedProgram = program.run_decompositions({})
    return result


def translate(program: ExportedProgram, manifest: Manifest) -> ir.Model:
    """Translate a program of `capture` to an ONNX graph.

    Parameters
    ----------
    program
        The program. keygraph's operators in it become nodes. It is prepared for that in place: constant sizes
        become numbers, casts explicit.
    manifest
        The manifest that it was captured for.

    Returns
    -------
    ir.Model
        As for `trace`.
    """
    try:
        model = _to_onnx(program, manifest)
    except torch.onnx.OnnxExporterError as error:
        operator = _untranslated_operator(str(error))
        opaque = None if operator is None else opaque_operator(program, operator)
        raise opaque or InputError(_untranslated(operator, str(error))) from error
    # Symbols have numbers in a program, which differ from run to run.
    image = model.graph.inputs[0].shape
    assert image is not None
    symbols: dict[str, str] = {}
    for size, name in zip((image[0], image[2], image[3]), ("batch", "rows", "columns"), strict=True):
        if isinstance(size, ir.SymbolicDim):
            symbols |= dict.fromkeys(re.findall(r"\bs\d+\b", size.value or ""), name)
    for value in (*model.graph.inputs, *(output for node in model.graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape(
                re.sub(r"\bs\d+\b", lambda match: symbols.get(match[0], match[0]), size.value)
                if isinstance(size, ir.SymbolicDim) and size.value
                else size
                for size in value.shape
            )
    return model


def _untranslated_operator(text: str) -> str | None:
    """Return the operator that torch.onnx cannot translate, for instance ``aten.topk.default``."""
    operator = re.search(r"target=torch\.ops\.([\w.]+)", text) or re.search(r"torch\.ops\.([\w.]+)", text)
    return operator[1] if operator else None


def _untranslated(operator: str | None, text: str) -> str:
    """Return the message for a program that torch.onnx cannot translate: the operator, and the first reason given."""
    reason = re.search(r"<class '[\w.]+'>: ([^\n]+)", text)
    return (
        f"the network cannot be translated to ONNX: torch.onnx does not translate {operator or 'one of its operators'} "
        f"as it is used{f' ({reason[1][:200]})' if reason else ''}; write that part with other operators"
    )


def _inputs_of_any_size(manifest: Manifest) -> tuple[list[Tensor], _DynamicShapes]:
    """Return what `_inputs` does, for a network that pads its image by itself."""
    side = max(manifest.smallest, 32) | 1  # A multiple of no even window; two images of different sides.
    sides = {axis: torch.export.Dim.AUTO(min=manifest.smallest, max=_DIMENSION_LIMIT) for axis in (2, 3)}
    dynamic = {0: torch.export.Dim.AUTO(min=1, max=_DIMENSION_LIMIT), **sides}
    return [torch.zeros(2, manifest.in_channels, side, side + 2)], ((dynamic,),)


def _inputs(manifest: Manifest, *, in_units: bool) -> tuple[list[Tensor], _DynamicShapes]:
    """Return the inputs that a network is traced with, and which of their sizes are dynamic.

    Parameters
    ----------
    manifest
        As for `trace`.
    in_units
        Whether images are given in units of the size multiple (`size_units`).
    """
    neighbours, multiple = manifest.neighbours, manifest.size_multiple
    least = -(-manifest.smallest // multiple)
    # Distinct sizes above 1, so that the tracer cannot take one dimension for another or for a constant.
    shape = manifest.shape or (2, max(2, least) * multiple, max(3, least + 1) * multiple)
    batch, rows, columns = (
        # Of our own networks a proof is not asked for: that a third of a side (GLMHA) is less than the side has none.
        torch.export.Dim.AUTO(min=smallest, max=_DIMENSION_LIMIT)
        if in_units and manifest.architecture in OWN
        else torch.export.Dim(name, min=smallest, max=_DIMENSION_LIMIT)
        for name, smallest in (("batch", 1), ("rows", least), ("columns", least))
    )
    arguments: list[Tensor] = []
    dynamic: list[dict[int, Any]] = []
    for given in image_inputs(manifest):
        channels, (down, across) = given.channels, given.margin
        image = torch.zeros(shape[0], channels, shape[1] + down, shape[2] + across)
        if in_units:
            arguments.append(split_units(image, multiple))
            dynamic.append({0: batch, 2: rows, 4: columns})
        else:
            arguments.append(image)
            dynamic.append({0: batch, 2: _sized(rows, multiple, down), 3: _sized(columns, multiple, across)})
    if neighbours is not None and neighbours.runtime:
        arguments.append(torch.tensor([neighbours.default], dtype=torch.int64))
        dynamic.append({})
    return arguments, (tuple(dynamic),)


def _fix_constant_sizes(program: ExportedProgram) -> None:
    """Replace sizes that are read from a tensor at run time, but are the same for every image, by numbers."""
    graph, numbers = program.graph, dict[Any, Any]()
    for node in graph.nodes:
        size = node.meta.get("val")
        if node.op == "call_function" and isinstance(size, torch.SymInt) and size.node.maybe_as_int() is not None:
            numbers[node] = size.node.maybe_as_int()
    for node in graph.nodes:
        node.args = map_arg(node.args, lambda one: numbers.get(one, one))
    for node in reversed(numbers):
        graph.erase_node(node)


def _to_onnx(program: ExportedProgram, manifest: Manifest) -> ir.Model:
    _fix_constant_sizes(program)
    trace_again = program.run_decompositions
    program.run_decompositions = _idle(program)
    try:
        return _exported(program, manifest)
    except torch.onnx.OnnxExporterError:
        # Some operators, such as `aten.to`, are not in the table: tracing decomposes them whether asked to or not.
        program.run_decompositions = trace_again
        return _exported(program, manifest)


def _idle(program: ExportedProgram) -> Callable[[Mapping[Any, Any]], ExportedProgram]:
    """Return a decomposition of a program that is the program itself, if that has none of the operators to decompose.

    `torch.onnx.export` always traces a program again to decompose it, which takes longer than anything else here.
    """
    used = {node.target for node in program.graph.nodes if node.op == "call_function"}
    functional = not any(isinstance(target, OpOverload) and target._schema.is_mutable for target in used)
    trace_again = program.run_decompositions

    def run_decompositions(table: Mapping[Any, Any]) -> ExportedProgram:
        return program if functional and used.isdisjoint(table) else trace_again(dict(table))

    return run_decompositions


#: The pass of `torch.onnx.export` that makes conversions of types explicit.
_TYPE_PASS = "torch.onnx._internal.exporter._fx_passes.insert_type_promotion_nodes"


@contextmanager
def _types_as_they_are(program: ExportedProgram, manifest: Manifest) -> Iterator[None]:
    """Skip `_TYPE_PASS` for our own networks, if no operator of PyTorch converts a type there.

    The pass infers the shapes of the whole program again, which takes longer than the translation. Other networks may
    need it even so: numbers of another kind than the tensor's are converted too (``torch.add(x, 1, alpha=2)``).
    """
    with contextlib.ExitStack() as stack:
        if manifest.architecture in OWN and all(len(_types(node)) <= 1 for node in program.graph.nodes):
            with contextlib.suppress(ImportError, AttributeError):  # In another version of PyTorch it may not exist.
                stack.enter_context(unittest.mock.patch(_TYPE_PASS))
        yield


def _types(node: Node) -> set[torch.dtype]:
    """Return the types of the tensors that an operator of PyTorch takes and makes; none for other nodes."""
    if not (isinstance(node.target, OpOverload) and node.target.namespace == "aten"):
        return set()
    values = [other.meta.get("val") for other in (node, *node.all_input_nodes)]
    return {value.dtype for value in tree_leaves(values) if isinstance(value, Tensor)}


def _exported(program: ExportedProgram, manifest: Manifest) -> ir.Model:
    neighbours = manifest.neighbours
    names = [given.name for given in image_inputs(manifest)]
    with (
        _quiet(),
        _types_as_they_are(program, manifest),
        quick_matching(),
        torch.no_grad(),
        torch._dynamo.config.patch(fake_tensor_cache_enabled=False),
    ):
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=[*names, K_INPUT] if neighbours is not None and neighbours.runtime else names,
            output_names=[IMAGE_OUTPUT],
            custom_translation_table=translation_table(),
            verbose=False,
            # In our networks it finds nothing that `canonicalize` does not, in ten times the time.
            optimize=manifest.architecture not in OWN,
        )
    assert exported is not None
    return exported.model


def _sized(count: Any, multiple: int, margin: int) -> Any:
    """Return a side of `count` units plus its margin; the tracer does not accept the addition of zero."""
    side = multiple * count if multiple > 1 else count
    return side + margin if margin else side


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's own warnings (absent torchvision, deprecations), which do not concern keygraph's users."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx.experimental.symbolic_shapes")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
