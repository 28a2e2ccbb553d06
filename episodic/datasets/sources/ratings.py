"""Ratings as tasks: one per user, with the ratings in chronological order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Le

from episodic.core.config import Setting
from episodic.datasets.base import SPLITS, FetchError, RegressionDataset, Tasks
from episodic.datasets.sources.folder import SplitFractions, assign_splits, require_fractions

if TYPE_CHECKING:
    from episodic.core.model import ExampleKind

__all__ = [
    "MAX_FEATURES",
    "Features",
    "Rating",
    "RatingDataset",
    "RatingTable",
    "make_tasks",
]

MAX_FEATURES = 64
"""Maximum number of features of an item or of a user."""

USER = "user "
"""Prefix of a user's features, whose names may be those of an item's."""


@dataclass(frozen=True)
class RatingDataset(RegressionDataset):
    """Base class of datasets of ratings.

    Args:
        items: `known`: validation and test users are scored on items of training users, and other
            items are left out. `new`: items are split as users are, and each user is seen with the
            items of its own split only.
        min_ratings: Ratings that a user must have.
        split_fractions: Fractions of the users, and of new items, for training, validation and
            test.
        tokens: Number of distinct features.
    """

    items: Literal["known", "new"] = "known"
    min_ratings: Annotated[int, Ge(2), Le(1_000_000)] = 30
    split_fractions: SplitFractions = (0.7, 0.1, 0.2)
    tokens: Annotated[int, Ge(2), Le(10_000_000)] = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fractions(self.split_fractions)

    @property
    def produces(self) -> ExampleKind:
        return "categorical"

    @property
    def vocabulary(self) -> Setting:
        return Setting("tokens", self.tokens)

    @property
    def min_task_size(self) -> Setting:
        return Setting("min_ratings", self.min_ratings)


class Rating(NamedTuple):
    """A rating, and when it was given."""

    user: str
    item: str
    value: float
    time: float


Features = dict[str, tuple[str, ...]]
"""The features of each user or item by name, such as `genre=Drama`."""


@dataclass(frozen=True)
class RatingTable:
    """Ratings, and the features of items and users.

    Attributes:
        ratings: In the order of the file, which is their order at equal times.
        items: Features of items.
        users: Features of users.
    """

    ratings: list[Rating]
    items: Features = field(default_factory=dict)
    users: Features = field(default_factory=dict)

    @property
    def input(self) -> tuple[int, int]:
        """Shape of one example, `(fields, features)`.

        The fields are the item and, if users have features, the user. `features` is the largest
        number of features of a field.
        """
        item = 1 + _max_length(self.items.values())
        user = _max_length(self.users.values())
        return (2 if user else 1), max(item, user)


def _max_length(features: Iterable[tuple[str, ...]]) -> int:
    return max(map(len, features), default=0)


def make_tasks(
    table: RatingTable, dataset: RatingDataset, seed: int, input: tuple[int, int]
) -> Tasks:
    """Make a task of each user with enough ratings.

    Features of training users and of items that they rated are numbered. All others are 0, as if
    nothing were known.

    Args:
        table: The ratings.
        dataset: The settings.
        seed: Seed of the split.
        input: Shape of one example.

    Raises:
        FetchError: A split has no users left, or there are too many features.
    """
    fields, width = input
    splits = assign_splits(sorted({r.user for r in table.ratings}), dataset.split_fractions, seed)
    counts = Counter(r.user for r in table.ratings)
    kept = [r for r in table.ratings if counts[r.user] >= dataset.min_ratings]
    if dataset.items == "new":
        item_splits = assign_splits(sorted({r.item for r in kept}), dataset.split_fractions, seed)
        kept = [r for r in kept if item_splits[r.item] == splits[r.user]]
    else:
        known = {r.item for r in kept if splits[r.user] == "train"}
        kept = [r for r in kept if r.item in known]
    by_user: dict[str, list[Rating]] = {}
    for rating in kept:
        by_user.setdefault(rating.user, []).append(rating)
    users = [user for user in sorted(by_user) if len(by_user[user]) >= dataset.min_ratings]
    split_sizes = Counter(splits[user] for user in users)
    if missing := [split for split in SPLITS if not split_sizes[split]]:
        raise FetchError(
            f"no {' and no '.join(missing)} user has {dataset.min_ratings} ratings of "
            f"{dataset.items} items: lower min_ratings, or add ratings"
        )
    ordered = [sorted(by_user[user], key=lambda r: r.time) for user in users]

    def item_features(item: str) -> tuple[str, ...]:
        return f"item={item}", *table.items.get(item, ())

    def user_features(user: str) -> tuple[str, ...]:
        return tuple(USER + feature for feature in table.users.get(user, ()))

    seen: set[str] = set()
    for user, rated in zip(users, ordered, strict=True):
        if splits[user] == "train":
            seen |= {
                *user_features(user),
                *(feature for r in rated for feature in item_features(r.item)),
            }
    if len(seen) >= dataset.tokens:
        raise FetchError(
            f"the data has {len(seen)} features, and tokens is {dataset.tokens}: set it, and the "
            "tokens of the model, above that"
        )
    if dataset.items == "new" and not any(
        seen.intersection(table.items.get(r.item, ())) for r in kept if splits[r.user] == "test"
    ):
        raise FetchError(
            "items is 'new', and the items of test users share no feature with training items: "
            "describe items in items.csv, or set items to known"
        )
    number = {feature: i + 1 for i, feature in enumerate(sorted(seen))}

    def numbers(features: tuple[str, ...]) -> list[int]:
        return [number.get(feature, 0) for feature in features] + [0] * (width - len(features))

    items = {item: numbers(item_features(item)) for item in sorted({r.item for r in kept})}
    rows = []
    for user, rated in zip(users, ordered, strict=True):
        user_field = [numbers(user_features(user))] if fields == 2 else []
        rows += [[items[r.item], *user_field] for r in rated]
    sizes = " / ".join(str(split_sizes[split]) for split in SPLITS)
    user_numbers = {
        feature.removeprefix(USER): n for feature, n in number.items() if feature.startswith(USER)
    }
    item_numbers = {
        item: " ".join(map(str, filter(None, features))) for item, features in items.items()
    }
    return Tasks(
        examples=torch.tensor(rows, dtype=torch.int32),
        targets=np.array([r.value for rated in ordered for r in rated], np.float32),
        texts=[r.item for rated in ordered for r in rated],
        names=users,
        splits=[splits[user] for user in users],
        counts=np.array(list(map(len, ordered)), np.int64),
        protocol=f"new users, {dataset.items} items, {sizes} users",
        inputs={"kind": "ratings", "items": item_numbers, "users": user_numbers},
    )
