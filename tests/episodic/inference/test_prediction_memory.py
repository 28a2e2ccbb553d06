"""The memory of predictions does not grow with the number of queries."""

from __future__ import annotations

import weakref

import numpy as np
import torch

from episodic.core.episode import Episode
from episodic.inference.adapted import CHUNK, AdaptedModel

CHUNKS = 5


def test_the_outputs_of_a_chunk_do_not_outlive_it(monkeypatch):
    """Kept between large temporary tensors, they would fragment the memory."""
    kept, alive = [], []

    def outputs(self, x):
        alive.append(sum(chunk() is not None for chunk in kept))
        result = x @ torch.eye(3)
        kept.append(weakref.ref(result.untyped_storage()))
        return result

    for name, replacement in (
        ("outputs", outputs),
        ("transductive", False),
        ("config", {}),
    ):
        monkeypatch.setattr(AdaptedModel, name, replacement)
    none, no_labels = torch.empty(1, 0, 3), torch.empty(1, 0, dtype=torch.int64)
    adapted = AdaptedModel(
        None,
        lambda x: x,
        torch.device("cpu"),
        [],
        Episode(none, no_labels, none, no_labels),
        (0, 1, 2),
    )
    queries = torch.eye(3).repeat(CHUNKS * CHUNK // 3 + 1, 1)[: CHUNKS * CHUNK]
    assert np.array_equal(adapted.predict(queries), queries.argmax(1).numpy())
    assert len(alive) == CHUNKS
    assert max(alive) == 0
