"""Base class of sentence datasets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from episodic.core.config import Setting
from episodic.datasets.base import ClassificationDataset
from episodic.preprocessing.text import TextFeatures

if TYPE_CHECKING:
    from episodic.core.model import ExampleKind

__all__ = [
    "SentenceDataset",
]


@dataclass(frozen=True)
class SentenceDataset(ClassificationDataset):
    """Base class of datasets of sentences.

    Args:
        features: How sentences are encoded.
    """

    features: TextFeatures = field(default_factory=TextFeatures)

    @property
    def produces(self) -> ExampleKind:
        return "tokens" if self.features.kind == "tokens" else "text_features"

    @property
    def vocabulary(self) -> Setting | None:
        tokens = self.features.kind == "tokens"
        return Setting("features.size", self.features.size) if tokens else None
