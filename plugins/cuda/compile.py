"""Compile the Triton kernels ahead of time; CMake runs this as a script. Needs Triton, and no GPU.

    compile.py variants OUTPUT.cpp               write the list of variants
    compile.py target TARGET OUTPUT.cpp          write every variant's code for one target as OUTPUT.bin, and its table

TARGET is a compute capability such as ``90``; or ``80-virtual`` for PTX, which newer devices compile when they load
it.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import multiprocessing
import os
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# No line numbers in the compiled code: they contain paths of this machine. Triton reads this when it is imported.
os.environ["TRITON_DISABLE_LINE_INFO"] = "1"

KERNELS = Path(__file__).parent.parent / "triton"

#: PTX version of the code for virtual targets: drivers of CUDA 12.0 and newer support it.
PORTABLE_PTX_VERSION = 80

_ELEMENT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "i8": 1}
_DTYPES = {
    "fp32": "KEYGRAPH_FLOAT32",
    "fp16": "KEYGRAPH_FLOAT16",
    "bf16": "KEYGRAPH_BFLOAT16",
    "i8": "KEYGRAPH_BOOL",
}
_OPERATORS = {
    "KeyGraph": "kKeyGraph",
    "PackGraph": "kPackGraph",
    "TopKGraph": "kTopKGraph",
    "KeyGraphAttention": "kKeyGraphAttention",
}
#: Pointers to the storage type that need no more than its own alignment.
_UNALIGNED = ("bias", "threshold")
#: Columns of tensor memory available to a block of threads (10.0 and newer).
_TENSOR_MEMORY = 512


class CompileError(Exception):
    """A kernel does not compile, or needs something that the launcher does not provide."""


@dataclass(frozen=True)
class Target:
    """What to compile for: a compute capability, and whether to produce PTX instead of machine code."""

    capability: int
    virtual: bool = False

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``90`` or ``80-virtual``."""
        match = re.fullmatch(r"(\d{2,3})(-virtual)?", text)
        if not match:
            raise CompileError(f"no target {text!r}: a compute capability such as 90, or 80-virtual for its PTX")
        return cls(int(match[1]), bool(match[2]))

    @property
    def number(self) -> int:
        """Number of the target in `keygraph_cuda_targets`."""
        return self.capability + (1000 if self.virtual else 0)

    @property
    def name(self) -> str:
        """Name for messages, such as ``sm_90`` or ``PTX_80``."""
        return f"{'PTX' if self.virtual else 'sm'}_{self.capability}"


@dataclass(frozen=True)
class Image:
    """One variant's code for one target, and its launch parameters."""

    variant: int
    function: str
    code: bytes
    parameters: int
    threads: int
    shared_bytes: int


