"""A forked process that cannot use a library says so at once; all others work."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_cuda import DRIVER, compile_library

if sys.platform != "linux":
    pytest.skip("threads are listed on Linux only", allow_module_level=True)

ModelFile = Callable[..., Path]

#: Makes `image`, and `restore(restorer)`, which reads a file and writes another.
START = """
import os, sys, time
import numpy as np
import keygraph
from concurrency import in_fork
from keygraph.runtime.restore_files import restore_file
folder, model = sys.argv[1:]
def restore(restorer):
    restore_file(restorer, folder + "/in.png", folder + f"/out{os.getpid()}.png")
"""


def run(code: str, folder: Path, model: Path) -> list[str]:
    """Run code after `START` in a new process, whose forks are not pytest's; return the lines that it prints."""
    import pyvips

    noise = pyvips.Image.gaussnoise(128, 128, mean=128).cast("uchar")
    noise.bandjoin([noise, noise]).copy(interpretation="srgb").write_to_file(str(folder / "in.png"))
    program = START + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(model)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_libvips_with_threads_is_found_at_the_first_file(make_model: ModelFile, tmp_path: Path) -> None:
    code = """
        restorer = keygraph.load(model, library=None)
        print(in_fork(lambda: restore(restorer)))
        restore(restorer)
        image = np.zeros((32, 32, 3), np.uint8)
        for work in (
            lambda: restore(restorer),
            lambda: restore(keygraph.load(model, library=None)),
            lambda: print(in_fork(lambda: restore(restorer)), flush=True),
            lambda: restorer(image),
        ):
            print(in_fork(work))
    """
    before, after, loaded, of_child, child, array = run(code, tmp_path, make_model("blur"))
    assert (before, array, child) == ("fine", "fine", "fine")
    assert after == loaded == of_child
    assert after.startswith("libvips had started threads before this process was forked")
    assert 'start processes with "spawn"' in after
    assert len(list(tmp_path.glob("out*.png"))) == 2  # nothing half-written


def test_libvips_used_by_others_is_found_too(make_model: ModelFile, tmp_path: Path) -> None:
    code = """
        import pyvips
        print(in_fork(lambda: restore(keygraph.load(model, library=None))))
        pyvips.Image.new_from_file(folder + "/in.png").copy_memory()
        print(in_fork(lambda: restore(keygraph.load(model, library=None))))
    """
    before, after = run(code, tmp_path, make_model("blur"))
    assert before == "fine"
    assert after.startswith("libvips had started threads")


@pytest.mark.parametrize("use", [pytest.param("restorer(image)", marks=pytest.mark.slow), "torch.ones(1 << 20).sum()"])
def test_pytorch_with_threads_is_found(make_model: ModelFile, tmp_path: Path, use: str) -> None:
    pytest.importorskip("torch")
    checkpoint = Path(__file__).parents[2] / "examples" / "kgt-denoise-tiny.ckpt"
    code = f"""
        import threading, torch
        from keygraph.runtime.backends.pytorch import TorchSession
        torch.set_num_threads(2)
        image = np.zeros((256, 256, 3), np.uint8)
        manifest = keygraph.load(model, library=None).manifest
        def load(threads=None):
            return keygraph.Restorer(TorchSession(torch.nn.Conv2d(3, 3, 5, padding=2), manifest, threads))
        restorer = load()
        print(in_fork(lambda: restorer(image)))
        {use}
        def in_thread():
            thread = threading.Thread(target=lambda: print(restorer(image).shape, flush=True))
            thread.start()
            thread.join()
        for work in (
            lambda: restorer(image),
            lambda: keygraph.models.load_checkpoint({str(checkpoint)!r}),  # first of export and compare, too
            lambda: load(threads=1)(image),
            in_thread,
        ):
            print(in_fork(work), flush=True)
    """
    before, restored, loaded, one_thread, other_thread, fine = run(code, tmp_path, make_model("identity"))
    assert before == "fine"
    for line in (restored, loaded):
        assert line.startswith("PyTorch had started threads before this process was forked")
        assert line.endswith("or load with threads=1")
    assert (one_thread, other_thread, fine) == ("fine", "(256, 256, 3)", "fine")


def test_openvino_used_before_a_fork_is_found(make_model: ModelFile, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    code = """
        image = np.zeros((32, 32, 3), np.uint8)
        def load():
            return keygraph.load(model, provider="openvino", library=None)
        print(in_fork(lambda: load()(image)))
        restorer = load()
        for work in (lambda: restorer(image), load, lambda: print(in_fork(load), flush=True)):
            print(in_fork(work), flush=True)
        print(restorer(image).shape)
    """
    before, used, loaded, of_child, child, parent = run(code, tmp_path, make_model("blur"))
    assert (before, child, parent) == ("fine", "fine", "(32, 32, 3)")
    assert used.startswith("this model was loaded in OpenVINO before this process was forked; start processes with")
    assert loaded == of_child
    assert loaded.startswith("OpenVINO had started threads before this process was forked")


def test_a_gpu_after_a_fork(tmp_path: Path, make_model: ModelFile) -> None:
    driver = compile_library(tmp_path / "libcuda.so", DRIVER, "-DINIT=3", "-DCOUNT=1")
    code = f"""
        from keygraph.runtime.device.cuda_driver import require_gpu
        from keygraph.runtime.device.spec import Device
        print(in_fork(lambda: require_gpu(Device("cuda"), {str(driver)!r})))
        try:
            require_gpu(Device("cuda"), {str(driver)!r})
        except keygraph.InputError as error:
            print(error)
    """
    child, parent = run(code, tmp_path, make_model("identity"))
    assert child.startswith("cuda:0: CUDA cannot be used in a process that was forked after its first use; start")
    assert "cuInit gives 3" in parent
