"""The implementations under test, each behind the same methods, one for each operator.

A new host is one class and one line in `hosts`.

`dtypes` are the types that a host computes with. `finite_only` marks dense, masked implementations: they multiply what
is not selected by 0, so that a NaN or an infinity in v reaches rows that do not select it. `lowest_of_equals` is False
where KeyGraph selects any of equal similarities instead of the lowest nodes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import threading
from pathlib import Path
from typing import Any

import keygraph.plugins
import numpy as np
from operator_cases import BFLOAT16, FLOATS, AttentionCase

#: The C interface's numbers.
DTYPES = {np.dtype(np.float32): 1, np.dtype(np.float16): 2, np.dtype(BFLOAT16): 3, np.dtype(np.bool_): 4}
_INT64 = ctypes.c_int64
_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t)
_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p)


class GraphShape(ctypes.Structure):
    _fields_ = [(name, _INT64) for name in ("batch", "groups", "rows", "nodes", "channels")]


class PackShape(ctypes.Structure):
    _fields_ = [(name, _INT64) for name in ("batch", "groups", "rows", "nodes")]


class AttentionShape(ctypes.Structure):
    _fields_ = [
        *((name, _INT64) for name in ("batch", "heads", "groups", "rows", "nodes", "channels", "value_channels")),
        *((name, _INT64) for name in ("heads_last", "bias_windows")),
    ]


class Parallel(ctypes.Structure):
    _fields_ = [("run", _RUN), ("context", ctypes.c_void_p)]


class StatusError(Exception):
    """A status of the C interface; the message is the interface's own."""


def native(name: str) -> Path:
    """A library of this build, or of another one (sanitized) that KEYGRAPH_LIBRARY_DIR names."""
    folder = os.environ.get("KEYGRAPH_LIBRARY_DIR")
    return Path(folder) / keygraph.plugins.LIBRARIES[name] if folder else keygraph.plugins.library(name)


@functools.cache
def cpu_library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(native("cpu")))
    declare(library)
    return library


def declare(library: ctypes.CDLL) -> None:
    """Give the C interface's functions their types."""
    pointer = ctypes.c_void_p
    library.keygraph_cpu_isa.restype = ctypes.c_char_p
    library.keygraph_cpu_isa.argtypes = []
    library.keygraph_cpu_select_isa.argtypes = [ctypes.c_char_p]
    library.keygraph_status_message.restype = ctypes.c_char_p
    library.keygraph_status_message.argtypes = [ctypes.c_int]
    library.keygraph_cpu_key_graph.argtypes = [
        ctypes.POINTER(GraphShape), ctypes.c_int, pointer, pointer, _INT64, pointer, ctypes.POINTER(Parallel),
    ]  # fmt: skip
    library.keygraph_cpu_pack_graph.argtypes = [
        ctypes.POINTER(PackShape), ctypes.c_int, pointer, pointer, pointer, ctypes.POINTER(Parallel),
    ]  # fmt: skip
    library.keygraph_cpu_top_k_graph.argtypes = [
        ctypes.POINTER(PackShape), ctypes.c_int, pointer, _INT64, pointer, ctypes.POINTER(Parallel),
    ]  # fmt: skip
    library.keygraph_cpu_key_graph_attention.argtypes = [
        ctypes.POINTER(AttentionShape), ctypes.c_int, pointer, pointer, pointer, pointer, pointer, ctypes.c_float,
        pointer, ctypes.POINTER(Parallel),
    ]  # fmt: skip


@functools.cache
def instruction_sets() -> tuple[str, ...]:
    """Those that this machine has, as the library sees it."""
    library = cpu_library()
    known = [name for name in ("baseline", "avx2", "avx512") if library.keygraph_cpu_select_isa(name.encode()) == 0]
    library.keygraph_cpu_select_isa(None)
    return tuple(known)


def check(status: int) -> None:
    if status:
        raise StatusError(cpu_library().keygraph_status_message(status).decode())


