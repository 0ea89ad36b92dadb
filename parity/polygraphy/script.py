"""Script that repeats a comparison with Polygraphy's Comparator, for ``keygraph compare --emit-polygraphy``."""

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
from ...manifest import IMAGE_INPUT, Manifest
from ...runtime.io.input_files import InputFile
from ..compatibility import check_comparable, common_k
from ..inputs import demands
from ..pass_criteria import tolerance
from ..results import Side
from ..sides.spec import ModelSpec, parse_spec
from .artifacts import manifest_of

_SCRIPT = Template('''\
"""Compares $candidate_names with $reference_name through Polygraphy's Comparator.

Written by: $command
Exit code 0: they agree; 1: something failed; 3: they do not agree.

Its other functions are those that Polygraphy's own tools import from a script:

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

# Inputs: files, or {"image": file, "mask": file} for a model with extra inputs.
IMAGES = [$images]  $images_comment

# Limits: the lowest PSNR in dB, on values that are neither rounded nor clipped, with VALUE_RANGE as its peak.
VALUE_RANGE = $value_range
PSNR = $psnr
$key_graph_rules

def load_data():
    """Return the inputs, one feed for each piece of an image, normalised as the runtime does it."""
    return FeedDictsFromImages([*CANDIDATES, REFERENCE], IMAGES, k=$k)


$compare_outputs

$load_network
def main():
    """Run everything and return the exit code."""
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
# Neighbours of each node, and the relative tolerance of similarities within which a differing link is a near tie.
K = {k}
SIMILARITY = {similarity:g}
AS_RUN_PSNR = {as_run:g}
"""

#: Lowest PSNR in dB of networks with key graphs as run, each side with its own neighbours; measured in
#: docs/how-to/use-polygraphy.md. Used unless the tolerance of the precisions is lower.
AS_RUN_PSNR = 60.0

_LIMIT = "compare_outputs = ImageCompareFunc(VALUE_RANGE, psnr=PSNR)"

_LOOSE_LIMIT = """\
# As run, with a loose limit: correct implementations select different neighbours where similarities nearly tie. `main`
# applies the limit PSNR with the same neighbours on both sides.
compare_outputs = ImageCompareFunc(VALUE_RANGE, psnr=AS_RUN_PSNR)"""

_LIMIT_AS_RUN = """\
# As run: one of the models does not expose its neighbours, so near ties count as errors. With K at its maximum every
# node is a neighbour, and there are no ties.
compare_outputs = ImageCompareFunc(VALUE_RANGE, psnr=PSNR)"""

_NETWORK_USE = """\
    polygraphy convert {script} --trt-config-script {script} --convert-to trt -o ENGINE.plan
"""

_LOAD_NETWORK = """
def load_network():
    \"\"\"Return the file as a TensorRT network, with keygraph's plugin where that is installed.\"\"\"
    from keygraph.parity.polygraphy.tensorrt import NetworkFromExported

    return NetworkFromExported({path})()


def load_config(builder, network):
    \"\"\"Return the builder configuration: profiles of sizes and k.\"\"\"
    from keygraph.parity.polygraphy.tensorrt import CreateConfigForExported

    return CreateConfigForExported({path})(builder, network)

"""

_SAME_GRAPHS = """\
    # Once more with each candidate's neighbours forced on the reference: only the arithmetic differs.
    for candidate in [{recorded}]:
        recorded = RecordingRunner(candidate, name="recorded neighbours")
        forced = ForcedRunner({forced}, recorded, name="same neighbours")
        results = Comparator.run([recorded, forced], data_loader=load_data(), streaming=True)
        limits = [ImageCompareFunc(VALUE_RANGE, psnr=PSNR), KeyGraphCompareFunc(K, SIMILARITY)]
        good &= bool(Comparator.compare_accuracy(results, compare_func=limits))"""

#: Suffix -> (expression of the runner, imports that it needs); the empty suffix stands for checkpoints.
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

#: A model specification.
Model = str | os.PathLike[str] | ModelSpec

#: Image files, or mappings of input name -> file.
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

    Paths in the script are relative to it, so that a folder with all files can be moved.

    Parameters
    ----------
    path
        Output file, ``.py``.
    candidates, reference
        Exported files, checkpoints or engines, as `sides.spec.parse_spec` reads them: ``"kgt.ckpt@fp16"``.
    images
        Image files, or mappings of ``"image"`` and the names of the model's extra inputs to files; empty: a generated
        picture.
    k
        Neighbours of each node; None for the k that a file fixes, else the reference's default.
    command
        The command that writes it, for its docstring.

    Raises
    ------
    InputError
        The script cannot be written, a model cannot be read or does not take this k, or the models are not forms of one
        network.
    """
    script = Path(path)
    if script.suffix != ".py":
        raise InputError(f"{script} is not a name for a Python script; give one that ends with .py")
    check_place(script)
    models = [model if isinstance(model, ModelSpec) else parse_spec(model) for model in (*candidates, reference)]
    for model in models:
        if model.entry_point is not None:
            raise InputError(f"{model} is a Python file, which no script runs; compare without --emit-polygraphy")
    sides = [Side(str(model), "", manifest_of(model)) for model in models]
    for side in sides[:-1]:
        check_comparable(side, sides[-1])
    demands(*(side.manifest for side in sides))
    number = common_k([(side.name, side.manifest) for side in sides], k)
    allowed = tolerance([side.manifest.precision for side in sides])
    exposes_graphs = number is not None and all(map(_exposes_graphs, models, (side.manifest for side in sides)))
    paths = [f"CANDIDATES[{index}]" for index in range(len(candidates))] + ["REFERENCE"]
    exported = next((path for model, path in zip(models, paths, strict=True) if _suffix(model) == ".onnx"), None)
    runners = [_runner(model, path) for model, path in zip(models, paths, strict=True)]
    specs = [_spec(model, path) for model, path in zip(models, paths, strict=True)]
    text = _SCRIPT.substitute(
        candidate_names=" and ".join(_name(model) for model in models[:-1]),
        reference_name=_name(models[-1]),
        command=command.replace("\\", "\\\\").replace('"""', "'''"),
        script=script.name,
        imports=_imports(models, exposes_graphs),
        candidates="\n".join(f"    {_place(model.path, script)}," for model in models[:-1]),
        reference=_place(models[-1].path, script),
        images=", ".join(_image(image, script) for image in images),
        images_comment="" if images else "# none: a generated picture",
        value_range=sides[-1].manifest.value_range,
        psnr=allowed.psnr,
        key_graph_rules="" if number is None else _key_graph_rules(number, allowed),
        k="None" if number is None else "K",
        compare_outputs=_LIMIT if number is None else _LOOSE_LIMIT if exposes_graphs else _LIMIT_AS_RUN,
        load_network="" if exported is None else _LOAD_NETWORK.format(path=exported),
        network_use="" if exported is None else _NETWORK_USE.format(script=script.name),
        runners="\n".join(f"        {runner}," for runner in runners),
        same_graphs=_SAME_GRAPHS.format(recorded=", ".join(specs[:-1]), forced=specs[-1]) if exposes_graphs else "",
    )
    with atomic_path(script) as temporary:
        lines = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
        # Bytes of file names that are not UTF-8 become escapes, which Python reads back.
        temporary.write_text(lines, encoding="utf-8", errors="backslashreplace")


