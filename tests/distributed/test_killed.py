"""The whole promise: 500 images, three workers killed, the driver killed and started again."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from batch_folders import each_once, files, killing, records, run, workers, write_images
from keygraph.errors import KeygraphError
from keygraph.runtime.results_file import RESULTS_FILE

ModelFile = Callable[..., Path]

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_ray")]

IMAGES = 500


def start(*arguments: object) -> psutil.Popen:
    command = [sys.executable, "-m", "keygraph", "batch", *map(str, arguments)]
    return psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_every_output_once_after_three_workers_and_the_driver_were_killed(
    make_model: ModelFile, tmp_path: Path
) -> None:
    write_images(tmp_path / "in", IMAGES)
    model = make_model("blur")
    assert run("restore", tmp_path / "in", "--model", model, "-o", tmp_path / "local", "--quiet") == 0
    arguments = [tmp_path / "in", "--model", model, "-o", tmp_path / "many", "--workers", "3", "--skip-existing"]
    record = tmp_path / "many" / RESULTS_FILE
    driver = start(*arguments)
    with killing(tmp_path / "many", [40, 90], driver) as killed:
        while driver.poll() is None and not (record.exists() and record.read_bytes().count(b"\n") >= 200):
            time.sleep(0.01)
        others = driver.children(recursive=True)
        driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert len(killed) == 2
    before = record.read_bytes().splitlines(keepends=True)
    complete = [line for line in before if line.endswith(b"\n")]
    assert 200 <= len(complete) < IMAGES
    # Ray ends with its driver; its agents notice it late.
    assert not psutil.wait_procs(others, timeout=200)[1]
    modified = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "many").glob("*.png")}
    again = start(*arguments)
    with killing(tmp_path / "many", [len(complete) + 60], again) as killed:
        said = again.communicate()[1]
    assert (again.returncode, len(killed)) == (0, 1), said
    assert "results exist and are left" in said
    visible = {name: content for name, content in files(tmp_path / "many").items() if not name.startswith(".")}
    assert visible == files(tmp_path / "local")
    # Nothing that was complete is made again, and nothing is recorded twice.
    assert {name: (tmp_path / "many" / name).stat().st_mtime_ns for name in modified} == modified
    assert each_once(tmp_path / "many")
    # Results that a worker had written, and the killed driver not recorded, are left without a record.
    assert IMAGES - len(records(tmp_path / "many")) <= 9


class Deadly:
    """Kills the process in which it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        # Of this file, workers know nothing.
        return eval, (f"__import__('os').kill(__import__('os').getpid(), {int(signal.SIGKILL)})",)


def test_what_kills_worker_after_worker_is_given_up(make_model: ModelFile, tmp_path: Path) -> None:
    from keygraph.distributed.run import opened

    notices: list[str] = []
    with opened(make_model("identity"), "local", notices.append, workers=1) as (_, started):
        call = started.submit("restore", Deadly())
        with pytest.raises(KeygraphError, match="4 workers died one after another"):
            call.result()
        # The worker is there again.
        assert started.check()[0].description
        assert len(workers(psutil.Process())) == 1
    assert len(notices) == 4


def test_a_given_cluster_is_used_and_goes_on(
    make_model: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    options = ["--num-cpus", "2", "--object-store-memory", "100000000", "--disable-usage-stats"]
    program = str(Path(sys.executable).with_name("ray"))
    head = [program, "start", "--head", "--port", str(port), *options, "--include-dashboard", "false"]
    subprocess.run(head, check=True, capture_output=True)
    try:
        write_images(tmp_path / "in", 3)
        model = make_model("blur")
        arguments = [tmp_path / "in", "--model", model, "--workers", "2"]
        driver = start(*arguments, "-o", tmp_path / "many", "--ray", f"127.0.0.1:{port}")
        said = driver.communicate()[1]
        assert driver.returncode == 0, said
        assert each_once(tmp_path / "many")
        assert len(files(tmp_path / "many")) == 3
        assert servers(port)
    finally:
        for process in servers(port):
            process.kill()


def servers(port: int) -> list[psutil.Process]:
    """Return the processes of the Ray cluster whose head has this port."""
    ours = (f"--gcs_server_port={port}", f":{port}")
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(word.startswith("--") and word.endswith(ours) for word in process.info["cmdline"] or [])
    ]
