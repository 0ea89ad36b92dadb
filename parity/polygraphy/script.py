"""A Python script that makes a comparison with Polygraphy's Comparator, for ``keygraph compare --emit-polygraphy``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

from ...errors import InputError
from ...files import atomic_path, check_place
from ...instrumentation.metrics import Tolerance
from ...manifest import IMAGE_INPUT
from ...runtime.io.input_files import InputFile
from ..comparison import check_comparable
from ..inputs import demands
from ..pass_criteria import tolerance
from ..run import Side
from ..shared_k import common_k
from ..sides.spec import ModelSpec, parse_spec
from .artifacts import manifest_of

_SCRIPT = Template('''\
"""Compares $candidate_names with $reference_name through Polygraphy's Comparator.

Written by: $command
Exit code 0: they agree; 1: something failed; 3: they do not agree.

Its other functions are what Polygraphy's own tools ask a script for:

    polygraphy run MODEL.onnx RUNNER... --data-loader-script $script --compare-func-script $script
$network_use"""

import sys
from pathlib import Path

$imports

HERE = Path(__file__).absolute().parent
CANDIDATES = [
$candidates
]
REFERENCE = $reference

# What they are compared on: files, or {"image": file, "mask": file} for a model that takes more than an image.
IMAGES = [$images]  $images_comment

# Rules: the least PSNR in dB on values that are neither rounded nor clipped, VALUE_RANGE being its peak.
VALUE_RANGE = $value_range
PSNR = $psnr
$key_graph_rules

def load_data():
    """One feed for each piece of an image, normalised as the runtime does it."""
    return FeedDictsFromImages([*CANDIDATES, REFERENCE], IMAGES, k=$k)


$compare_outputs

$load_network
def main():
    """Run everything, and return the exit code."""
    runners = [
$runners
    ]
    comparisons = [(index, len(CANDIDATES)) for index in range(len(CANDIDATES))]
    results = Comparator.run(runners, data_loader=load_data(), streaming=True)
    good = bool(Comparator.compare_accuracy(results, comparisons=comparisons, compare_func=compare_outputs))
$same_graphs
    return 0 if good else 3


if __name__ == "__main__":
    sys.exit(main())
''')

_KEY_GRAPH_RULES = """\
# Neighbours of each node, and how far similarities may be apart for a link of only one side to count as a near tie.
K = {k}
SIMILARITY = {similarity:g}
AS_RUN_PSNR = {as_run:g}
"""

#: The least PSNR of networks with key graphs as they run, each side with its own neighbours: docs/polygraphy.md says
#: what was measured. The rule proper may ask for less.
AS_RUN_PSNR = 60.0

_JUDGED = "compare_outputs = ImageCompareFunc(VALUE_RANGE, psnr=PSNR)"

_JUDGED_BROADLY = """\
# As they run, only broadly: correct programs choose other neighbours where similarities nearly tie. The rule proper is
# applied with the same neighbours, in `main`.
compare_outputs = ImageCompareFunc(VALUE_RANGE, psnr=AS_RUN_PSNR)"""

_JUDGED_AS_RUN = """\
# As they run: one of them does not tell its neighbours, so near ties count as errors. With K at its largest there is
# nothing to choose.
compare_outputs = ImageCompareFunc(VALUE_RANGE, psnr=PSNR)"""

_NETWORK_USE = """\
    polygraphy convert {script} --trt-config-script {script} --convert-to trt -o ENGINE.plan
"""

_LOAD_NETWORK = """
def load_network():
    \"\"\"The file as TensorRT's network, with keygraph's plugin where that is installed.\"\"\"
    from keygraph.parity.polygraphy.tensorrt import NetworkFromExported

    return NetworkFromExported({path})()


def load_config(builder, network):
    \"\"\"What it is built with: sizes and k.\"\"\"
    from keygraph.parity.polygraphy.tensorrt import CreateConfigForExported

    return CreateConfigForExported({path})(builder, network)

