"""A Ray cluster: one that is given, or a small one on this machine that ends with the command."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import ray

from ..errors import InputError
from ..runtime.device.processor import usable_cores

#: In place of an address: Ray is started on this machine.
LOCAL = "local"

#: Bytes of the object store of a Ray that is started here. Images go by path: only jobs and reports pass through it.
_OBJECT_STORE = 200 << 20

#: Environment of a Ray that is started here. Its memory monitor kills actors when the whole machine is short of memory,
#: whoever uses it; a session knows what it may take. With Ray's own niceness of 15, actors on a busy machine stand
#: still.
_ENVIRONMENT = {
    "RAY_worker_niceness": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

#: CPU cores of a worker that computes on the CPU: more of them make an image faster, but not a folder.
_CORES = 4


@dataclass(frozen=True)
class Share:
    """The workers, and what each gets of the cluster.

    Attributes
    ----------
    workers
        How many there are.
    cpus, gpus
        CPU cores and GPUs that Ray reserves for each.
    threads
        Threads that each computes with.
    """

    workers: int
    cpus: float
    gpus: int
    threads: int


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to Ray while the block runs.

    Parameters
    ----------
    address
        `LOCAL` to start it here and to end it after the block; else that of a cluster, ``HOST:PORT`` or ``auto``, which
        goes on.

    Raises
    ------
    InputError
        No cluster answers there, or it runs another version of Ray or Python.
    """
    if ray.is_initialized():
        yield
        return
    level = logging.ERROR
    try:
        _require_answer(address)
        if address == LOCAL:
            with _environment():
                ray.init(
                    "local",
                    num_cpus=usable_cores(),
                    object_store_memory=_OBJECT_STORE,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=level,
                )
        else:
            ray.init(address, log_to_driver=False, logging_level=level)
    except (OSError, RuntimeError, ValueError) as error:
        if address == LOCAL:
            raise
        reason = " ".join(str(error).split())
        raise InputError(
            f"cannot use the Ray cluster at {address} ({reason}); start one with: ray start --head, or leave the "
            "address out to use this machine alone"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise an `OSError` where nothing listens at ``HOST:PORT``; Ray would try it for minutes.

    Ray takes this machine's address in the network for ``localhost``, so nothing may listen there.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and "/" not in host and host not in ("localhost", "127.0.0.1", "[::1]"):
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def share_of(on_gpu: bool, workers: int | None = None, threads: int | None = None) -> Share:
    """Divide the cluster among workers.

    Parameters
    ----------
    on_gpu
        True for workers with a GPU each.
    workers
        How many; None for one per GPU, or one per `_CORES` cores or `threads`.
    threads
        Threads that each computes with; None for its share of the cores.

    Raises
    ------
    InputError
        The cluster has no GPU, or fewer than workers.
    """
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    if on_gpu:
        if gpus < (workers or 1):
            raise InputError(
                f"the Ray cluster has {gpus} GPUs, and {workers or 'at least 1'} are needed; give fewer --workers, or "
                "--device cpu"
            )
        workers = workers or gpus
    else:
        workers = workers or max(1, cpus // (threads or _CORES))
    per_worker = cpus / workers
    return Share(
        workers=workers,
        # Whole cores, as Ray wants it, or a part of one.
        cpus=int(per_worker) if per_worker >= 1 else int(per_worker * 1000) / 1000,
        gpus=int(on_gpu),
        threads=threads or max(1, int(per_worker)),
    )


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Set what Ray reads when it starts; what the user has set stays."""
    ours = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
