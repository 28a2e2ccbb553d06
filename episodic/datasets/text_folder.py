"""User-provided sentences, in a CSV or in one folder per label."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from episodic.core.files import write_json
from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import SPLITS, FetchError, Limits, Texts
from episodic.datasets.sources.folder import (
    OwnClass,
    SplitFractions,
    assign_splits,
    read_folders,
    require_fractions,
)
from episodic.datasets.sources.sentences import SentenceDataset
from episodic.preprocessing.base import InputError, shorten_errors
from episodic.preprocessing.sentences.base import SentencePreprocessor, check_sentences
from episodic.preprocessing.sentences.files import read_table

__all__ = ["TextFolder"]


@dataclass(frozen=True)
class TextFolder(SentenceDataset):
    """User-provided sentences, in a CSV or in one folder per label.

    A CSV has the columns `text` and `label`, and optionally `split` (train, validation, test), the
    same for all sentences of a label. Without it the labels are split at random. In a folder every
    line of a `.txt` file is a sentence: `LABEL/*.txt`, or `train/LABEL/*.txt` and so on.

    Args:
        features: How sentences are encoded.
        split_fractions: Fractions of the labels for training, validation and test, where the data
            does not define it.
    """

    split_fractions: SplitFractions = (0.6, 0.2, 0.2)

    license = "User-provided sentences; the user's licence terms apply."
    source_policy = "required"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_fractions(self.split_fractions)

    def limits(self, seed: int, source: Path | None = None) -> Limits:
        classes = read_classes(source)
        splits = assign_splits([c.name for c in classes], self.split_fractions, seed)
        smallest = min(classes, key=lambda c: len(c.examples))
        members = ((c.split or splits[c.name], "") for c in classes)
        return Limits.from_members(
            len(smallest.examples), members, self.features.input, smallest.name
        )

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Write `texts.json`, the sentences by label."""
        rows = [
            {"class": c.name, "split": c.split, "texts": c.examples} for c in read_classes(source)
        ]
        folder = Path(source or "").resolve().name
        write_json(raw / "texts.json", {"folder": folder, "classes": rows})

    def prepare(self, raw: Path, seed: int) -> Texts:
        if not (raw / "texts.json").is_file():
            raise FetchError(f"{raw / 'texts.json'} does not exist: run the stage download first")
        content = json.loads((raw / "texts.json").read_text(encoding="utf-8"))
        rows = content["classes"]
        names = [row["class"] for row in rows]
        splits = assign_splits(names, self.split_fractions, seed)
        given = all(row["split"] for row in rows)
        how = "as given" if given else "at random"
        return Texts(
            texts=[text for row in rows for text in row["texts"]],
            classes=names,
            groups=[""] * len(names),
            splits=[row["split"] if given else splits[row["class"]] for row in rows],
            counts=np.array([len(row["texts"]) for row in rows], np.int64),
            protocol=f"{content['folder']}, classes split {how}",
            features=self.features,
        )


def read_classes(source: Path | None) -> list[OwnClass[str]]:
    """List the labels by name.

    Raises:
        FetchError: The data is malformed.
    """
    try:
        if source is not None and source.is_file():
            classes = _read_csv(source)
        elif source is not None and source.is_dir():
            classes = read_folders(source, SentencePreprocessor(()))
        else:
            raise FetchError(
                f"dataset.source is {source}; it must be a CSV with the columns text and label, or "
                "a folder with one folder per label"
            )
        for c in classes:
            check_sentences(c.examples)
    except InputError as error:
        raise FetchError(str(error)) from error
    return classes


def _read_csv(source: Path) -> list[OwnClass[str]]:
    texts: dict[str, list[str]] = {}
    splits: dict[str, set[str]] = {}
    for row in read_table(source):
        split = row.get("split", "")
        texts.setdefault(row["label"], []).append(row["text"])
        splits.setdefault(row["label"], set()).add("validation" if split == "val" else split)
    given = any(values != {""} for values in splits.values())
    errors = [
        f"{source}: label {label} has the split {' and '.join(sorted(map(repr, values)))}; it must "
        f"be one of {', '.join(SPLITS)}"
        for label, values in sorted(splits.items())
        if given and (len(values) > 1 or not values <= set(SPLITS))
    ]
    if errors:
        raise FetchError("\n".join(shorten_errors(errors)))
    return [OwnClass(label, next(iter(splits[label])), texts[label]) for label in sorted(texts)]
