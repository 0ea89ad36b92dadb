"""Names, types and shapes of the image model's tensors: what clients send and get."""

from __future__ import annotations

from ...manifest import IMAGE_INPUT, IMAGE_OUTPUT, K_INPUT, Manifest
from ...runtime.preprocess.normalization import is_spectrum
from .model_config import ModelConfig, TensorConfig

#: Ending of a tensor's name -> NumPy's name of its type. A tensor of the server has one type, so there is one for each.
SAMPLES = {"uint8": "uint8", "uint16": "uint16", "fp32": "float32"}

#: Ending of the names of the tensors that hold an image file.
FILE = "file"

_PICTURE_CHANNELS = (1, 3)

_ANY_IMAGE = (-1, -1, -1)


def tensor_name(image: str, kind: str) -> str:
    """Return the name of the tensor that holds an image, such as ``"image_uint8"``.

    Parameters
    ----------
    image
        ``"image"``, a view's name, or ``"restored"``.
    kind
        A key of `SAMPLES`, or `FILE`.
    """
    return f"{image}_{kind}"


def takes_files(manifest: Manifest) -> bool:
    """Return whether the model takes image files: it maps one picture to a picture."""
    return (
        not manifest.views
        and not manifest.extra_inputs
        and not is_spectrum(manifest)
        and manifest.in_channels in _PICTURE_CHANNELS
        and manifest.out_channels in _PICTURE_CHANNELS
    )


def image_kinds(manifest: Manifest) -> tuple[str, ...]:
    """Return the kinds in which a request may give its image."""
    return (*SAMPLES, FILE) if takes_files(manifest) else tuple(SAMPLES)


def image_config(name: str, manifest: Manifest, instances: int) -> ModelConfig:
    """Return the configuration of the image model.

    Parameters
    ----------
    name
        Its name in the server.
    manifest
        The network's manifest.
    instances
        Processes that prepare images at a time.
    """
    spectrum = is_spectrum(manifest)
    inputs = [
        TensorConfig(tensor_name(image, kind), dtype, _ANY_IMAGE, optional=True)
        for image in (IMAGE_INPUT, *manifest.views[1:])
        for kind, dtype in SAMPLES.items()
    ]
    outputs = [
        TensorConfig(tensor_name(IMAGE_OUTPUT, kind), dtype, _ANY_IMAGE)
        for kind, dtype in SAMPLES.items()
        if kind == "fp32" or not spectrum
    ]
    if takes_files(manifest):
        inputs.append(TensorConfig(tensor_name(IMAGE_INPUT, FILE), "bytes", (1,), optional=True))
        outputs.append(TensorConfig(tensor_name(IMAGE_OUTPUT, FILE), "bytes", (1,)))
    inputs += [TensorConfig(extra.name, "float32", _ANY_IMAGE) for extra in manifest.extra_inputs]
    if manifest.neighbours is not None and manifest.neighbours.runtime:
        inputs.append(TensorConfig(K_INPUT, "int64", (1,), optional=True))
    return ModelConfig(
        name=name,
        backend="python",
        platform="",
        filename="model.py",
        max_batch_size=0,  # Images differ in size. Their tiles, which do not, are batched by the core.
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        kind="KIND_CPU",
        instances=instances,
    )
