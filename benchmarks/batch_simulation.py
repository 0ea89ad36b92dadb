"""Simulate `keygraph batch` at scale: a million images, and one slide of 100 gigapixels, on 64 GPUs with failures.

    .venv/bin/python benchmarks/batch_simulation.py measure --model kgt.onnx -o costs.json
    .venv/bin/python benchmarks/batch_simulation.py simulate costs.json benchmarks/batch_gpu_costs.json

`measure` takes the driver's and Ray's costs from this machine's CPU, in CPU time where one process does the work.
`simulate` takes those of the workers from a second file, whose figures are assumptions, and prints Markdown tables.

The simulation has discrete events: a driver that does one thing at a time, workers with a device and two calls each,
and a storage that serves one request after the other at its whole bandwidth.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Costs = dict[str, Any]

#: As in `distributed.workers` and `distributed.session`.
CALLS_EACH, QUEUED_EACH, PART_TILES = 2, 3, 64

SLIDE_SIDE = 316_228


class Clock:
    """The events that are to come, in the order of their times."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), event))

    def run(self, ended: Callable[[], bool]) -> float:
        while self._events and not ended():
            self.now, _, event = heapq.heappop(self._events)
            event()
        return self.now


@dataclass
class Server:
    """What does one thing at a time, in the order in which it is asked.

    Attributes
    ----------
    clock
        The clock.
    busy
        Seconds that it has worked.
    """

    clock: Clock
    busy: float = 0.0
    _free_at: float = 0.0

    def serve(self, seconds: float, then: Callable[[], None]) -> None:
        begin = max(self.clock.now, self._free_at)
        self._free_at = begin + seconds
        self.busy += seconds
        self.clock.after(self._free_at - self.clock.now, then)


@dataclass
class Worker:
    """A worker: its device, its calls, and how often it has died."""

    device: Server
    calls: set[int] = field(default_factory=set)
    lives: int = 0
    up: bool = True


@dataclass(frozen=True)
class Call:
    """What a call takes: bytes read and written, seconds beside the device, on it, and of the driver before and after.

    Attributes
    ----------
    read, written
        Bytes through the storage.
    before, on_device, after
        Seconds in the worker.
    submit, settle
        Seconds of the driver.
    """

    read: float
    written: float
    before: float
    on_device: float
    after: float
    submit: float
    settle: float


@dataclass
class Cluster:
    """Workers with calls, as `distributed.workers.Workers` gives them out."""

    clock: Clock
    storage: Server
    driver: Server
    workers: list[Worker]
    bandwidth: float
    start_s: float
    between_deaths_s: float
    chance: random.Random
    deaths: int = 0
    repeated: int = 0
    _wake: Callable[[], None] | None = None

    @classmethod
    def of(cls, costs: Costs, count: int, seed: int = 0) -> Cluster:
        clock = Clock()
        made = cls(
            clock,
            Server(clock),
            Server(clock),
            [Worker(Server(clock)) for _ in range(count)],
            costs["storage_bytes_per_s"],
            costs["worker_start_s"],
            costs["hours_between_deaths_of_a_worker"] * 3600,
            random.Random(seed),
        )
        for worker in made.workers:
            made._live(worker)
        return made

    def run(self, take: Callable[[], tuple[int, Call] | None], settled: Callable[[int], None]) -> Callable[[], None]:
        """Return what begins to give calls to the workers that have room.

        Parameters
        ----------
        take
            Returns the next call with its number; None where there is none now.
        settled
            Called with the number of each call that has ended.
        """
        again: deque[tuple[int, Call]] = deque()

        def give_out() -> None:
            for worker in sorted((one for one in self.workers if one.up), key=lambda one: len(one.calls)):
                while len(worker.calls) < CALLS_EACH:
                    following = again.popleft() if again else take()
                    if following is None:
                        return
                    start(worker, *following)

        def start(worker: Worker, number: int, call: Call) -> None:
            worker.calls.add(number)
            life = worker.lives

            def alive(step: Callable[[], None]) -> Callable[[], None]:
                def checked() -> None:
                    if worker.lives == life:
                        step()
                    elif number in worker.calls:
                        worker.calls.discard(number)
                        again.append((number, call))
                        self.repeated += 1
                        give_out()

                return checked

            def end() -> None:
                worker.calls.discard(number)
                self.driver.serve(call.settle, lambda: settled(number))
                give_out()

            def write() -> None:
                self.storage.serve(call.written / self.bandwidth, alive(end))

            def encode() -> None:
                self.clock.after(call.after, alive(write))

            def compute() -> None:
                worker.device.serve(call.on_device, alive(encode))

            def decode() -> None:
                self.clock.after(call.before, alive(compute))

            read = alive(lambda: self.storage.serve(call.read / self.bandwidth, alive(decode)))
            self.driver.serve(call.submit, read)

        def begin() -> None:
            self._wake = give_out
            give_out()

        return begin

    def wake(self) -> None:
        """Give calls to the workers that have room, if the work has begun."""
        if self._wake is not None:
            self._wake()

    def _live(self, worker: Worker) -> None:
        if math.isinf(self.between_deaths_s):
            return
        self.clock.after(self.chance.expovariate(1 / self.between_deaths_s), lambda: self._die(worker))

    def _die(self, worker: Worker) -> None:
        self.deaths += 1
        worker.lives += 1
        worker.up = False
        worker.device = Server(self.clock, busy=worker.device.busy)

        def back() -> None:
            worker.up = True
            self._live(worker)
            self.wake()

        self.clock.after(self.start_s, back)