def _key_graph_rules(k: int, allowed: Tolerance) -> str:
    return _KEY_GRAPH_RULES.format(k=k, similarity=allowed.similarity, as_run=min(AS_RUN_PSNR, allowed.psnr))


def _suffix(model: ModelSpec) -> str:
    """Return the model's key in `_RUNNERS`."""
    suffix = model.path.suffix.lower()
    return suffix if suffix in _RUNNERS else ""


def _exposes_graphs(model: ModelSpec, manifest: Manifest) -> bool:
    """Return whether the model exposes its key graphs; see `Probe.tells_graphs`."""
    packed = any(attention.verdict == "packed" for attention in manifest.attentions)
    return _suffix(model) != ".plan" and model.provider != "tensorrt" and not packed


def _name(model: ModelSpec) -> str:
    return str(replace(model, path=Path(model.path.name)))


def _runner(model: ModelSpec, path: str) -> str:
    """Return the expression that creates the model's runner."""
    how = {"precision": model.precision, "device": model.device, "provider": model.provider}
    words = "".join(f', {name}="{value}"' for name, value in how.items() if value is not None)
    if model.functions:
        words = f", library=None{words}"
    return _RUNNERS[_suffix(model)][0].format(path=path, how=words, name=json.dumps(_name(model)))


def _spec(model: ModelSpec, path: str) -> str:
    """Return the expression of a model specification, for runners that take one."""
    how = str(replace(model, path=Path("."))).removeprefix(".")
    return f'f"{{{path}}}{how}"' if how else path


def _imports(models: Sequence[ModelSpec], exposes_graphs: bool) -> str:
    """Return the import statements of the script."""
    modules: dict[str, set[str]] = {
        "polygraphy.comparator": {"Comparator"},
        "keygraph.parity.polygraphy": {"FeedDictsFromImages", "ImageCompareFunc"},
    }
    for model in models:
        for module, names in _RUNNERS[_suffix(model)][1].items():
            modules.setdefault(module, set()).update(names)
    if exposes_graphs:
        modules["keygraph.parity.polygraphy.key_graphs"] = {"ForcedRunner", "KeyGraphCompareFunc", "RecordingRunner"}
    return "\n".join(f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(modules.items()))


def _place(file: Path, script: Path) -> str:
    """Return the expression of a path relative to the script."""
    return f"HERE / {json.dumps(Path(os.path.relpath(file, script.parent)).as_posix())}"


def _image(image: Any, script: Path) -> str:
    """Return the expression of an image with its extra inputs."""
    files = image if isinstance(image, Mapping) else {IMAGE_INPUT: image}
    places = {name: _place(Path(str(file)), script) for name, file in files.items()}
    if set(places) == {IMAGE_INPUT}:
        return places[IMAGE_INPUT]
    return "{" + ", ".join(f'"{name}": {place}' for name, place in places.items()) + "}"
