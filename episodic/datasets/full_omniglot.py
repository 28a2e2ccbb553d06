"""Omniglot in the form of a dataset of photographs, for training and testing across domains."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from episodic.datasets.sources.archives import Archive
from episodic.datasets.sources.class_table import SPLIT_TABLES, ClassRow
from episodic.datasets.sources.photographs import Photographs

__all__ = ["FullOmniglot"]

ADDRESS = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
DRAWINGS = 20
VALIDATION_ALPHABETS = 5


@dataclass(frozen=True)
class FullOmniglot(Photographs):
    """1,623 characters of 50 alphabets with 20 drawings each, 883 / 81 / 659, split by alphabet.

    Drawings have three channels and light strokes, without rotations, so that models trained on
    photographs apply. The split is that of Meta-Dataset: Lake's 20 evaluation alphabets are for
    test, the five smallest of the 30 background alphabets for validation. The dataset `omniglot`
    has 28x28 pixels in one channel, and the splits of MAML (as in learn2learn) and others.

    Args:
        features: How images are encoded.
        size: Height and width to which images are resized, 105 in the archives.

    Brenden Lake, Ruslan Salakhutdinov, Joshua Tenenbaum: Human-level concept learning through
    probabilistic program induction, Science 350 (2015). https://doi.org/10.1126/science.aab3050
    """

    license = (
        "Omniglot, https://github.com/brendenlake/omniglot, MIT License, Copyright (c) 2015 "
        "Brenden Lake."
    )
    name = "omniglot"
    archives = (
        Archive(
            "images_background.zip",
            f"{ADDRESS}/images_background.zip",
            "68d2efa1b9178cc56df9314c21c6e718",
            64 << 20,
        ),
        Archive(
            "images_evaluation.zip",
            f"{ADDRESS}/images_evaluation.zip",
            "6b91aef0f799c5bb55b94e3f2daec811",
            64 << 20,
        ),
    )
    image_pattern = r"images_(?:background|evaluation)/[^/]+/character\d\d/\d{4}_\d\d\.png"
    inverted = True

    def list_classes(self) -> list[ClassRow]:
        with (SPLIT_TABLES / "omniglot.csv").open(encoding="utf-8", newline="") as file:
            characters = [
                (row["alphabet"], f"character{number:02d}", row["archive"] == "images_evaluation")
                for row in csv.DictReader(file)
                for number in range(int(row["first"]), int(row["last"]) + 1)
            ]
        sizes = Counter(alphabet for alphabet, _, evaluation in characters if not evaluation)
        validation = sorted(sizes, key=lambda alphabet: sizes[alphabet])[:VALIDATION_ALPHABETS]
        return [
            ClassRow(
                f"{alphabet}/{character}",
                "test" if evaluation else "validation" if alphabet in validation else "train",
                DRAWINGS,
            )
            for alphabet, character, evaluation in characters
        ]

    def group_of(self, name: str) -> str:
        return name.split("/")[0]

    def find_classes(self, files: dict[str, bytes]) -> Callable[[str], str]:
        return lambda name: name.split("/", 1)[1].rsplit("/", 1)[0]
