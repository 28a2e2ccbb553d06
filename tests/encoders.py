"""Encoders for tests: a fast image encoder, the files of a sentence encoder, and a tiny one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from episodic.preprocessing.encoders.architectures import LITE0
from episodic.preprocessing.encoders.encoder import find_encoder
from episodic.preprocessing.encoders.importing import import_weights


def import_small_encoder(path: Path, size: int) -> Path:
    """Import EfficientNet-Lite0 for images of `size` pixels, which is fast."""
    sizes = {"size": size, "resize": size}
    import_weights(find_encoder(LITE0), path, LITE0, sizes, license="Apache-2.0")
    return path


def write_encoder_files(folder: Path, width: int = 8, **config: object) -> Path:
    """Write the files of a sentence-transformers encoder, without working weights."""
    from safetensors.torch import save_file

    (folder / "1_Pooling").mkdir(parents=True)
    kinds = {
        "": "models.Transformer",
        "1_Pooling": "models.Pooling",
        "2_Normalize": "models.Normalize",
    }
    parts = [
        {"path": path, "type": f"sentence_transformers.{kind}"} for path, kind in kinds.items()
    ]
    (folder / "modules.json").write_text(json.dumps(parts))
    (folder / "config.json").write_text(json.dumps({"hidden_size": width} | config))
    (folder / "1_Pooling/config.json").write_text(
        json.dumps({"embedding_dimension": width, "pooling_mode": "mean"})
    )
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    return folder


def write_tiny_encoder(folder: Path, texts: Iterable[str], width: int = 32, seed: int = 0) -> Path:
    """Write a BERT of two layers whose vocabulary is the words of `texts`."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = sorted({word for text in texts for word in text.lower().split()})
    bert = folder.parent / f"{folder.name} bert"
    bert.mkdir(parents=True)
    (bert / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
    )
    torch.manual_seed(seed)
    shape = {
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 64,
    }
    BertModel(
        BertConfig(vocab_size=len(words) + 5, hidden_size=width, **shape)
    ).eval().save_pretrained(bert)
    BertTokenizerFast(vocab=str(bert / "vocab.txt")).save_pretrained(bert)
    transformer = modules.Transformer(str(bert))
    parts = [transformer, modules.Pooling(width, "mean"), modules.Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save(str(folder), safe_serialization=True)
    return folder
