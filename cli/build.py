"""``keygraph build``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import plugins
from ..engines import cache
from ..engines.backend import AUTO, choose, find_software, local_gpu
from ..engines.build import FAILED, Outcome
from ..engines.build import build as build_engines
from ..engines.job import Job
from ..engines.model import Model, load_model
from ..engines.options import (
    COMPATIBLE,
    DEFAULT_OPTIMIZATION,
    Options,
    read_bytes,
    read_k,
    read_profiles,
)
from ..engines.targets import TARGETS, can_build, find_target
from ..errors import InputError, MissingDependencyError
from ..files import is_folder, is_regular
from ..installation import install_line
from ..integrity import UNCHANGED
from ..runtime.backends.engine_metadata import BACKENDS
from ..runtime.companion_files import check_outputs
from .arguments import Json, Quiet
from .output import no_note, note, progress_bar
from .table import show


def build(
    model: Annotated[Path | None, typer.Argument(metavar="MODEL.onnx", help="An exported .onnx file.")] = None,
    target: Annotated[
        list[str] | None, typer.Option(metavar="sm_NN", help="GPU to build for, by default this machine's; repeatable.")
    ] = None,
    backend: Annotated[
        str, typer.Option(metavar="|".join((*BACKENDS, AUTO)), help="Library that builds the engines.")
    ] = AUTO,
    tile: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N|HxW|min:opt:max", help="Tile size in pixels; repeat it for several optimization profiles."
        ),
    ] = None,
    batch: Annotated[
        list[str] | None, typer.Option(metavar="N|min:opt:max", help="Number of tiles that run together.")
    ] = None,
    k: Annotated[
        int | None,
        typer.Option("--k", metavar="MAX", help="Largest k that the engine takes; by default all that the file does."),
    ] = None,
    workspace: Annotated[
        str | None, typer.Option(metavar="4G", help="Memory that a kernel may use as workspace.")
    ] = None,
    optimization: Annotated[
        int, typer.Option(metavar="0-5", help="Builder optimization level: higher builds longer for a faster engine.")
    ] = DEFAULT_OPTIMIZATION,
    timing_cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TensorRT's timing cache, to start from and to add to.")
    ] = None,
    hardware_compatible: Annotated[
        str, typer.Option(metavar="|".join(COMPATIBLE), help="Other GPUs that the engine must run on.")
    ] = COMPATIBLE[0],
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Let newer versions of TensorRT run the engine.")
    ] = False,
    strip_weights: Annotated[
        bool, typer.Option("--strip-weights", help="Leave the weights out; a refitter has to put them in.")
    ] = False,
    plugin: Annotated[
        str,
        typer.Option(metavar="auto|none|FILE", help="Library of the operators; none: the functions in the file."),
    ] = "auto",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="DIR", help="Folder for the engines; by default the model's.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build engines that exist already, too.")] = False,
    preflight: Annotated[
        bool, typer.Option("--preflight/--no-preflight", help="Check first whether memory and disk suffice.")
    ] = True,
    list_targets: Annotated[bool, typer.Option("--list-targets", help="Show the targets and exit.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Build engines for named GPUs from an exported file.

    An engine that exists already, built from the same file with the same options, is kept. Exit code 1 when a target
    failed.
    """
    if list_targets:
        _list_targets(as_json)
        return
    if model is None:
        raise InputError("no model is given; give the exported file: keygraph build MODEL.onnx")
    gpu = local_gpu()
    targets = list({found.name: found for found in map(find_target, target or [])}.values())
    loaded = load_model(model)
    if loaded.integrity.state != UNCHANGED and not quiet:
        note(f"{model}: {loaded.integrity.words}")
    software, targets = choose(backend, targets, gpu)
    options = Options(
        profiles=read_profiles(loaded.manifest, tile or [], batch or []),
        k=read_k(loaded.manifest, k),
        workspace=None if workspace is None else read_bytes(workspace, "--workspace"),
        optimization=optimization,
        compatible=hardware_compatible,
        version_compatible=version_compatible,
        strip_weights=strip_weights,
        timing_cache=timing_cache is not None,
    )
    options.check_backend(software.backend, has_gpu=gpu is not None)
    library = find_plugin(plugin, software.backend, quiet) if loaded.has_operators else None
    folder = out if out is not None else model.parent
    if not is_folder(folder):
        raise InputError(f"{folder} is not a folder; create it first, or choose another with -o")
    # The options that differ from their defaults, recorded in the sidecar as the command that built the engine.
    words: dict[str, Any] = {
        "tile": tile,
        "batch": batch,
        "k": k,
        "workspace": workspace,
        "optimization": None if optimization == DEFAULT_OPTIMIZATION else optimization,
        "timing-cache": None if timing_cache is None else timing_cache.name,
        "hardware-compatible": None if hardware_compatible == COMPATIBLE[0] else hardware_compatible,
        "version-compatible": version_compatible,
        "strip-weights": strip_weights,
        "plugin": None if plugin == "auto" else Path(plugin).name,
    }
    jobs = [
        Job(
            model=model,
            engine=cache.engine_path(model, one.name, out),
            target=one.name,
            software=software,
            options=options,
            plugin=library,
            timing_cache=timing_cache,
            gpu=gpu,
            words={name: value for name, value in words.items() if value},
            force=force,
            preflight=preflight,
        )
        for one in targets
    ]
    read = [model] if library is None else [model, library]
    check_outputs([*(job.engine for job in jobs), *([timing_cache] if timing_cache else [])], read)
    with progress_bar(f"building with {software}", quiet=quiet) as progress:
        outcomes = build_engines(loaded, jobs, notice=no_note if quiet else note, progress=progress)
    _report(loaded, outcomes, str(software), as_json=as_json, quiet=quiet)


