"""Ratings as tasks: one of each user, what was rated first coming first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import torch

from episodic.core.config import require
from episodic.datasets.base import SPLITS, FetchError, Tasks
from episodic.datasets.sources.folder import divided, shares_fault

MOST = 64
"""Features that one side of a rating may have."""

USER = "user "
"""Before a user's features, which may be called as an item's are."""


@dataclass(frozen=True)
class Config:
    """items: whether those of validation and test users are known from training (others are left out) or new (then they are divided as
    the users are, and each user is seen with the items of its own split alone); least: ratings that a user must have, beyond which its
    task has a query set; shares: of the users (and new items) for training, validation and test; tokens: how many features are told
    apart at most."""

    items: Literal["known", "new"] = "known"
    least: int = 30
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2)
    tokens: int = 4096

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        require(
            self.least >= 2,
            "least",
            self.least,
            "must be at least 2: one to adapt on and one to score on",
        )
        require(
            not shares_fault(self.shares), "shares", list(self.shares), shares_fault(self.shares)
        )
        require(self.tokens >= 2, "tokens", self.tokens, "must be at least 2")


class Rating(NamedTuple):
    user: str
    item: str
    value: float
    time: float


Features = dict[str, tuple[str, ...]]
"""What is known of each user or item, by name: features such as `genre=Drama`."""


@dataclass(frozen=True)
class Found:
    """ratings: in the order of the file, which counts among equal times"""

    ratings: list[Rating]
    items: Features = field(default_factory=dict)
    users: Features = field(default_factory=dict)

    @property
    def input(self) -> tuple[int, int]:
        """The shape of an example: sides (item, and user where anything is known of users), and the most features that one of them has."""
        most = [1 + longest(self.items.values()), longest(self.users.values())]
        return (2 if most[1] else 1), max(most)


def longest(features: Iterable[tuple[str, ...]]) -> int:
    return max(map(len, features), default=0)


def tasks(found: Found, config: Config, seed: int, input: tuple[int, int]) -> Tasks:
    """The users of at least `config.least` ratings, each a task; FetchError where a split has none left.

    A feature has a number if a training user rated something that has it; all others are 0, as if nothing were known.
    """
    sides, width = input
    split_of = divided(sorted({r.user for r in found.ratings}), config.shares, seed)
    many = {user for user, n in Counter(r.user for r in found.ratings).items() if n >= config.least}
    kept = [r for r in found.ratings if r.user in many]
    if config.items == "new":
        item_split = divided(sorted({r.item for r in kept}), config.shares, seed)
        kept = [r for r in kept if item_split[r.item] == split_of[r.user]]
    else:
        known = {r.item for r in kept if split_of[r.user] == "train"}
        kept = [r for r in kept if r.item in known]
    of_user: dict[str, list[Rating]] = {}
    for rating in kept:
        of_user.setdefault(rating.user, []).append(rating)
    users = [user for user in sorted(of_user) if len(of_user[user]) >= config.least]
    left = Counter(split_of[user] for user in users)
    if absent := [split for split in SPLITS if not left[split]]:
        raise FetchError(
            f"no {' and no '.join(absent)} user has {config.least} ratings of {config.items} items: lower least, or give more ratings"
        )
    ordered = [sorted(of_user[user], key=lambda r: r.time) for user in users]

    def item_features(item: str) -> tuple[str, ...]:
        return f"item={item}", *found.items.get(item, ())

    def user_features(user: str) -> tuple[str, ...]:
        return tuple(USER + feature for feature in found.users.get(user, ()))

    seen: set[str] = set()
    for user, rated in zip(users, ordered, strict=True):
        if split_of[user] == "train":
            seen |= {
                *user_features(user),
                *(feature for r in rated for feature in item_features(r.item)),
            }
    if len(seen) >= config.tokens:
        raise FetchError(
            f"the data has {len(seen)} features, and tokens is {config.tokens}: set it (and model.embeddings.tokens) above that"
        )
    if config.items == "new" and not any(
        seen.intersection(found.items.get(r.item, ())) for r in kept if split_of[r.user] == "test"
    ):
        said = "of the items of test users nothing is known that training items have too: tell of items, or take known"
        raise FetchError(f"items is 'new', and {said}")
    number = {feature: i + 1 for i, feature in enumerate(sorted(seen))}

    def numbers(features: tuple[str, ...]) -> list[int]:
        return [number.get(feature, 0) for feature in features] + [0] * (width - len(features))

    items = {item: numbers(item_features(item)) for item in sorted({r.item for r in kept})}
    rows = []
    for user, rated in zip(users, ordered, strict=True):
        about = [numbers(user_features(user))] if sides == 2 else []
        rows += [[items[r.item], *about] for r in rated]
    said = (
        f"new users, {config.items} items, {' / '.join(str(left[split]) for split in SPLITS)} users"
    )
    of_users = {
        feature.removeprefix(USER): n for feature, n in number.items() if feature.startswith(USER)
    }
    listed = {item: " ".join(map(str, filter(None, features))) for item, features in items.items()}
    inputs = {"kind": "ratings", "items": listed, "users": of_users}
    return Tasks(
        examples=torch.tensor(rows, dtype=torch.int32),
        targets=np.array([r.value for rated in ordered for r in rated], np.float32),
        texts=[r.item for rated in ordered for r in rated],
        names=users,
        splits=[split_of[user] for user in users],
        counts=np.array(list(map(len, ordered)), np.int64),
        protocol=said,
        inputs=inputs,
    )
