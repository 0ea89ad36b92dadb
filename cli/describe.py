"""What a file is, in words: checkpoint, ONNX file, engine, cube or image; each is a dictionary of plain values."""

from __future__ import annotations

import itertools
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, MissingDependencyError
from ..files import CHECKPOINT_SUFFIXES, read_start
from ..manifest import METADATA_KEY, GlobalStatistics, HalfPrecision, Manifest, Neighbours, Profile, from_json
from ..runtime.backends.engine_metadata import BACKENDS, Sidecar, Tensor, check_digest
from ..runtime.backends.engine_metadata import read as read_sidecar
from ..runtime.io import cubes
from ..runtime.io.images import FORMATS
from ..runtime.preprocess.channels import count

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto

    from ..models import LoadedModel

Description = dict[str, Any]

#: What an engine's name ends with.
ENGINE_SUFFIX = ".plan"

#: `manifest.NORMALISATIONS` in words.
_NORMALISATIONS = {
    "type": "integers over their type's white level, floats as they are",
    "range": "the whole image from its least sample to its largest",
    "peak": "negative samples to 0, the whole image over its largest sample, times {gain:g}",
    "none": "none, samples as they are",
}

_IMAGE_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def describe(path: Path) -> Description:
    """Say what a file is; ``"kind"`` is ``"checkpoint"``, ``"onnx"``, ``"engine"``, ``"cube"`` or ``"image"``.

    A variable of a file of several arrays is named as in ``scene.mat:cube``.

    Raises
    ------
    InputError
        The file is missing, cannot be read, is damaged, or is of none of these kinds.
    """
    path, variable = cubes.split_variable(path)
    start = read_start(path, "a checkpoint, an ONNX file, an engine, a spectral cube or an image")
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return describe_onnx(path)
    if suffix == ENGINE_SUFFIX:
        return describe_engine(path)
    if cubes.is_cube(path):
        return describe_cube(path, variable)
    if suffix in CHECKPOINT_SUFFIXES or start.startswith((b"PK\x03\x04", b"\x80")):
        return describe_checkpoint(path)
    if suffix in FORMATS or start.startswith(_IMAGE_STARTS) or start[8:12] == b"WEBP":
        return describe_image(path)
    raise InputError(
        f"{path} is of no kind that keygraph knows; it reads checkpoints ({', '.join(CHECKPOINT_SUFFIXES)}), .onnx, "
        f"engines ({ENGINE_SUFFIX}), spectral cubes ({', '.join(cubes.FORMATS)}), and images ({', '.join(FORMATS)})"
    )


def describe_checkpoint(path: Path) -> Description:
    """Describe a PyTorch checkpoint."""
    from ..models import load_checkpoint

    loaded = load_checkpoint(path)
    manifest = loaded.manifest()
    state = loaded.module.state_dict()
    return {
        "kind": "checkpoint",
        "file": str(path),
        "bytes": path.stat().st_size,
        **_words(manifest),
        "configuration": manifest.configuration,
        "tensors": len(state),
        **_size(loaded),
        "read": list(loaded.notes),
        "weights": manifest.weights_sha256,
    }