def tiles_of(pixels: float, costs: Costs) -> float:
    """Return how many tiles cover that many pixels."""
    return float(pixels / (costs["tile"] - costs["overlap"]) ** 2)


def simulate_images(costs: Costs, images: int, count: int) -> dict[str, Any]:
    """Simulate a folder.

    Parameters
    ----------
    costs
        Measured and assumed ones.
    images, count
        Number of images and of workers.
    """
    cluster = Cluster.of(costs, count)
    call = Call(
        read=costs["image_bytes"],
        written=costs["result_bytes"],
        before=costs["decode_s"],
        on_device=costs["tile_s"] * tiles_of(costs["image_pixels"], costs),
        after=costs["encode_s"],
        submit=costs["call_s"] / 2,
        settle=costs["call_s"] / 2 + costs["record_s"],
    )
    done = 0

    def settled(_number: int) -> None:
        nonlocal done
        done += 1

    numbers = iter(range(images))
    begin = cluster.run(lambda: next(((number, call) for number in numbers), None), settled)
    planned = costs["plan_s"] * images
    cluster.clock.after(costs["worker_start_s"] + planned, begin)
    took = cluster.clock.run(lambda: done == images)
    working = took - planned - costs["worker_start_s"]
    return {
        "GPUs": count,
        "hours": round(took / 3600, 2),
        "of these planning": round(planned / 3600, 2),
        "GPUs busy, %": round(100 * sum(one.device.busy for one in cluster.workers) / count / working),
        "storage busy, %": round(100 * cluster.storage.busy / working),
        "driver busy, %": round(100 * cluster.driver.busy / working),
        "deaths": cluster.deaths,
        "images done again": cluster.repeated,
    }


