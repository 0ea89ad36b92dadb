"""Real engines, built by TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exported import ExportStore
from half_precision import make_half
from keygraph import plugins
from keygraph.engines import cache, network
from keygraph.engines.backend import local_gpu
from keygraph.engines.build import Outcome, build
from keygraph.engines.engine_check import inspect
from keygraph.engines.fallbacks import Attempt
from keygraph.engines.fp32_matmul_rewrite import rewrite_fp32_matmuls
from keygraph.engines.job import Job
from keygraph.engines.model import load_model
from keygraph.engines.options import Options
from keygraph.engines.targets import TARGETS
from keygraph.errors import InputError, MissingDependencyError
from keygraph.export import export
from keygraph.manifest import Neighbours, Profile
from keygraph.models import load_checkpoint, save_checkpoint
from keygraph.models.kgt import KGT, PRESETS
from keygraph.runtime.backends.engine_metadata import check_digest, read
from keygraph.runtime.backends.onnxruntime import OnnxRuntimeSession
from keygraph.runtime.backends.tensorrt_bindings import PLUGINS, loader_path
from onnx import ModelProto, helper
from rtx import needs_rtx
from tiny_kgt import changed

pytestmark = needs_rtx

MakeJob = Callable[..., Job]
RTX_TARGETS = [name for name, target in TARGETS.items() if target.rtx]


def make(*jobs: Job, said: list[str] | None = None) -> list[Outcome]:
    notes: list[str] = [] if said is None else said
    return build(load_model(jobs[0].model), list(jobs), notice=notes.append)


def one(job: Job, said: list[str] | None = None) -> Outcome:
    (outcome,) = make(job, said=said)
    return outcome


def is_sound(engine: Path) -> bool:
    """Whether the engine and its metadata belong together."""
    try:
        check_digest(engine, read(engine))
    except InputError:
        return False
    return True


def test_dynamic_tile_and_batch_and_k(half: Path, make_job: MakeJob) -> None:
    job = make_job(half, tile="32:64:128", batch="1:2:4")
    outcome = one(job)
    assert (outcome.state, outcome.error) == ("built", "")
    metadata = read(job.engine)
    check_digest(job.engine, metadata)
    image, k, restored = metadata.tensors
    assert (image.name, image.dtype, image.shape) == ("image", "float32", (-1, 3, -1, -1))
    assert (k.name, k.dtype, k.host) == ("k", "int64", True)  # Without the plugin, k is a shape input.
    assert (restored.name, restored.output) == ("restored", True)
    assert metadata.manifest.profiles == (Profile((1, 2, 4), (32, 64, 128), (32, 64, 128)),)
    assert metadata.manifest.neighbours == load_model(half).manifest.neighbours
    assert metadata.manifest.precision == "fp16"
    assert metadata.read_back.startswith(("not read back: no GPU", "not read back: the GPU here", "read back on"))
    assert metadata.memory["weights"] > 0
    assert metadata.attempts == ()
    log = cache.log_path(job.engine).read_text()
    assert "WARNING" in log
    assert sorted(path.suffix for path in job.engine.parent.iterdir()) == [".json", ".log", ".plan"]


def test_a_network_of_several_levels_with_several_profiles_and_a_narrow_k(half_unet: Path, make_job: MakeJob) -> None:
    job = make_job(half_unet, target="sm_120", tile="64", batch="1:2:2", k=10)
    second = dataclasses.replace(job.options.profiles[0], height=(128,) * 3, width=(64, 64, 128))
    job = dataclasses.replace(job, options=dataclasses.replace(job.options, profiles=(*job.options.profiles, second)))
    outcome = one(job)
    assert (outcome.state, outcome.error) == ("built", "")
    metadata = read(job.engine)
    assert len(metadata.manifest.profiles) == 2
    assert metadata.manifest.neighbours == Neighbours(10, 10, (10, 20))
    assert metadata.capability == (12, 0)


@pytest.mark.parametrize(
    "targets",
    [["sm_89"], pytest.param([name for name in RTX_TARGETS if name != "sm_89"], marks=pytest.mark.slow)],
    ids=["one target", "the other targets"],
)
def test_the_demo(targets: list[str], exports: ExportStore, tmp_path: Path, make_job: MakeJob) -> None:
    checkpoint = Path(__file__).parents[2] / "examples" / "kgt-denoise-tiny.ckpt"
    model = make_half(exports.get(checkpoint, "demo").onnx, tmp_path / "demo.onnx")
    outcomes = make(*(make_job(model, name, tile="64:128:256", batch="1:2:4") for name in targets))
    assert [(outcome.target, outcome.state, outcome.error) for outcome in outcomes] == [
        (name, "built", "") for name in targets
    ]
    assert [read(outcome.engine).target for outcome in outcomes] == targets
    assert all(is_sound(outcome.engine) for outcome in outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["kgt-base", "kgt-base-sr"])
def test_base_size_for_every_target(preset: str, tmp_path: Path, make_job: MakeJob) -> None:
    """U-shaped and columnar networks with random weights, in the half precision that `export` writes."""
    torch.manual_seed(0)
    checkpoint, file = tmp_path / "model.ckpt", tmp_path / "model.onnx"
    save_checkpoint(checkpoint, KGT(PRESETS[preset]))
    export(load_checkpoint(checkpoint), file, precision="fp16", verification=False)
    jobs = [make_job(file, target=name, tile="128:256:512", batch="1:1:4") for name in RTX_TARGETS]
    outcomes = make(*jobs)
    assert [(outcome.state, outcome.error) for outcome in outcomes] == [("built", "")] * len(jobs)
    for job in jobs:
        check_digest(job.engine, read(job.engine))


def test_fp32_and_a_target_that_has_no_such_products(single: Path, make_job: MakeJob) -> None:
    """The failure of one target does not affect the others."""
    bad, good = make(make_job(single, "sm_75"), make_job(single, "sm_86"))
    assert (bad.state, bad.exit_code) == ("failed", 2)
    assert "is fp32, but TensorRT-RTX multiplies matrices in fp16 only for sm_75" in bad.error
    assert not bad.engine.exists()
    assert good.state == "built"


def test_products_written_as_sums_are_the_same(single: Path, tmp_path: Path) -> None:
    proto = rewrite_fp32_matmuls(onnx.load(single))
    assert not any(node.op_type == "MatMul" for function in proto.functions for node in function.node)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, tmp_path / "sums.onnx")
    images = np.random.default_rng(0).random((2, 3, 16, 24), np.float32)
    expected, found = (
        OnnxRuntimeSession(path, library=None).run(images, 8) for path in (single, tmp_path / "sums.onnx")
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_again_is_a_hit_and_a_change_is_a_miss(half: Path, make_job: MakeJob) -> None:
    job = make_job(half)
    assert one(job).state == "built"
    stamp = job.engine.stat().st_mtime_ns
    assert one(job).state == "cached"
    assert job.engine.stat().st_mtime_ns == stamp
    said: list[str] = []
    other = dataclasses.replace(job, options=dataclasses.replace(job.options, k=(1, 4, 8)))
    outcome = one(other, said)
    assert (outcome.state, outcome.reason) == ("built", "the option k was [1, 16, 64] and is [1, 4, 8]")
    assert said == ["kgt.sm89.plan is built again: the option k was [1, 16, 64] and is [1, 4, 8]"]
    assert one(dataclasses.replace(other, force=True)).state == "built"
    job.engine.write_bytes(b"damaged")
    outcome = one(other)
    assert outcome.state == "built"
    assert "is not the engine that kgt.sm89.plan.json describes" in outcome.reason
    assert is_sound(job.engine)


def test_progress_goes_to_the_end(half: Path, make_job: MakeJob) -> None:
    seen: list[tuple[int, int]] = []
    jobs = [make_job(half, name) for name in ("sm_80", "sm_86")]
    build(load_model(half), jobs, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert len(seen) > 10
    assert seen[-1] == (200, 200)


def test_too_little_workspace(half: Path, make_job: MakeJob) -> None:
    """The builder fails: the error says what helps, and only the log is left."""
    job = make_job(half, options={"workspace": 1 << 10})
    outcome = one(job)
    assert (outcome.state, outcome.exit_code) == ("failed", 1)
    assert "raise or leave out --workspace" in outcome.error
    assert str(cache.log_path(job.engine)) in outcome.error
    assert [path.suffix for path in job.engine.parent.iterdir()] == [".log"]
    assert "within workspace limit" in cache.log_path(job.engine).read_text()


def test_what_only_the_parser_sees_has_the_module(single: Path, tmp_path: Path, make_job: MakeJob) -> None:
    def mixed(model: ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Conv")
        node.name = "body.7.conv/Conv"
        cast = helper.make_node("Cast", [node.input[0]], ["half"], to=onnx.TensorProto.FLOAT16)
        position = list(model.graph.node).index(node)
        node.input[0] = "half"
        model.graph.node.insert(position, cast)

    job = make_job(changed(single, tmp_path / "mixed.onnx", mixed))
    outcome = one(job)
    assert (outcome.state, outcome.exit_code) == ("failed", 2)
    assert "body.7.conv/Conv (Conv)" in outcome.error


def test_a_plugin_library_that_is_none(half: Path, tmp_path: Path, make_job: MakeJob) -> None:
    library = tmp_path / "libkeygraph_trt.so"
    library.write_bytes(b"no library")
    outcome = one(make_job(half, plugin=library))
    assert (outcome.state, outcome.exit_code) == ("failed", 2)
    assert f"the plugin library {library} does not load: " in outcome.error


def test_a_library_without_our_plugins(half: Path, make_job: MakeJob) -> None:
    outcome = one(make_job(half, plugin=plugins.library("cpu")))
    assert outcome.state == "failed"
    assert "libkeygraph_cpu.so" in outcome.error


def test_the_plugin(half: Path, make_job: MakeJob) -> None:
    """NVIDIA does not support plugins in TensorRT-RTX, but its parser uses them, and then k is in device memory."""
    folder = os.environ.get("KEYGRAPH_LIBRARY_DIR")
    try:
        library = Path(folder, plugins.LIBRARIES["tensorrt"]).absolute() if folder else plugins.library("tensorrt")
    except MissingDependencyError as error:
        pytest.skip(str(error))
    if not library.is_file():
        pytest.skip(f"{library} is not built")
    job = make_job(half, plugin=library)
    outcome = one(job)
    assert (outcome.state, outcome.error) == ("built", "")
    metadata = read(job.engine)
    assert metadata.plugin is not None
    assert metadata.plugin.name == library.name
    assert next(tensor for tensor in metadata.tensors if tensor.name == "k").host is False
    assert {name for name, _, _ in PLUGINS} == {"KeyGraph", "PackGraph", "TopKGraph", "KeyGraphAttention"}


def worker(job: Job, environment: dict[str, str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "keygraph.engines.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin is not None
    process.stdin.write(job.to_json() + "\n")
    process.stdin.flush()
    return process


def last_event(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    events = [json.loads(line) for line in process.stdout]
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
    event: dict[str, object] = events[-1]
    return event


def test_two_builders_build_once(half: Path, make_job: MakeJob) -> None:
    job = make_job(half)
    with loader_path("tensorrt-rtx") as environment:
        processes = [worker(job, environment) for _ in range(2)]
        events = [last_event(process) for process in processes]
    assert sorted(str(event["state"]) for event in events) == ["built", "cached"]
    assert [process.returncode for process in processes] == [0, 0]
    assert is_sound(job.engine)


def test_a_builder_ends_with_whoever_called_it(half: Path, make_job: MakeJob) -> None:
    job = make_job(half)
    with loader_path("tensorrt-rtx") as environment:
        process = worker(job, environment)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.close()
        assert process.wait() == 1
    assert not job.engine.exists()


ROUNDS = 20


@pytest.mark.slow
def test_killed_at_random_moments(half: Path, make_job: MakeJob) -> None:
    """After kill -9 the engine is valid or would be refused, and the next build succeeds.

    `test_killed_while_writing` kills at every step of writing.
    """
    job = make_job(half)
    other = dataclasses.replace(job, options=dataclasses.replace(job.options, k=(1, 4, 8)))
    generator = random.Random(0)
    with loader_path("tensorrt-rtx") as environment:
        start = time.monotonic()
        assert last_event(worker(job, environment))["state"] == "built"
        seconds = time.monotonic() - start
        for i in range(ROUNDS):
            process = worker([other, job][i % 2], environment)
            time.sleep(generator.uniform(0.2, 1.1) * seconds)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if is_sound(job.engine):
                assert cache.find(job.engine, read(job.engine).ingredients)[0] is not None
        assert last_event(worker(job, environment))["event"] == "done"
    assert is_sound(job.engine)
    assert read(job.engine).manifest.neighbours == load_model(half).manifest.neighbours
    assert not [path for path in job.engine.parent.iterdir() if path.name.startswith(".")]


def test_a_builder_that_dies_is_said(half: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error reports how the worker process ended."""
    monkeypatch.setattr("keygraph.engines.build.sys.executable", "/bin/false")
    outcome = one(make_job(half))
    assert outcome.state == "failed"
    assert "the builder's process ended with exit code 1" in outcome.error


