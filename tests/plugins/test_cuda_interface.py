"""The C interface of the GPU operators without a GPU: what is built, what is chosen, what is asked of the driver."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keygraph.plugins
import numpy as np
import pytest
from keygraph.errors import InputError, MissingDependencyError
from load_module import load_module

try:
    from cuda_library import (
        DTYPES,
        MASK_DTYPES,
        attention_variants,
        cuda_library,
        graph_variants,
        last_error,
        message,
        pack_variants,
        targets,
        top_k_variants,
    )

    cuda_library()
except MissingDependencyError as error:
    pytest.skip(str(error), allow_module_level=True)

variants_module = pytest.importorskip("keygraph.plugins.triton.variants", reason="needs Triton")
VARIANTS = variants_module.VARIANTS

#: Built with Triton's machine code, or PTX as 1000 + capability.
TARGETS = targets()

#: Shared memory per block of threads, from the table of compute capabilities in CUDA's programming guide.
KIB = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 120: 99, 121: 99}


def expected_target(capability: int) -> int:
    """The rule of docs/reference/kernels.md."""
    if capability in TARGETS:
        return capability
    apart = {72, 87}
    code = [
        t
        for t in TARGETS
        if t < 90 and capability < 90 and t // 10 == capability // 10 and t < capability and not {t, capability} & apart
    ]
    ptx = [t for t in TARGETS if t >= 1000 and t - 1000 <= capability]
    return max(code, default=0) or max(ptx, default=0)


def fits(variant: Any, op: str, dtype: str, sizes: dict[str, int], bias: bool) -> bool:
    """The rule of docs/reference/kernels.md."""
    channels = [sizes["channels"], *([sizes["value_channels"]] if op == "KeyGraphAttention" else [])]
    limits = ("max_channels", "max_value_channels", "max_nodes", "max_groups")
    return (
        variant.op == op
        and variant.dtype == dtype
        and variant.bias == bias
        and all(
            getattr(variant, limit) == 0 or sizes.get(limit[4:], 1) <= getattr(variant, limit)
            for limit in limits
            if op == "KeyGraphAttention" or limit == "max_nodes" or limit == "max_channels"
        )
        and all(c % variant.channel_multiple == 0 for c in channels)
    )


def test_targets() -> None:
    assert TARGETS
    assert sorted(set(TARGETS)) == TARGETS
    # Fewer than there are: no more is written, and all are counted.
    first = (ctypes.c_int32 * 2)(-1, -1)
    assert cuda_library().keygraph_cuda_targets(first, 1) == len(TARGETS)
    assert list(first) == [TARGETS[0], -1]


@pytest.mark.parametrize("capability", [50, 70, 72, 75, 80, 86, 87, 88, 89, 90, 91, 100, 101, 103, 110, 120, 121, 130])
def test_target_of_a_capability(capability: int) -> None:
    expected = expected_target(capability)
    assert cuda_library().keygraph_cuda_target(capability) == expected
    if not expected:
        said = last_error()
        assert f"no code for compute capability {capability // 10}.{capability % 10}" in said
        assert f"{TARGETS[0] % 1000 // 10}.{TARGETS[0] % 10}" in said
        assert graph_variants((1, 1, 64, 64, 32), "fp32", capability) == []
        assert last_error() == said


def test_every_variant_is_in_the_library() -> None:
    for variant in VARIANTS:
        assert cuda_library().keygraph_cuda_variant_name(variant.number).decode() == variant.name
    for number in (-1, 0, max(v.number for v in VARIANTS) + 1):
        assert cuda_library().keygraph_cuda_variant_name(number) is None


@pytest.mark.parametrize("target", [t for t in TARGETS if t < 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_variants_of_key_graphs(target: int, dtype: str) -> None:
    for nodes, channels in itertools.product((1, 64, 256, 257, 1024, 2048, 4096, 10000), (1, 7, 30, 60, 64, 180)):
        expected = [
            v.number
            for v in VARIANTS
            if v.runs_on(target)
            and fits(v, "KeyGraph", dtype, {"channels": channels, "nodes": nodes, "groups": 1}, False)
        ]
        check_variants(graph_variants((2, 3, nodes, nodes, channels), dtype, target), expected, target)


@pytest.mark.parametrize("target", [t for t in TARGETS if t < 1000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [False, True])
def test_variants_of_attentions(target: int, dtype: str, bias: bool) -> None:
    for nodes, channels, value_channels, groups, last in itertools.product(
        (1, 256, 5000), (1, 16, 30, 32, 40, 64, 129), (1, 30, 128), (1, 6), (0, 1)
    ):
        sizes = {"nodes": nodes, "channels": channels, "value_channels": value_channels, "groups": groups}
        expected = [
            v.number for v in VARIANTS if v.runs_on(target) and fits(v, "KeyGraphAttention", dtype, sizes, bias)
        ]
        found = attention_variants((2, 6, groups, 100, nodes, channels, value_channels, last), dtype, bias, target)
        check_variants(found, expected, target)


@pytest.mark.parametrize("target", [t for t in TARGETS if t < 1000])
@pytest.mark.parametrize("dtype", MASK_DTYPES)
@pytest.mark.parametrize("threshold", [False, True])
def test_variants_of_masks(target: int, dtype: str, threshold: bool) -> None:
    for nodes in (1, 4, 8, 16, 33, 1024, 10000):
        found = pack_variants((2, 3, 100, nodes), dtype, threshold, target)
        sizes = {"nodes": nodes, "channels": nodes}
        expected = [v.number for v in VARIANTS if v.runs_on(target) and fits(v, "PackGraph", dtype, sizes, threshold)]
        assert found == expected
        assert found or (dtype == "i8" and threshold) or (dtype == "bf16" and target < 80)


@pytest.mark.parametrize("target", [t for t in TARGETS if t < 1000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_variants_of_scores(target: int, dtype: str) -> None:
    for nodes in (1, 8, 33, 256, 1024, 10000):
        found = top_k_variants((2, 3, 100, nodes), dtype, target)
        sizes = {"nodes": nodes, "channels": nodes}
        expected = [v.number for v in VARIANTS if v.runs_on(target) and fits(v, "TopKGraph", dtype, sizes, False)]
        check_variants(found, expected, target)


def check_variants(found: list[int], expected: list[int], target: int) -> None:
    """The same, in the same order; where shared memory is short, without what needs more."""
    if KIB.get(target, 0) >= 163:
        assert found == expected
    else:
        assert found == [number for number in expected if number in found]
    if target >= 80:
        assert found, "nothing fits"


def test_variants_of_wrong_problems() -> None:
    target = TARGETS[0] % 1000
    assert graph_variants((1, 1, -1, 4, 4), "fp32", target) == []
    assert last_error() == message(2)
    assert attention_variants((1, 6, 5, 64, 64, 30, 30, 0), "fp32", False, target) == []
    assert last_error() == message(5)
    assert graph_variants((1, 1, 2**20, 2**20, 4096), "fp32", target) == []
    assert "2^31 elements" in last_error()
    assert pack_variants((1, 1, 64, 64), "i8", True, target) == []
    assert last_error() == message(3)
    assert pack_variants((1, 1, 1, 2**16), "fp32", False, target) == []
    assert "2^31 elements" in last_error()
    assert graph_variants((2**31, 1, 64, 64, 32), "fp32", target) == []
    assert "2^31 elements" in last_error()


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_launchers_refuse_what_int32_cannot_count(dtype: str) -> None:
    """The just-in-time launcher has the same limits, and the same words for them."""
    jit = pytest.importorskip("keygraph.plugins.triton.jit", reason="needs PyTorch")
    import torch

    (type_,) = (type_ for type_, name in jit.DTYPES.items() if name == dtype)
    target = max(t for t in TARGETS if t < 1000)

    def allowed(op: str, sizes: Any, found: list[int]) -> bool:
        try:
            fitting = [variant.number for variant in jit.fitting(op, type_, sizes, False, target)]
        except InputError:
            fitting = []
        assert fitting == found
        assert found or "2^31 elements" in last_error()
        return bool(found)

    nodes, batch = (2**31 - 1) // 64 - 4096, 2**31 - 1
    outcomes = set()
    for more in (0, 1):
        shape = (1, 3, 1, nodes + more, 64)
        outcomes.add((more, allowed("KeyGraph", jit.Sizes(*shape), graph_variants(shape, dtype, target))))
        for heads, channels, values in ((1, 64, 1), (1, 1, 64), (64, 1, 1)):
            sizes = jit.Sizes(1, 1, 1, nodes + more, channels, heads, values)
            found = attention_variants((1, heads, 1, 1, nodes + more, channels, values, 0), dtype, False, target)
            outcomes.add((more, allowed("KeyGraphAttention", sizes, found)))
        # Words of a graph, windows, programs.
        rows = 2**17 - 1 + more
        sizes = jit.Sizes(1, 4, rows, 32 * 4096, 1, 4, 1)
        found = attention_variants((1, 4, 4, rows, 32 * 4096, 1, 1, 0), dtype, False, target)
        outcomes.add((more, allowed("KeyGraphAttention", sizes, found)))
        shape = (batch + more, 1, 1, 1, 1)
        outcomes.add((more, allowed("KeyGraph", jit.Sizes(*shape), graph_variants(shape, dtype, target))))
    assert outcomes == {(0, True), (1, False)}
    for more in (0, 1):  # elements of a mask
        sizes = jit.pack_sizes(torch.empty(1, 3, 1, 44338 + more, device="meta"))
        assert allowed("PackGraph", sizes, pack_variants((1, 3, 1, 44338 + more), dtype, False, target)) == (more == 0)
        assert allowed("TopKGraph", sizes, top_k_variants((1, 3, 1, 44338 + more), dtype, target)) == (more == 0)
    # So many programs that only variants of larger blocks remain.
    few, many = ((batch, 1, 1024, 1024, 4) for batch in (1, 2**25))
    assert allowed("KeyGraph", jit.Sizes(*many), graph_variants(many, dtype, target))
    assert len(graph_variants(many, dtype, target)) < len(graph_variants(few, dtype, target))


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 8),
        ({"shape": None}, 1),
        ({"dtype": 0}, 3),
        ({"shape": (1, 1, 2, -2, 2)}, 2),
        ({"shape": (1, 1, 0, 2, 2), "query": 0}, 0),
        ({"query": 0}, 1),
        ({"k": 0}, 1),
        ({"graph": 0}, 1),
        ({"shape": (1, 1, 2, 2, 0), "query": 0}, 8),
        ({"query": 0x1002}, 11),
        ({"query": 0x1002, "dtype": 2}, 8),
        ({"query": 0x1001, "dtype": 2}, 11),
        ({"k": 0x1004}, 11),
        ({"graph": 0x1002}, 11),
    ],
)
def test_key_graph_checks_arguments_first(tmp_path: Path, changes: dict[str, Any], status: int) -> None:
    a = {"shape": (1, 1, 2, 2, 2), "dtype": 1, "query": 0x1000, "k": 0x1000, "graph": 0x1000} | changes
    broken_driver(tmp_path)
    said = run(
        f"s = key_graph({a['shape']}, {a['dtype']}, {a['query']}, 0x2000, {a['k']}, {a['graph']})\n"
        "print(s, message(s), '|', last_error())",
        tmp_path,
    )
    number, _, words = said.partition(" ")
    assert int(number) == status, said
    if status == 8:
        assert "the NVIDIA driver's library does not open: " in words
    elif status:
        first, _, second = words.strip().partition(" | ")
        assert first == second


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 8),
        ({"shape": None}, 1),
        ({"dtype": 4}, 3),
        ({"dtype": 4, "threshold": None, "mask": 0x1001}, 8),
        ({"shape": (1, 1, 2, -2)}, 2),
        ({"shape": (1, 1, 2, 0), "mask": 0, "graph": 0}, 0),
        ({"mask": 0}, 1),
        ({"graph": 0}, 1),
        ({"mask": 0x1002}, 11),
        ({"threshold": 0x1002}, 11),
        ({"threshold": 0x1002, "dtype": 2}, 8),
        ({"graph": 0x1002}, 11),
    ],
)
def test_pack_graph_checks_arguments_first(tmp_path: Path, changes: dict[str, Any], status: int) -> None:
    a = {"shape": (1, 1, 2, 2), "dtype": 1, "mask": 0x1000, "threshold": 0x1000, "graph": 0x1000} | changes
    broken_driver(tmp_path)
    said = run(
        f"s = pack_graph({a['shape']}, {a['dtype']}, {a['mask']}, {a['threshold']}, {a['graph']})\n"
        "print(s, last_error())",
        tmp_path,
    )
    assert int(said.split()[0]) == status, said


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 8),
        ({"shape": None}, 1),
        ({"dtype": 4}, 3),
        ({"shape": (1, 1, 2, -2)}, 2),
        ({"shape": (1, 1, 2, 0), "scores": 0, "graph": 0}, 0),
        ({"scores": 0}, 1),
        ({"k": 0}, 1),
        ({"k": 0x1004}, 11),
        ({"scores": 0x1002}, 11),
        ({"scores": 0x1002, "dtype": 2}, 8),
    ],
)
def test_top_k_graph_checks_arguments_first(tmp_path: Path, changes: dict[str, Any], status: int) -> None:
    a = {"shape": (1, 1, 2, 2), "dtype": 1, "scores": 0x1000, "k": 0x1000, "graph": 0x1000} | changes
    broken_driver(tmp_path)
    said = run(
        f"s = top_k_graph({a['shape']}, {a['dtype']}, {a['scores']}, {a['k']}, {a['graph']})\nprint(s, last_error())",
        tmp_path,
    )
    assert int(said.split()[0]) == status, said


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 8),
        ({"shape": None}, 1),
        ({"shape": (1, 6, 5, 8, 8, 4, 4, 0)}, 5),
        ({"shape": (4, 6, 1, 8, 8, 4, 4, 0, 3), "bias": 0x1000}, 12),
        ({"shape": (4, 6, 1, 8, 8, 4, 4, 0, -2), "bias": 0x1000}, 2),
        ({"shape": (4, 6, 1, 8, 8, 4, 4, 0, 2), "bias": 0x1000}, 8),
        ({"shape": (4, 6, 1, 8, 8, 4, 4, 0, 3)}, 8),
        ({"v": 0}, 1),
        ({"output": 0}, 1),
        ({"shape": (1, 6, 1, 8, 0, 4, 4, 0), "q": 0, "v": 0, "graph": 0}, 8),
        ({"shape": (0, 6, 1, 8, 8, 4, 4, 0), "output": 0}, 0),
        ({"bias": 0x1002}, 11),
        ({"bias": 0x1002, "dtype": 3}, 8),
        ({"output": 0x1002}, 11),
    ],
)
def test_attention_checks_arguments_first(tmp_path: Path, changes: dict[str, Any], status: int) -> None:
    a: dict[str, Any] = {
        "shape": (1, 6, 1, 8, 8, 4, 4, 0), "dtype": 1, "q": 0x1000, "v": 0x1000, "graph": 0x1000, "bias": None,
        "output": 0x1000,
    } | changes  # fmt: skip
    broken_driver(tmp_path)
    said = run(
        f"s = key_graph_attention({a['shape']}, {a['dtype']}, {a['q']}, 0x2000, {a['v']}, {a['graph']}, {a['bias']},"
        f"1.0, {a['output']})\nprint(s, last_error())",
        tmp_path,
    )
    assert int(said.split()[0]) == status, said


def broken_driver(folder: Path) -> None:
    """What stands for a machine without a driver, on any machine."""
    (folder / "libcuda.so.1").write_bytes(b"not a library")


def run(program: str, driver: Path, **environment: str) -> str:
    """Run a program in a process of its own, whose CUDA driver is in a folder."""
    start = (
        "import ctypes, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from cuda_library import *\n"
        "library = cuda_library()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start + program],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a driver of our own making."""
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("fake_driver.c")
    library = folder / "libcuda.so.1"
    command: list[str | Path] = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source]
    subprocess.run(command, check=True)
    return folder


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
class TestCalls:
    """With a driver of our own making, which writes down what it is asked."""

    CODE = 90 if 90 in TARGETS else TARGETS[0] % 1000
    LOG = "\nfake.fake_log.restype = ctypes.c_char_p\nprint(fake.fake_log().decode())"
    GRAPH = (
        "s = key_graph((2, 3, 100, 200, 60), 'fp16', 0x10000, 0x20000, 0x30000, 0x40000, stream=0x77)\n"
        "assert s == 0, (s, last_error())\n"
    )
    GRAPH_SAID = GRAPH.replace("assert s == 0, (s, last_error())", "print(s, last_error())")

    def attention(self, variant: int, bias: int | None = None, windows: int = 0) -> str:
        return (
            f"s = key_graph_attention((2, 6, 1, 100, 200, 30, 28, 1, {windows}), 'fp16', 0x10000, 0x20000, 0x30000,"
            f"0x40000, {bias}, 0.5, 0x60000, {variant}, 0x77)\nprint(s, last_error())\n"
        )

    def log(self, program: str, driver: Path, **environment: str) -> list[str]:
        environment = {"FAKE_CAPABILITY": str(self.CODE)} | environment
        return run("fake = ctypes.CDLL('libcuda.so.1')\n" + program + self.LOG, driver, **environment).splitlines()

    def test_key_graph(self, driver: Path) -> None:
        (first, *_) = graph_variants((2, 3, 100, 200, 60), "fp16", self.CODE)
        variant = next(v for v in VARIANTS if v.number == first)
        *loading, launch = self.log(self.GRAPH, driver)
        assert loading[0].startswith("load ")
        name, *grid, x, y, z, shared, stream = launch.split()[1:10]
        assert name == variant.kernel.__name__
        assert [int(n) for n in grid] == [-(-100 // variant.block_rows) * 6, 1, 1]
        assert int(x) % (32 * variant.warps) == 0
        assert (y, z, stream) == ("1", "1", "0x77")
        assert int(shared) <= 227 * 1024
        assert [int(n) for n in launch.split()[10:]] == [0x10000, 0x20000, 0x30000, 0x40000, 100, 200, 60, 0, 0]

    @pytest.mark.parametrize(("dtype", "threshold"), [("i8", 0), ("fp16", 0), ("fp32", 0x50000)])
    def test_pack_graph(self, driver: Path, dtype: str, threshold: int) -> None:
        for number in pack_variants((2, 3, 100, 208), dtype, bool(threshold), self.CODE):
            variant = next(v for v in VARIANTS if v.number == number)
            call = f"pack_graph((2, 3, 100, 208), {dtype!r}, 0x10000, {threshold or None}, 0x40000, {number}, 0x77)"
            launch = self.log(f"print({call})\n", driver)[-1].split()
            assert launch[1:3] == [variant.kernel.__name__, str(-(-100 // variant.block_rows) * 6)]
            assert [int(n) for n in launch[10:]] == [0x10000, threshold, 0x40000, 100, 208, 0, 0]

    @pytest.mark.parametrize("dtype", ["fp16", "fp32"])
    def test_top_k_graph(self, driver: Path, dtype: str) -> None:
        for number in top_k_variants((2, 3, 100, 208), dtype, self.CODE):
            variant = next(v for v in VARIANTS if v.number == number)
            call = f"top_k_graph((2, 3, 100, 208), {dtype!r}, 0x10000, 0x20000, 0x40000, {number}, 0x77)"
            launch = self.log(f"print({call})\n", driver)[-1].split()
            assert launch[1:3] == [variant.kernel.__name__, str(-(-100 // variant.block_rows) * 6)]
            assert [int(n) for n in launch[10:]] == [0x10000, 0x20000, 0x40000, 100, 208, 0, 0]

    @pytest.mark.parametrize(("bias", "windows", "given"), [(0, 0, 1), (0, 7, 1), (0x50000, 0, 1), (0x50000, 2, 2)])
    def test_attention(self, driver: Path, bias: int, windows: int, given: int) -> None:
        for number in attention_variants((2, 6, 1, 100, 200, 30, 28, 1), "fp16", bool(bias), self.CODE):
            variant = next(v for v in VARIANTS if v.number == number)
            launch = self.log(self.attention(number, bias or None, windows), driver)[-1]
            name, grid = launch.split()[1:3]
            assert name == variant.kernel.__name__
            blocks = [
                -(-size // block) if block else 1
                for size, block in (
                    (100, variant.block_rows),
                    (28, variant.block_value_channels),
                    (6, variant.block_heads),
                    (2, 1),
                )
            ]
            assert int(grid) == np.prod(blocks)
            arguments = [float(n) for n in launch.split()[10:]]
            assert arguments == [
                0x10000, 0x20000, 0x30000, 0x40000, bias, 0x60000, 100, 200, 6, 1, 30, 28, 1, given, 0.5, 0, 0,
            ]  # fmt: skip

    def test_a_kernel_is_loaded_once_per_context(self, driver: Path) -> None:
        said = self.log(
            "fake.fake_context.argtypes = [ctypes.c_void_p, ctypes.c_ulonglong]\n"
            f"{self.GRAPH * 2}fake.fake_context(0x2000, 2)\n{self.GRAPH * 2}fake.fake_context(0x1000, 1)\n{self.GRAPH}"
            f"fake.fake_context(0x1000, 3)\n{self.GRAPH}",  # another one, at the address of the first
            driver,
        )
        kinds = "".join(line[0] for line in said if not line.startswith("attribute"))
        assert kinds == "lll" + "lll" + "l" + "ll"
        assert [line.startswith("load") for line in said if line.startswith("l")] == [
            True, False, False, True, False, False, False, True, False,
        ]  # fmt: skip

    def test_threads_load_a_kernel_once(self, driver: Path) -> None:
        said = self.log(
            "import threading\n"
            f"def work():\n  for _ in range(200):\n    {self.GRAPH.splitlines()[0]}\n    assert s == 0\n"
            "threads = [threading.Thread(target=work) for _ in range(4)]\n"
            "[t.start() for t in threads]\n[t.join() for t in threads]\n",
            driver,
        )
        assert sum(line.startswith("load") for line in said) == 1
        assert len({line for line in said if line.startswith("launch")}) == 1
        assert sum(line.startswith("launch") for line in said) == 800

    def test_prepare(self, driver: Path) -> None:
        (first, *_) = graph_variants((2, 3, 100, 200, 60), "fp16", self.CODE)
        said = self.log(f"assert library.keygraph_cuda_prepare({first}) == 0\n{self.GRAPH}", driver)
        assert said[0].startswith("load")
        assert said[-1].startswith("launch")
        assert sum(line.startswith("load") for line in said) == 1
        assert run("print(library.keygraph_cuda_prepare(99999), last_error())", driver) == "9 there is no variant 99999"

    @pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
    def test_every_embedded_kernel_can_be_read(self, driver: Path, variant: Any) -> None:
        """Machine code or PTX, and not what decompression makes of something else."""
        capability = max((t for t in TARGETS if t < 1000 and variant.runs_on(t)), default=0)
        if not capability:
            pytest.skip("not for any of the targets")
        said = self.log(
            f"print(library.keygraph_cuda_prepare({variant.number}), last_error())",
            driver,
            FAKE_CAPABILITY=str(capability),
        )
        if said[0].startswith("9 "):
            assert "more shared memory" in said[0]
        else:
            assert said[0].strip() == "0"
            assert said[1] == "load cubin"

    def test_large_shared_memory_is_asked_for(self, driver: Path) -> None:
        numbers = graph_variants((1, 1, 64, 64, 32), "fp32", self.CODE)
        program = "".join(
            f"assert key_graph((1, 1, 64, 64, 32), 'fp32', 4096, 4096, 4096, 4096, {n}) == 0\n" for n in numbers
        )
        asked, largest = 0, 0
        for line in self.log(program, driver):
            kind, *words = line.split()
            if kind == "attribute":
                assert words[1] == "8"  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                asked = int(words[2])
            elif kind == "launch":
                shared = int(words[7])
                assert asked == (shared if shared > 48 * 1024 else 0)
                asked, largest = 0, max(largest, shared)
        assert largest > 48 * 1024, "no variant of float32 tests this any more: take another type"

    def test_a_driver_that_refuses_machine_code_gets_ptx(self, driver: Path) -> None:
        said = self.log(self.GRAPH_SAID, driver, FAKE_REFUSES="cubin")
        if any(1000 < t <= 1000 + self.CODE for t in TARGETS):
            assert said[0].startswith("0")
            assert said[1:3] == ["load cubin", "load ptx"]
            assert said[-1].startswith("launch")
        else:
            assert said[0] == "10 cuModuleLoadData fails: CUDA_ERROR_NO_BINARY_FOR_GPU (in other words)"

    def test_a_launch_that_fails(self, driver: Path) -> None:
        (first, *_) = graph_variants((2, 3, 100, 200, 60), "fp16", self.CODE)
        name = cuda_library().keygraph_cuda_variant_name(first).decode()
        said = self.log(self.GRAPH_SAID, driver, FAKE_REFUSES="launch")
        assert said[0] == f"10 {name} fails: CUDA_ERROR_LAUNCH_FAILED (in other words)"

    def test_no_device_and_no_context(self, driver: Path) -> None:
        said = self.log(self.GRAPH_SAID, driver, FAKE_INIT="100")
        assert said[0] == "8 cuInit fails: CUDA_ERROR_NO_DEVICE (in other words)"
        said = self.log("fake.fake_context(None, 0)\n" + self.GRAPH_SAID, driver)
        assert said[0] == "8 no CUDA context is current in this thread"

    def test_a_gpu_without_code(self, driver: Path) -> None:
        said = self.log(self.GRAPH_SAID, driver, FAKE_CAPABILITY="70")
        assert said[0].startswith("9 this library has no code for compute capability 7.0; it was built for ")

    def test_the_current_device(self, driver: Path) -> None:
        said = self.log("print(library.keygraph_cuda_target(0), graph_variants((1, 1, 64, 64, 32), 'fp16', 0))", driver)
        assert said[0] == f"{self.CODE} {graph_variants((1, 1, 64, 64, 32), 'fp16', self.CODE)}"

    def test_a_variant_that_does_not_fit(self, driver: Path) -> None:
        graph = next(v for v in VARIANTS if v.op == "KeyGraph" and v.dtype == "fp16")
        narrow = next(v for v in VARIANTS if v.op == "KeyGraphAttention" and v.dtype == "fp16" and v.max_channels == 16)
        said = self.log("".join(map(self.attention, (graph.number, narrow.number, 12345))), driver)
        assert said[0] == f"9 {graph.name} does not fit: it is not a variant of KeyGraphAttention"
        assert said[1] == f"9 {narrow.name} does not fit: at most 16 channels, there are 30"
        assert said[2] == "9 there is no variant 12345"

    def test_a_slice_gets_a_variant_that_takes_it(self, driver: Path) -> None:
        """Channels that come in eights make loads of 16 bytes, which an address in between does not allow."""
        wide = next(
            v for v in VARIANTS if v.op == "KeyGraphAttention" and v.dtype == "fp16" and v.channel_multiple == 8
        )
        call = (
            "s = key_graph_attention((2, 6, 1, 100, 200, 32, 32, 0), 'fp16', {}, 0x20000, 0x30000, 0x40000, None, 0.5,"
            "0x60000, {})\nprint(s, last_error())\n"
        )
        places = (0x10000, wide.number), (0x10004, wide.number), (0x10004, 0), (0x10002, 0), (0x10001, 0)
        said = self.log("".join(call.format(*place) for place in places), driver)
        assert said[0].startswith("0 ")
        assert said[1] == (
            f"11 {wide.name} does not fit: tensors must be at multiples of 16 bytes, one is only at a multiple of 4"
        )
        assert said[2].startswith("0 ")
        assert said[3].startswith("0 ")
        assert said[4] == f"11 {message(11)}"

    @pytest.mark.parametrize("op", ["KeyGraph", "PackGraph", "TopKGraph", "KeyGraphAttention"])
    def test_what_the_compiler_is_promised_of_addresses_is_checked(self, driver: Path, op: str) -> None:
        """An address that breaks a promise is refused; without one the element's own alignment will do."""
        compiler = compile_module()
        types = variants_module.SIGNATURES[op]
        tensors = [name for name, type_ in types.items() if type_.startswith("*")]
        program, expected = "", []
        for variant in VARIANTS:
            if variant.op != op or not variant.runs_on(self.CODE):
                continue
            promised = compiler.promised_alignments(variant)
            for shifted in tensors:
                if shifted in ("bias", "threshold") and not variant.bias:
                    continue
                element = {"*i32": 4, "*i64": 8}.get(types[shifted]) or {"fp32": 4, "i8": 1}.get(variant.dtype, 2)
                absent = set() if variant.bias else {"bias", "threshold"}
                places = {name: None if name in absent else 0x10000 for name in tensors}
                broken = promised[shifted] > element if shifted in promised else False
                places[shifted] = 0x10000 + (promised[shifted] // 2 if broken else element)
                if op == "KeyGraph":
                    shape: tuple[int, ...] = (2, 3, 100, min(200, variant.max_nodes or 200), 16)
                    call = f"key_graph({shape}, {variant.dtype!r}, {', '.join(map(str, places.values()))}"
                elif op == "PackGraph":
                    call = f"pack_graph((2, 3, 100, 160), {variant.dtype!r}, {', '.join(map(str, places.values()))}"
                elif op == "TopKGraph":
                    call = f"top_k_graph((2, 3, 100, 160), {variant.dtype!r}, {', '.join(map(str, places.values()))}"
                else:
                    *inputs, output = (str(address) for address in places.values())
                    shape = (2, 6, 1, 100, 200, 16, 16, 1)
                    call = f"key_graph_attention({shape}, {variant.dtype!r}, {', '.join(inputs)}, 0.5, {output}"
                program += f"print({call}, {variant.number}))\n"
                expected.append((variant.name, shifted, 11 if broken else 0))
        said = self.log(program, driver)[: len(expected)]
        assert [
            (name, shifted, int(status)) for (name, shifted, _), status in zip(expected, said, strict=True)
        ] == expected


def compile_module() -> Any:
    """The script plugins/cuda/compile.py as a module."""
    path = Path(str(variants_module.__file__)).parents[1] / "cuda" / "compile.py"
    return load_module(path, "keygraph_compile")


def test_the_error_without_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(keygraph.plugins, "__path__", [str(tmp_path)])
    with pytest.raises(MissingDependencyError, match=r"build it with: (uv )?pip install triton"):
        keygraph.plugins.library("cuda")
