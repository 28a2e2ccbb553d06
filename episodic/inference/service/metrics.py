"""Prometheus metrics of a service, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

__all__ = ["Metrics"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What a service counts and measures.

    Args:
        paths: The paths that are named; all others are counted as `other`.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = frozenset(paths)
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "episodic_requests",
            "Requests by path and status.",
            ("path", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "episodic_request_seconds",
            "Seconds from the header of a request to the end of its response.",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batch_size = Histogram(
            "episodic_batch_examples",
            "Examples that were prepared at once.",
            buckets=BATCH_SIZES,
            registry=self.registry,
        )
        self._predictions = Counter(
            "episodic_predictions",
            "Predicted examples by label.",
            ("label",),
            registry=self.registry,
        )
        self._queue_length = Gauge(
            "episodic_queue_length",
            "Requests that wait for the model.",
            registry=self.registry,
        )

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Report the result of `length` as the number of waiting requests."""
        self._queue_length.set_function(length)

    def observe_request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        path = path if path in self.paths else "other"
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def observe_batch(self, examples: int) -> None:
        """Count a batch of this many examples."""
        self._batch_size.observe(examples)

    def observe_labels(self, labels: Iterable[Any]) -> None:
        """Count predicted labels."""
        for label in labels:
            self._predictions.labels(str(label)).inc()

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self.registry)
