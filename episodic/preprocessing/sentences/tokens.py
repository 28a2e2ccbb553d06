"""Subword tokens of byte-pair encoding, learned from the sentences of the training classes.

Rico Sennrich, Barry Haddow, Alexandra Birch: Neural Machine Translation of Rare Words with Subword
Units, ACL 2016. https://arxiv.org/abs/1508.07909 (as implemented by the library `tokenizers`)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from episodic.core.progress import ProgressCallback, no_progress
from episodic.preprocessing.base import InputError
from episodic.preprocessing.sentences.base import SentencePreprocessor

__all__ = [
    "TokenPreprocessor",
    "fit_tokenizer",
    "load_tokenizer",
]


@dataclass(frozen=True)
class TokenPreprocessor(SentencePreprocessor):
    """Preprocessor that divides sentences into tokens.

    Args:
        input: Shape of one example, `(length,)`. Longer sentences are truncated, shorter ones
            padded with 0.
        tokenizer: A `tokenizers.Tokenizer`.
    """

    tokenizer: Any

    def encode(self, sentences: Sequence[str], progress: ProgressCallback = no_progress) -> Tensor:
        length = self.input[0]
        tokens = np.zeros((len(sentences), length), np.int64)
        for row, encoding in zip(tokens, self.tokenizer.encode_batch(list(sentences)), strict=True):
            ids = encoding.ids[:length]
            row[: len(ids)] = ids
        return torch.from_numpy(tokens)

    def _convert_array(self, x: NDArray[Any]) -> Tensor:
        vocabulary = self.tokenizer.get_vocab_size()
        in_range = not x.size or 0 <= x.min() <= x.max() < vocabulary
        if x.dtype.kind not in "ui" or not in_range:
            raise InputError("x has numbers that are not tokens: pass sentences")
        return torch.from_numpy(x.astype(np.int64))


def fit_tokenizer(sentences: Sequence[str], size: int) -> dict[str, Any]:
    """Learn a vocabulary of at most `size` tokens.

    Returns:
        The tokenizer in the JSON format of the library `tokenizers`.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="?"))  # noqa: S106 (a token of text)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["", "?"], show_progress=False)
    tokenizer.train_from_iterator(sentences, trainer)
    fitted: dict[str, Any] = json.loads(tokenizer.to_str())
    return fitted


def load_tokenizer(content: dict[str, Any]) -> Any:
    """Make the tokenizer that `fit_tokenizer` returned.

    Raises:
        ValueError: The content is not a tokenizer.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the library has no dedicated exception type
        raise ValueError(f"tokenizer cannot be read: {error}") from error
