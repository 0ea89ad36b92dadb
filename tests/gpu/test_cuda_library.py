"""The C interface of the operators on a GPU: the conformance suite for every variant, and properties of calls."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import operator_oracle as oracle
import pytest
from keygraph.errors import MissingDependencyError
from operator_cases import (
    ATTENTION_CASES,
    BFLOAT16,
    GRAPH_CASES,
    PACK_CASES,
    TOP_K_CASES,
    AttentionCase,
    GraphCase,
    PackCase,
    TopKCase,
    attention_inputs,
    graph_inputs,
    pack_inputs,
    top_k_inputs,
)
from operator_hosts import to_torch

torch = pytest.importorskip("torch")
try:
    from cuda_library import (
        DTYPES,
        MASK_DTYPES,
        attention_variants,
        cuda_library,
        graph_variants,
        key_graph,
        key_graph_attention,
        last_error,
        pack_variants,
        top_k_variants,
    )

    cuda_library()
    from cuda_host import TORCH, CudaLibrary, check, stream
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

#: Relative error in the norm, given the same graph.
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1.6e-2}

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def on_device(array: np.ndarray, dtype: str) -> Any:
    return torch.from_numpy(array.astype(np.float32)).to("cuda", TORCH[dtype]).contiguous()


def as_stored(array: np.ndarray, dtype: str) -> np.ndarray:
    """Round an array to a dtype and return it as float64, the input of the oracle."""
    rounded: np.ndarray = torch.from_numpy(array.astype(np.float32)).to(TORCH[dtype]).to(torch.float64).numpy()
    return rounded


@every_dtype
@pytest.mark.parametrize("case", GRAPH_CASES, ids=lambda case: case.name)
def test_key_graph(case: GraphCase, dtype: str) -> None:
    """Every variant that fits, against the oracle."""
    query, key = graph_inputs(case, np.float32)
    stored = as_stored(query, dtype), as_stored(key, dtype)
    tensors = on_device(query, dtype), on_device(key, dtype)
    numbers = graph_variants((case.batch, case.groups, case.rows, case.nodes, case.channels), dtype, 0)
    assert numbers, last_error()
    for number in (0, *numbers):
        graph = CudaLibrary(number).key_graph(*tensors, torch.tensor([case.k], device="cuda"))
        oracle.check_graph(graph.cpu().numpy(), *stored, case.k, case.exact)


@pytest.mark.parametrize("dtype", MASK_DTYPES)
@pytest.mark.parametrize("case", PACK_CASES, ids=lambda case: case.name)
def test_pack_graph(case: PackCase, dtype: str) -> None:
    """Every variant that fits, against the oracle."""
    if dtype == "i8" and case.threshold:
        pytest.skip("a mask of bool takes no threshold")
    types: dict[str, type] = {"fp32": np.float32, "fp16": np.float16, "bf16": BFLOAT16, "i8": np.bool_}
    inputs = pack_inputs(case, types[dtype])
    mask, threshold = (None if array is None else to_torch(array, "cuda") for array in inputs.values())
    numbers = pack_variants((case.batch, case.groups, case.rows, case.nodes), dtype, case.threshold, 0)
    assert numbers, last_error()
    for number in (0, *numbers):
        graph = CudaLibrary(number).pack_graph(mask, threshold)
        np.testing.assert_array_equal(graph.cpu().numpy(), oracle.pack(oracle.pack_graph(**inputs)))


@every_dtype
@pytest.mark.parametrize("case", TOP_K_CASES, ids=lambda case: case.name)
def test_top_k_graph(case: TopKCase, dtype: str) -> None:
    """Every variant that fits, against the oracle."""
    types: dict[str, type] = {"fp32": np.float32, "fp16": np.float16, "bf16": BFLOAT16}
    scores = top_k_inputs(case, types[dtype])
    numbers = top_k_variants((case.batch, case.groups, case.rows, case.nodes), dtype, 0)
    assert numbers, last_error()
    for number in (0, *numbers):
        graph = CudaLibrary(number).top_k_graph(to_torch(scores, "cuda"), torch.tensor([case.k], device="cuda"))
        oracle.check_top_k(graph.cpu().numpy(), scores, case.k)


@functools.cache
def expected_attention(case: AttentionCase, dtype: str) -> np.ndarray:
    inputs = attention_inputs(case, np.float32)
    q, k, v = (as_stored(inputs[name], dtype) for name in ("q", "k", "v"))
    bias = None if inputs["bias"] is None else as_stored(inputs["bias"], dtype)
    selected = oracle.unpack(inputs["graph"], case.nodes)
    expected: np.ndarray = oracle.key_graph_attention(q, k, v, selected, bias, case.scale)
    return expected


@every_dtype
@pytest.mark.parametrize("heads_last", [False, True], ids=["", "heads-last"])
@pytest.mark.parametrize("case", ATTENTION_CASES, ids=lambda case: case.name)
def test_key_graph_attention(case: AttentionCase, heads_last: bool, dtype: str) -> None:
    """Every variant that fits, against the oracle."""
    inputs = attention_inputs(case, np.float32)
    q, k, v = (on_device(inputs[name], dtype) for name in ("q", "k", "v"))
    graph = torch.from_numpy(inputs["graph"]).to("cuda")
    bias = None if inputs["bias"] is None else on_device(inputs["bias"], dtype)
    shape = (
        case.batch, case.heads, case.groups, case.rows, case.nodes, case.channels, case.value_channels, int(heads_last),
    )  # fmt: skip
    numbers = attention_variants(shape, dtype, case.bias, 0)
    assert numbers, last_error()
    for number in (0, *numbers):
        output = CudaLibrary(number, heads_last).key_graph_attention(q, k, v, graph, bias, case.scale)
        oracle.check_attention(output.double().cpu().numpy(), expected_attention(case, dtype), TOLERANCE[dtype])


def problem(dtype: str = "fp16", nodes: int = 256, channels: int = 32) -> tuple[Any, ...]:
    generator = torch.Generator("cuda").manual_seed(nodes)
    all_three = torch.randn(3, 2, 6, nodes, channels, generator=generator, device="cuda").to(TORCH[dtype])
    query, key = (tensor[:, :1].contiguous() for tensor in all_three[:2])
    return *all_three, CudaLibrary().key_graph(query, key, torch.tensor([64], device="cuda"))


def test_k_is_read_on_the_device() -> None:
    """A captured CUDA graph uses the current k and inputs without a new capture."""
    q, k, v, _ = problem()
    query = q[:, :1].contiguous()
    neighbours = torch.tensor([64], device="cuda")
    library = CudaLibrary()

    def both() -> tuple[Any, Any]:
        graph = library.key_graph(query, query, neighbours)
        return graph, library.key_graph_attention(q, k, v, graph, None, None)

    both()
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        graph, output = both()
    for wanted in (1, 17, 256):
        neighbours.fill_(wanted)
        q.normal_()
        query.copy_(q[:, :1])
        captured.replay()
        alone_graph, alone = both()
        assert int(oracle.unpack(graph.cpu().numpy(), 256).sum()) == wanted * 2 * 256
        assert torch.equal(graph, alone_graph)
        assert torch.equal(output, alone)


def test_prepared_variants_can_be_captured_at_once() -> None:
    q, k, v, graph = problem(nodes=320)
    (number, *_) = attention_variants((2, 6, 1, 320, 320, 32, 32, 0), "fp16", False, 0)
    check(cuda_library().keygraph_cuda_prepare(number))
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        output = CudaLibrary(number).key_graph_attention(q, k, v, graph, None, None)
    captured.replay()
    assert torch.equal(output, CudaLibrary(number).key_graph_attention(q, k, v, graph, None, None))


def test_streams_are_the_callers() -> None:
    q, k, v, graph = problem()
    alone = CudaLibrary().key_graph_attention(q, k, v, graph, None, None)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)  # A kernel on another stream would read `late` too early.
        late = q.clone()
        output = CudaLibrary().key_graph_attention(late, k, v, graph, None, None)
    torch.cuda.synchronize()
    assert torch.equal(output, alone)


def test_nothing_is_allocated() -> None:
    q, k, v, graph = problem()
    output = CudaLibrary().key_graph_attention(q, k, v, graph, None, None)
    lost = []
    # Other processes may allocate memory of the GPU meanwhile, but not in every repetition.
    for _ in range(20):
        torch.cuda.synchronize()
        free = torch.cuda.mem_get_info()[0]
        for _ in range(50):
            CudaLibrary().key_graph_attention(q, k, v, graph, None, None)
        torch.cuda.synchronize()
        lost.append(free - torch.cuda.mem_get_info()[0])
    assert min(lost) <= 0, lost
    assert torch.isfinite(output).all()


def test_threads() -> None:
    q, k, v, graph = problem("bf16" if torch.cuda.is_bf16_supported() else "fp32", nodes=96)
    alone = CudaLibrary().key_graph_attention(q, k, v, graph, None, None)
    torch.cuda.synchronize()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(50):
                    output = CudaLibrary().key_graph_attention(q, k, v, graph, None, None)
                    torch.cuda.current_stream().synchronize()
                    assert torch.equal(output, alone)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.fixture
def second_context() -> Iterator[Any]:
    """A CUDA context besides PyTorch's, current during the test."""
    import ctypes

    cuda = ctypes.CDLL("libcuda.so.1")
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    context = ctypes.c_void_p()
    assert cuda.cuCtxCreate_v2(ctypes.byref(context), 0, 0) == 0
    yield cuda
    cuda.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    cuda.cuCtxDestroy_v2(context)