@functools.cache
def variants() -> Any:
    """Return the module `plugins/triton/variants`, loaded from its folder: keygraph need not be installed."""
    name = "keygraph_kernels"
    spec = importlib.util.spec_from_file_location(
        name, KERNELS / "__init__.py", submodule_search_locations=[str(KERNELS)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return importlib.import_module(f"{name}.variants")


def wanted(target: Target) -> list[Any]:
    """Return the variants that a target can run, in the order of preference."""
    return [variant for variant in variants().VARIANTS if variant.runs_on(target.capability)]


def source(variant: Any) -> Any:
    """Return the source for Triton's compiler: kernel, types, constants, and alignments of pointers."""
    from triton.compiler import ASTSource

    types: Mapping[str, str] = variants().SIGNATURES[variant.op]
    names = variant.kernel.arg_names
    if list(types) != [name for name in names if name not in variant.constants]:
        raise CompileError(f"the kernel's parameters are {names}, expected {list(types)} and {list(variant.constants)}")
    alignments = promised_alignments(variant)
    return ASTSource(
        variant.kernel,
        signature={name: _type(types.get(name, "constexpr"), variant.dtype) for name in names},
        constexprs={(names.index(name),): value for name, value in variant.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", bytes_]] for name, bytes_ in alignments.items()},
    )


def promised_alignments(variant: Any) -> dict[str, int]:
    """Return the alignment in bytes that the compiler may assume, by parameter; the launcher checks it.

    It is the alignment of the rows of channels; a tensor needs no more. A bias has rows of nodes, whose number is
    arbitrary: an aligned start would gain nothing, and exclude slices. A threshold has one element per row.
    """
    alignment = min(16, variant.channel_multiple * _ELEMENT_BYTES[variant.dtype])
    types: Mapping[str, str] = variants().SIGNATURES[variant.op]
    return {name: alignment for name, type_ in types.items() if type_ == "*" and name not in _UNALIGNED}


def _type(name: str, dtype: str) -> str:
    return f"*{dtype}" if name == "*" else name


def compiled(variant: Any, target: Target) -> Any:
    """Compile a kernel with Triton, and check that the launcher provides everything it needs."""
    import triton
    from triton.backends.compiler import GPUTarget

    options = dict(variant.compiler_options)
    if target.virtual:
        options["ptx_version"] = PORTABLE_PTX_VERSION
    kernel = triton.compile(source(variant), target=GPUTarget("cuda", target.capability, 32), options=options)
    metadata = kernel.metadata
    for name in ("global_scratch_size", "profile_scratch_size"):
        if getattr(metadata, name, 0):
            raise CompileError(f"it needs scratch memory ({name} = {getattr(metadata, name)})")
    if getattr(metadata, "num_ctas", 1) != 1 or getattr(metadata, "launch_cooperative_grid", False):
        raise CompileError("it needs a cluster or a cooperative launch")
    if (getattr(metadata, "tmem_size", 0) or 0) > _TENSOR_MEMORY:
        raise CompileError(f"it needs {metadata.tmem_size} columns of tensor memory, there are {_TENSOR_MEMORY}")
    return kernel


def image(variant: Any, target: Target) -> Image:
    """Compile one variant for one target."""
    kernel = compiled(variant, target)
    ptx = kernel.asm["ptx"]
    entry = re.search(rf"\.entry {re.escape(kernel.metadata.name)}\(([^)]*)\)", ptx)
    assert entry is not None
    # The driver expects PTX to end with a zero byte.
    code = re.sub(r"//[^\n]*", "", ptx).encode() + b"\0" if target.virtual else kernel.asm["cubin"]
    if str(KERNELS.parent).encode() in code:
        raise CompileError("a path of this machine is in its code")
    return Image(
        variant=variant.number,
        function=kernel.metadata.name,
        code=code,
        parameters=entry[1].count(".param"),
        threads=32 * kernel.metadata.num_warps,
        shared_bytes=kernel.metadata.shared,
    )


def image_at(index: int, target: Target) -> Image:
    """Return `image` of the index-th of the `wanted` variants, for a worker process; errors name the variant."""
    variant = wanted(target)[index]
    try:
        return image(variant, target)
    except Exception as error:
        raise CompileError(f"{variant.name} for {target.name}: {type(error).__name__}: {error}") from None


def images(target: Target, jobs: int) -> Iterator[Image]:
    """Compile all variants of a target in `jobs` processes."""
    places = range(len(wanted(target)))
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
        futures = [pool.submit(image_at, place, target) for place in places]
        done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        for future in waiting:
            future.cancel()
        for future in done:
            error = future.exception()
            if isinstance(error, CompileError):
                raise error
            if error is not None:  # the compiler ended its process
                names = ", ".join(wanted(target)[futures.index(f)].name for f in futures if f.exception() is not None)
                raise CompileError(f"the compiler died at one of these for {target.name}: {names}")
        for future in futures:
            yield future.result()


def write_variants(path: Path) -> None:
    """Write the list of variants as C++."""
    rows = []
    for v in variants().VARIANTS:
        fields = [
            str(v.number),
            f'"{v.name}"',
            f"Operator::{_OPERATORS[v.op]}",
            _DTYPES[v.dtype],
            *map(str, (v.block_rows, v.block_value_channels, v.block_heads)),
            *map(str, (v.max_channels, v.max_value_channels, v.max_nodes, v.max_groups, v.channel_multiple)),
            "true" if v.bias else "false",
        ]
        rows.append(f"    {{{', '.join(fields)}}},")
    numbers = [v.number for v in variants().VARIANTS]
    if len(set(numbers)) != len(numbers) or min(numbers) < 1:
        raise CompileError("variants must have distinct numbers, from 1")
    table = f"const Variant variants[] = {{\n{_lines(rows)}\n}};"
    path.write_text(_cpp(f"{table}\nconst size_t variant_count = {len(rows)};"))


def write_target(target: Target, path: Path, jobs: int, compress: bool) -> None:
    """Write the code of all variants into one file, and the C++ table of its contents.

    Parameters
    ----------
    target
        What to compile for.
    path
        The C++ file; the code is beside it, with the suffix ``.bin``.
    jobs
        Number of processes, at least 1.
    compress
        Whether to compress each variant's code with zlib.

    Raises
    ------
    CompileError
        A variant does not compile.
    """
    data, rows, plain = bytearray(), [], 0
    for item in images(target, jobs):
        stored = zlib.compress(item.code, 9) if compress else item.code
        numbers = (item.parameters, item.threads, item.shared_bytes, len(data), len(stored), len(item.code))
        rows.append(f'    {{{item.variant}, "{item.function}", {", ".join(map(str, numbers))}}},')
        data += stored
        plain += len(item.code)
    blob = path.with_suffix(".bin")
    blob.write_bytes(bytes(data))
    symbol = f"keygraph_cuda_code_{target.number}"
    path.write_text(
        _cpp(
            f"const Image images[] = {{\n{_lines(rows)}\n}};\n"
            "}  // namespace\n"
            f"extern const Target target_{target.number};\n"
            f"const Target target_{target.number} = "
            f"{{{target.number}, images, {len(rows)}, {symbol}, {'true' if compress else 'false'}}};",
            inner_namespace=True,
            before=(
                # Included by the assembler: compiling megabytes as a C array would take minutes.
                '__asm__(".pushsection .rodata\\n"\n'
                f'        ".globl {symbol}\\n.hidden {symbol}\\n{symbol}:\\n"\n'
                f'        ".incbin \\"{blob}\\"\\n.popsection\\n");\n'
                f'extern "C" const unsigned char {symbol}[];\n'
            ),
        )
    )
    print(f"{target.name}: {len(rows)} kernels, {plain / 1e6:.2f} MB, {len(data) / 1e6:.2f} MB as embedded")


def _lines(rows: Sequence[str]) -> str:
    return "\n".join(rows)


def _cpp(body: str, before: str = "", inner_namespace: bool = False) -> str:
    import triton

    return (
        f"// Made by plugins/cuda/compile.py with Triton {triton.__version__}.\n"
        '#include "embedded.h"\n\n'
        f"{before}\n"
        "namespace keygraph::cuda {\n"
        f"{'namespace {' if inner_namespace else ''}\n"
        f"{body}\n"
        "}  // namespace keygraph::cuda\n"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("variants")
    listing.add_argument("output", type=Path)
    one = commands.add_parser("target")
    one.add_argument("target")
    one.add_argument("output", type=Path)
    one.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    one.add_argument("--no-compression", action="store_true")
    given = parser.parse_args(arguments)
    try:
        if given.command == "variants":
            write_variants(given.output)
        else:
            write_target(Target.parse(given.target), given.output.resolve(), given.jobs, not given.no_compression)
    except CompileError as error:
        print(f"compile.py: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