class Cpu:
    """The C interface through ctypes, with Python's threads as the host's."""

    finite_only = False
    lowest_of_equals = True
    dtypes = FLOATS

    def __init__(self, isa: str, threads: int = 2, heads_last: bool = False) -> None:
        self.isa = isa
        self.heads_last = heads_last
        self.threads = threads
        self.failures: list[BaseException] = []
        self._parallel = Parallel(_RUN(self._run), None)

    def _run(self, context: Any, tasks: int, task: int, argument: int) -> None:
        call, indices = _TASK(task), itertools.count()

        def work() -> None:
            while (index := next(indices)) < tasks:
                call(argument, index)

        workers = [threading.Thread(target=work) for _ in range(self.threads - 1)]
        for worker in workers:
            worker.start()
        work()
        for worker in workers:
            worker.join()

    def key_graph(self, query: np.ndarray, key: np.ndarray, k: int) -> np.ndarray:
        library = cpu_library()
        check(library.keygraph_cpu_select_isa(self.isa.encode()))
        batch, groups, rows, channels = query.shape
        nodes = key.shape[2]
        graph = np.full((batch, groups, rows, (nodes + 31) // 32), -123, dtype=np.int32)
        shape = GraphShape(batch, groups, rows, nodes, channels)
        try:
            check(
                library.keygraph_cpu_key_graph(
                    shape, DTYPES[query.dtype], query.ctypes.data, key.ctypes.data, k, graph.ctypes.data, self._parallel
                )
            )
        finally:
            library.keygraph_cpu_select_isa(None)
        return graph

    def pack_graph(self, mask: np.ndarray, threshold: np.ndarray | None = None) -> np.ndarray:
        library = cpu_library()
        check(library.keygraph_cpu_select_isa(self.isa.encode()))
        graph = np.full((*mask.shape[:3], (mask.shape[3] + 31) // 32), -123, dtype=np.int32)
        given = None if threshold is None else threshold.ctypes.data
        try:
            check(
                library.keygraph_cpu_pack_graph(
                    PackShape(*mask.shape), DTYPES[mask.dtype], mask.ctypes.data, given, graph.ctypes.data,
                    self._parallel,
                )
            )  # fmt: skip
        finally:
            library.keygraph_cpu_select_isa(None)
        return graph

    def top_k_graph(self, scores: np.ndarray, k: int) -> np.ndarray:
        library = cpu_library()
        check(library.keygraph_cpu_select_isa(self.isa.encode()))
        graph = np.full((*scores.shape[:3], (scores.shape[3] + 31) // 32), -123, dtype=np.int32)
        try:
            check(
                library.keygraph_cpu_top_k_graph(
                    PackShape(*scores.shape), DTYPES[scores.dtype], scores.ctypes.data, k, graph.ctypes.data,
                    self._parallel,
                )
            )  # fmt: skip
        finally:
            library.keygraph_cpu_select_isa(None)
        return graph

    def key_graph_attention(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        graph: np.ndarray,
        bias: np.ndarray | None = None,
        scale: float | None = None,
    ) -> np.ndarray:
        library = cpu_library()
        check(library.keygraph_cpu_select_isa(self.isa.encode()))
        batch, heads, rows, channels = q.shape
        output = np.full((batch, heads, rows, v.shape[3]), 123, dtype=q.dtype)
        shape = AttentionShape(
            batch, heads, graph.shape[1], rows, k.shape[2], channels, v.shape[3], int(self.heads_last),
            windows_of(bias),
        )  # fmt: skip
        if self.heads_last:
            q, k, v, output = (np.ascontiguousarray(x.swapaxes(1, 2)) for x in (q, k, v, output))
        try:
            check(
                library.keygraph_cpu_key_graph_attention(
                    shape, DTYPES[q.dtype], q.ctypes.data, k.ctypes.data, v.ctypes.data, graph.ctypes.data,
                    None if bias is None else bias.ctypes.data, channels**-0.5 if scale is None else scale,
                    output.ctypes.data, self._parallel,
                )
            )  # fmt: skip
        finally:
            library.keygraph_cpu_select_isa(None)
        return output.swapaxes(1, 2) if self.heads_last else output


def windows_of(bias: np.ndarray | None) -> int:
    """The C interface's `bias_windows`: W of [W, H, M, N], 0 for [H, M, N]."""
    return 0 if bias is None or bias.ndim == 3 else bias.shape[0]


def three_sizes(x: np.ndarray) -> np.ndarray:
    """[B, H, N, D] -> [B, N, H D]."""
    return np.ascontiguousarray(x.swapaxes(1, 2)).reshape(x.shape[0], x.shape[2], -1)


def four_sizes(x: np.ndarray, heads: int) -> np.ndarray:
    """[B, N, H D] -> [B, H, N, D]."""
    split: np.ndarray = x.reshape(*x.shape[:2], heads, x.shape[2] // heads).swapaxes(1, 2)
    return split


def one_node(
    op: str,
    dtype: type | str,
    bias: int = 0,
    scale: float | None = None,
    functions: bool = False,
    heads: int | None = None,
    ranked: bool = True,
) -> Any:
    """Make a model of one node with run-time shapes; with the operators as functions, or for a host's library.

    `dtype`: NumPy's, or "bfloat16". `bias`: its rank, 0 for none; of PackGraph whether it has a threshold. `heads`: for
    q, k and v of three dimensions. `ranked`: False leaves the inputs' ranks open, so that the host does not check them.
    """
    import onnx

    bfloat16 = onnx.TensorProto.BFLOAT16
    element = bfloat16 if dtype == "bfloat16" else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def value(name: str, element: int, sizes: list[Any] | None) -> Any:
        return onnx.helper.make_tensor_value_info(name, element, sizes if ranked else None)

    attributes: dict[str, Any] = {"plugin_namespace": "keygraph", "plugin_version": "1"}
    if op == "KeyGraph":
        inputs = [
            value("query", element, ["B", "G", "M", "C"]),
            value("key", element, ["B", "G", "N", "C"]),
            value("k", onnx.TensorProto.INT64, [1]),
        ]
        output = value("graph", onnx.TensorProto.INT32, None)
    elif op == "PackGraph":
        inputs = [value("mask", element, ["B", "G", "M", "N"])]
        if bias:
            inputs.append(value("threshold", element, ["B", "G", "M", 1]))
        output = value("graph", onnx.TensorProto.INT32, None)
    elif op == "TopKGraph":
        inputs = [value("scores", element, ["B", "G", "M", "N"]), value("k", onnx.TensorProto.INT64, [1])]
        output = value("graph", onnx.TensorProto.INT32, None)
    else:
        dims = {"q": ["B", "H", "M", "D"], "k": ["B", "H", "N", "D"], "v": ["B", "H", "N", "Dv"]}
        if heads is not None:
            dims = {"q": ["B", "M", "HD"], "k": ["B", "N", "HD"], "v": ["B", "N", "HDv"]}
            attributes["heads"] = heads
        inputs = [
            *(value(name, element, sizes) for name, sizes in dims.items()),
            value("graph", onnx.TensorProto.INT32, ["B", "G", "M", "W"]),
        ]
        if bias:
            inputs.append(value("bias", element, ["BW", "H", "M", "N"][-bias:]))
        if scale is not None:
            attributes["scale"] = scale
        output = value("output", element, None)
    node = onnx.helper.make_node(
        op, [i.name for i in inputs], [output.name], name="the_node", domain="keygraph", **attributes
    )
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("keygraph", 1)]
    bodies = []
    if functions:
        from keygraph.export.functions import operator_functions

        bodies = operator_functions(bool(bias), heads is not None, threshold=bool(bias))
    return onnx.helper.make_model(
        onnx.helper.make_graph([node], op, inputs, [output]), opset_imports=opsets, functions=bodies, ir_version=10
    )


@functools.cache
def session(
    op: str,
    dtype: type | str,
    bias: int,
    scale: float | None,
    threads: int,
    functions: bool,
    heads: int | None = None,
    provider: str = "CPUExecutionProvider",
    ranked: bool = True,
) -> Any:
    """Make a session of `one_node`, with our library or with the operators as functions instead.

    `provider`: must run the node itself.
    """
    import onnxruntime

    model = one_node(op, dtype, bias, scale, functions, heads, ranked)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if not functions:
        options.register_custom_ops_library(str(native("onnxruntime")))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[provider])


def to_torch(array: np.ndarray, device: str = "cpu") -> Any:
    """A tensor of the same numbers. NumPy's bfloat16 is a foreign type to PyTorch: its bits are handed over."""
    import torch

    array = np.ascontiguousarray(array)
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(array).to(device)


def to_numpy(tensor: Any) -> np.ndarray:
    """Undo `to_torch`."""
    import torch

    tensor = tensor.cpu()
    bfloat16 = tensor.dtype == torch.bfloat16
    array: np.ndarray = tensor.view(torch.int16).numpy().view(BFLOAT16) if bfloat16 else tensor.numpy()
    return array


class Torch:
    """The torch.library operators: on the CPU the reference definitions, on other devices the kernels.

    `implementation` is a name for `use_attention`; without one, the device's own choice is tested.
    """

    lowest_of_equals = True
    dtypes = FLOATS

    def __init__(self, heads_last: bool = False, device: str = "cpu", implementation: str | None = None) -> None:
        self.heads_last = heads_last
        self.device = device
        self.implementation = implementation
        self.finite_only = True

    def key_graph(self, query: np.ndarray, key: np.ndarray, k: int) -> np.ndarray:
        import torch
        from keygraph.plugins.torch import key_graph

        graph = key_graph(to_torch(query, self.device), to_torch(key, self.device), torch.tensor([k]))
        return to_numpy(graph)

    def pack_graph(self, mask: np.ndarray, threshold: np.ndarray | None = None) -> np.ndarray:
        from keygraph.plugins.torch import pack_graph

        given = None if threshold is None else to_torch(threshold, self.device)
        return to_numpy(pack_graph(to_torch(mask, self.device), given))

    def top_k_graph(self, scores: np.ndarray, k: int) -> np.ndarray:
        import torch
        from keygraph.plugins.torch import top_k_graph

        return to_numpy(top_k_graph(to_torch(scores, self.device), torch.tensor([k])))

    def key_graph_attention(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        graph: np.ndarray,
        bias: np.ndarray | None = None,
        scale: float | None = None,
    ) -> np.ndarray:
        from keygraph.plugins.torch import key_graph_attention, use_attention

        heads = q.shape[1]
        if self.heads_last:
            q, k, v = (three_sizes(x) for x in (q, k, v))
        torch_q, torch_k, torch_v, torch_graph = (to_torch(array, self.device) for array in (q, k, v, graph))
        torch_bias = None if bias is None else to_torch(bias, self.device)
        with use_attention(self.implementation) if self.implementation else contextlib.nullcontext():
            result = key_graph_attention(
                torch_q, torch_k, torch_v, torch_graph, torch_bias, scale, heads if self.heads_last else None
            )
        array = to_numpy(result)
        return four_sizes(array, heads) if self.heads_last else array


class OnnxRuntime:
    """ONNX Runtime with libkeygraph_ort, or without it and with the functions in the file.

    Without bfloat16: what it computes on the CPU has none.
    """

    lowest_of_equals = True
    dtypes = (np.float32, np.float16)

    def __init__(
        self,
        threads: int = 2,
        functions: bool = False,
        heads_last: bool = False,
        provider: str = "CPUExecutionProvider",
    ) -> None:
        self.finite_only = functions
        self.provider = provider
        self.heads_last = heads_last
        self.threads = threads
        self.functions = functions

    def key_graph(self, query: np.ndarray, key: np.ndarray, k: int) -> np.ndarray:
        dtype: type = query.dtype.type
        run = session("KeyGraph", dtype, False, None, self.threads, self.functions, None, self.provider)
        graph: np.ndarray = run.run(None, {"query": query, "key": key, "k": np.array([k])})[0]
        return graph

    def pack_graph(self, mask: np.ndarray, threshold: np.ndarray | None = None) -> np.ndarray:
        given = threshold is not None
        dtype: type = mask.dtype.type
        run = session("PackGraph", dtype, given, None, self.threads, self.functions, None, self.provider)
        graph: np.ndarray = run.run(None, {"mask": mask} | ({"threshold": threshold} if given else {}))[0]
        return graph

    def top_k_graph(self, scores: np.ndarray, k: int) -> np.ndarray:
        dtype: type = scores.dtype.type
        run = session("TopKGraph", dtype, False, None, self.threads, self.functions, None, self.provider)
        graph: np.ndarray = run.run(None, {"scores": scores, "k": np.array([k])})[0]
        return graph

    def key_graph_attention(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        graph: np.ndarray,
        bias: np.ndarray | None = None,
        scale: float | None = None,
    ) -> np.ndarray:
        if self.functions and scale is None:
            scale = q.shape[3] ** -0.5  # a function's attribute cannot have a default that depends on a shape
        heads = q.shape[1]
        form = heads if self.heads_last else None
        dtype: type = q.dtype.type
        run = session(
            "KeyGraphAttention",
            dtype,
            0 if bias is None else bias.ndim,
            scale,
            self.threads,
            self.functions,
            form,
            self.provider,
        )
        if self.heads_last:
            q, k, v = (three_sizes(x) for x in (q, k, v))
        feeds = {"q": q, "k": k, "v": v, "graph": graph} | ({} if bias is None else {"bias": bias})
        result = run.run(None, feeds)[0]
        return four_sizes(result, heads) if self.heads_last else result


class Triton:
    """One variant of the Triton kernels, just in time: on a GPU, or in Triton's interpreter (see tests/conftest.py)."""

    dtypes = FLOATS

    def __init__(self, variant: Any, heads_last: bool = False) -> None:
        self.variant = variant
        self.heads_last = heads_last

    @classmethod
    def fitting(cls, kernel: str, dtype: str, case: AttentionCase) -> Triton | None:
        """The first variant of a kernel that computes the case; None where there is none."""
        from keygraph.plugins.triton import jit

        types = {name: dtype for dtype, name in jit.DTYPES.items()}
        sizes = jit.Sizes(
            case.batch, case.groups, case.rows, case.nodes, case.channels, case.heads, case.value_channels
        )
        found = jit.fitting("KeyGraphAttention", types[dtype], sizes, case.bias)
        return next((cls(variant) for variant in found if kernel in variant.name), None)

    @staticmethod
    def device() -> str:
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def key_graph(self, query: np.ndarray, key: np.ndarray, k: int) -> np.ndarray:
        from keygraph.plugins.triton import jit

        torch_query, torch_key, torch_k = (to_torch(array, self.device()) for array in (query, key, np.array([k])))
        return to_numpy(jit.key_graph(torch_query, torch_key, torch_k, self.variant))

    def pack_graph(self, mask: np.ndarray, threshold: np.ndarray | None = None) -> np.ndarray:
        from keygraph.plugins.triton import jit

        given = None if threshold is None else to_torch(threshold, self.device())
        return to_numpy(jit.pack_graph(to_torch(mask, self.device()), given, self.variant))

    def top_k_graph(self, scores: np.ndarray, k: int) -> np.ndarray:
        from keygraph.plugins.triton import jit

        torch_scores, torch_k = (to_torch(array, self.device()) for array in (scores, np.array([k])))
        return to_numpy(jit.top_k_graph(torch_scores, torch_k, self.variant))

    def key_graph_attention(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        graph: np.ndarray,
        bias: np.ndarray | None = None,
        scale: float | None = None,
    ) -> np.ndarray:
        from keygraph.plugins.triton import jit

        scale = q.shape[3] ** -0.5 if scale is None else scale
        if self.heads_last:
            q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        torch_q, torch_k, torch_v, torch_graph = (to_torch(array, self.device()) for array in (q, k, v, graph))
        added = None if bias is None else to_torch(bias, self.device())
        output = jit.key_graph_attention(
            torch_q, torch_k, torch_v, torch_graph, added, scale, self.heads_last, self.variant
        )
        result = to_numpy(output)
        return result.swapaxes(1, 2) if self.heads_last else result


def triton_variants(op: str) -> list[Any]:
    """All variants of an operator, whatever they fit."""
    from keygraph.plugins.triton.variants import VARIANTS

    return [variant for variant in VARIANTS if variant.op == op]


def hosts() -> dict[str, Any]:
    """Name -> implementation."""
    from openvino_host import OpenVino

    return {
        **{f"cpu-{isa}": Cpu(isa) for isa in instruction_sets()},
        "onnxruntime": OnnxRuntime(),
        "functions": OnnxRuntime(functions=True),
        "openvino": OpenVino(),
        "functions-openvino": OpenVino(functions=True),
        "torch": Torch(),
    }


def heads_last_hosts() -> dict[str, Any]:
    """The same implementations, given q, k and v of three sizes."""
    from openvino_host import OpenVino

    return {
        **{f"cpu-{isa}": Cpu(isa, heads_last=True) for isa in instruction_sets()},
        "onnxruntime": OnnxRuntime(heads_last=True),
        "functions": OnnxRuntime(functions=True, heads_last=True),
        "openvino": OpenVino(heads_last=True),
        "functions-openvino": OpenVino(functions=True, heads_last=True),
        "torch": Torch(heads_last=True),
    }
