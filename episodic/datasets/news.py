"""News Category Dataset: headlines of 41 categories of HuffPost."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import FetchError, Limits, Texts
from episodic.datasets.sources.fetch import MIRROR_VARIABLE, find_in_mirror
from episodic.datasets.sources.sentences import SentenceDataset, read_texts, write_texts

__all__ = ["News"]

FILES = ("News_Category_Dataset_v3.json", "News_Category_Dataset_v2.json")
MAX_BYTES = 256 << 20
"""Bound on the file, which has 87 MB."""

CATEGORIES = (
    *("ARTS", "ARTS & CULTURE", "BLACK VOICES", "BUSINESS", "COLLEGE", "COMEDY", "CRIME"),
    *("CULTURE & ARTS", "DIVORCE", "EDUCATION", "ENTERTAINMENT", "ENVIRONMENT", "FIFTY"),
    *("FOOD & DRINK", "GOOD NEWS", "GREEN", "HEALTHY LIVING", "HOME & LIVING", "IMPACT"),
    *("LATINO VOICES", "MEDIA", "MONEY", "PARENTING", "PARENTS", "POLITICS", "QUEER VOICES"),
    *("RELIGION", "SCIENCE", "SPORTS", "STYLE", "STYLE & BEAUTY", "TASTE", "TECH"),
    *("THE WORLDPOST", "TRAVEL", "WEDDINGS", "WEIRD NEWS", "WELLNESS", "WOMEN", "WORLD NEWS"),
    "WORLDPOST",
)
HEADLINES = 900
"""Headlines per category. The smallest category has 1,004."""

CLASSES_PER_SPLIT = {"train": 20, "validation": 5, "test": 16}


@dataclass(frozen=True)
class News(SentenceDataset):
    """Headlines of 41 categories of HuffPost, 900 each, 20 / 5 / 16 for training, validation, test.

    learn2learn's text dataset consists of the same categories. The numbers of classes and headlines
    are those of Yujia Bao et al.: Few-shot Text Classification with Distributional Signatures, ICLR
    2020 (https://arxiv.org/abs/1908.06039). The classes are split at random.

    Args:
        features: How headlines are encoded.

    Rishabh Misra: News Category Dataset, 2022. https://arxiv.org/abs/2209.11429
    """

    license = (
        "News Category Dataset, https://www.kaggle.com/datasets/rmisra/news-category-dataset, "
        "Creative Commons Attribution 4.0, Rishabh Misra 2022."
    )

    def limits(self, seed: int, source: Path | None = None) -> Limits:
        members = ((split, "") for split in assign_categories(seed).values())
        return Limits.from_members(HEADLINES, members, self.features.input)

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Write `texts.json`, the first headlines of each category.

        The file comes from the folder `news` of the mirror, since it can only be downloaded with an
        account.
        """
        path = find_in_mirror(mirror, *(f"news/{name}" for name in FILES))
        if path is None:
            raise FetchError(
                "the News Category Dataset cannot be downloaded without an account at "
                f"www.kaggle.com: set {MIRROR_VARIABLE} to a folder that contains news/{FILES[0]}"
            )
        if path.stat().st_size > MAX_BYTES:
            raise FetchError(f"{path} is rejected: it is larger than {MAX_BYTES} bytes")
        texts: dict[str, list[str]] = {category: [] for category in CATEGORIES}
        try:
            with path.open(encoding="utf-8") as file:
                for line in file:
                    row = json.loads(line)
                    headline = " ".join(row["headline"].split())
                    known = texts.get(row["category"])
                    if headline and known is not None and len(known) < HEADLINES:
                        known.append(headline)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FetchError(
                f"{path} is not the News Category Dataset: a line is not an object with the keys "
                f"category and headline ({error!r})"
            ) from error
        if short := [c for c in CATEGORIES if len(texts[c]) < HEADLINES]:
            raise FetchError(
                f"{path} is incomplete: {len(short)} of its {len(CATEGORIES)} categories do not "
                f"have {HEADLINES} headlines; {short[0]} has {len(texts[short[0]])}"
            )
        write_texts(raw, texts)

    def prepare(self, raw: Path, seed: int) -> Texts:
        texts, splits = read_texts(raw), assign_categories(seed)
        return Texts(
            texts=[text for headlines in texts.values() for text in headlines],
            classes=list(texts),
            groups=[""] * len(texts),
            splits=[splits[name] for name in texts],
            counts=np.array([len(headlines) for headlines in texts.values()], np.int64),
            protocol="classes split at random",
            features=self.features,
        )


def assign_categories(seed: int) -> dict[str, str]:
    """Assign each category to a split at random."""
    order = sorted(
        CATEGORIES, key=lambda name: hashlib.sha256(f"{seed}/news/{name}".encode()).digest()
    )
    splits = [split for split, classes in CLASSES_PER_SPLIT.items() for _ in range(classes)]
    return dict(zip(order, splits, strict=True))
