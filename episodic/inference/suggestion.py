"""What to label next: the strategies of `suggest`, and its result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.analysis import selection
from episodic.inference.labels import AdaptError, label_array

__all__ = ["DEFAULT_STRATEGY", "STRATEGIES", "Suggestions", "suggest"]

STRATEGIES = {
    "margin_coverage": "coverage, in which an example counts more, the smaller its margin is",
    "coverage": "every example should be close to a labelled one",
    "typicality": "typical examples of clusters without a label (TypiClust)",
    "margin": "the two most likely classes are almost equally likely",
    "random": "for comparison",
}
"""A description of each strategy."""

DEFAULT_STRATEGY = "margin_coverage"
"""The strategy with the fewest labels in docs/results/labels.md. It is `coverage` as long as there
is no label."""


@dataclass(frozen=True)
class Suggestions:
    """Examples to label next, the most useful first.

    Args:
        indices: Positions in the pool, int64 `(n,)`.
        represents: The number of distinct unlabelled examples that each is closer to than any other
            suggested or labelled example is, int64 `(n,)`.
        margins: Difference of the two largest class probabilities `(n,)`. None before adaptation.
        labels: The most likely and the second most likely label `(n, 2)`. None before adaptation.
    """

    indices: np.ndarray
    represents: np.ndarray
    margins: np.ndarray | None = None
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        """The number of suggestions."""
        return len(self.indices)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the facts about each suggestion as JSON-serializable values.

        Returns:
            `represents`; after adaptation also `label` and `runner_up`, the two most likely
            classes, and `margin`.
        """
        entries: list[dict[str, Any]] = [{"represents": n} for n in self.represents.tolist()]
        if self.margins is not None and self.labels is not None:
            for entry, (label, runner_up), margin in zip(
                entries, self.labels.tolist(), self.margins.tolist(), strict=True
            ):
                entry |= {"label": label, "runner_up": runner_up, "margin": round(margin, 6)}
        return entries


def suggest(
    x: Tensor,
    n: int,
    strategy: str,
    seed: int,
    embed: Callable[[Tensor], Sequence[Tensor]],
    support: Tensor | None = None,
    predict_proba: Callable[[Tensor], np.ndarray] | None = None,
    classes: Sequence[Hashable] = (),
) -> Suggestions:
    """Suggest examples of a pool to label.

    Copies of an example, and examples of the support set, are not suggested. The others are sorted
    by a digest of their content first, so the result does not depend on the order of the pool.
    Distances are those of features of length 1.

    Args:
        x: The pool: preprocessed examples `(size, *input)`.
        n: Number of suggestions. There are fewer if the pool has fewer examples.
        strategy: One of `STRATEGIES`.
        seed: Seed of the strategy `random`, and of the part of a large pool that is covered.
        embed: Computes the features of examples, `(size, width)` for each member of the ensemble.
        support: The labelled examples `(m, *input)`. None before adaptation.
        predict_proba: Computes class probabilities. None before adaptation.
        classes: The labels.

    Raises:
        AdaptError: `n` or the strategy is invalid, or the strategy needs an adapted model.
    """
    if n < 1:
        raise AdaptError(f"n is {n}; it must be at least 1")
    if strategy not in STRATEGIES:
        raise AdaptError(f"strategy is {strategy!r}; it must be one of {', '.join(STRATEGIES)}")
    if strategy == "margin" and predict_proba is None:
        raise AdaptError(
            "the strategy margin needs a model that is adapted to labelled examples: use coverage"
            " for the first ones"
        )
    order = _list_unlabelled(x, support)
    if not len(order):
        return Suggestions(order.numpy(), order.numpy())
    x = x[order]
    features = _join_features(embed(x))
    labelled = features[:0] if support is None else _join_features(embed(support))
    table = None if predict_proba is None else torch.from_numpy(predict_proba(x)).double()
    chosen = _select(strategy, features, labelled, table, n, seed)
    represents = selection.count_represented(features, labelled, chosen)
    indices = order[chosen].numpy()
    if table is None:
        return Suggestions(indices, represents.numpy())
    table = table[chosen]
    likeliest = table.sort(dim=-1, descending=True, stable=True).indices[:, :2]
    return Suggestions(
        indices,
        represents.numpy(),
        selection.margins(table).numpy(),
        label_array(classes)[likeliest.numpy()],
    )


def _select(
    strategy: str, features: Tensor, labelled: Tensor, table: Tensor | None, n: int, seed: int
) -> Tensor:
    """Select examples by a strategy; `table` contains class probabilities."""
    if strategy == "random":
        return selection.select_random(len(features), n, seed)
    if strategy == "typicality":
        return selection.select_typical(features, labelled, n)
    if strategy == "margin" and table is not None:
        return selection.select_uncertain(features, table, n)
    weights = None
    if strategy == "margin_coverage" and table is not None:
        weights = 2 - selection.margins(table)
    return selection.select_covering(features, labelled, n, weights, seed)


def _list_unlabelled(x: Tensor, support: Tensor | None) -> Tensor:
    """List the distinct examples that are not in the support set, in the order of their digests."""
    labelled = set() if support is None else set(_compute_digests(support))
    rows: dict[bytes, int] = {}
    for row, digest in enumerate(_compute_digests(x)):
        if digest not in labelled:
            rows.setdefault(digest, row)
    return torch.tensor([rows[digest] for digest in sorted(rows)], dtype=torch.int64)


def _compute_digests(x: Tensor) -> list[bytes]:
    array: Any = x.cpu().contiguous().numpy()
    return [hashlib.sha256(row.data).digest() for row in array]


def _join_features(members: Sequence[Tensor]) -> Tensor:
    """Return the features of all members, each of length 1, on the CPU in float64."""
    return torch.cat([F.normalize(f.cpu().double().flatten(1), dim=-1) for f in members], -1)