def test_two_contexts(second_context: Any) -> None:
    """Kernels belong to a context and are loaded again in another one."""
    import ctypes

    cuda = second_context
    memory = ctypes.c_uint64()
    assert cuda.cuMemAlloc_v2(ctypes.byref(memory), 1 << 20) == 0
    assert cuda.cuMemsetD8_v2(memory, 0, ctypes.c_size_t(1 << 20)) == 0
    one = ctypes.c_int64(3)
    assert cuda.cuMemcpyHtoD_v2(memory, ctypes.byref(one), ctypes.c_size_t(8)) == 0
    graph = memory.value + (1 << 19)
    for _ in range(2):
        check(key_graph((1, 1, 64, 64, 32), "fp16", memory.value + 4096, memory.value + 4096, memory.value, graph))
    assert cuda.cuCtxSynchronize() == 0
    words = (ctypes.c_uint32 * 128)()
    assert cuda.cuMemcpyDtoH_v2(words, ctypes.c_uint64(graph), ctypes.c_size_t(512)) == 0
    assert list(words) == [0b111, 0] * 64


@pytest.mark.parametrize("offset", [0, 1, 2, 4])
def test_slices_at_any_element(offset: int) -> None:
    q, k, v, graph = problem()
    expected = CudaLibrary().key_graph_attention(q, k, v, graph, None, None)
    shifted = []
    for tensor in (q, k, v):
        memory = torch.zeros(tensor.numel() + 8, dtype=tensor.dtype, device="cuda")
        part = memory[offset : offset + tensor.numel()].view(tensor.shape)
        shifted.append(part.copy_(tensor))
    output = CudaLibrary().key_graph_attention(*shifted, graph, None, None)
    difference = (output.double() - expected.double()).norm() / expected.double().norm()
    assert difference < TOLERANCE["fp16"]


