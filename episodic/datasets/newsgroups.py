"""20 Newsgroups: messages to 20 discussion groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import Limits, Texts
from episodic.datasets.sources.archives import Archive, iterate_files, obtain
from episodic.datasets.sources.class_table import read_class_table, require_counts
from episodic.datasets.sources.sentences import SentenceDataset, read_texts, write_texts

__all__ = ["Newsgroups"]

NAME = "newsgroups"
ARCHIVE = Archive(
    "20news-bydate.tar.gz",
    "https://ndownloader.figshare.com/files/5975967",
    "8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610",
    64 << 20,
)
FILE_PATTERN = r"20news-bydate-(?:train|test)/[\w.-]+/\d+"

SPLITS_OF_TOPICS = {"rec": "train", "sci": "train", "comp": "validation"}
"""The splits of the topics; the others are for test."""


@dataclass(frozen=True)
class Newsgroups(SentenceDataset):
    """18,846 messages to 20 discussion groups, 8 / 5 / 7 for training, validation and test.

    The split is by topic, as in the code of Yujia Bao et al.: Few-shot Text Classification with
    Distributional Signatures, ICLR 2020. https://arxiv.org/abs/1908.06039

    A message consists of its subject and the lines that its author wrote. The other lines of its
    header, which name the group, and quoted lines are removed.

    Args:
        features: How messages are encoded.

    Ken Lang: NewsWeeder: Learning to Filter Netnews, ICML 1995.
    http://qwone.com/~jason/20Newsgroups/
    """

    license = (
        "20 Newsgroups (by date), http://qwone.com/~jason/20Newsgroups/, Ken Lang 1995; no license "
        "is stated."
    )

    def limits(self, seed: int, source: Path | None = None) -> Limits:
        classes = read_class_table(NAME)
        smallest = min(classes, key=lambda c: c.examples)
        members = ((_split(c.name), _topic(c.name)) for c in classes)
        return Limits.from_members(smallest.examples, members, self.features.input, smallest.name)

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Write `texts.json`, the messages of each group in the order of their numbers.

        The archive comes from the folder `newsgroups` of the mirror, packed or unpacked, or from
        the official address. Its training and test messages are merged.
        """
        try:
            path = obtain(ARCHIVE, NAME, raw, mirror, progress)
            messages: dict[str, dict[str, str]] = {}
            for name, read in iterate_files(path, FILE_PATTERN):
                _, group, number = name.split("/")
                messages.setdefault(group, {})[number] = extract_text(read().decode("latin-1"))
            found = {group: len(texts) for group, texts in messages.items()}
            require_counts(found, read_class_table(NAME), str(path))
        finally:
            (raw / ARCHIVE.name).unlink(missing_ok=True)
        write_texts(
            raw,
            {
                group: [texts[number] for number in sorted(texts, key=int)]
                for group, texts in messages.items()
            },
        )

    def prepare(self, raw: Path, seed: int) -> Texts:
        texts = read_texts(raw)
        return Texts(
            texts=[text for group in texts.values() for text in group],
            classes=list(texts),
            groups=[_topic(name) for name in texts],
            splits=[_split(name) for name in texts],
            counts=np.array([len(group) for group in texts.values()], np.int64),
            protocol="new topics at test",
            features=self.features,
        )


def _topic(group: str) -> str:
    return group.split(".")[0]


def _split(group: str) -> str:
    return SPLITS_OF_TOPICS.get(_topic(group), "test")


def extract_text(message: str) -> str:
    """Return the subject and the unquoted lines of a message, separated by single spaces."""
    header, _, body = message.replace("\r\n", "\n").partition("\n\n")
    subject = [
        line.partition(":")[2] for line in header.split("\n") if line.lower().startswith("subject:")
    ]
    own = [line for line in body.split("\n") if not line.lstrip().startswith(">")]
    return " ".join(" ".join([*subject, *own]).split())
