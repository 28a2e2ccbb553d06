"""Sentences of your own: a CSV with the columns `text` and `label`, or a folder with a folder for each label.

In a folder every line of a `.txt` file is an example. A CSV may have a column `split` (train, validation, test), the same for all
sentences of a label; without it the labels are divided by `dataset.seed`. So are folders, unless they are called `train`, `validation` (or
`val`) and `test` and hold those of the labels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from episodic.core.config import require
from episodic.core.files import write_json
from episodic.datasets.base import SPLITS, FetchError, Limits, Progress, Texts, no_progress
from episodic.datasets.sources.folder import Class, divided, of_folders, shares_fault
from episodic.preprocessing.base import InputError, first_problems
from episodic.preprocessing.sentences.base import SentencePreprocessor, check_sentences
from episodic.preprocessing.sentences.files import read_table
from episodic.preprocessing.text import TextFeatures

LICENSE = "Sentences of the user's own, on the user's own terms."
OWN = True


@dataclass(frozen=True)
class Config:
    """features: how sentences become numbers; shares: of the labels for training, validation and test, where the data does not say it."""

    features: TextFeatures = field(default_factory=TextFeatures)
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        require(
            not shares_fault(self.shares), "shares", list(self.shares), shares_fault(self.shares)
        )


def classes_of(source: Path) -> list[Class[str]]:
    """The labels by name; FetchError lists what is wrong with the data."""
    try:
        if source.is_file():
            found = _of_table(source)
        elif source.is_dir():
            found = of_folders(source, SentencePreprocessor(()))
        else:
            raise FetchError(
                f"dataset.source is {source}; it must be a CSV with the columns text and label, or a folder with a folder for each label"
            )
        for c in found:
            check_sentences(c.examples)
    except InputError as error:
        raise FetchError(str(error)) from error
    return found


def _of_table(source: Path) -> list[Class[str]]:
    rows = read_table(source)
    by_label: dict[str, list[str]] = {}
    split_of: dict[str, set[str]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row["text"])
        split_of.setdefault(row["label"], set()).add(
            {"val": "validation"}.get(row.get("split", ""), row.get("split", ""))
        )
    given = any(part != {""} for part in split_of.values())
    problems = [
        f"{source}: label {label} has the split {' and '.join(sorted(map(repr, part)))}; it must be one alone of {', '.join(SPLITS)}"
        for label, part in sorted(split_of.items())
        if given and (len(part) > 1 or not part <= set(SPLITS))
    ]
    if problems:
        raise FetchError("\n".join(first_problems(problems)))
    return [
        Class(label, next(iter(split_of[label])), by_label[label]) for label in sorted(by_label)
    ]


def limits(config: Config, seed: int, source: Path) -> Limits:
    found = classes_of(source)
    splits = divided([c.name for c in found], config.shares, seed)
    smallest = min(found, key=lambda c: len(c.examples))
    return Limits.of(
        len(smallest.examples),
        ((c.split or splits[c.name], "") for c in found),
        config.features.input,
        smallest.name,
    )


def fetch(
    raw: Path,
    config: Config,
    *,
    source: Path,
    mirror: Path | None = None,
    progress: Progress = no_progress,
) -> None:
    """Writes `texts.json`: the sentences by label."""
    found = classes_of(source)
    listed = [{"class": c.name, "split": c.split, "texts": c.examples} for c in found]
    write_json(raw / "texts.json", {"folder": source.resolve().name, "classes": listed})


def prepare(raw: Path, config: Config, seed: int) -> Texts:
    if not (raw / "texts.json").is_file():
        raise FetchError(f"{raw / 'texts.json'} is missing: run the stage download first")
    content = json.loads((raw / "texts.json").read_text(encoding="utf-8"))
    listed = content["classes"]
    names = [c["class"] for c in listed]
    splits = divided(names, config.shares, seed)
    given = all(c["split"] for c in listed)
    return Texts(
        texts=[text for c in listed for text in c["texts"]],
        classes=names,
        groups=[""] * len(names),
        splits=[c["split"] if given else splits[c["class"]] for c in listed],
        counts=np.array([len(c["texts"]) for c in listed], np.int64),
        protocol=f"{content['folder']}, classes divided {'as it says' if given else 'at random'}",
        features=config.features,
    )
