"""CLINC150: requests to an assistant, 150 intents of 10 domains."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from episodic.core.files import atomic_path
from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import SPLITS, FetchError, Limits, Texts
from episodic.datasets.sources.fetch import MIRROR_VARIABLE, download, find_in_mirror
from episodic.datasets.sources.sentences import SentenceDataset

__all__ = ["Clinc150"]

ADDRESS = "https://raw.githubusercontent.com/clinc/oos-eval/master/data"
FILES = {
    "data_full.json": "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
    "domains.json": "b947b579d3b8e74b06f93b01083d8efaff2888b43a3e362533bd88a6e1211b3a",
}
"""SHA-256 of the official files."""
MAX_BYTES = 64 << 20

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
DOMAINS_PER_SPLIT = {"train": 5, "validation": 2, "test": 3}


@dataclass(frozen=True)
class Clinc150(SentenceDataset):
    """Requests to an assistant: 150 intents with 150 sentences each, 15 per domain.

    There are also sentences that belong to no intent. Whole domains are split at random: 5 for
    training, 2 for validation and 3 for test. The official split is of the sentences of each
    intent. Few-shot learning does not need it, so these parts are merged.

    Licence: Creative Commons Attribution 3.0.

    Args:
        features: How sentences are encoded.

    Stefan Larson et al.: An Evaluation Dataset for Intent Classification and Out-of-Scope
    Prediction, EMNLP 2019. https://www.aclweb.org/anthology/D19-1131
    """

    license = (
        "CLINC150, https://github.com/clinc/oos-eval, Creative Commons Attribution 3.0, Stefan "
        "Larson et al. 2019."
    )

    def limits(self, seed: int, source: Path | None = None) -> Limits:
        splits = assign_domains(DOMAINS, seed)
        members = ((split, domain) for domain, split in splits.items() for _ in range(INTENTS))
        return Limits.from_members(SENTENCES, members, self.features.input)

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Write the two official files.

        They come from the folder `clinc150` of the mirror or from the official address.
        """
        for name, digest in FILES.items():
            path = find_in_mirror(mirror, f"clinc150/{name}")
            remedy = f"put the real file there, or unset {MIRROR_VARIABLE} to download it"
            if path is not None:
                content = path.read_bytes()
            else:
                remedy = (
                    f"connect to the network and run again, or set {MIRROR_VARIABLE} to a "
                    f"folder that contains clinc150/{name}"
                )
                try:
                    download(
                        f"{ADDRESS}/{name}", raw / name, max_bytes=MAX_BYTES, progress=progress
                    )
                except FetchError as error:
                    raise type(error)(f"{error}; {remedy}") from error
                content = (raw / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise FetchError(
                    f"{path or ADDRESS + '/' + name} is not CLINC150's {name} (its SHA-256 is not "
                    f"{digest[:12]}...); {remedy}"
                )
            with atomic_path(raw / name) as draft:
                draft.write_bytes(content)

    def prepare(self, raw: Path, seed: int) -> Texts:
        """Return the sentences of each intent, sorted by domain and name of the intent."""
        for name in FILES:
            if not (raw / name).is_file():
                raise FetchError(f"{raw / name} does not exist: run the stage download first")
        content, domains = (json.loads((raw / name).read_text(encoding="utf-8")) for name in FILES)
        sentences: dict[str, list[str]] = {}
        for section in ("train", "val", "test"):
            for sentence, intent in content[section]:
                sentences.setdefault(intent, []).append(sentence)
        outside = [
            sentence
            for section in ("oos_train", "oos_val", "oos_test")
            for sentence, _ in content[section]
        ]
        splits = assign_domains(sorted(domains), seed)
        classes = [
            (domain, intent) for domain in sorted(domains) for intent in sorted(domains[domain])
        ]
        return Texts(
            texts=[sentence for _, intent in classes for sentence in sentences[intent]],
            classes=[intent for _, intent in classes],
            groups=[domain for domain, _ in classes],
            splits=[splits[domain] for domain, _ in classes],
            counts=np.array([len(sentences[intent]) for _, intent in classes], np.int64),
            protocol="new domains at test",
            features=self.features,
            outside=outside,
        )


def assign_domains(domains: Iterable[str], seed: int) -> dict[str, str]:
    """Assign each domain to a split at random."""
    order = sorted(
        domains, key=lambda name: hashlib.sha256(f"{seed}/clinc150/{name}".encode()).digest()
    )
    return dict(
        zip(
            order,
            np.repeat(SPLITS, [DOMAINS_PER_SPLIT[split] for split in SPLITS]).tolist(),
            strict=True,
        )
    )
