"""The labelled examples that a model is adapted to, and the history of their changes."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from episodic.core.registry import did_you_mean
from episodic.inference.labels import AdaptError
from episodic.preprocessing.base import shorten_errors

__all__ = ["Change", "LabelledExamples", "list_counts"]

ROUNDING = 1e-6
"""Largest difference of two numbers that are equal up to rounding: some encoders round differently
in another batch."""

ACTIONS = ("adapt", "add", "remove", "correct")


@dataclass(frozen=True)
class Change:
    """A change of the examples of a model.

    Args:
        action: `adapt`, `add`, `remove` or `correct`.
        examples: Number of examples.
        digest: SHA-256 of the preprocessed examples and their labels, in hexadecimal.
        classes: Number of examples by label, the new one for corrections. Empty for regression.
        previous: Number of corrected examples by the label that they had.
    """

    action: str
    examples: int
    digest: str
    classes: dict[str, int] = field(default_factory=dict)
    previous: dict[str, int] = field(default_factory=dict)

    @classmethod
    def describe(
        cls,
        action: str,
        x: Tensor,
        labels: Sequence[Hashable],
        has_classes: bool,
        previous: Sequence[Hashable] = (),
    ) -> Change:
        """Describe a change.

        Args:
            action: As above.
            x: The preprocessed examples `(n, *input)`.
            labels: Their labels or targets.
            has_classes: False for regression.
            previous: Labels before a correction.
        """
        x = x.contiguous().cpu()
        digest = hashlib.sha256(x.numpy().data)
        digest.update(json.dumps([str(x.dtype), list(x.shape), *map(str, labels)]).encode())
        counts = (_count(values) if has_classes else {} for values in (labels, previous))
        return cls(action, len(x), digest.hexdigest(), *counts)

    @classmethod
    def from_json(cls, values: Any) -> Change:
        """Build the change that `to_json` described.

        Raises:
            ValueError: It describes none.
        """
        if not isinstance(values, dict) or values.get("action") not in ACTIONS:
            raise ValueError("a change must have an action")
        try:
            change = cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from error
        counts = [change.examples]
        for classes in (change.classes, change.previous):
            if not isinstance(classes, dict):
                raise ValueError("a change must count the examples of each class")
            counts += classes.values()
        if not all(type(count) is int for count in counts) or not isinstance(change.digest, str):
            raise ValueError("a change must have numbers of examples and a digest")
        return change

    def to_json(self) -> dict[str, Any]:
        """Return the arguments as JSON-serializable values, without those that are empty."""
        return {name: value for name, value in asdict(self).items() if value != {}}

    def __str__(self) -> str:
        """The change in a few words, without the digest."""
        listed = list_counts(self.classes) or str(self.examples)
        return listed + (f" (was {list_counts(self.previous)})" if self.previous else "")


def _count(labels: Iterable[Hashable]) -> dict[str, int]:
    return dict(Counter(map(str, labels)))


def list_counts(counts: dict[str, int]) -> str:
    """List the number of examples of each class, as in `cat 3, dog 2`."""
    return ", ".join(f"{name} {count}" for name, count in counts.items())


@dataclass(frozen=True)
class LabelledExamples:
    """The labelled examples that a model is adapted to.

    Two examples are the same if their preprocessed contents are equal up to rounding.

    Args:
        x: The preprocessed examples `(n, *input)`, on the CPU.
        labels: The label of each example, or its target.
        history: The changes that led to these examples, in order.
        has_classes: False for the targets of a regression.
        example_name: Name of one example in messages, such as `image`.
    """

    x: Tensor
    labels: tuple[Hashable, ...]
    history: tuple[Change, ...] = ()
    has_classes: bool = True
    example_name: str = "example"

    @property
    def classes(self) -> dict[str, Hashable]:
        """The labels by their text, in order of appearance."""
        return {str(label): label for label in self.labels}

    def find(self, example: Tensor) -> list[int]:
        """Return the indices of an example `(*input)`."""
        return _equal_rows(self.x, example)

    def add(
        self, x: Tensor, labels: Sequence[Hashable], names: Sequence[str] | None = None
    ) -> LabelledExamples:
        """Add examples at the end.

        Args:
            x: The preprocessed examples `(n, *input)`.
            labels: Their labels. They may be new.
            names: Names of the examples for messages. None: their numbers.

        Raises:
            AdaptError: An example has another label already. All of them are listed.
        """
        joined = replace(self, x=torch.cat([self.x, x]), labels=(*self.labels, *labels))
        errors = []
        for i, (example, label) in enumerate(zip(x, labels, strict=True)):
            earlier = _equal_rows(joined.x[: len(self.x) + i], example)
            others = [joined.labels[j] for j in earlier if joined.labels[j] != label]
            if others:
                errors.append(
                    f"{self._name(i, names)}: it is an example of {others[0]!r} already, not of"
                    f" {label!r}: correct its label, or leave it out"
                )
        if errors:
            raise AdaptError("\n".join(shorten_errors(errors)))
        return joined._record("add", x, labels)

    def remove(self, label: Hashable) -> LabelledExamples:
        """Remove the examples of a class.

        Raises:
            AdaptError: There is no such class.
        """
        if not self.has_classes:
            raise AdaptError("a regression model has no classes to remove")
        self._check_known(label)
        kept = [i for i, other in enumerate(self.labels) if other != label]
        removed = [i for i, other in enumerate(self.labels) if other == label]
        return self._select(kept)._record("remove", self.x[removed], [label] * len(removed))

    def correct(
        self, x: Tensor, labels: Sequence[Hashable], names: Sequence[str] | None = None
    ) -> LabelledExamples:
        """Give examples their right label.

        An example that is known under other labels moves to the end, with the right one. An example
        that is unknown is added. An example that has the right label already does not change.

        Args:
            x: The preprocessed examples `(n, *input)`.
            labels: Their right labels, of known classes.
            names: Names of the examples for messages. None: their numbers.

        Returns:
            The examples; the same object if nothing changes.

        Raises:
            AdaptError: A label is unknown, or a class would have no example left.
        """
        if self.has_classes:
            for label in dict.fromkeys(labels):
                self._check_known(label, " (add examples to make a new class)")
        result, changed, right, previous = self, [], [], []
        for example, label in zip(x, labels, strict=True):
            found = result.find(example)
            before = [result.labels[i] for i in found]
            if found and all(other == label for other in before):
                continue
            example = result.x[found[0]] if found else example
            kept = result._select([i for i in range(len(result.x)) if i not in found])
            result = replace(
                kept, x=torch.cat([kept.x, example[None]]), labels=(*kept.labels, label)
            )
            changed.append(example)
            right.append(label)
            previous += before
        if not changed:
            return self
        if self.has_classes and (lost := self.classes.keys() - result.classes.keys()):
            label = self.classes[min(lost)]
            raise AdaptError(
                f"{label!r} would have no example left: add another example of it first, or remove"
                " the class instead"
            )
        return result._record("correct", torch.stack(changed), right, previous)

    def _select(self, index: Sequence[int]) -> LabelledExamples:
        return replace(self, x=self.x[list(index)], labels=tuple(self.labels[i] for i in index))

    def _record(
        self,
        action: str,
        x: Tensor,
        labels: Sequence[Hashable],
        previous: Sequence[Hashable] = (),
    ) -> LabelledExamples:
        change = Change.describe(action, x, labels, self.has_classes, previous)
        return replace(self, history=(*self.history, change))

    def _check_known(self, label: Hashable, also: str = "") -> None:
        if label not in self.labels:
            known = list(self.classes)
            raise AdaptError(
                f"the model has no class {label!r}; its classes are {', '.join(known)}{also}"
                f"{did_you_mean(str(label), known)}"
            )

    def _name(self, i: int, names: Sequence[str] | None) -> str:
        return names[i] if names else f"{self.example_name} {i}"


def _equal_rows(x: Tensor, example: Tensor) -> list[int]:
    """Return the indices of the rows of `x` that are equal to an example, up to rounding."""
    difference = (x - example).abs().flatten(1).amax(1)
    return (difference <= ROUNDING).nonzero()[:, 0].tolist()
