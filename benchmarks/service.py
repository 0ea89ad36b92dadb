"""A service under full load: wrong pictures, latencies, memory, and throughput against the session's own.

Some clients send one image after the other to `keygraph serve`, each the next as soon as it has its answer. A part of
the requests is malformed, and a part of the clients hangs up: half of these in the middle of the upload, half while
they wait. Every picture that comes back is compared, byte by byte, with what `keygraph restore` makes of the image.

The session's own throughput is that of its bare runs on the same images, as many at a time as the service restores. It
is measured in the same run between slices of the load, so that a busy machine slows both; the ratio is the median over
the rounds. Processor time depends less on what else the machine does. Memory is that of the service's process, sampled
all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import keygraph
import numpy as np
import psutil
import pyvips
from keygraph.runtime.backends.base import resolve_k
from keygraph.runtime.restore_files import restore_file
from keygraph.runtime.restorer import Restorer
from pipeline import CHECKPOINT
from timing import features

#: Seconds between two samples of the service's memory.
_SAMPLE = 0.5

#: Images that the clients choose from.
_IMAGES = 16


@dataclass(frozen=True)
class Sample:
    """An image that is sent, and what must come back.

    Attributes
    ----------
    pixels
        uint8[H, W, 3].
    sent
        Its PNG file.
    expected
        The PNG file that `keygraph restore` makes of it.
    """

    pixels: np.ndarray[Any, Any]
    sent: bytes
    expected: bytes


@dataclass
class Outcome:
    """What the clients saw.

    Attributes
    ----------
    statuses
        Number of answers by status.
    wrong
        Pictures that are not what they must be, and malformed images that got another answer than a refusal.
    hung_up
        Clients that left.
    seconds
        Time of each request that got its picture.
    pictures
        Pictures in each round.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    hung_up: int = 0
    seconds: list[float] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)


def samples(restorer: Restorer, side: int) -> list[Sample]:
    """Return square images like photographs, with their results."""
    made = []
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "image.png", Path(name) / "result.png"
        for seed in range(_IMAGES):
            noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
            pyvips.Image.new_from_array(noise).gaussblur(3).linear(4, -384, uchar=True).write_to_file(str(source))
            restore_file(restorer, source, target)
            pixels = pyvips.Image.new_from_file(str(source)).numpy()
            made.append(Sample(pixels, source.read_bytes(), target.read_bytes()))
    return made


def malformed(sample: Sample, rng: random.Random) -> bytes:
    """Return a damaged file: cut off, or no image at all."""
    return sample.sent[: rng.randrange(len(sample.sent) * 3 // 4)] if rng.random() < 0.5 else rng.randbytes(2000)


class Load:
    """Clients of a service.

    Parameters
    ----------
    url
        Its address.
    images
        What they send.
    malformed, hang_up
        Shares of the requests.
    """

    def __init__(self, url: str, images: Sequence[Sample], malformed: float, hang_up: float) -> None:
        self._url, self._images, self._malformed, self._hang_up = url, images, malformed, hang_up
        self.outcome = Outcome()
        self._seeds = itertools.count()

    async def run(self, clients: int, seconds: float) -> float:
        """Send for some seconds; return the time until the last answer."""
        began = time.perf_counter()
        before = len(self.outcome.seconds)
        async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:
            await asyncio.gather(*(self._client(client, began + seconds) for _ in range(clients)))
        self.outcome.pictures.append(len(self.outcome.seconds) - before)
        return time.perf_counter() - began

    async def _client(self, client: httpx.AsyncClient, end: float) -> None:
        rng = random.Random(next(self._seeds))
        while time.perf_counter() < end:
            sample = rng.choice(self._images)
            kind = rng.random()
            if kind < self._malformed:
                answer = await self._post(client, malformed(sample, rng))
                self.outcome.wrong += not 400 <= answer.status_code < 500
            elif kind < self._malformed + self._hang_up:
                await self._leave(sample, rng)
            else:
                began = time.perf_counter()
                answer = await self._post(client, sample.sent)
                if answer.status_code == 200:
                    self.outcome.seconds.append(time.perf_counter() - began)
                    self.outcome.wrong += answer.content != sample.expected
                elif answer.status_code == 429:
                    await asyncio.sleep(1)

    async def _post(self, client: httpx.AsyncClient, image: bytes) -> httpx.Response:
        answer = await client.post(f"{self._url}/v1/restore", content=image, headers={"Content-Type": "image/png"})
        self.outcome.statuses[answer.status_code] += 1
        return answer

    async def _leave(self, sample: Sample, rng: random.Random) -> None:
        """Send all or a part of an image, and close the connection without waiting for the answer."""
        url = httpx.URL(self._url)
        assert url.port is not None
        _, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sample.sent)}\r\n"
        whole = rng.random() < 0.5
        writer.write(f"{head}Content-Type: image/png\r\n\r\n".encode() + sample.sent[: None if whole else 1000])
        await writer.drain()
        await asyncio.sleep(rng.uniform(0, statistics.median(self.outcome.seconds[-100:] or [1.0])))
        writer.close()
        self.outcome.hung_up += 1