def test_an_address_between_elements_is_an_error() -> None:
    q, k, v, graph = problem()
    output = torch.empty_like(q)
    status = key_graph_attention(
        (2, 6, 1, 256, 256, 32, 32, 0), "fp16", q.data_ptr() + 1, k.data_ptr(), v.data_ptr(), graph.data_ptr(), None,
        1.0, output.data_ptr(), 0, stream(),
    )  # fmt: skip
    assert status == 11
    torch.cuda.synchronize()


def test_empty_tensors() -> None:
    library = CudaLibrary()
    nothing = torch.empty(0, 1, 8, 4, device="cuda")
    assert library.key_graph(nothing, nothing, torch.tensor([1], device="cuda")).shape == (0, 1, 8, 1)
    q = torch.randn(1, 2, 5, 8, device="cuda")
    none = torch.empty(1, 2, 0, 8, device="cuda")
    no_words = torch.empty(1, 1, 5, 0, dtype=torch.int32, device="cuda")
    output = library.key_graph_attention(q, none, none, no_words, None, 1.0)
    assert torch.equal(output, torch.zeros_like(q))
    no_channels = torch.empty(1, 1, 4, 0, device="cuda")
    graph = library.key_graph(no_channels, no_channels, torch.tensor([2], device="cuda"))
    assert graph.flatten().tolist() == [3, 3, 3, 3]
