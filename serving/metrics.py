"""What a service counts, in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

#: Upper ends of the histograms' ranges, in seconds.
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)


class Metrics:
    """The metrics of one service.

    Attributes
    ----------
    registry
        Where they are collected, with those of the process.
    requests
        Answered requests by path, method and status; 499 where the client left.
    request_seconds
        Time of requests to restore that got an image, from their first byte to the last of the answer.
    work_seconds
        Time of a request in its thread: decoding, restoring, encoding.
    restore_seconds
        Time of the restoration alone.
    accepted
        Requests to restore that are uploaded, waiting, restored or downloaded.
    running
        Requests that are in a thread.
    refused
        Requests that got no image, by the code of their error.
    pixels, received, sent
        Pixels of results, bytes of images and of results.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        given = self.registry
        self.requests = Counter("keygraph_requests", "Answered requests.", ("path", "method", "status"), registry=given)
        self.request_seconds = Histogram(
            "keygraph_request_seconds", "Time of requests that got an image.", buckets=_SECONDS, registry=given
        )
        self.work_seconds = Histogram(
            "keygraph_work_seconds", "Time to decode, restore and encode.", buckets=_SECONDS, registry=given
        )
        self.restore_seconds = Histogram(
            "keygraph_restore_seconds", "Time to restore.", buckets=_SECONDS, registry=given
        )
        self.accepted = Gauge("keygraph_accepted_requests", "Requests to restore in progress.", registry=given)
        self.running = Gauge("keygraph_running_requests", "Requests that are in a thread.", registry=given)
        self.refused = Counter("keygraph_refused_requests", "Requests without an image.", ("code",), registry=given)
        self.pixels = Counter("keygraph_restored_pixels", "Pixels of results.", registry=given)
        self.received = Counter("keygraph_received_bytes", "Bytes of images.", registry=given)
        self.sent = Counter("keygraph_sent_bytes", "Bytes of results.", registry=given)
