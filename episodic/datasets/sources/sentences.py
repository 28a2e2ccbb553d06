"""Base class of sentence datasets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from episodic.core.config import Setting
from episodic.core.files import write_json
from episodic.datasets.base import ClassificationDataset, FetchError
from episodic.preprocessing.text import TextFeatures

if TYPE_CHECKING:
    from episodic.core.model import ExampleKind

__all__ = [
    "SentenceDataset",
    "read_texts",
    "write_texts",
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


def write_texts(raw: Path, texts: dict[str, list[str]]) -> None:
    """Write `texts.json`, the texts of each class."""
    write_json(raw / "texts.json", texts)


def read_texts(raw: Path) -> dict[str, list[str]]:
    """Read the texts of each class, sorted by its name.

    Raises:
        FetchError: There is no such file.
    """
    path = raw / "texts.json"
    if not path.is_file():
        raise FetchError(f"{path} does not exist: run the stage download first")
    texts: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return dict(sorted(texts.items()))
