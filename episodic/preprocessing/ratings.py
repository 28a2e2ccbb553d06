"""What was rated, by name: an item, or an item and what is known of the user who rates it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from episodic.preprocessing.base import InputError, listed, told
from episodic.preprocessing.numbers import array


@dataclass(frozen=True)
class Rated:
    """input: `(sides, features)`; items: the features of each item by its name; users: the number of each feature `NAME=VALUE` of users."""

    input: tuple[int, ...]
    items: Mapping[str, list[int]]
    users: Mapping[str, int]

    what = "item"

    def __call__(self, x: Any) -> Tensor:
        """From a list of names of items, or of pairs (name, features of the user as `{"age": 25}`); or an array `(n, *input)` as the model
        sees it."""
        if isinstance(x, Tensor) or (isinstance(x, np.ndarray) and x.dtype.kind in "buif"):
            found = array(x, self.input)
            known = max(
                [0, *self.users.values(), *(max(features) for features in self.items.values())]
            )
            if found.dtype.kind not in "ui" or (
                found.size and not 0 <= found.min() <= found.max() <= known
            ):
                raise InputError("x holds numbers that are no features: give names of items")
            return torch.from_numpy(found.astype(np.int64))
        problems: list[str] = []
        rows = [self._row(one, problems) for one in listed(x, self.what)]
        if problems or not rows:
            raise InputError("\n".join(told(problems)) or "there are no items")
        return torch.tensor(rows, dtype=torch.int64)

    def _row(self, one: Any, problems: list[str]) -> list[list[int]]:
        item, user = one if isinstance(one, tuple) and len(one) == 2 else (one, {})
        if str(item) not in self.items or not isinstance(user, Mapping):
            near = difflib.get_close_matches(str(item), self.items, n=1, cutoff=0.6)
            problems.append(
                f"{one!r} is no item that the model knows"
                + (f" - did you mean {near[0]!r}?" if near else "")
            )
            return []
        sides = [self.items[str(item)]]
        if self.input[0] == 2:
            sides.append(self._user(user, problems))
        elif user:
            problems.append(
                f"{one!r} tells something of the user, of whom the model knows nothing but ratings"
            )
        return sides

    def _user(self, user: Mapping[str, Any], problems: list[str]) -> list[int]:
        told_of = [f"{name}={value}" for name, value in user.items()]
        known = [feature.partition("=") for feature in self.users]
        for name, feature in zip(user, told_of, strict=True):
            if feature not in self.users:
                values = [value for other, _, value in known if other == str(name)]
                names = sorted({other for other, _, _ in known})
                of = (
                    f"{name} may be {', '.join(values)}"
                    if values
                    else f"it knows {', '.join(names)}"
                )
                problems.append(f"{feature} is nothing that the model knows of users: {of}")
        if len(told_of) > self.input[1]:
            problems.append(
                f"a user has {len(told_of)} features, and the model sees {self.input[1]} at most"
            )
        features = [self.users.get(feature, 0) for feature in told_of][: self.input[1]]
        return features + [0] * (self.input[1] - len(features))

    def in_folder(self, folder: Path) -> list[Any]:
        raise InputError(NO_FILES)

    in_file = in_folder


NO_FILES = "a model of ratings takes no files: use it from Python (docs/guide/using-a-model.md)"


def build(input: tuple[int, ...], items: dict[str, str], users: dict[str, int]) -> Rated:
    """items: the numbers of each one's features, apart by blanks"""
    found = {item: [int(number) for number in features.split()] for item, features in items.items()}
    if any(len(features) > input[1] for features in found.values()):
        raise ValueError(f"items must have at most {input[1]} features each")
    return Rated(
        input,
        {item: features + [0] * (input[1] - len(features)) for item, features in found.items()},
        users,
    )