def find_plugin(wanted: str, backend: str, quiet: bool) -> Path | None:
    """Return the operators' library to build with, or None for the functions in the file.

    Parameters
    ----------
    wanted
        The value of ``--plugin``: ``"auto"``, ``"none"``, or a library's path.
    backend
        What builds the engine; TensorRT-RTX gets no plugin by default.
    quiet
        Print no note when TensorRT's plugin is not installed.

    Raises
    ------
    InputError
        The library that was named does not exist.
    """
    if wanted == "none":
        return None
    if wanted != "auto":
        path = Path(wanted)
        if not is_regular(path):
            raise InputError(f"the plugin library {path} does not exist; give another, or --plugin none")
        return path
    if backend == "tensorrt-rtx":
        return None  # It loads plugins, but NVIDIA does not document that.
    try:
        return plugins.library("tensorrt")
    except MissingDependencyError as error:
        if not quiet:
            note(f"the engine gets plain functions, which are slower, in place of keygraph's operators: {error}")
        return None


def _list_targets(as_json: bool) -> None:
    """Print the targets, and which backends can build for them on this machine."""
    gpu = local_gpu()
    installed = {backend: _installed(backend) for backend in BACKENDS}
    rows = [
        (target, [backend for backend in BACKENDS if installed[backend] and can_build(target, backend, gpu)])
        for target in TARGETS.values()
    ]
    if as_json:
        values = [
            {
                "name": target.name,
                "capability": list(target.capability),
                "shared_memory_kib": target.shared_memory,
                "gpus": target.gpus,
                "builds_here": able,
            }
            for target, able in rows
        ]
        print(json.dumps({"gpu": gpu and gpu.name, "backends": installed, "targets": values}))
        return
    show(
        ("target", "GPUs", "built here by", "shared memory"),
        [
            (
                target.name,
                target.gpus,
                " and ".join(BACKENDS[backend] for backend in able) or "-",
                f"{target.shared_memory} KiB",
            )
            for target, able in rows
        ],
        left=3,
    )
    print()
    extras = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}
    for backend, version in installed.items():
        print(version or f"{BACKENDS[backend]} is not installed: {install_line(extras[backend])}")
    print(f"this machine's GPU: {f'{gpu.name}, {gpu.target}' if gpu else 'none'}")


def _installed(backend: str) -> str:
    """Return a backend's name and version, or the empty string if it is not installed."""
    try:
        return str(find_software(backend))
    except MissingDependencyError:
        return ""


def _report(model: Model, outcomes: list[Outcome], software: str, *, as_json: bool, quiet: bool) -> None:
    failed = [outcome for outcome in outcomes if outcome.state == FAILED]
    if as_json:
        results = [
            {
                "target": outcome.target,
                "engine": str(outcome.engine),
                "state": outcome.state,
                "seconds": outcome.seconds,
                "bytes": outcome.bytes,
                "activation_bytes": outcome.activations,
                **({"reason": outcome.reason} if outcome.reason else {}),
                **({"error": outcome.error} if outcome.error else {}),
            }
            for outcome in outcomes
        ]
        print(json.dumps({"model": str(model.path), "builder": software, "results": results}))
    elif not quiet and (len(outcomes) > 1 or not failed):
        show(("target", "engine", "", "MB", "GPU GiB", "seconds"), [_row(outcome) for outcome in outcomes], left=3)
    for outcome in failed:
        where = f"{outcome.target}: " if len(outcomes) > 1 else ""
        print(f"error: {where}{' '.join(outcome.error.split())}", file=sys.stderr)
    if failed:
        raise typer.Exit(failed[0].exit_code if len(outcomes) == 1 else 1)


def _row(outcome: Outcome) -> tuple[str, ...]:
    if outcome.state == FAILED:
        return outcome.target, outcome.engine.name, "FAILED", "", "", ""
    state = "there already" if outcome.state == "cached" else outcome.state
    memory = f"{outcome.activations / 2**30:.2f}" if outcome.activations else "-"
    size, seconds = f"{outcome.bytes / 1e6:.1f}", f"{outcome.seconds:.1f}"
    return outcome.target, str(outcome.engine), state, size, memory, seconds
