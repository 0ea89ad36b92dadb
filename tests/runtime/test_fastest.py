"""The provider ``auto``: which engine it takes, and that it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keygraph
import pytest
from exported import ExportStore
from keygraph import plugins
from keygraph.bench.configurations import run_configurations
from keygraph.errors import InputError
from keygraph.runtime.backends import fastest
from keygraph.runtime.backends.fastest import fastest_provider
from keygraph.runtime.backends.onnx_file import OnnxFile, read_onnx_file
from keygraph.runtime.device.spec import parse_device
from tiny_channel_attention import GLMHA
from tiny_kgt import Tiny

INTEL = "vendor_id\t: GenuineIntel\nflags\t\t: avx2 avx512f amx_bf16 amx_tile\n"
OLD_INTEL = "vendor_id\t: GenuineIntel\nflags\t\t: avx2\n"
AMD = "vendor_id\t: AuthenticAMD\nflags\t\t: avx2 avx512f avx512_bf16\n"


@pytest.fixture
def files(exports: ExportStore, tiny: Tiny) -> dict[str, OnnxFile]:
    return {"kgt": read_onnx_file(tiny.onnx), "glmha": read_onnx_file(exports.get(GLMHA, "glmha").onnx)}


@pytest.fixture
def everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "find_spec", lambda _name: object())
    monkeypatch.setattr(fastest, "_has_operators", lambda: True)


@pytest.mark.usefixtures("everything_installed")
@pytest.mark.parametrize(
    ("name", "cpu", "hint", "taken"),
    [
        ("glmha", INTEL, None, "openvino"),
        ("glmha", OLD_INTEL, "auto", "openvino"),
        ("glmha", AMD, None, "cpu"),
        ("glmha", AMD, "bf16", "openvino"),
        ("kgt", INTEL, None, "cpu"),
        ("kgt", INTEL, "auto", "openvino"),
        ("kgt", OLD_INTEL, "auto", "cpu"),
        ("glmha", "", None, "cpu"),
    ],
)
def test_the_rule(
    files: dict[str, OnnxFile], name: str, cpu: str, hint: str | None, taken: str, tmp_path: Path
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(cpu)
    assert fastest_provider(files[name], parse_device("cpu"), hint, cpuinfo)[0] == taken


def test_what_is_not_installed_is_not_taken(
    files: dict[str, OnnxFile], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(INTEL)
    cpu = parse_device("cpu")
    monkeypatch.setattr(fastest, "find_spec", lambda _name: None)
    assert fastest_provider(files["glmha"], cpu, "auto", cpuinfo) == ("cpu", "OpenVINO is not installed")
    monkeypatch.setattr(fastest, "find_spec", lambda _name: object())

    def missing(_host: str) -> Path:
        raise keygraph.errors.MissingDependencyError("not there")

    monkeypatch.setattr(plugins, "library", missing)
    provider, why = fastest_provider(files["kgt"], cpu, "auto", cpuinfo)
    assert (provider, why) == ("cpu", "keygraph was built without its library for OpenVINO")
    assert fastest_provider(files["glmha"], cpu, None, cpuinfo)[0] == "openvino"
    assert fastest_provider(files["kgt"], cpu, None, tmp_path / "none")[0] == "cpu"


def test_a_gpu_has_its_own_provider(files: dict[str, OnnxFile]) -> None:
    assert fastest_provider(files["kgt"], parse_device("cuda"))[0] == "cuda"
    assert fastest_provider(files["kgt"], parse_device("intel-gpu"))[0] == "openvino"


@pytest.mark.parametrize(("provider", "words"), [("cpu", "ONNX Runtime "), ("openvino", "OpenVINO ")])
def test_load_takes_it_and_says_so(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, provider: str, words: str) -> None:
    if provider == "openvino":
        pytest.importorskip("openvino")

    def rule(*_: Any) -> tuple[str, str]:
        return provider, "because of the test"

    monkeypatch.setattr(fastest, "fastest_provider", rule)
    said: list[str] = []
    restorer = keygraph.load(tiny.onnx, provider="auto", notice=said.append)
    assert said == [f"the provider is {provider}: because of the test"]
    assert restorer.description.startswith(words)


def test_bf16_is_not_dropped_in_silence(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"bf16 is what OpenVINO computes in, .* OpenVINO is not installed; leave"):
        keygraph.load(tiny.onnx, provider="auto", precision_hint="bf16")
    # What is checked on the first batch may also be found impossible.
    assert keygraph.load(tiny.onnx, provider="auto", precision_hint="auto").description.startswith("ONNX Runtime ")


def test_auto_is_for_onnx_files_and_not_measured(tiny: Tiny) -> None:
    with pytest.raises(InputError, match=r"the provider auto applies to \.onnx files only"):
        keygraph.load(tiny.checkpoint, provider="auto")
    with pytest.raises(InputError, match="bench measures one"):
        run_configurations([str(tiny.onnx)], None, None, "auto")