"""

_SAME_GRAPHS = """\
    # Once more with each candidate's neighbours forced on the reference: what is left is arithmetic.
    for candidate in [{told}]:
        told = RecordingRunner(candidate, name="neighbours told")
        forced = ForcedRunner({forced}, told, name="the same neighbours")
        results = Comparator.run([told, forced], data_loader=load_data(), streaming=True)
        rules = [ImageCompareFunc(VALUE_RANGE, psnr=PSNR), KeyGraphCompareFunc(K, SIMILARITY)]
        good &= bool(Comparator.compare_accuracy(results, compare_func=rules))"""

#: Suffix -> (what a runner is made by, the modules that this comes from); the others are checkpoints'.
_RUNNERS = {
    ".onnx": (
        "OnnxrtRunner(SessionFromExported({path}{how}), name={name})",
        {"polygraphy.backend.onnxrt": ["OnnxrtRunner"], "keygraph.parity.polygraphy": ["SessionFromExported"]},
    ),
    ".plan": (
        "TrtRunner(EngineFromBuilt({path}), name={name})",
        {"polygraphy.backend.trt": ["TrtRunner"], "keygraph.parity.polygraphy.tensorrt": ["EngineFromBuilt"]},
    ),
    "": (
        "TorchRunner(ModelFromCheckpoint({path}){how}, name={name})",
        {"keygraph.parity.polygraphy.pytorch": ["ModelFromCheckpoint", "TorchRunner"]},
    ),
}

#: A file, and how it runs.
Model = str | os.PathLike[str] | ModelSpec

#: Name of an input -> file; an image alone may be given as such.
Images = Sequence[str | os.PathLike[str] | InputFile | Mapping[str, Any]]


def write_script(
    path: str | os.PathLike[str],
    candidates: Sequence[Model],
    reference: Model,
    images: Images = (),
    *,
    k: int | None = None,
    command: str = "keygraph.parity.polygraphy.script.write_script",
) -> None:
    """Write a script that compares models with Polygraphy.

    Files are named relative to the script, so that a folder with all of them can be moved.

    Parameters
    ----------
    path
        The script, ``.py``.
    candidates, reference
        Exported files, checkpoints or engines, as `specs.parse_spec` reads them: ``"kgt.ckpt@fp16"``.
    images
        Image files, or mappings of ``"image"`` and the names of a model's other inputs to files; none: a generated
        picture.
    k
        Neighbours of each node; None for the one that a file fixes, else the reference's default.
    command
        What wrote it, for its first lines.

    Raises
    ------
    InputError
        The script cannot be written there, a model cannot be read, k is not for them, or they are not forms of one
        network.
    """
    script = Path(path)
    if script.suffix != ".py":
        raise InputError(f"{script} is no name for a Python script, as Polygraphy imports it; let it end with .py")
    check_place(script)
    models = [model if isinstance(model, ModelSpec) else parse_spec(model) for model in (*candidates, reference)]
    sides = [Side(str(model), "", manifest_of(model)) for model in models]
    for side in sides[:-1]:
        check_comparable(side, sides[-1])
    demands(*(side.manifest for side in sides))
    number = common_k([(side.name, side.manifest) for side in sides], k)
    allowed = tolerance([side.manifest.precision for side in sides])
    tells = number is not None and all(_tells(model) for model in models)
    paths = [f"CANDIDATES[{index}]" for index in range(len(candidates))] + ["REFERENCE"]
    exported = next((path for model, path in zip(models, paths, strict=True) if _suffix(model) == ".onnx"), None)
    runners = [_runner(model, path) for model, path in zip(models, paths, strict=True)]
    told = [_spec(model, path) for model, path in zip(models, paths, strict=True)]
    text = _SCRIPT.substitute(
        candidate_names=" and ".join(_name(model) for model in models[:-1]),
        reference_name=_name(models[-1]),
        command=command.replace("\\", "\\\\").replace('"""', "'''"),
        script=script.name,
        imports=_imports(models, tells),
        candidates="\n".join(f"    {_place(model.path, script)}," for model in models[:-1]),
        reference=_place(models[-1].path, script),
        images=", ".join(_image(image, script) for image in images),
        images_comment="" if images else "# none: a generated picture",
        value_range=sides[-1].manifest.value_range,
        psnr=allowed.psnr,
        key_graph_rules="" if number is None else _key_graph_rules(number, allowed),
        k="None" if number is None else "K",
        compare_outputs=_JUDGED if number is None else _JUDGED_BROADLY if tells else _JUDGED_AS_RUN,
        load_network="" if exported is None else _LOAD_NETWORK.format(path=exported),
        network_use="" if exported is None else _NETWORK_USE.format(script=script.name),
        runners="\n".join(f"        {runner}," for runner in runners),
        same_graphs=_SAME_GRAPHS.format(told=", ".join(told[:-1]), forced=told[-1]) if tells else "",
    )
    with atomic_path(script) as temporary:
        temporary.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def _key_graph_rules(k: int, allowed: Tolerance) -> str:
    return _KEY_GRAPH_RULES.format(k=k, similarity=allowed.similarity, as_run=min(AS_RUN_PSNR, allowed.psnr))


def _suffix(model: ModelSpec) -> str:
    """The key of `_RUNNERS`."""
    suffix = model.path.suffix.lower()
    return suffix if suffix in _RUNNERS else ""


def _tells(model: ModelSpec) -> bool:
    """Whether it tells its neighbours: see `parity.probes`."""
    return _suffix(model) != ".plan" and model.provider != "tensorrt"


def _name(model: ModelSpec) -> str:
    return str(replace(model, path=Path(model.path.name)))


def _runner(model: ModelSpec, path: str) -> str:
    """The expression that makes its runner."""
    how = {"precision": model.precision, "device": model.device, "provider": model.provider}
    words = "".join(f', {name}="{value}"' for name, value in how.items() if value is not None)
    if model.functions:
        words = f", library=None{words}"
    return _RUNNERS[_suffix(model)][0].format(path=path, how=words, name=json.dumps(_name(model)))


def _spec(model: ModelSpec, path: str) -> str:
    """The expression of a model, and how it runs, for runners that take both as one."""
    how = str(replace(model, path=Path("."))).removeprefix(".")
    return f'f"{{{path}}}{how}"' if how else path


def _imports(models: Sequence[ModelSpec], tells: bool) -> str:
    """The lines that import what the script uses."""
    modules: dict[str, set[str]] = {
        "polygraphy.comparator": {"Comparator"},
        "keygraph.parity.polygraphy": {"FeedDictsFromImages", "ImageCompareFunc"},
    }
    for model in models:
        for module, names in _RUNNERS[_suffix(model)][1].items():
            modules.setdefault(module, set()).update(names)
    if tells:
        modules["keygraph.parity.polygraphy.key_graphs"] = {"ForcedRunner", "KeyGraphCompareFunc", "RecordingRunner"}
    return "\n".join(f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(modules.items()))


def _place(file: Path, script: Path) -> str:
    """A file as an expression of the script."""
    return f"HERE / {json.dumps(Path(os.path.relpath(file, script.parent)).as_posix())}"


def _image(image: Any, script: Path) -> str:
    """An image, and what goes with it, as an expression of the script."""
    files = image if isinstance(image, Mapping) else {IMAGE_INPUT: image}
    places = {name: _place(Path(str(file)), script) for name, file in files.items()}
    if set(places) == {IMAGE_INPUT}:
        return places[IMAGE_INPUT]
    return "{" + ", ".join(f'"{name}": {place}' for name, place in places.items()) + "}"
