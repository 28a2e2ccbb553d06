"""Omniglot in the form of a dataset of photographs, for training and testing across domains."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.sources.class_table import SPLIT_TABLES, ClassRow
from episodic.datasets.sources.omniglot import CONTENT, fetch_archives, file_pattern
from episodic.datasets.sources.photographs import Photographs

__all__ = ["FullOmniglot"]

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
    archives = ()
    image_pattern = "|".join(map(file_pattern, CONTENT))
    inverted = True

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Write `images.npy`, uint8 `(32460, 3, size, size)`, character after character.

        The archives come from where those of the dataset `omniglot` do.
        """
        paths = [raw / f"{archive}.zip" for archive in CONTENT]
        try:
            fetch_archives(raw, mirror, progress)
            self.write_images(raw / "images.npy", paths, progress)
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

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