def _size(loaded: LoadedModel) -> Description:
    """Parameters and multiply-accumulates, what GLMHA and the like save, and what others state."""
    from ..models.macs import count_macs, count_parameters

    architecture, config = loaded.architecture, loaded.config
    multiple = architecture.interface(config).size_multiple
    side = -(-256 // multiple) * multiple
    parameters, macs = count_parameters(architecture, config), count_macs(architecture, config, side, side)
    words: Description = {
        "parameters": parameters,
        f"multiply-accumulates at {side} x {side}": {
            "without attention products": giga(macs.layers),
            "with": giga(macs.total),
            **({"with layer norms as well": giga(macs.total + macs.norms)} if macs.norms else {}),
        },
    }
    if getattr(config, "attention", "csa") != "csa":
        csa = replace(config, attention="csa", reduction=())
        csa_macs = count_macs(architecture, csa, side, side)
        words["saved against csa"] = {
            "parameters": count_parameters(architecture, csa) - parameters,
            "without attention products": giga(csa_macs.layers - macs.layers),
            "with": giga(csa_macs.total - macs.total),
        }
    stated = architecture.published_for(config)
    if stated:
        words["published"] = [f"{entry.words} ({entry.source})" for entry in stated]
    return words


def giga(macs: int) -> str:
    """Decimal giga-multiply-accumulates."""
    return f"{macs / 1e9:.3f} G"


def describe_onnx(path: Path) -> Description:
    """Describe an ONNX file, ours or not."""
    model = _load_onnx(path)
    graph = model.graph
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    ours = METADATA_KEY in metadata
    external = [tensor for tensor in graph.initializer if tensor.external_data]
    return {
        "kind": "onnx",
        "file": str(path),
        "bytes": path.stat().st_size,
        "exported by keygraph": ours,
        **(_manifest_words(from_json(metadata[METADATA_KEY], str(path))) if ours else {}),
        "inputs": [_value(value) for value in _real_inputs(graph)],
        "outputs": [_value(value) for value in graph.output],
        "producer": f"{model.producer_name} {model.producer_version}".strip() or "not said",
        "opset": {_domain(opset.domain): opset.version for opset in model.opset_import},
        "ir version": model.ir_version,
        "parameters": sum(_elements(tensor.dims) for tensor in graph.initializer),
        "external data": sorted({e.value for t in external for e in t.external_data if e.key == "location"}),
        "functions": [f"{_domain(function.domain)}.{function.name}" for function in model.functions],
        "operators": dict(Counter(_operator(node.domain, node.op_type) for node in graph.node).most_common()),
    }


def describe_engine(path: Path) -> Description:
    """Describe an engine: from its sidecar always, from TensorRT itself where the GPU is the engine's own."""
    sidecar = read_sidecar(path)
    check_digest(path, sidecar)
    plugin, device = sidecar.plugin, f" on {sidecar.device}" if sidecar.device else ""
    words = _manifest_words(sidecar.manifest)
    del words["shape"]  # The profiles say more.
    return {
        "kind": "engine",
        "file": str(path),
        "bytes": sidecar.engine_bytes,
        "target": f"{sidecar.target}{device}"
        + ("" if sidecar.compatible == "none" else f", and others: {sidecar.compatible}"),
        "builder": f"{BACKENDS.get(sidecar.backend, sidecar.backend)} {sidecar.version}, CUDA {sidecar.cuda}"
        + (", or newer" if sidecar.version_compatible else ""),
        "built from": f"{sidecar.model} in {sidecar.seconds:g} s",
        "built again with": sidecar.command(),
        "failed attempts": list(sidecar.attempts),
        "operators": f"{plugin.name}, SHA-256 {plugin.sha256[:12]}" if plugin else "the functions in the file",
        "inputs": [_tensor(tensor) for tensor in sidecar.tensors if not tensor.output],
        "outputs": [_tensor(tensor) for tensor in sidecar.tensors if tensor.output],
        "profiles": [_profile(profile) for profile in sidecar.manifest.profiles],
        "memory": {name: f"{size / 2**20:,.1f} MiB" for name, size in sidecar.memory.items()},
        "holds host code": sidecar.host_code,
        "weights left out": sidecar.stripped,
        "read back": sidecar.read_back,
        **words,
        **_inspected(path, sidecar),
    }


def _inspected(path: Path, sidecar: Sidecar) -> Description:
    """What the engine inspector says, or why it does not."""
    try:
        from ..engines.backend import local_gpu
        from ..engines.engine_check import inspect
    except MissingDependencyError as error:
        return {"not inspected": str(error)}
    return inspect(path, sidecar, local_gpu())


def _tensor(tensor: Tensor) -> str:
    sizes = ", ".join("?" if size < 0 else str(size) for size in tensor.shape)
    return f"{tensor.name}: {tensor.dtype}[{sizes}]{' on the host' if tensor.host else ''}"


def _profile(profile: Profile) -> str:
    sizes = {"batch": profile.batch, "height": profile.height, "width": profile.width}
    return ", ".join(
        f"{name} {low}" if low == high else f"{name} {low} to {high} (best {best})"
        for name, (low, best, high) in sizes.items()
    )


def describe_image(path: Path) -> Description:
    """Describe an image file."""
    import pyvips

    from ..runtime.io.images import read_header

    header = read_header(path)
    # By way of a source, since libvips reads options out of file names.
    image = pyvips.Image.new_from_source(pyvips.Source.new_from_file(str(path)), "")
    fields = set(image.get_fields())
    profile = image.get("icc-profile-data") if "icc-profile-data" in fields else None
    orientation = image.get("orientation") if "orientation" in fields else 1
    return {
        "kind": "image",
        "file": str(path),
        "bytes": path.stat().st_size,
        "format": image.get("vips-loader").removesuffix("_source").removesuffix("load").upper(),
        "width": header.width,
        "height": header.height,
        "channels": header.channels,
        "bits": header.bits,
        "alpha": header.alpha,
        "icc profile": None if profile is None else _profile_name(profile),
        "exif orientation": orientation,
        "pages": image.get("n-pages") if "n-pages" in fields else 1,
    }


def describe_cube(path: Path, variable: str | None = None) -> Description:
    """Describe a file of a spectral cube, or of arrays that may be one."""
    description = {
        "kind": "cube",
        "file": str(path),
        "bytes": path.stat().st_size,
        "format": cubes.FORMATS[path.suffix.lower()],
        "arrays": cubes.describe_arrays(path),
    }
    try:
        header = cubes.read_header(path, variable)
    except InputError as error:
        if variable is not None or not description["arrays"]:
            raise
        return {**description, "not read as a cube": str(error)}
    return {
        **description,
        "variable": header.variable or None,
        "width": header.width,
        "height": header.height,
        "bands": header.bands,
        "type": header.dtype.name,
        "wavelengths": f"{', '.join(f'{value:g}' for value in header.wavelengths)} nm" if header.wavelengths else None,
        "notices": list(header.notices),
    }


def _words(manifest: Manifest) -> Description:
    """What checkpoints and exported files have in common."""
    return {
        "architecture": manifest.architecture,
        "task": manifest.task or "not said",
        "image": f"{manifest.in_channels} -> {manifest.out_channels} channels, scale {manifest.scale}, "
        f"values {manifest.value_range[0]:g} to {manifest.value_range[1]:g}",
        **_input_words(manifest),
        "size rule": f"height and width are multiples of {manifest.size_multiple}",
        **({"statistics": "over the whole image: tiles change the result"} if manifest.global_statistics else {}),
        **_result_words(manifest),
        "k": _k_words(manifest.neighbours),
    }


def _input_words(manifest: Manifest) -> Description:
    """What else goes in, and how."""
    words: Description = {}
    if manifest.views:
        words["views"] = f"{' and '.join(manifest.views)}, {manifest.in_channels // len(manifest.views)} channels each"
    if any(manifest.margin):
        words["margin"] = f"the image is {_larger(manifest.margin)} the result"
    if manifest.extra_inputs:
        words["inputs beside it"] = [
            f"{extra.name}: {count(extra.channels)}, {_larger(extra.margin)} the result"
            for extra in manifest.extra_inputs
        ]
    return words | {"normalisation": _NORMALISATIONS[manifest.normalisation].format(gain=manifest.gain)}


def _larger(margin: tuple[int, int]) -> str:
    parts = [f"{more} {what}" for more, what in zip(margin, ("rows", "columns"), strict=True) if more]
    return f"{' and '.join(parts)} larger than" if parts else "as large as"


def _result_words(manifest: Manifest) -> Description:
    """What comes out, where it is not just a picture."""
    words: Description = {}
    if manifest.wavelengths:
        words["bands"] = _wavelength_words(manifest.wavelengths)
    if manifest.clamp is not None:
        words["result"] = f"cut to {manifest.clamp[0]:g} to {manifest.clamp[1]:g}"
    return words


def _wavelength_words(wavelengths: tuple[float, ...]) -> str:
    steps = {round(above - below, 6) for below, above in itertools.pairwise(wavelengths)}
    if len(wavelengths) > 2 and len(steps) == 1:
        return f"{len(wavelengths)}, {wavelengths[0]:g} to {wavelengths[-1]:g} nm in steps of {steps.pop():g}"
    return f"{len(wavelengths)}, at {', '.join(f'{wavelength:g}' for wavelength in wavelengths)} nm"


def _manifest_words(manifest: Manifest) -> Description:
    shape = manifest.shape
    tiling = manifest.tiling
    return {
        **_words(manifest),
        "shape": "any batch, height and width within the size rule"
        if shape is None
        else f"only batch {shape[0]}, {shape[1]} x {shape[2]} (height x width)",
        "precision": manifest.precision
        if manifest.half is None
        else [*half_words(manifest.precision, manifest.half), f"policy: {', '.join(manifest.half.keep_fp32)}"],
        "tiles": "not measured"
        if tiling is None
        else f"{tiling.tile} pixels, overlap {tiling.overlap}: {tiling.psnr:.1f} dB against whole",
        **({} if manifest.statistics is None else {"statistics": statistics_words(manifest.statistics)}),
        "verified": _verification_words(manifest.verification),
        "made with": manifest.made_with,
        "configuration": manifest.configuration,
        "weights": manifest.weights_sha256,
    }


def statistics_words(statistics: GlobalStatistics) -> list[str]:
    """What statistics over the whole image cost, in lines."""
    lines = [f"plain tiles of {tiling.tile}: {tiling.psnr:.1f} dB against whole" for tiling in statistics.tilings]
    if statistics.memory is not None:
        lines.append(f"whole images take {statistics.memory / 1e3:.1f} GB per megapixel on a CPU")
    exact = statistics.exact
    if exact is None:
        lines.append("no exact tiles")
    else:
        lines.append(
            f"exact tiles of {exact.tile}: {exact.psnr:.1f} dB against whole, in {exact.sweeps} sweeps with "
            f"{exact.disk / 1e3:.2f} GB of disk per megapixel"
        )
    return lines


def _k_words(neighbours: Neighbours | None) -> str:
    if neighbours is None:
        return "no key graph"
    if not neighbours.runtime:
        return f"fixed at {neighbours.default} (of {neighbours.maximum} nodes)"
    trained = neighbours.trained
    known = f", trained with {', '.join(map(str, trained))}" if trained else ""
    return f"1 to {neighbours.maximum} at run time, {neighbours.default} by default{known}"


def half_words(precision: str, half: HalfPrecision) -> list[str]:
    """What is in half precision, and how far from overflow."""
    ends = "half" if half.half_io else "FP32"
    lines = [f"{precision}, {half.nodes_fp32} of {half.nodes} computing nodes in FP32; image in and out in {ends}"]
    if half.target_psnr is not None:
        added = f"by keeping {', '.join(half.found)} in FP32" if half.found else "with nothing more in FP32"
        lines.append(f"auto: {half.target_psnr:g} dB reached {added}")
    if half.largest:
        top = ", ".join(f"{name} {value:g}" for name, value in half.largest[:3])
        measured = f"on {len(half.pictures)} image{'s' if len(half.pictures) > 1 else ''}"
        lines.append(f"head-room {half.headroom:.4g} times before overflow {measured}; largest: {top}")
    else:
        lines.append("ranges not measured")
    return lines


def _verification_words(verification: dict[str, Any] | None) -> list[str]:
    """A line for each way in which the file was run."""
    if verification is None:
        return ["no (exported with --no-verify)"]
    lines = []
    for way, record in verification.items():
        checks = record["checks"]
        lines.append(
            f"{way}: against {record['against']} in {len(checks)} cases, "
            f"worst {min(check['psnr'] for check in checks):.1f} dB (at least {record['tolerance_db']:.0f} needed)"
            + (f"; {record['arithmetic']}" if record.get("arithmetic", "").startswith("float32") else "")
        )
    return lines


def _load_onnx(path: Path) -> ModelProto:
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"reading ONNX files needs {error.name}; install it with: pip install 'keygraph[export]'"
        ) from error
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise _no_onnx(path) from error
    if not model.ir_version or not model.graph.node:
        raise _no_onnx(path)
    return model


