"""Sentences as numbers: hashed n-grams of characters, weighted, or subword tokens.

    ngrams: x_f = (1 + log count_f) idf_f, brought to length 1; f: hash of a run of 2 to 5 characters within a word (scikit-learn's
            HashingVectorizer), idf_f = log((1 + N) / (1 + N_f)) + 1 over the N sentences of the training classes
    tokens: ids of pieces of words, learned from the sentences of the training classes by byte-pair encoding (Sennrich et al. 2016,
            https://arxiv.org/abs/1508.07909; the library `tokenizers`), 0 after the end

Nothing is learned from validation or test classes. Needs the extra `text`.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from episodic.core.config import require
from episodic.preprocessing.base import InputError, listed, told
from episodic.preprocessing.numbers import array

if TYPE_CHECKING:
    from episodic.data.storage import SparseRows

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`."""


def no_progress(what: str, done: int, total: int) -> None:
    pass


LONGEST = 100_000
"""Characters of a sentence."""


NO_ENCODER = "data/README.md"
"""features.path where no encoder is used: a file that is always there, since DVC wants one."""


@dataclass(frozen=True)
class Features:
    """kind: ngrams or encoder (for the models bag and mlp), or tokens (for textcnn); size: how many n-grams (rounded up to a power of 2) or
    tokens are told apart; length: tokens of a sentence, of which longer ones lose their end; path: the folder of the sentence encoder."""

    kind: Literal["ngrams", "tokens", "encoder"] = "ngrams"
    size: int = 8192
    length: int = 32
    path: str = NO_ENCODER

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        require(64 <= self.size <= 1 << 20, "size", self.size, "must be between 64 and 1048576")
        require(1 <= self.length <= 4096, "length", self.length, "must be between 1 and 4096")
        named = self.kind != "encoder" or self.path not in ("", NO_ENCODER)
        require(
            named, "path", self.path, "must be the folder of a sentence encoder, for kind encoder"
        )

    @property
    def input(self) -> tuple[int, ...]:
        """Shape of one example; InputError where the encoder's folder cannot be used."""
        if self.kind == "encoder":
            from episodic.preprocessing import encoder

            return (encoder.width(Path(self.path)),)
        return (1 << (self.size - 1).bit_length(),) if self.kind == "ngrams" else (self.length,)


def fit(features: Features, texts: Sequence[str]) -> dict[str, Any]:
    """The section `inputs` of a model's config.json, from the sentences of its training classes."""
    if features.kind == "ngrams":
        counted = _hashed(texts, features.input[0])
        seen = np.bincount(counted.indices, minlength=features.input[0])
        idf = np.log((1 + len(texts)) / (1 + seen)) + 1
        return {
            "kind": "text",
            "features": "ngrams",
            "idf": [round(float(value), 4) for value in idf],
        }
    if features.kind == "encoder":
        from episodic.preprocessing import encoder

        return {
            "kind": "text",
            "features": "encoder",
            "encoder": encoder.described(Path(features.path)),
        }
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="?"))  # noqa: S106 (a token of text)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=features.size, special_tokens=["", "?"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return {"kind": "text", "features": "tokens", "tokenizer": json.loads(tokenizer.to_str())}


def _hashed(texts: Sequence[str], width: int) -> Any:
    """Counts of n-grams, a sparse matrix of scipy `(n, width)`."""
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        n_features=width,
        norm=None,
        alternate_sign=False,
        analyzer="char_wb",
        ngram_range=(2, 5),
        dtype=np.float32,
    )
    found = vectorizer.transform(texts)
    found.sort_indices()
    return found


@dataclass(frozen=True)
class Sentences:
    """input: `(width,)` of n-grams or `(length,)` of tokens"""

    input: tuple[int, ...]

    what = "sentence"

    def __call__(self, x: Any) -> Tensor:
        """From a list of text; or an array `(n, *input)` as the model sees it."""
        if isinstance(x, Tensor) or (isinstance(x, np.ndarray) and x.dtype.kind in "buif"):
            return self._prepared(array(x, self.input))
        return self.encode(sentences(listed(x, self.what)))[torch.arange(len(x))]

    def encode(self, texts: Sequence[str], progress: Progress = no_progress) -> SparseRows | Tensor:
        """Rows of prepared examples."""
        raise NotImplementedError

    def _prepared(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x.astype(np.float32))

    def in_folder(self, folder: Path) -> list[str]:
        """Every line of its `.txt` files."""
        return lines_in(folder)

    def in_file(self, path: Path) -> list[str]:
        return lines_of(path)


@dataclass(frozen=True)
class Ngrams(Sentences):
    idf: np.ndarray

    def encode(self, texts: Sequence[str], progress: Progress = no_progress) -> SparseRows:
        from episodic.data.storage import SparseRows

        found = _hashed(texts, self.input[0])
        values = (1 + np.log(found.data)) * self.idf[found.indices]
        row = np.repeat(np.arange(len(texts)), np.diff(found.indptr))
        length = np.sqrt(np.bincount(row, values**2, minlength=len(texts)))[row]
        values = (values / np.maximum(length, 1e-12)).astype(np.float32)
        starts, places = found.indptr.astype(np.int64), found.indices.astype(np.int32)
        return SparseRows(
            torch.from_numpy(starts),
            torch.from_numpy(places),
            torch.from_numpy(values),
            self.input[0],
        )


