"""Targets and backends: what can be built on which machine, and the errors otherwise."""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from keygraph.engines import backend, preflight
from keygraph.engines.backend import Software, choose
from keygraph.engines.model import load_model
from keygraph.engines.targets import TARGETS, find_target
from keygraph.errors import InputError, MissingDependencyError
from keygraph.installation import install_line
from keygraph.runtime.backends.tensorrt_bindings import loader_path
from keygraph.runtime.device import memory
from keygraph.runtime.device.cuda_driver import Gpu
from rtx import needs_rtx

L4 = Gpu("NVIDIA L4", (8, 9), 1 << 34)
H100 = Gpu("NVIDIA H100", (9, 0), 1 << 36)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The set of installed backends, which a test may change."""
    there = {"tensorrt", "tensorrt-rtx"}

    def find(name: str) -> Software:
        if name not in there:
            raise MissingDependencyError(f"{name} is absent")
        return Software(name, "1", "13")

    monkeypatch.setattr(backend, "find_software", find)
    return there


@pytest.mark.parametrize("name", ["sm_89", "sm89", "89", "8.9", " SM_89"])
def test_a_target_has_several_names(name: str) -> None:
    assert find_target(name) is TARGETS["sm_89"]
    assert find_target("sm_90a").capability == (9, 0)
    assert find_target("120").capability == (12, 0)


@pytest.mark.parametrize("name", ["sm_99", "ada", "", "8", "sm_8.9.1"])
def test_what_is_no_target(name: str) -> None:
    with pytest.raises(InputError, match=f"there is no target '{name}'; choose one of sm_75, sm_80, .*, sm_121"):
        find_target(name)


def chosen(wanted: str, names: list[str], gpu: Gpu | None) -> tuple[str, list[str]]:
    software, targets = choose(wanted, [TARGETS[name] for name in names], gpu)
    return software.backend, [target.name for target in targets]


def test_automatic(installed: set[str]) -> None:
    assert chosen("auto", ["sm_89"], L4) == ("tensorrt", ["sm_89"])
    assert chosen("auto", [], L4) == ("tensorrt", ["sm_89"])
    assert chosen("auto", ["sm_89", "sm_120"], L4) == ("tensorrt-rtx", ["sm_89", "sm_120"])
    assert chosen("auto", ["sm_89"], None) == ("tensorrt-rtx", ["sm_89"])
    installed.discard("tensorrt")
    assert chosen("auto", ["sm_89"], L4) == ("tensorrt-rtx", ["sm_89"])
    installed.clear()
    with pytest.raises(MissingDependencyError, match=re.escape(f"install one with: {install_line('rtx')}") + "$"):
        choose("auto", [TARGETS["sm_89"]], None)
    with pytest.raises(
        MissingDependencyError, match=re.escape(f"{install_line('rtx')} or {install_line('tensorrt')}") + "$"
    ):
        choose("auto", [], L4)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("wanted", "names", "gpu", "words"),
    [
        ("tensorrt", ["sm_120"], L4, "NVIDIA L4 is sm_89, not sm_120; build on a machine with that GPU"),
        ("tensorrt", ["sm_89"], None, "this one has none; build for sm_89 on a machine with such a GPU, or here with"),
        ("tensorrt", ["sm_90"], None, "build for sm_90 on a machine with such a GPU"),
        ("tensorrt-rtx", ["sm_90"], H100, "does not build for sm_90 (H100, H200, GH200), only for sm_75, sm_80, sm_86"),
        ("auto", ["sm_90"], None, "on a machine with that GPU use: --backend tensorrt"),
        ("auto", [], None, "this machine has no GPU to build for; name one with --target: sm_75"),
        ("auto", [], Gpu("Old", (7, 0), 1), "Old is sm_70, which is not a target"),
        ("openvino", ["sm_89"], None, "there is no backend 'openvino'; choose one of tensorrt, tensorrt-rtx, auto"),
    ],
)
def test_what_cannot_be_built_here(wanted: str, names: list[str], gpu: Gpu | None, words: str) -> None:
    with pytest.raises(InputError) as caught:
        chosen(wanted, names, gpu)
    assert words in str(caught.value)


@needs_rtx
def test_the_targets_are_those_of_rtx() -> None:
    import tensorrt_rtx_bindings as trt

    members = {name.lower() for name in trt.ComputeCapability.__members__} - {"none", "current"}
    assert members == {name.replace("_", "") for name, target in TARGETS.items() if target.rtx}
    assert backend.find_software("tensorrt-rtx") == Software("tensorrt-rtx", trt.__version__, "13")


@needs_rtx
def test_the_parser_finds_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    with loader_path("tensorrt-rtx") as environment:
        folder, rest = environment["LD_LIBRARY_PATH"].split(":")
        assert rest == "/elsewhere"
        assert (Path(folder) / "libtensorrt_rtx.so").resolve().name == "libtensorrt_rtx.so.1"
    assert not Path(folder).exists()
    with loader_path("tensorrt") as environment:
        assert environment["LD_LIBRARY_PATH"] == "/elsewhere"


def test_memory_that_files_only_cache_is_room(single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container whose memory is full of page cache, which the system reclaims on demand."""
    model = load_model(single)
    need = preflight.host_need(model)
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text(f"{need + (100 << 20)}\n")
    (group / "memory.current").write_text(f"{need}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {need}\n")
    monkeypatch.setattr(memory, "available", partial(memory.available, tmp_path))
    preflight.check(model, tmp_path)
    (group / "memory.stat").write_text("anon 1\ninactive_file 0\n")
    with pytest.raises(InputError, match="and 100 MiB are free"):
        preflight.check(model, tmp_path)


def test_no_room_is_found_before_the_work(single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(single)
    preflight.check(model, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: SimpleNamespace(free=1 << 20))
    with pytest.raises(InputError, match=r"has 1 MiB free, and an engine needs about \d+ MiB; make room"):
        preflight.check(model, tmp_path)
    monkeypatch.setattr(memory, "available", lambda: 100 << 20)
    with pytest.raises(InputError, match=r"building needs about [\d,]+ MiB of memory, and 100 MiB are free"):
        preflight.check(model, tmp_path)
    assert preflight.parallel(model, 4) == 1
    monkeypatch.setattr(memory, "available", lambda: 3 * preflight.host_need(model))
    assert preflight.parallel(model, 4) == 3
    assert preflight.parallel(model, 2) == 2
