"""The digest of an ONNX file's content: what the file computes, not how it is stored.

Equal digests mean equal networks. The digest does not depend on where weights are stored (in the model as raw or typed
data, or in a file beside it), on the order of nodes, functions and attributes, nor on what has no effect:
documentation, names of nodes and of the graph, inferred shapes, metadata, the producer, and the IR version. Everything
else counts: each node, attribute, function and weight, and the inputs and outputs with their types and shapes.

It takes 60 ms of processor time for 100 MB of weights, with the processor's SHA instructions: weights are mapped, not
copied, and hashed in parallel.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ....integrity import FileDigest
from .tensors import ExternalData, Tensor, read_tensor
from .wire import Buffer, fields, message_of, numbers, text


@dataclass(frozen=True)
class _Message:
    """How the fields of a message enter the digest, by their numbers in onnx.proto.

    Attributes
    ----------
    parts
        Fields that are messages -> the kind of message; see `_MESSAGES`.
    ignored
        Fields without effect on what is computed.
    unordered
        Repeated fields whose order has no meaning.
    optional
        Single values that may be left out where they are 0 or empty.
    integers, floats
        Repeated numbers, which may be packed or not.
    """

    parts: dict[int, str] = field(default_factory=dict)
    ignored: frozenset[int] = frozenset()
    unordered: frozenset[int] = frozenset()
    optional: frozenset[int] = frozenset()
    integers: frozenset[int] = frozenset()
    floats: frozenset[int] = frozenset()


def _set(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


_MESSAGES = {
    # Ignored: IR version, producer, domain and version of the model, documentation, metadata, placement on devices.
    "model": _Message(
        {7: "graph", 8: "opset", 25: "function"}, ignored=_set(1, 2, 3, 4, 5, 6, 14, 26), unordered=_set(8, 25)
    ),
    # Ignored: name, documentation, inferred shapes, notes on quantisation, metadata.
    "graph": _Message(
        {1: "node", 5: "initializer", 11: "value", 12: "value"},
        ignored=_set(2, 10, 13, 14, 16),
        unordered=_set(1, 5, 15),
    ),
    # Ignored: documentation, inferred shapes, metadata.
    "function": _Message(
        {7: "node", 9: "opset", 11: "attribute"},
        ignored=_set(8, 12, 14),
        unordered=_set(6, 7, 9, 11),
        optional=_set(13),
    ),
    # Ignored: name, documentation, metadata, placement on devices.
    "node": _Message({5: "attribute"}, ignored=_set(3, 6, 9, 10), unordered=_set(5), optional=_set(7, 8)),
    "attribute": _Message(
        {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 14: "type", 15: "type"},
        ignored=_set(13),
        optional=_set(2, 3, 4, 21),
        integers=_set(8),
        floats=_set(7),
    ),
    "value": _Message({2: "type"}, ignored=_set(3, 4)),
    "type": _Message({1: "tensor type", 4: "container", 8: "tensor type", 9: "container"}, ignored=_set(6)),
    "container": _Message({1: "type"}),
    "tensor type": _Message({2: "shape"}),
    "shape": _Message({1: "dimension"}),
    "dimension": _Message(ignored=_set(3)),
    "opset": _Message(optional=_set(1)),
}

#: Fields of NodeProto; the domain is field 1 of OperatorSetIdProto.
_INPUT, _OUTPUT, _NAME, _OP_TYPE, _DOMAIN, _OPSET_DOMAIN = 1, 2, 3, 4, 7, 1

#: Weights below this size are hashed without threads.
_PARALLEL_BYTES = 1 << 20


@dataclass(frozen=True)
class Content:
    """What one pass over a model finds.

    Attributes
    ----------
    digest
        The digest of the model.
    operators
        Number of nodes by (domain, operator), in the graph and its subgraphs, not inside of functions.
    names
        Number of nodes of the graph by their name.
    """

    digest: FileDigest
    operators: Counter[tuple[str, str]]
    names: Counter[str]


def read_content(model: Buffer, external: ExternalData) -> Content:
    """Compute the digest of a model, and count its nodes.

    Parameters
    ----------
    model
        A serialized ModelProto.
    external
        Reads weights that are stored in separate files.

    Raises
    ------
    WireError
        The model is cut off, or is not protobuf.
    InputError
        Weights are missing.
    """
    encoder = _Encoder(external)
    graph = hashlib.sha256(encoder.encode("model", model, _MAIN)).hexdigest()
    weights = sorted(encoder.weights, key=lambda weight: weight.name)
    digest = hashlib.sha256()
    for weight, values in zip(weights, _hashes([external.read(weight) for weight in weights]), strict=True):
        digest.update(_join([_header(weight), values]))
    return Content(FileDigest(graph, digest.hexdigest()), encoder.operators, encoder.names)


#: Where a message lies.
_MAIN, _SUBGRAPH, _FUNCTION = "main graph", "subgraph", "function"


class _Encoder:
    """Encodes messages canonically, and collects the weights of the main graph, which are hashed separately."""

    def __init__(self, external: ExternalData) -> None:
        self.weights: list[Tensor] = []
        self.operators: Counter[tuple[str, str]] = Counter()
        self.names: Counter[str] = Counter()
        self._external = external

    def encode(self, kind: str, data: Buffer, where: str) -> bytes:
        """Return the canonical form of a message.

        Parameters
        ----------
        kind
            A key of `_MESSAGES`, ``"initializer"``, or ``"tensor"`` for one in an attribute, whose name has no meaning.
        data
            The serialized message.
        where
            Where it lies.
        """
        if kind in ("initializer", "tensor"):
            return self._tensor(read_tensor(data), kind, where)
        if kind == "function":
            where = _FUNCTION
        found: dict[int, list[int | Buffer]] = {}
        for number, value in fields(data if kind in ("model", "graph", "attribute") else bytes(data)):
            found.setdefault(number, []).append(value)
        if kind == "node":
            _normalize_domain(found, _DOMAIN)
            self._count(found, where)
        elif kind == "opset":
            _normalize_domain(found, _OPSET_DOMAIN)
        elif kind == "attribute" and where == _MAIN:
            where = _SUBGRAPH
        message = _MESSAGES[kind]
        parts = [(number, self._values(message, number, found[number], where)) for number in sorted(found)]
        if kind == "node":
            parts = [(number, _strip(values) if number in (_INPUT, _OUTPUT) else values) for number, values in parts]
        return _join(_join([number.to_bytes(4, "little"), *values]) for number, values in parts if values)

    def _values(self, message: _Message, number: int, values: Sequence[int | Buffer], where: str) -> list[bytes]:
        """Return the canonical form of the values of a field; none where they have no effect."""
        if number in message.ignored:
            return []
        if (kind := message.parts.get(number)) is not None:
            encoded = [self.encode(kind, message_of(value), where) for value in values]
        elif number in message.integers:
            return [numbers(values, "<i8").tobytes()]
        elif number in message.floats:
            return [numbers(values, "<f4").tobytes()]
        else:
            encoded = [_plain(value) for value in values]
        if number in message.optional and not encoded[-1].strip(b"\0"):
            return []
        return sorted(encoded) if number in message.unordered else encoded

    def _count(self, node: dict[int, list[int | Buffer]], where: str) -> None:
        domain, operator, name = (
            text(node[field][-1]) if field in node else "" for field in (_DOMAIN, _OP_TYPE, _NAME)
        )
        if where != _FUNCTION:
            self.operators[domain, operator] += 1
        if where == _MAIN and name:
            self.names[name] += 1

    def _tensor(self, tensor: Tensor, kind: str, where: str) -> bytes:
        if kind == "initializer" and where == _MAIN:
            self.weights.append(tensor)
            return _header(tensor)
        header = [_header(tensor)] if kind == "initializer" else [_type_and_shape(tensor)]
        return _join([*header, hashlib.sha256(self._external.read(tensor)).digest()])


def _normalize_domain(message: dict[int, list[int | Buffer]], number: int) -> None:
    """Write ONNX's own domain in one of the two ways that mean the same."""
    if number in message and message[number][-1] == b"ai.onnx":
        message[number] = [b""]


def _strip(names: list[bytes]) -> list[bytes]:
    """Leave out empty names at the end: an optional input there may be written as empty, or not at all."""
    count = len(names)
    while count and not names[count - 1]:
        count -= 1
    return names[:count]


def _header(tensor: Tensor) -> bytes:
    return _join([tensor.name.encode(), _type_and_shape(tensor)])


def _type_and_shape(tensor: Tensor) -> bytes:
    return _join(number.to_bytes(8, "little", signed=True) for number in (tensor.dtype, *tensor.dims))


def _plain(value: int | Buffer) -> bytes:
    return value.to_bytes(8, "little") if isinstance(value, int) else bytes(value)


def _join(parts: Iterable[bytes]) -> bytes:
    """Join parts such that different parts give different bytes."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def _hashes(values: Sequence[Buffer]) -> list[bytes]:
    """Return the SHA-256 of each of several buffers."""

    def of(buffer: Buffer) -> bytes:
        return hashlib.sha256(buffer).digest()

    if sum(map(len, values)) < _PARALLEL_BYTES:
        return [of(buffer) for buffer in values]
    # hashlib releases Python's lock for large buffers.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(of, values, chunksize=1))
