"""The cache key: every change is a cache miss and is named."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from keygraph.engines import cache_key
from keygraph.engines.backend import Software
from keygraph.engines.job import Job
from keygraph.engines.model import load_model
from keygraph.manifest import Profile
from keygraph.runtime.device.cuda_driver import Gpu
from onnx import ModelProto
from tiny_kgt import changed, set_manifest, set_weight

RTX = Software("tensorrt-rtx", "1.7.1.116", "13")
LOCAL = Gpu("GPU A", (8, 9), 1 << 34)

MakeJob = Callable[..., Job]


@pytest.fixture
def job(single: Path, make_job: MakeJob) -> Job:
    return make_job(single, software=RTX)


def names(before: Job, after: Job) -> list[str]:
    """Return what changed; check that the key changes with it."""
    one, other = (job.ingredients(load_model(job.model)) for job in (before, after))
    lines = cache_key.changes(one, other)
    assert (cache_key.digest(one) == cache_key.digest(other)) == (not lines)
    return lines


def test_the_same_is_the_same(job: Job, single: Path, tmp_path: Path) -> None:
    copy = changed(single, tmp_path / "copy.onnx", lambda model: None)
    assert names(job, job) == names(job, dataclasses.replace(job, model=copy)) == []
    # The paths, the words of the command line, force and preflight do not affect the engine.
    other = dataclasses.replace(job, engine=tmp_path / "x.plan", words={"tile": "64"}, force=True, preflight=False)
    assert names(job, other) == []


def rewire(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Add")
    node.op_type = "Sub"


def other_function(model: ModelProto) -> None:
    node = next(node for node in model.functions[0].node if node.op_type == "Max")
    node.op_type = "Min"


def other_attribute(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "KeyGraphAttention")
    next(a for a in node.attribute if a.name == "scale").f *= 2


def weight(model: ModelProto) -> None:
    name = next(t.name for t in model.graph.initializer if t.name.endswith("weight"))
    set_weight(name, 0, lambda value: value + 1e-6)(model)


def opset(model: ModelProto) -> None:
    model.opset_import[0].version += 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (rewire, "the graph changed"),
        (other_function, "the graph changed"),
        (other_attribute, "the graph changed"),
        (opset, "the graph changed"),
        (weight, "the weights changed"),
        (lambda model: set_manifest(model, task="else"), "the manifest changed"),
    ],
)
def test_the_file(job: Job, single: Path, tmp_path: Path, change: Callable[[ModelProto], None], line: str) -> None:
    other = changed(single, tmp_path / "other.onnx", change)
    assert names(job, dataclasses.replace(job, model=other)) == [line]


def test_weights_in_a_file_of_their_own(job: Job, single: Path, tmp_path: Path) -> None:
    import onnx

    path = tmp_path / "outside.onnx"
    settings: dict[str, Any] = {"save_as_external_data": True, "size_threshold": 64, "location": "outside.data"}
    onnx.save(onnx.load(single), path, **settings)
    before = dataclasses.replace(job, model=path).ingredients(load_model(path))
    data = bytearray((tmp_path / "outside.data").read_bytes())
    data[5] ^= 1
    (tmp_path / "outside.data").write_bytes(data)
    after = dataclasses.replace(job, model=path).ingredients(load_model(path))
    assert cache_key.changes(before, after) == ["the weights changed"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"k": (1, 16, 32)}, "the option k was [1, 16, 64] and is [1, 16, 32]"),
        ({"workspace": 1 << 20}, "the option workspace was null and is 1048576"),
        ({"optimization": 5}, "the option optimization was 3 and is 5"),
        ({"compatible": "ampere-plus"}, 'the option compatible was "none" and is "ampere-plus"'),
        ({"version_compatible": True}, "the option version_compatible was false and is true"),
        ({"strip_weights": True}, "the option strip_weights was false and is true"),
        ({"timing_cache": True}, "the option timing_cache was false and is true"),
        (
            {"profiles": (Profile((1, 2, 4), (64,) * 3, (64,) * 3),)},
            "the option batch, profile 0 was 1 and is 1:2:4",
        ),
        ({"profiles": (Profile((1,) * 3, (64,) * 3, (72,) * 3),)}, "the option width, profile 0 was 64 and is 72"),
    ],
)
def test_the_options(job: Job, options: dict[str, Any], line: str) -> None:
    assert names(job, dataclasses.replace(job, options=dataclasses.replace(job.options, **options))) == [line]
    assert {field.name for field in dataclasses.fields(job.options)} == {
        "profiles", "k", "workspace", "optimization", "compatible", "version_compatible", "strip_weights",
        "timing_cache",
    }, "a new option needs a line here"  # fmt: skip


def test_another_profile(job: Job) -> None:
    more = dataclasses.replace(job.options, profiles=job.options.profiles * 2)
    assert len(names(job, dataclasses.replace(job, options=more))) == 3


def test_what_builds_and_what_for(job: Job) -> None:
    replace = dataclasses.replace
    assert names(job, replace(job, target="sm_86")) == ["the target was sm_89 and is sm_86"]
    assert names(job, replace(job, software=replace(RTX, version="1.8"))) == ["the version was 1.7.1.116 and is 1.8"]
    assert names(job, replace(job, software=replace(RTX, cuda="12"))) == ["the CUDA was 13 and is 12"]
    # TensorRT-RTX tunes on the GPU that runs an engine, TensorRT on the GPU that builds it.
    assert names(job, replace(job, gpu=LOCAL)) == []
    here = replace(job, software=Software("tensorrt", "10.12", "13"), gpu=LOCAL)
    assert names(here, replace(here, gpu=replace(LOCAL, name="GPU B"))) == ["the GPU was GPU A and is GPU B"]
    assert "the backend was tensorrt-rtx and is tensorrt" in names(job, here)


def test_the_plugin_library(job: Job, tmp_path: Path) -> None:
    library = tmp_path / "libkeygraph_trt.so"
    library.write_bytes(b"one")
    with_it = dataclasses.replace(job, plugin=library)
    assert names(job, with_it) == ["the plugin library changed"]
    before = with_it.ingredients(load_model(job.model))
    library.write_bytes(b"two")
    assert cache_key.changes(before, with_it.ingredients(load_model(job.model))) == ["the plugin library changed"]


def test_a_newer_builder_of_ours(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    before = job.ingredients(load_model(job.model))
    monkeypatch.setattr(cache_key, "REVISION", "next")
    assert len(cache_key.changes(before, job.ingredients(load_model(job.model)))) == 1


def test_a_job_survives_its_journey(job: Job, tmp_path: Path) -> None:
    full = dataclasses.replace(job, plugin=tmp_path / "x.so", timing_cache=tmp_path / "t", gpu=LOCAL, words={"k": 3})
    assert Job.from_json(full.to_json()) == full
    assert "\n" not in full.to_json()
    assert Job.from_json(job.to_json()) == job
