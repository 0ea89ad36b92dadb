"""Architectures of installed packages: really installed, found, used, and refused where something is wrong."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny_kgt
import torch
from keygraph.cli import main
from keygraph.environment.architectures import examine_architectures
from keygraph.errors import InputError
from keygraph.models import load_checkpoint, registry, save_checkpoint
from keygraph.models.installed import read_installed
from keygraph.models.kgt import KGT
from torch import nn

GUIDE = Path(__file__).parents[2] / "docs/how-to/bring-an-architecture.md"

Install = Callable[[str, str], None]


def example(block: str) -> str:
    """Return a file of the guide's package, by the language of its block."""
    (text,) = re.findall(rf"```{block}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return str(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on `sys.path` for installed packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(registry, "ARCHITECTURES", list(registry.ARCHITECTURES))
    before = set(sys.modules)
    read_installed.cache_clear()
    yield folder
    read_installed.cache_clear()
    for name in set(sys.modules) - before:
        if name.startswith("keygraph_") or name.startswith("their_"):
            del sys.modules[name]


def install_from_metadata(site: Path, package: str, entry: str, code: str) -> None:
    """Put a package there as an installer does: its module, and a dist-info folder with its metadata."""
    (site / f"{package}.py").write_text(code)
    info = site / f"{package}-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(f"[keygraph.architectures]\n{entry} = {package}:ARCHITECTURE\n")
    importlib.invalidate_caches()
    read_installed.cache_clear()


class Network(nn.Module):
    """What the guide's package describes, as its author trained it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.example_in = nn.Conv2d(3, channels, 3, padding=1)
        self.example_out = nn.Conv2d(channels, 3, 3, padding=1)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(Network(12).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def test_the_package_of_the_guide(
    site: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("setuptools", reason="builds the guide's package")
    source = tmp_path / "keygraph-example"
    source.mkdir()
    (source / "pyproject.toml").write_text(example("toml"))
    (source / "keygraph_example.py").write_text(example("python"))
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--target", str(site), str(source)], check=True)
    importlib.invalidate_caches()
    assert main(["export", str(weights), "-o", str(tmp_path / "example.onnx"), "--json"]) == 0
    printed = capsys.readouterr()
    assert "architecture example by package keygraph-example 1.2" in printed.err
    manifest = json.loads(printed.out)["manifest"]
    assert (manifest["architecture"], manifest["configuration"]) == ("example", {"channels": 12})
    assert manifest["made_with"]["keygraph-example"] == "1.2"
    assert main(["inspect", str(weights)]) == 0
    assert "example" in capsys.readouterr().out
    found = [(one.name, one.state, one.detail) for one in examine_architectures()]
    assert found == [("example", "ok", "by package keygraph-example 1.2")]


def test_nothing_is_imported_with_keygraph(site: Path) -> None:
    install_from_metadata(site, "their_package", "theirs", "raise SystemExit('imported')")
    code = "import keygraph, keygraph.models, sys; assert 'their_package' not in sys.modules"
    environment = {"PYTHONPATH": str(site), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_broken_package_is_named_and_stops_no_other(site: Path, weights: Path) -> None:
    install_from_metadata(site, "their_broken", "broken", "raise RuntimeError('needs a GPU\\nand more')")
    install_from_metadata(site, "their_other", "example", example("python"))
    install_from_metadata(site, "their_number", "number", "ARCHITECTURE = 3")
    loaded = load_checkpoint(weights)
    assert loaded.architecture.name == "example"
    assert "architecture example by package their_other 0.3" in loaded.notes
    problems = [note for note in loaded.notes if "cannot be used" in note]
    assert problems == [
        "architecture broken by package their_broken 0.3 cannot be used: RuntimeError: needs a GPU",
        "architecture number by package their_number 0.3 cannot be used: TypeError: their_number:ARCHITECTURE is int, "
        "not a keygraph.models.Architecture",
    ]
    states = {one.name: (one.state, one.detail) for one in examine_architectures()}
    assert states["broken"] == ("broken", "by package their_broken 0.3, cannot be imported: needs a GPU and more")


def test_two_packages_with_one_name_are_an_error_that_names_both(site: Path, weights: Path, tmp_path: Path) -> None:
    for package in ("their_first", "their_second"):
        install_from_metadata(site, package, "example", example("python"))
    both = "example is claimed by package their_first 0.3 and by package their_second 0.3; uninstall all but one"
    with pytest.raises(InputError, match=both):
        load_checkpoint(weights)
    torch.save({"architecture": "example", "params": Network(3).state_dict()}, tmp_path / "named.ckpt")
    with pytest.raises(InputError, match=both):
        load_checkpoint(tmp_path / "named.ckpt")
    assert [one.state for one in examine_architectures()] == ["broken", "broken"]


@pytest.mark.parametrize(
    ("entry", "change", "reason"),
    [
        ("other", ("", ""), "its entry point is named other, and the architecture example"),
        ("kgt", ('name="example"', 'name="kgt"'), "keygraph has an architecture of that name; give it another one"),
    ],
)
def test_names_that_a_package_cannot_take(
    entry: str, change: tuple[str, str], reason: str, site: Path, weights: Path
) -> None:
    install_from_metadata(site, "their_package", entry, example("python").replace(*change))
    with pytest.raises(InputError, match=f"by package their_package 0.3 cannot be used: ValueError: {reason}"):
        load_checkpoint(weights)


def test_keygraphs_own_comes_first(site: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "kgt.ckpt", KGT(tiny_kgt.CONFIG))
    everything = example("python").replace('"example_in.weight" in state', "True")
    install_from_metadata(site, "their_greedy", "example", everything)
    loaded = load_checkpoint(tmp_path / "kgt.ckpt")
    assert loaded.architecture.name == "kgt"
    assert "architecture example by package their_greedy 0.3 claims it too; kgt comes first" in loaded.notes


def test_a_description_that_fails_on_others_checkpoints_is_named(site: Path, tmp_path: Path) -> None:
    failing = example("python").replace('"example_in.weight" in state', 'state["theirs"]')
    install_from_metadata(site, "their_failing", "example", failing)
    torch.save({"layer.weight": torch.zeros(1)}, tmp_path / "unknown.pth")
    with pytest.raises(
        InputError, match=r"example by package their_failing 0.3 fails to look at a checkpoint: KeyError"
    ):
        load_checkpoint(tmp_path / "unknown.pth")
