"""Tracing in units of the size multiple: sides without divisions, and a program that takes whole images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from keygraph.export.size_units import merge_units, split_units
from keygraph.export.trace import capture
from keygraph.models import LoadedModel
from keygraph.models.architecture import CUSTOM
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._sympy.functions import FloorDiv, Mod


def inputs_of(program: ExportedProgram) -> list[Tensor]:
    """Return the traced values of a program's inputs."""
    nodes = {node.name: node for node in program.graph.nodes}
    return [nodes[name].meta["val"] for name in program.graph_signature.user_inputs]


def expressions_of_guards(program: ExportedProgram) -> list[str]:
    """Return what a program takes for granted about its sizes."""
    side = inputs_of(program)[0].shape[2]
    assert isinstance(side, torch.SymInt)
    return [str(guard.expr) for guard in side.node.shape_env.guards]


def test_units_merge_to_the_image() -> None:
    image = torch.rand(2, 3, 24, 16)
    units = split_units(image, 8)
    assert units.shape == (2, 3, 3, 8, 2, 8)
    assert torch.equal(merge_units(units), image)


def test_the_sides_of_windows_are_products(unet: LoadedModel) -> None:
    """A division with a remainder in one side would be in all that follow, and compared with all before."""
    program = capture(unet.module, unet.manifest())
    sizes = [node.meta.get("val") for node in program.graph.nodes]
    symbolic = [size for value in sizes for size in (value.shape if isinstance(value, Tensor) else [value])]
    expressions = [size.node.expr for size in symbolic if isinstance(size, torch.SymInt)]
    assert len(expressions) > 100
    assert not [each for each in expressions if each.has(FloorDiv) or each.has(Mod)]
    assert not expressions_of_guards(program)


def test_the_program_takes_whole_images(unet: LoadedModel) -> None:
    manifest = unet.manifest()
    m = manifest.size_multiple
    program = capture(unet.module, manifest)
    program.validate()
    image, k = inputs_of(program)
    assert image.ndim == 4
    assert k.ndim == 1
    assert [each.ndim for each in program.example_inputs[0]] == [4, 1]
    module = program.module(check_guards=False)
    for shape in ((1, 3, m, m), (1, 3, m, 3 * m), (3, 3, 2 * m, m)):
        picture, neighbours = torch.rand(shape), torch.tensor([7])
        with torch.inference_mode():
            assert torch.equal(module(picture, neighbours), unet.module(picture, neighbours))


class Pooled(nn.Module):
    """Reads the sides in its own way: sums, and what is more than one unit."""

    def forward(self, image: Tensor) -> Tensor:
        _, channels, height, width = image.shape
        cells = image.reshape(-1, channels, height // 4, 4, width // 2, 2).mean((3, 5))
        added = cells.repeat_interleave(4, 2).repeat_interleave(2, 3) * (height + 2 * width)
        return image + added / (height * width)


@pytest.mark.parametrize("multiple", [4, 8, 12])
def test_sizes_that_a_network_computes_with(unet: LoadedModel, multiple: int) -> None:
    manifest = replace(
        unet.manifest(), architecture=CUSTOM, size_multiple=multiple, smallest=2 * multiple, neighbours=None
    )
    module = Pooled().eval()
    program = capture(module, manifest)
    traced = program.module(check_guards=False)
    for height, width in ((2, 2), (3, 5), (7, 2)):
        image = torch.rand(2, 3, height * multiple, width * multiple)
        assert torch.equal(traced(image), module(image))


class Branching(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image + 1 if image.shape[2] > 100 else image + 2


def test_what_cannot_be_traced_in_units_is_traced_as_it_is(unet: LoadedModel) -> None:
    """PyTorch fails on this comparison of units; traced otherwise, the branch is a guard, which is checked."""
    manifest = replace(unet.manifest(), architecture=CUSTOM, size_multiple=8, smallest=8, neighbours=None)
    program = capture(Branching().eval(), manifest)
    assert inputs_of(program)[0].ndim == 4
    assert any("<= 100" in guard for guard in expressions_of_guards(program))
