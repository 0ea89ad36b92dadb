"""The README of a model repository."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from ...manifest import IMAGE_INPUT, K_INPUT
from ...runtime.backends.engine_metadata import file_sha256
from .core import K_LENGTH_INPUT
from .core_model import CoreModel
from .image_tensors import takes_files
from .model_config import DATA_TYPES, ModelConfig
from .settings import Settings

#: Normalisation of the manifest -> what images may hold.
_RANGES = {"type": "in the range of their type, fp32 from 0 to 1", "none": "in the model's own units"}

_TEXT = """# {name}: a model repository for the Triton Inference Server

keygraph {version} wrote it from `{source}`. (The server is NVIDIA's; it has nothing to do with the language Triton, in
which keygraph's GPU kernels are written.)

**Not tried in a server.** The configurations are valid by the server's published protobuf schema, and keygraph's tests
run such repositories in a double of the server. No Triton Inference Server has loaded this one before you do.

## What is here

| path | content |
|---|---|
| `{name}/` | the model that clients call: cuts images into tiles, which it sends to the core; Python backend |
| `{core}/` | the network, {backend} on {device}{batching} |
{library}| `SHA256SUMS` | SHA-256 of every file: `sha256sum -c SHA256SUMS` |

## Start the server

The Python backend needs keygraph {version} or newer, without extras. In NVIDIA's container image of the server, whose
name is in `$TRITON_IMAGE`:

    docker build -t triton-keygraph - <<END
    FROM $TRITON_IMAGE
    RUN pip install 'keygraph=={version}'
    END
    docker run --rm {gpus}--shm-size=1g -p 8000:8000 -p 8001:8001 \\
      -v "$PWD":{mounted}:ro triton-keygraph \\
      tritonserver --model-repository={mounted}{options}

(Until keygraph is published, copy a wheel into the image and install that.) Tiles go through shared memory, which
`--shm-size` sets. {requirements}

## Call `{name}`

{tensors}
Give exactly one `{image}_...`; images are [height, width, channels], {range}.
{calls}
```python
import numpy as np
import tritonclient.http as triton


def tensor(name, values, dtype):
    made = triton.InferInput(name, values.shape, dtype)
    made.set_data_from_numpy(values)
    return made


client = triton.InferenceServerClient("localhost:8000")
image = np.zeros((480, 640, {channels}), np.uint8)  # your image
given = [tensor("{image}_uint8", image, "UINT8"){others}]
restored = client.infer("{name}", given).as_numpy("{restored}")
```

An error is one line. It concerns its own request only.

## Change it

`count` and `gpus` of `instance_group` in each `config.pbtxt` may be edited: `{core}` runs {core_instances} at a time,
and {instances} processes of `{name}` prepare one image each. For anything else write the repository again. keygraph
does not replace one that was changed.
"""


def readme(model: Path, settings: Settings, core: CoreModel, images: ModelConfig) -> str:
    """Return the README of a repository.

    Parameters
    ----------
    model
        The file that it was made of.
    settings
        How the model is served.
    core
        The core.
    images
        Configuration of the model that takes images.
    """
    manifest, served = core.core.manifest, core.core
    library = ""
    if core.library is not None:
        where = f"{settings.core_name}/{core.library.name}"
        library = f"| `{where}` | keygraph's operators, SHA-256 `{file_sha256(core.library)}` |\n"
    gpu = served.device == "cuda"
    onnx = core.config.backend == "onnxruntime"
    return _TEXT.format(
        name=settings.name,
        core=settings.core_name,
        version=served.keygraph,
        source=model.name,
        backend="in ONNX Runtime" if onnx else "an engine in TensorRT",
        device="GPUs" if gpu else "the CPU",
        batching=_batching(served.max_batch),
        library=library,
        gpus="--gpus all " if gpu else "",
        mounted=shlex.quote(settings.mounted_at),
        options="".join(f" \\\n      {shlex.quote(option)}" for option in core.server_options),
        requirements=_requirements(settings, core),
        tensors=_tensors(images),
        image=IMAGE_INPUT,
        range=_RANGES.get(manifest.normalisation, "of any values, which the model normalises"),
        calls=_calls(core),
        others="".join(_others(core)),
        channels=manifest.in_channels // (len(manifest.views) or 1),
        restored=images.outputs[0].name,
        core_instances=settings.core_instances,
        instances=settings.instances,
    )


def _batching(batch: int) -> str:
    if batch > 1:
        return f"; joins up to {batch} tiles of equal size, of any requests"
    return "; one tile at a time" if batch else "; the image model makes its batches"


def _requirements(settings: Settings, core: CoreModel) -> str:
    """Return what the server must have, beside keygraph."""
    if core.config.backend == "tensorrt":
        return "The engine needs the version of TensorRT, and the GPU, that it was built for."
    needs = "The core needs ONNX Runtime 1.20 or newer."
    if core.library is not None:
        needs += (
            f" `{core.config.name}/config.pbtxt`\nhas the absolute path of keygraph's operators: on the server, the "
            f"repository must be at\n`{settings.mounted_at}`."
        )
    return needs


def _tensors(images: ModelConfig) -> str:
    rows = ["| tensor | type | shape | |\n|---|---|---|---|"]
    for direction, tensors in (("input", images.inputs), ("output", images.outputs)):
        for one in tensors:
            dims = ", ".join("any" if size == -1 else str(size) for size in one.dims)
            word = f"optional {direction}" if one.optional else direction
            kind = DATA_TYPES[one.dtype].removeprefix("TYPE_").replace("STRING", "BYTES")  # As clients call it.
            rows.append(f"| `{one.name}` | {kind} | {dims} | {word} |")
    return "\n".join(rows) + "\n"


def _others(core: CoreModel) -> Iterator[str]:
    """Yield the example's tensors beside the image."""
    manifest = core.core.manifest
    for view in manifest.views[1:]:
        yield f', tensor("{view}_uint8", {view}, "UINT8")'
    for extra in manifest.extra_inputs:
        yield f', tensor("{extra.name}", {extra.name}, "FP32")'


def _calls(core: CoreModel) -> str:
    return "".join(f"{line}\n" for line in _call_lines(core))


def _call_lines(core: CoreModel) -> Iterator[str]:
    manifest = core.core.manifest
    if takes_files(manifest):
        yield f"`{IMAGE_INPUT}_file` is the content of an image file; the result is a file of the same format."
    for extra in manifest.extra_inputs:
        yield f"`{extra.name}` belongs to the image: [height, width, {extra.channels}]."
    for view in manifest.views[1:]:
        yield f"`{view}_...` is the {view} view, of the type of `{IMAGE_INPUT}_...`, the {manifest.views[0]} one."
    neighbours = manifest.neighbours
    if neighbours is not None and core.core.k_input:
        yield (
            f"`{K_INPUT}` is the number of neighbours of each node, 1 to {neighbours.maximum}; {neighbours.default} by "
            "default."
        )
        if core.core.k_input == K_LENGTH_INPUT:
            yield "Tiles are joined with those of requests with the same k."
    elif neighbours is not None:
        yield f"k is fixed at {neighbours.default}."
