"""The features of sentences, and the preprocessor that computes them. Needs the extra `text`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from episodic.core.config import require
from episodic.preprocessing.encoders.encoder import ENCODER_FOLDER
from episodic.preprocessing.sentences.base import SentencePreprocessor
from episodic.preprocessing.sentences.encoder import (
    EncoderPreprocessor,
    describe_encoder,
    embedding_size,
)
from episodic.preprocessing.sentences.ngrams import NgramPreprocessor, fit_idf
from episodic.preprocessing.sentences.tokens import (
    TokenPreprocessor,
    fit_tokenizer,
    load_tokenizer,
)

__all__ = [
    "TextFeatures",
    "build",
    "refit",
]


@dataclass(frozen=True)
class TextFeatures:
    """How sentences are encoded.

    Args:
        kind: `ngrams`, `tokens` or `encoder`.
        size: Number of distinct n-grams (rounded up to a power of 2) or tokens.
        length: Tokens per sentence. Longer sentences are truncated.
        path: Folder of the sentence encoder.
    """

    kind: Literal["ngrams", "tokens", "encoder"] = "ngrams"
    size: int = 8192
    length: int = 32
    path: str = ENCODER_FOLDER

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self) -> None:
        require(64 <= self.size <= 1 << 20, "size", self.size, "must be between 64 and 1048576")
        require(1 <= self.length <= 4096, "length", self.length, "must be between 1 and 4096")
        require(self.path != "", "path", self.path, "must be the folder of a sentence encoder")

    @property
    def input(self) -> tuple[int, ...]:
        """Shape of one example.

        Raises:
            InputError: The folder of the encoder cannot be used.
        """
        if self.kind == "encoder":
            return (embedding_size(Path(self.path)),)
        return (1 << (self.size - 1).bit_length(),) if self.kind == "ngrams" else (self.length,)

    def fit(self, sentences: Sequence[str]) -> dict[str, Any]:
        """Fit the features to the sentences of the training classes.

        Returns:
            The section `inputs` of a model's config.json.
        """
        config: dict[str, Any] = {"kind": "text", "features": self.kind}
        if self.kind == "ngrams":
            return config | {"idf": fit_idf(sentences, self.input[0])}
        if self.kind == "encoder":
            return config | {"encoder": describe_encoder(Path(self.path))}
        return config | {"tokenizer": fit_tokenizer(sentences, self.size)}


def refit(
    inputs: dict[str, Any], input: tuple[int, ...], sentences: Sequence[str]
) -> dict[str, Any]:
    """Fit features of the same kind and size to other sentences.

    Args:
        inputs: The section `inputs` that `TextFeatures.fit` returned.
        input: Shape of one example.
        sentences: The sentences to fit to.

    Returns:
        The new section `inputs`; the same one for a pretrained encoder, which is not fitted.
    """
    if inputs["features"] == "ngrams":
        return inputs | {"idf": fit_idf(sentences, input[0])}
    if inputs["features"] == "tokens":
        size = len(inputs["tokenizer"]["model"]["vocab"])
        return inputs | {"tokenizer": fit_tokenizer(sentences, size)}
    return inputs


def build(
    input: tuple[int, ...],
    features: str,
    idf: list[float] | None = None,
    tokenizer: dict[str, Any] | None = None,
    encoder: dict[str, str] | None = None,
    path: Path | None = None,
) -> SentencePreprocessor:
    """Make the preprocessor of `kind: text`.

    Args:
        input: Shape of one example.
        features: `ngrams`, `tokens` or `encoder`.
        idf: Weights of the n-grams.
        tokenizer: The fitted tokenizer.
        encoder: Name and digest of the encoder.
        path: Folder of the encoder; None to look it up in EPISODIC_ENCODER.

    Raises:
        ValueError: The options are inconsistent.
    """
    if features == "ngrams" and idf is not None:
        weights = np.asarray(idf, np.float64)
        if weights.shape != input or not np.isfinite(weights).all():
            raise ValueError(f"idf must contain {input[0]} finite numbers")
        return NgramPreprocessor(input, weights)
    if features == "tokens" and tokenizer is not None:
        return TokenPreprocessor(input, load_tokenizer(tokenizer))
    if features == "encoder" and encoder is not None:
        return EncoderPreprocessor(input, str(encoder["name"]), str(encoder["digest"]), path)
    raise ValueError(
        f"features is {features!r}; it must be ngrams with idf, tokens with tokenizer, or encoder "
        "with encoder"
    )
