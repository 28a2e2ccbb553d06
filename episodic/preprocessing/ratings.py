"""Items and users by name, for models of ratings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from episodic.preprocessing.base import InputError, require_sequence, shorten_errors
from episodic.preprocessing.numbers import to_array

__all__ = [
    "RatingPreprocessor",
    "build",
]


@dataclass(frozen=True)
class RatingPreprocessor:
    """Preprocessor of items, or of pairs of an item and the user who rates it.

    Args:
        input: Shape of one example, `(fields, features)`. The fields are the item and, where the
            model uses features of users, the user.
        items: The numbers of the features of each item, by the name of the item.
        users: The number of each feature of users, by the feature as `NAME=VALUE`.
    """

    input: tuple[int, ...]
    items: Mapping[str, list[int]]
    users: Mapping[str, int]

    example_name = "item"

    def __call__(self, x: Any) -> Tensor:
        """Return numbers of features, int64 `(n, fields, features)`, with 0 for "no feature".

        Args:
            x: A list of names of items, or of pairs of a name and the features of the user, as in
                `("Fargo", {"age": 25})`; or an array of numbers of features.

        Raises:
            InputError: Some items or features are unknown to the model. All of them
                are listed.
        """
        if isinstance(x, Tensor) or (isinstance(x, np.ndarray) and x.dtype.kind in "buif"):
            array = to_array(x, self.input)
            largest = max([0, *self.users.values(), *map(max, self.items.values())])
            in_range = not array.size or 0 <= array.min() <= array.max() <= largest
            if array.dtype.kind not in "ui" or not in_range:
                raise InputError("x has numbers that are not features: pass names of items")
            return torch.from_numpy(array.astype(np.int64))
        errors: list[str] = []
        rows = [
            self._number_features(rating, errors)
            for rating in require_sequence(x, self.example_name)
        ]
        if errors:
            raise InputError("\n".join(shorten_errors(errors)))
        if not rows:
            raise InputError("x is empty: pass at least one item")
        return torch.tensor(rows, dtype=torch.int64)

    def _number_features(self, rating: Any, errors: list[str]) -> list[list[int]]:
        item, user = rating if isinstance(rating, tuple) and len(rating) == 2 else (rating, {})
        if str(item) not in self.items or not isinstance(user, Mapping):
            close = difflib.get_close_matches(str(item), self.items, n=1, cutoff=0.6)
            hint = f" - did you mean {close[0]!r}?" if close else ""
            errors.append(f"the model knows no item {rating!r}{hint}")
            return []
        fields = [self.items[str(item)]]
        if self.input[0] == 2:
            fields.append(self._number_user(user, errors))
        elif user:
            errors.append(
                f"{rating!r} has features of the user, but the model was trained without any"
            )
        return fields

    def _number_user(self, user: Mapping[str, Any], errors: list[str]) -> list[int]:
        size = self.input[1]
        features = [f"{name}={value}" for name, value in user.items()]
        known = [feature.partition("=") for feature in self.users]
        for name, feature in zip(user, features, strict=True):
            if feature not in self.users:
                values = [value for other, _, value in known if other == str(name)]
                names = sorted({other for other, _, _ in known})
                choices = (
                    f"{name} may be {', '.join(values)}"
                    if values
                    else f"it knows {', '.join(names)}"
                )
                errors.append(f"the model knows no feature {feature} of users: {choices}")
        if len(features) > size:
            errors.append(f"a user has {len(features)} features: the model takes at most {size}")
        numbers = [self.users.get(feature, 0) for feature in features][:size]
        return numbers + [0] * (size - len(numbers))

    def examples_in_folder(self, folder: Path) -> list[Any]:
        """Raise InputError: examples of this kind are not read from files."""
        raise InputError(
            "a model of ratings reads no files: use it from Python (docs/guide/using-a-model.md)"
        )

    examples_in_file = examples_in_folder


def build(
    input: tuple[int, ...], items: dict[str, str], users: dict[str, int]
) -> RatingPreprocessor:
    """Make the preprocessor of `kind: ratings`.

    Args:
        input: Shape of one example.
        items: The numbers of the features of each item, separated by spaces.
        users: The number of each feature of users.

    Raises:
        ValueError: An item has more features than an example can have.
    """
    numbers = {name: [int(n) for n in features.split()] for name, features in items.items()}
    if any(len(features) > input[1] for features in numbers.values()):
        raise ValueError(f"items must have at most {input[1]} features each")
    padded = {
        name: features + [0] * (input[1] - len(features)) for name, features in numbers.items()
    }
    return RatingPreprocessor(input, padded, users)