def session_rate(restorer: Restorer, images: Sequence[Sample], seconds: float) -> tuple[float, float]:
    """Return images per second of the session's bare runs, and processor seconds per image."""
    tensors = [
        np.ascontiguousarray(np.moveaxis(one.pixels, 2, 0)[None], np.float32) / np.float32(255) for one in images
    ]
    k, threads = resolve_k(restorer.manifest, None), restorer.usual_in_flight
    began, processor = time.perf_counter(), time.process_time()

    def work(number: int) -> int:
        done = 0
        while time.perf_counter() - began < seconds:
            restorer.session.run(tensors[(number + done) % len(tensors)], k)
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, range(threads)))
    return done / (time.perf_counter() - began), (time.process_time() - processor) / done


@contextmanager
def service(model: Path, folder: Path, options: Sequence[str]) -> Iterator[tuple[psutil.Process, str]]:
    """Run a service; yield its process and address."""
    log = folder / "log"
    command = [sys.executable, "-m", "keygraph", "serve", "--model", str(model), "--port", "0"]
    command += ["--scratch", str(folder), *options]
    with log.open("wb") as file, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file) as process:
        try:
            while (found := re.search(r"at (http://\S+)/\n", log.read_text())) is None:
                if process.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.1)
            yield psutil.Process(process.pid), found[1]
        finally:
            process.terminate()


async def measure(
    arguments: argparse.Namespace, restorer: Restorer, images: Sequence[Sample], process: psutil.Process, url: str
) -> dict[str, Any]:
    """Return the figures of a service.

    Parameters
    ----------
    arguments
        Clients, seconds, rounds, shares.
    restorer
        The same model in this process.
    images
        What is sent.
    process, url
        The service.
    """
    load = Load(url, images, arguments.malformed, arguments.hang_up)
    memory: list[int] = []

    async def watch() -> None:
        while True:
            memory.append(process.memory_info().rss)
            await asyncio.sleep(_SAMPLE)

    await load.run(arguments.clients, 1)  # What is allocated once is not measured.
    load.outcome = Outcome()
    watching = asyncio.create_task(watch())
    own, own_processor, served, processor = list[float](), list[float](), list[float](), 0.0
    slice_ = arguments.seconds / arguments.rounds

    def bare() -> None:
        rate, seconds = session_rate(restorer, images, slice_ / 4)
        own.append(rate)
        own_processor.append(seconds)

    for _ in range(arguments.rounds):
        bare()
        before = process.cpu_times()
        took = await load.run(arguments.clients, slice_)
        # Malformed and abandoned requests cost little or much; only pictures count.
        served.append(load.outcome.pictures[-1] / took)
        after = process.cpu_times()
        processor += after.user + after.system - before.user - before.system
    bare()
    watching.cancel()
    around = [(first + second) / 2 for first, second in itertools.pairwise(own)]
    ordered = sorted(load.outcome.seconds)
    p50, p99 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99))
    third = len(memory) // 3
    return {
        "pictures": len(ordered),
        "wrong": load.outcome.wrong,
        "statuses": dict(sorted(load.outcome.statuses.items())),
        "hung_up": load.outcome.hung_up,
        "p50": p50,
        "p99": p99,
        "p99_over_p50": p99 / p50,
        "images_per_second": served,
        "session_images_per_second": own,
        "over_session": statistics.median(one / bare for one, bare in zip(served, around, strict=True)),
        "processor_seconds_per_picture": processor / len(ordered),
        "session_processor_seconds_per_image": statistics.median(own_processor),
        "memory_mib": {
            "first_third": max(memory[:third]) / 2**20,
            "last_third": max(memory[-third:]) / 2**20,
            "most": max(memory) / 2**20,
        },
    }


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an exported file; without one, the demo's checkpoint is exported")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600, help="duration of the load")
    parser.add_argument("--rounds", type=int, default=5, help="slices of the load, between runs of the bare session")
    parser.add_argument("--side", type=int, default=256, help="height and width of the images, a multiple of 32")
    parser.add_argument("--malformed", type=float, default=0.02, help="share of the requests")
    parser.add_argument("--hang-up", type=float, default=0.05, help="share of the requests")
    parser.add_argument("--threads", type=int, help="threads per operator; by default one per core")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "service.json")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), arguments.model
        if model is None:
            from keygraph.export import export
            from keygraph.models import load_checkpoint

            model = folder / "model.onnx"
            export(load_checkpoint(CHECKPOINT), model, verification=False)
        (folder / "scratch").mkdir()
        options = ["--queue", str(2 * arguments.clients), "--timeout", "600"]
        options += ["--threads", str(arguments.threads)] if arguments.threads else []
        with (
            keygraph.load(model, threads=arguments.threads) as restorer,
            service(model, folder / "scratch", options) as (process, url),
        ):
            images = samples(restorer, arguments.side)
            figures = asyncio.run(measure(arguments, restorer, images, process, url))
        figures["files_left"] = sum(1 for file in (folder / "scratch").rglob("*") if file.name != "log")
    chosen = {key: value for key, value in vars(arguments).items() if key not in ("model", "output")}
    report = {"machine": features(arguments.threads or 0), "options": chosen, **figures}
    print(json.dumps(figures, indent=2))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{arguments.output}")


if __name__ == "__main__":
    main()