def _no_onnx(path: Path) -> InputError:
    return InputError(f"{path} is no ONNX file, or is cut off ({path.stat().st_size:,} bytes); download it again")


def _real_inputs(graph: GraphProto) -> Iterable[ValueInfoProto]:
    """Files of old list their weights among the inputs."""
    weights = {tensor.name for tensor in graph.initializer}
    return (value for value in graph.input if value.name not in weights)


def _value(value: ValueInfoProto) -> str:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    kind = TensorProto.DataType.Name(tensor.elem_type).lower()
    dims = [dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim]
    return f"{value.name}: {kind}[{', '.join(dims)}]"


def _domain(name: str) -> str:
    return name or "ai.onnx"


def _operator(domain: str, name: str) -> str:
    return f"{domain}.{name}" if domain not in ("", "ai.onnx") else name


def _elements(dims: Iterable[int]) -> int:
    count = 1
    for dim in dims:
        count *= dim
    return count


def _profile_name(profile: bytes) -> str:
    """The description in an ICC profile: its tag "desc", ASCII in version 2, UTF-16 in version 4."""
    try:
        (count,) = struct.unpack_from(">I", profile, 128)
        for i in range(min(count, 100)):
            tag, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * i)
            if tag != b"desc":
                continue
            if profile[offset : offset + 4] == b"mluc":
                length, start = struct.unpack_from(">II", profile, offset + 20)
                return profile[offset + start : offset + start + length].decode("utf-16-be")
            (length,) = struct.unpack_from(">I", profile, offset + 8)
            return profile[offset + 12 : offset + 12 + length].rstrip(b"\0").decode("ascii")
    except (struct.error, UnicodeDecodeError):
        pass
    return f"without a name, {len(profile):,} bytes"
