"""Predictions of concurrent requests, which one thread computes in the order of arrival."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import torch

from episodic.core.errors import UserError
from episodic.inference.adapted import AdaptedModel
from episodic.preprocessing.image import ImagePreprocessor

__all__ = ["PredictionWorker", "Query", "QueueFull"]

MAX_WAITING = 64
"""Requests that may wait for the model."""
MAX_BATCH_EXAMPLES = 64
"""Examples from which on a batch accepts no further request."""


class QueueFull(Exception):
    """Too many requests wait for the model."""


@dataclass(frozen=True)
class Query:
    """The examples of a request, and its future answer.

    Args:
        examples: Sentences, or the contents of image files.
        unknown: Whether to detect unknown classes.
        coverage: Coverage of the prediction sets. None: none are computed.
        answer: A JSON object per example.
    """

    examples: Sequence[Any]
    unknown: bool = False
    coverage: float | None = None
    answer: Future[list[dict[str, Any]]] = field(default_factory=Future, compare=False)


class PredictionWorker:
    """A thread that answers requests.

    While it computes, further requests arrive. It takes all of them at once, without waiting for
    more: their images are decoded and encoded together, on all cores. The model then predicts the
    examples of each request on their own. The answer to a request therefore depends on no other
    request, to the last bit, also if the algorithm is transductive. Sentences are encoded per
    request, since an encoder of sentences rounds differently in other batches.

    Args:
        model: The model.
        observe_batch: Called with the number of examples of each batch.
        max_waiting: Requests that may wait.
    """

    def __init__(
        self,
        model: AdaptedModel,
        observe_batch: Callable[[int], None] = lambda examples: None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.model, self.observe_batch = model, observe_batch
        self._waiting: queue.Queue[Query | None] = queue.Queue(max_waiting)
        self._thread = Thread(target=self._run, name="predictions", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether requests are answered."""
        return self._thread.is_alive()

    def count_waiting(self) -> int:
        """Return the number of requests that wait."""
        return self._waiting.qsize()

    def submit(self, query: Query) -> Future[list[dict[str, Any]]]:
        """Add a request to the queue, and return its future answer.

        Raises:
            QueueFull: Too many requests wait.
        """
        try:
            self._waiting.put_nowait(query)
        except queue.Full:
            raise QueueFull from None
        return query.answer

    def close(self, seconds: float = 30.0) -> None:
        """Answer the requests that wait, and end the thread."""
        self._waiting.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, is_last = [first], False
            while sum(len(query.examples) for query in batch) < MAX_BATCH_EXAMPLES:
                try:
                    following = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    is_last = True
                    break
                batch.append(following)
            self.observe_batch(sum(len(query.examples) for query in batch))
            for query, x in zip(batch, self._prepare(batch), strict=True):
                try:
                    predictions = self.model.predict_all(x, query.unknown)
                    query.answer.set_result(predictions.to_json(query.coverage))
                except Exception as error:  # the answer of one request; the thread goes on
                    query.answer.set_exception(error)
            if is_last:
                return

    def _prepare(self, batch: Sequence[Query]) -> Sequence[Any]:
        """Preprocess the images of all requests together, or return the examples as they are."""
        alone = [query.examples for query in batch]
        if len(batch) == 1 or not isinstance(self.model.inputs, ImagePreprocessor):
            return alone
        try:
            x = self.model.inputs([example for query in batch for example in query.examples])
        except UserError:
            return alone  # each request gets its own error
        return torch.split(x, [len(query.examples) for query in batch])
