"""Estimate from bytes and operations what an operator for channel attention could gain on a GPU. No GPU is needed.

A Restormer on 480 x 720 and an MST++ on 488 x 512 in their released sizes, in float16. The network runs on shapes
alone. The bytes that every operator reads and writes and its multiplications are counted; it takes the longer of bytes
over the memory bandwidth and operations over the tensor cores' peak rate. Three estimates:

eager      Every PyTorch operator reads its inputs from memory and writes its results there. Views cost nothing.
fused      An engine with ideal fusion: elementwise operators (and residual additions) run where their latest input is
           made, copies and concatenations are free, and only what a later kernel reads is written. Each convolution,
           product, normalisation, norm and softmax is one kernel.
roofline   Of the attention, from queries, keys and values to its result: these read once, the result written once, in
           one kernel for the Gram product and the norms, and one for the softmax and the product with v.

An operator at the roofline makes the network `most` times faster; one that takes no time, `bound` times. `slack` says
how many times longer than estimated the attention has to take for an operator at the roofline to be worth it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from keygraph.bench.data_sheets import GPUS, Gpu
from keygraph.models import registry
from keygraph.models.channel_attention import Mixer
from keygraph.models.mst_plus_plus import MSTPlusPlusConfig
from keygraph.models.restormer import RestormerConfig
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

#: Name -> configuration, height and width.
NETWORKS: dict[str, tuple[Any, tuple[int, int]]] = {
    "restormer": (RestormerConfig(), (480, 720)),
    "mst_plus_plus": (MSTPlusPlusConfig(), (488, 512)),
}

#: An operator is worth adding where it makes the network so many times faster.
WORTH = 1.3

_CARDS = ("H100", "H200")

#: These only move values; PyTorch copies, an engine reads or writes at another place.
_MOVES = ("aten::clone", "aten::pixel_shuffle", "aten::pixel_unshuffle", "aten::cat")

#: Makes a view of what nobody else has, so that its schema need not say so.
_VIEWS = ("aten::_unsafe_view",)


@dataclass
class Kernel:
    """What one launch reads and writes.

    Attributes
    ----------
    reads
        Storage and place in it -> bytes: queries, keys and values may be parts of one tensor.
    writes
        Storage -> bytes.
    operations
        Multiplications and additions of products and convolutions.
    attention
        Whether it belongs to the attention's part.
    """

    reads: dict[tuple[int, int], int] = field(default_factory=dict)
    writes: dict[int, int] = field(default_factory=dict)
    operations: int = 0
    attention: bool = False

    @property
    def bytes(self) -> int:
        """Through memory."""
        return sum(self.reads.values()) + sum(self.writes.values())

    def milliseconds(self, gpu: Gpu) -> float:
        """Return the longer of the two times, in milliseconds."""
        return max(self.bytes / (gpu.gigabytes * 1e9), self.operations / (gpu.tensor_tflops * 1e12)) * 1e3


@dataclass
class Operator(Kernel):
    """A kernel of eager PyTorch.

    Attributes
    ----------
    name
        With its namespace.
    pointwise
        Whether it works value by value, or only moves values.
    """

    name: str = ""
    pointwise: bool = False


class Counter(TorchDispatchMode):
    """Notes every operator that runs inside the `with` block and is no view."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []
        self.attention = False
        self._alive: list[Any] = []  # A storage that is gone leaves its number to another.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name
        view = any(value.alias_info and not value.alias_info.is_write for value in func._schema.returns)
        if not view and name not in _VIEWS:
            reads = self._parts((args, kwargs))
            writes = {storage: size for (storage, _), size in self._parts(result).items()}
            count = flop_registry.get(func.overloadpacket)
            operations = count(*args, **kwargs, out_val=result) if count else 0
            pointwise = torch.Tag.pointwise in func.tags or name in _MOVES
            self.operators.append(Operator(reads, writes, operations, self.attention, name, pointwise))
        return result

    def _parts(self, values: Any) -> dict[tuple[int, int], int]:
        found: dict[tuple[int, int], int] = {}
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                self._alive.append(storage)
                # Of a broadcast tensor what is there, of a part what the part has.
                size = min(value.numel() * value.element_size(), storage.nbytes())
                found[storage._cdata, int(value.storage_offset())] = size
        return found

    @contextmanager
    def marking(self, model: nn.Module) -> Iterator[None]:
        """Inside the block, what `Mixer` modules run belongs to the attention's part."""

        def mark(value: bool) -> None:
            self.attention = value

        mixers = [module for module in model.modules() if isinstance(module, Mixer)]
        handles = [m.register_forward_pre_hook(lambda *_: mark(True)) for m in mixers]
        handles += [m.register_forward_hook(lambda *_: mark(False)) for m in mixers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def count(model: nn.Module, image: Tensor) -> list[Operator]:
    """Return what eager PyTorch runs; both on the ``meta`` device."""
    counter = Counter()
    # Not in inference mode: there, operators that are made of others come as one.
    with torch.no_grad(), counter.marking(model), counter:
        model(image)
    return counter.operators


def fused(operators: Sequence[Operator]) -> list[Kernel]:
    """Return the kernels that remain when every elementwise operator runs where its latest input is made."""
    kernels: list[Kernel] = []
    made: dict[int, int] = {}  # storage -> number of the kernel that makes it
    needed = set(operators[-1].writes)  # storages that another kernel reads, and the result
    sizes: dict[int, int] = {}
    for operator in operators:
        latest = max((made[storage] for storage, _ in operator.reads if storage in made), default=None)
        if not operator.pointwise or latest is None:
            latest = len(kernels)
            kernels.append(Kernel(attention=operator.attention))
        kernel = kernels[latest]
        kernel.operations += operator.operations
        for (storage, place), size in operator.reads.items():
            if made.get(storage) != latest:
                kernel.reads[storage, place] = max(size, kernel.reads.get((storage, place), 0))
                needed.add(storage)
        for storage, size in operator.writes.items():
            made[storage], sizes[storage] = latest, size
    for storage in needed & sizes.keys():
        kernels[made[storage]].writes[storage] = sizes[storage]
    return kernels


def attention_roofline(operators: Sequence[Operator]) -> list[Kernel]:
    """Return one kernel for each attention, which reads what the part reads from outside and writes its last result."""
    rooflines: list[Kernel] = []
    inside: set[int] = set()
    before = False
    for operator in operators:
        if operator.attention and not before:
            rooflines.append(Kernel(attention=True))
            inside = set()
        if operator.attention:
            roofline = rooflines[-1]
            roofline.operations += operator.operations
            roofline.reads |= {part: size for part, size in operator.reads.items() if part[0] not in inside}
            roofline.writes = operator.writes
            inside |= operator.writes.keys()
        before = operator.attention
    return rooflines


@dataclass(frozen=True)
class Estimate:
    """Milliseconds on a GPU, see the module."""

    network: float
    attention: float
    roofline: float

    @property
    def most(self) -> float:
        """How many times faster the network is with an operator at the roofline."""
        return self.network / (self.network - self.attention + self.roofline)

    @property
    def bound(self) -> float:
        """How many times faster it is with an operator that takes no time."""
        return self.network / (self.network - self.attention)

    @property
    def slack(self) -> float:
        """How many times longer than estimated the attention has to take for such an operator to be worth it."""
        rest = self.network - self.attention
        return (WORTH * (rest + self.roofline) - rest) / self.attention


def estimate(kernels: Sequence[Kernel], rooflines: Sequence[Kernel], gpu: Gpu) -> Estimate:
    """Return the sums of the kernels' times.

    Parameters
    ----------
    kernels
        Of the network.
    rooflines
        Of its attention, from `attention_roofline`.
    gpu
        Peak rates.
    """
    return Estimate(
        network=sum(kernel.milliseconds(gpu) for kernel in kernels),
        attention=sum(kernel.milliseconds(gpu) for kernel in kernels if kernel.attention),
        roofline=sum(kernel.milliseconds(gpu) for kernel in rooflines),
    )


def operators_of(name: str, config: Any, size: tuple[int, int]) -> list[Operator]:
    """Return what a network runs in float16.

    Parameters
    ----------
    name, config
        The network.
    size
        Height and width of the image.
    """
    with torch.device("meta"):
        model = registry.by_name(name).build(config).eval().half()
        image = torch.empty(1, 3, *size, dtype=torch.float16)
    return count(model, image)


def row(name: str, kernels: Sequence[Kernel], rooflines: Sequence[Kernel], card: str) -> str:
    """Return a row of the table.

    Parameters
    ----------
    name
        Title of the row.
    kernels, rooflines
        As for `estimate`.
    card
        A key of `GPUS`.
    """
    e = estimate(kernels, rooflines, GPUS[card])
    cells = [
        name,
        f"{sum(kernel.bytes for kernel in kernels) / 1e9:.1f}",
        f"{sum(kernel.operations for kernel in kernels) / 1e12:.2f}",
        card,
        f"{e.network:.2f} ms",
        f"{e.attention:.2f} ms ({e.attention / e.network:.0%})",
        f"{e.roofline:.2f} ms",
        f"{e.most:.2f}",
        f"{e.bound:.2f}",
        f"{e.slack:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    print("| | GB | Tflop | GPU | network | attention | its roofline | most | bound | slack |")
    print("|" + "---|" * 10)
    for name, (config, (height, width)) in NETWORKS.items():
        operators = operators_of(name, config, (height, width))
        rooflines = attention_roofline(operators)
        for way, kernels in (("eager", operators), ("fused", fused(operators))):
            for card in _CARDS:
                print(row(f"{name}, {height} x {width}, {way}", kernels, rooflines, card))


if __name__ == "__main__":
    main()
