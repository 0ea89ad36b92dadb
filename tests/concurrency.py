"""Run functions in several threads at the same time, and in forked processes."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from keygraph.errors import KeygraphError


def at_the_same_time(threads: int, work: Callable[[int], object], rounds: int = 1) -> None:
    """Call ``work(number)`` in each thread, several times; raise the first error. Threads alternate very often."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(threads) as pool:
            running = [pool.submit(lambda n: [work(n) for _ in range(rounds)], number) for number in range(threads)]
            for one in running:
                one.result()
    finally:
        sys.setswitchinterval(interval)


def in_fork(work: Callable[[], object], seconds: float = 60) -> str:
    """Call a function in a forked process; return ``"fine"``, the message of its error, or ``"hangs"``."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        said = "fine"
        try:
            work()
        except KeygraphError as error:
            said = str(error)
        except BaseException:
            said = traceback.format_exc()
        os.write(writer, said.encode()[:4000])
        os._exit(0)
    os.close(writer)
    last = time.monotonic() + seconds
    while os.waitpid(process, os.WNOHANG)[0] == 0:
        if time.monotonic() > last:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(reader)
            return "hangs"
        time.sleep(0.01)
    with open(reader, "rb") as pipe:
        return pipe.read().decode()
