"""CLINC150: what people say to an assistant, 150 intents of 10 domains with 150 sentences each, and sentences that are of none.

Stefan Larson et al.: An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction, EMNLP 2019.
https://www.aclweb.org/anthology/D19-1131
Test domains are new: 5 domains for training, 2 for validation and 3 for test, by the seed. (The official division is of the sentences of
each intent, which few-shot learning does not need: they are put together.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from episodic.core.files import atomic_path
from episodic.datasets.base import SPLITS, FetchError, Limits, Progress, Texts, no_progress
from episodic.datasets.sources.fetch import MIRROR, download, in_mirror
from episodic.preprocessing.text import TextFeatures

LICENSE = "CLINC150, https://github.com/clinc/oos-eval, Creative Commons Attribution 3.0, Stefan Larson et al. 2019."

ADDRESS = "https://raw.githubusercontent.com/clinc/oos-eval/master/data"
FILES = {
    "data_full.json": "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
    "domains.json": "b947b579d3b8e74b06f93b01083d8efaff2888b43a3e362533bd88a6e1211b3a",
}
"""SHA-256 of the official files."""
CAP = 64 << 20

DOMAINS = (
    "auto_and_commute",
    "banking",
    "credit_cards",
    "home",
    "kitchen_and_dining",
    "meta",
    "small_talk",
    "travel",
    "utility",
    "work",
)
INTENTS, SENTENCES = 15, 150
DIVISION = {"train": 5, "validation": 2, "test": 3}
OUTSIDE = "oos"


@dataclass(frozen=True)
class Config:
    """features: how sentences become numbers."""

    features: TextFeatures = field(default_factory=TextFeatures)

    __pydantic_config__ = {"extra": "forbid"}


def limits(config: Config, seed: int) -> Limits:
    return Limits.of(
        SENTENCES,
        (
            (split, domain)
            for domain, split in splits(DOMAINS, seed).items()
            for _ in range(INTENTS)
        ),
        config.features.input,
    )


def fetch(
    raw: Path, config: Config, *, mirror: Path | None = None, progress: Progress = no_progress
) -> None:
    """Writes the two official files, from the mirror's folder `clinc150` or the official address."""
    for name, digest in FILES.items():
        source = in_mirror(mirror, f"clinc150/{name}")
        mend = f"put the real file there, or unset {MIRROR} to download it"
        if source is not None:
            content = source.read_bytes()
        else:
            mend = f"connect to the network and run again, or set {MIRROR} to a folder that holds clinc150/{name}"
            try:
                download(f"{ADDRESS}/{name}", raw / name, cap=CAP, progress=progress)
            except FetchError as error:
                raise type(error)(f"{error}; {mend}") from error
            content = (raw / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise FetchError(
                f"{source or ADDRESS + '/' + name} is not CLINC150's {name} (another SHA-256 than {digest[:12]}...); {mend}"
            )
        with atomic_path(raw / name) as draft:
            draft.write_bytes(content)


def splits(domains: Iterable[str], seed: int) -> dict[str, str]:
    """The split of each domain: a random order by the seed."""
    order = sorted(
        domains, key=lambda name: hashlib.sha256(f"{seed}/clinc150/{name}".encode()).digest()
    )
    return dict(
        zip(order, np.repeat(SPLITS, [DIVISION[split] for split in SPLITS]).tolist(), strict=True)
    )


def prepare(raw: Path, config: Config, seed: int) -> Texts:
    """The sentences of each intent, intent after intent in the order of domains and names."""
    for name in FILES:
        if not (raw / name).is_file():
            raise FetchError(f"{raw / name} is missing: run the stage download first")
    content, domains = (json.loads((raw / name).read_text(encoding="utf-8")) for name in FILES)
    by_intent: dict[str, list[str]] = {}
    for part in ("train", "val", "test"):
        for sentence, intent in content[part]:
            by_intent.setdefault(intent, []).append(sentence)
    outside = [
        sentence for part in ("oos_train", "oos_val", "oos_test") for sentence, _ in content[part]
    ]
    split_of = splits(sorted(domains), seed)
    classes = [(domain, intent) for domain in sorted(domains) for intent in sorted(domains[domain])]
    return Texts(
        texts=[sentence for _, intent in classes for sentence in by_intent[intent]],
        classes=[intent for _, intent in classes],
        groups=[domain for domain, _ in classes],
        splits=[split_of[domain] for domain, _ in classes],
        counts=np.array([len(by_intent[intent]) for _, intent in classes], np.int64),
        protocol="new domains at test",
        features=config.features,
        outside=outside,
    )