@dataclass(frozen=True)
class Tokens(Sentences):
    tokenizer: Any

    def encode(self, texts: Sequence[str], progress: Progress = no_progress) -> Tensor:
        length = self.input[0]
        found = np.zeros((len(texts), length), np.int64)
        for row, encoded in zip(found, self.tokenizer.encode_batch(list(texts)), strict=True):
            ids = encoded.ids[:length]
            row[: len(ids)] = ids
        return torch.from_numpy(found)

    def _prepared(self, x: np.ndarray) -> Tensor:
        if x.dtype.kind not in "ui" or (
            x.size and not 0 <= x.min() <= x.max() < self.tokenizer.get_vocab_size()
        ):
            raise InputError("x holds numbers that are no tokens: give sentences")
        return torch.from_numpy(x.astype(np.int64))


@dataclass(frozen=True)
class TfIdf:
    """What there was before: tf-idf of words, and on it the nearest class mean (by cosine), or a logistic regression on the support set."""

    vectorizer: Any

    @classmethod
    def fit(cls, texts: Sequence[str]) -> TfIdf:
        """texts: what the weights of words are counted in"""
        from sklearn.feature_extraction.text import TfidfVectorizer

        return cls(TfidfVectorizer(sublinear_tf=True).fit(texts))

    def answers(
        self, support: Sequence[str], labels: np.ndarray, query: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """The class of each query by either."""
        from sklearn.linear_model import LogisticRegression

        x, q = (self.vectorizer.transform(texts).toarray() for texts in (support, query))
        classes = np.unique(labels)
        means = np.stack([x[labels == c].mean(0) for c in classes])
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        # With a squared penalty the solution lies in the span of the support set: in a basis of it, it is the same, and found at once.
        basis, coordinates = np.linalg.qr(x.T)
        regression = LogisticRegression(C=REGULARIZATION, max_iter=1000).fit(coordinates.T, labels)
        return {
            "tfidf_centroid": classes[(q @ means.T).argmax(1)],
            "tfidf_logistic": regression.predict(q @ basis),
        }


REGULARIZATION = 10.0
"""Inverse strength, scikit-learn's C: on CLINC150's validation domains 1, 10 and 100 differ by less than 0.1 points, 5-way 1-shot."""


def lines_in(folder: Path) -> list[str]:
    """The lines of the `.txt` files of a folder, hidden ones left out, by name."""
    files = sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() == ".txt" and not p.name.startswith(".") and p.is_file()
    )
    return [line for path in files for line in lines_of(path)]


def lines_of(path: Path) -> list[str]:
    """The lines of a file that are not empty."""
    try:
        return [
            line.strip()
            for line in path.read_text(encoding="utf-8-sig").splitlines()
            if line.strip()
        ]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start})"
        ) from error


def read_table(path: Path | None) -> list[dict[str, str]]:
    """`table` of a file, or of standard input."""
    if path is None:
        return table(sys.stdin.read(), "standard input")
    try:
        return table(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start})"
        ) from error


def table(content: str, name: str) -> list[dict[str, str]]:
    """The rows of a CSV of labelled sentences: its columns `text` and `label`, and whatever else there is; InputError lists what is wrong.

    name: of the file, for the sentences of an error
    """
    reader = csv.DictReader(io.StringIO(content.removeprefix("\ufeff")))
    absent = [column for column in ("text", "label") if column not in (reader.fieldnames or [])]
    if absent:
        raise InputError(
            f"{name} has no column {' and '.join(absent)}: its first line must name the columns text and label"
        )
    rows, problems = [], []
    try:
        for row in reader:
            empty = [column for column in ("text", "label") if not (row[column] or "").strip()]
            if empty:
                problems.append(f"{name}, line {reader.line_num}: {' and '.join(empty)} is empty")
            rows.append(
                {
                    key: (value or "").strip()
                    for key, value in row.items()
                    if isinstance(key, str) and isinstance(value, str | None)
                }
            )
    except csv.Error as error:
        problems.append(f"{name}, line {reader.line_num}: {error}")
    if problems or not rows:
        raise InputError("\n".join(told(problems)) or f"{name} has no rows")
    return rows


def sentences(x: Sequence[Any]) -> list[str]:
    """x as sentences; InputError for each that is none."""
    problems = [
        f"example {i} is a {type(one).__name__}, not text"
        for i, one in enumerate(x)
        if not isinstance(one, str)
    ]
    problems += [
        f"example {i} is empty"
        for i, one in enumerate(x)
        if isinstance(one, str) and not one.strip()
    ]
    problems += [
        f"example {i} has {len(one):,} characters, more than {LONGEST:,}"
        for i, one in enumerate(x)
        if isinstance(one, str) and len(one) > LONGEST
    ]
    if problems or not len(x):
        raise InputError("\n".join(told(problems)) or "there are no sentences")
    return list(x)


def build(
    input: tuple[int, ...],
    features: str,
    idf: list[float] | None = None,
    tokenizer: dict[str, Any] | None = None,
    encoder: dict[str, str] | None = None,
    path: Path | None = None,
) -> Sentences:
    """path: where the encoder lies, if that is known"""
    if features == "ngrams" and idf is not None:
        weights = np.asarray(idf, np.float64)
        if weights.shape != input or not np.isfinite(weights).all():
            raise ValueError(f"idf must hold {input[0]} finite numbers")
        return Ngrams(input, weights)
    if features == "tokens" and tokenizer is not None:
        from tokenizers import Tokenizer

        try:
            return Tokens(input, Tokenizer.from_str(json.dumps(tokenizer)))
        except Exception as error:  # what the library raises has no type of its own
            raise ValueError(f"tokenizer cannot be read: {error}") from error
    if features == "encoder" and encoder is not None:
        from episodic.preprocessing.encoder import Embedded

        return Embedded(input, str(encoder["name"]), str(encoder["digest"]), path)
    raise ValueError(
        f"features is {features!r}: must be ngrams, with idf, tokens, with tokenizer, or encoder, with encoder"
    )