def test_every_option_reaches_the_builder() -> None:
    """Checked on TensorRT-RTX's configuration, which accepts all options; unsupported ones are refused earlier."""
    import tensorrt_rtx_bindings as trt

    def configured(attempt: Attempt, **options: Any) -> Any:
        builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
        config = builder.create_builder_config()
        network.configure(trt, config, Options((), None, **options), attempt)
        return config, builder

    config, _builder = configured(Attempt("", 5, 1 << 20), version_compatible=True, strip_weights=True)
    assert config.builder_optimization_level == 5
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 20
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    assert config.get_flag(trt.BuilderFlag.STRIP_PLAN)
    assert config.get_tactic_sources() != 0
    config, _builder = configured(Attempt("less", 0, 1 << 20, half_workspace=True, all_tactics=False))
    assert config.builder_optimization_level == 0
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 19
    assert config.get_tactic_sources() == 0
    assert not config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    assert not config.get_flag(trt.BuilderFlag.TF32)
    plain, _builder = configured(Attempt("", 3, None))
    half, _builder = configured(Attempt("less", 3, None, half_workspace=True))
    limits = [config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) for config in (plain, half)]
    assert limits[1] == limits[0] // 2


@pytest.mark.gpu
def test_an_engine_for_this_gpu_is_read_back(half: Path, make_job: MakeJob) -> None:
    gpu = local_gpu()
    if gpu is None or not TARGETS[gpu.target].rtx:
        pytest.skip("no GPU that TensorRT-RTX builds for")
    job = make_job(half, target=gpu.target, gpu=gpu, tile="32:64:128", batch="1:2:4")
    outcome = one(job)
    assert (outcome.state, outcome.error) == ("built", "")
    metadata = read(job.engine)
    assert metadata.read_back.startswith(f"read back on {gpu.name}")
    assert inspect(job.engine, metadata, gpu)["layers"]