def simulate_slide(costs: Costs, side: int, count: int, bands: int, sample_bytes: int) -> dict[str, Any]:
    """Simulate one slide.

    Parameters
    ----------
    costs
        Measured and assumed ones.
    side
        Its height and width in pixels.
    count
        Number of workers.
    bands
        Drivers that decode, blend and encode a band of rows each; today it is 1.
    sample_bytes
        Bytes of a restored sample in a part file; today 4.
    """
    cluster = Cluster.of(costs, count)
    pixels, tile = float(side) ** 2, costs["tile"]
    tiles = math.ceil(tiles_of(pixels, costs))
    parts = math.ceil(tiles / PART_TILES)
    tile_bytes = tile * tile * 3 * sample_bytes
    call = Call(
        read=PART_TILES * tile * tile * 3,
        written=PART_TILES * tile_bytes,
        before=0,
        on_device=costs["tile_s"] * PART_TILES,
        after=costs["part_write_s"] * PART_TILES,
        submit=costs["call_s"] / 2,
        settle=costs["call_s"] / 2,
    )
    blenders = [Server(cluster.clock) for _ in range(bands)]
    of_band = math.ceil(parts / bands)
    # The next part that each band blends, those that are there, and how many are blended in all.
    following = [band * of_band for band in range(bands)]
    arrived: set[int] = set()
    handed = list(following)
    blended, blending = 0, [False] * bands
    ahead = max(1, count * QUEUED_EACH // bands)

    def last(band: int) -> int:
        return min(parts, (band + 1) * of_band)

    def take() -> tuple[int, Call] | None:
        """Return the next part of the band that is the least ahead; how far it may be is bounded."""
        able = [one for one in range(bands) if handed[one] < min(last(one), following[one] + ahead)]
        if not able:
            return None
        band = min(able, key=lambda one: handed[one] - following[one])
        handed[band] += 1
        return handed[band] - 1, call

    def blend(band: int) -> None:
        nonlocal blended
        if blending[band] or following[band] not in arrived or following[band] >= last(band):
            return
        blending[band] = True

        def read() -> None:
            blenders[band].serve(costs["blend_s"] * PART_TILES, ended)

        def ended() -> None:
            nonlocal blended
            blending[band] = False
            following[band] += 1
            blended += 1
            cluster.wake()
            blend(band)

        cluster.storage.serve(PART_TILES * tile_bytes / cluster.bandwidth, read)

    def settled(number: int) -> None:
        arrived.add(number)
        blend(number // of_band)

    begin = cluster.run(take, settled)
    decoded = pixels / 1e6 * costs["decode_s_per_megapixel"] / bands
    encoded = pixels / 1e6 * costs["encode_s_per_megapixel"] / bands
    cluster.clock.after(costs["worker_start_s"] + decoded, begin)
    took = cluster.clock.run(lambda: blended == parts) + encoded
    restoring = took - decoded - encoded - costs["worker_start_s"]
    computed = sum(one.device.busy for one in cluster.workers) / count
    return {
        "GPUs": count,
        "drivers": bands,
        "bytes a sample": sample_bytes,
        "hours": round(took / 3600, 2),
        "decoding": round(decoded / 3600, 2),
        "restoring": round(restoring / 3600, 2),
        "encoding": round(encoded / 3600, 2),
        "GPUs busy while restoring, %": round(100 * computed / restoring),
        "blending busy, %": round(100 * sum(one.busy for one in blenders) / bands / restoring),
        "storage busy, %": round(100 * cluster.storage.busy / restoring),
        "deaths": cluster.deaths,
        "parts done again": cluster.repeated,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="measure the costs on this machine")
    measuring.add_argument("--model", type=Path, required=True)
    measuring.add_argument("-o", "--output", type=Path, required=True)
    simulating = commands.add_parser("simulate", help="simulate with measured and assumed costs")
    simulating.add_argument("costs", type=Path, nargs="+", help="JSON files; later ones replace what earlier ones say")
    simulating.add_argument("--images", type=int, default=1_000_000)
    simulating.add_argument("--side", type=int, default=SLIDE_SIDE, help="side of the slide in pixels")
    options = parser.parse_args()
    if options.command == "measure":
        # Imports keygraph and Ray.
        from batch_costs import measure

        costs = measure(options.model)
        options.output.write_text(json.dumps(costs, indent=2) + "\n")
        print(json.dumps(costs, indent=2))
        return
    costs = {}
    for file in options.costs:
        costs |= json.loads(file.read_text())
    most = costs["workers"]
    counts = [count for count in (1, 8, most) if count <= most]
    print(table([simulate_images(costs, max(1, options.images * count // most), count) for count in counts]), "\n")
    cases = [(most // 8, 1, 4), (most, 1, 4), (most, 8, 4), (most, 8, 1), (most, 32, 1)]
    print(table([simulate_slide(costs, options.side, *case) for case in cases]))


if __name__ == "__main__":
    main()
