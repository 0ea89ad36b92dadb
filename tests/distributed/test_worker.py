"""What a worker checks before it works, how the cluster is divided, and how the command line is read. Without Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from keygraph.cli import _with_address, main
from keygraph.distributed.cluster import Share, share_of
from keygraph.distributed.run import is_spread
from keygraph.distributed.session import part_size
from keygraph.distributed.worker import Probe, Setup, Worker
from keygraph.errors import InputError
from keygraph.runtime.companion_files import content_digest
from keygraph.version import version

ModelFile = Callable[..., Path]


@pytest.fixture(autouse=True)
def _same_folder() -> Iterator[None]:
    """Return to the working directory that a worker has left."""
    before = Path.cwd()
    yield
    os.chdir(before)


@pytest.fixture
def setup(make_model: ModelFile, tmp_path: Path) -> Setup:
    model = make_model("identity")
    return Setup(version(), tmp_path, Path(model.name), content_digest(model), {"threads": 1})


def test_a_worker_describes_its_session(setup: Setup) -> None:
    described = Worker(setup).check().result()
    assert described.description.startswith("ONNX Runtime ")
    assert described.device.kind == "cpu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "0.0.1"}, "has keygraph .* and this command is of keygraph 0.0.1; install one version on all"),
        ({"folder": Path("/nowhere/else")}, "does not see /nowhere/else .*; all machines need the model, the images"),
        ({"model": Path("other.onnx")}, "does not see other.onnx; all machines need"),
        ({"digest": "0" * 64}, "has another file at identity.onnx; all machines need"),
    ],
)
def test_a_machine_that_differs_is_refused(setup: Setup, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Worker(replace(setup, **changes)).check().result()


def test_a_machine_that_does_not_see_the_files_is_refused(setup: Setup, tmp_path: Path) -> None:
    worker = Worker(setup)
    seen, image = tmp_path / "probe", tmp_path / "identity.onnx"
    seen.write_text("token")
    worker.check(Probe(seen, "token", image)).result()
    with pytest.raises(InputError, match="does not see the results in"):
        worker.check(Probe(seen, "of another machine", image)).result()
    with pytest.raises(InputError, match="does not see the results in"):
        worker.check(Probe(tmp_path / "none", "token", image)).result()
    with pytest.raises(InputError, match=r"does not see .*gone\.png"):
        worker.check(Probe(seen, "token", tmp_path / "gone.png")).result()


@pytest.mark.parametrize(
    ("resources", "given", "expected"),
    [
        ({"CPU": 16.0}, (False, None, None), Share(4, 4, 0, 4)),
        ({"CPU": 2.0}, (False, None, None), Share(1, 2, 0, 2)),
        ({"CPU": 2.0}, (False, 3, None), Share(3, 0.666, 0, 1)),
        ({"CPU": 16.0}, (False, None, 2), Share(8, 2, 0, 2)),
        ({"CPU": 128.0, "GPU": 8.0}, (True, None, None), Share(8, 16, 1, 16)),
        ({"CPU": 128.0, "GPU": 8.0}, (True, 2, None), Share(2, 64, 1, 64)),
    ],
)
def test_the_cluster_is_divided(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, float], given: tuple[Any, ...], expected: Share
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
    assert share_of(*given) == expected


def test_gpus_that_are_not_there_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 2.0})
    with pytest.raises(InputError, match="has 2 GPUs, and 3 are needed; give fewer --workers"):
        share_of(True, 3)


@pytest.mark.parametrize(
    ("tiles", "together", "workers", "size"), [(10**6, 8, 64, 64), (10**6, 12, 64, 60), (100, 3, 2, 12), (4, 8, 3, 8)]
)
def test_parts_are_whole_batches(tiles: int, together: int, workers: int, size: int) -> None:
    assert part_size(tiles, together, workers) == size


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["batch", "in", "--ray", "-o", "out"], ["batch", "in", "--ray=local", "-o", "out"]),
        (["batch", "in", "--ray"], ["batch", "in", "--ray=local"]),
        (["batch", "--ray", "auto", "in"], ["batch", "--ray", "auto", "in"]),
        (["restore", "--ray"], ["restore", "--ray"]),
    ],
)
def test_the_address_may_be_left_out(given: list[str], expected: list[str]) -> None:
    assert _with_address(given) == expected


def test_invalid_values_start_nothing(
    make_model: ModelFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    model = make_model("identity")
    for options, said in (
        (["--workers", "0"], "--workers is 0; give at least 1"),
        (["--model", "none.onnx"], "none.onnx does not exist"),
        (["--threads", "0"], "threads is 0; it must be a whole number from 1"),
        (["--device", "tpu"], "the device is 'tpu'"),
        (["--device", "cuda:1"], "give --device cuda"),
        (["--tile", "big"], "--tile is 'big'"),
    ):
        given = ["batch", str(tmp_path / "a.png"), "-o", str(tmp_path / "b.png"), "--model", str(model), *options]
        assert main(given) == 2
        assert said in capsys.readouterr().err
    assert not ray.is_initialized()


def test_a_picture_is_spread_where_others_would_wait_for_it(
    make_model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keygraph
    from batch_folders import noise
    from keygraph.runtime.io import images
    from keygraph.runtime.io.images import Picture
    from keygraph.runtime.io.input_files import InputFile
    from keygraph.runtime.journal.space import Space
    from keygraph.runtime.restore_options import RestoreOptions
    from keygraph.runtime.restore_plan import plan_job

    restorer = keygraph.load(make_model("blur"))
    images.write(tmp_path / "a.png", Picture(noise(64, 64)))
    job = plan_job(restorer, InputFile(tmp_path / "a.png"), {}, tmp_path / "b.png", RestoreOptions(tile=32))
    large = replace(job, space=Space(0, 0), size=(640, 640, 3))
    pixels = 640 * 640
    assert is_spread(restorer, large, 2 * pixels / 3)  # Two of them on three workers.
    assert not is_spread(restorer, large, pixels)
    # It is too small to be kept on disk.
    assert not is_spread(restorer, job, 0)
    exact = replace(restorer.manifest, global_statistics=True)
    monkeypatch.setattr(type(restorer), "manifest", exact)
    assert not is_spread(restorer, large, 0)
    by_tile = replace(large, options=RestoreOptions(tile=32, global_statistics="tile"))
    assert is_spread(restorer, by_tile, 0)
