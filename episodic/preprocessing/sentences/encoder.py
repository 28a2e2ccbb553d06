"""Embeddings of a pretrained sentence encoder, scaled to length 1.

The encoder is a folder in the format of sentence-transformers. Nothing is downloaded, and no code
of the folder runs: its weights must be safetensors, its modules those of the library, which the
extra `encoder` installs. Sentences are encoded on the CPU by one thread, so results are
reproducible.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from episodic.core.files import holds_data
from episodic.core.progress import ProgressCallback, no_progress
from episodic.preprocessing.base import InputError
from episodic.preprocessing.encoders.encoder import ENCODER_VARIABLE
from episodic.preprocessing.sentences.base import SentencePreprocessor

__all__ = [
    "EncoderPreprocessor",
    "describe_encoder",
    "embedding_size",
]

MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
SIZE_KEYS = ("hidden_size", "d_model", "dim", "n_embd")
"""Keys for the embedding size in the config.json of a transformer."""

BATCH_SIZE = 64
"""Sentences that are encoded at once. Each batch has sentences of similar length."""


def embedding_size(folder: Path) -> int:
    """Read the length of an encoder's embeddings from its configuration.

    Raises:
        InputError: The folder has no usable encoder.
    """
    size = 0
    for kind, module_folder in _list_modules(folder):
        if kind == "Transformer":
            config = _read_json(module_folder / "config.json")
            if "auto_map" in config or (module_folder / "adapter_config.json").exists():
                raise InputError(
                    f"{module_folder} needs custom code or a second model: choose another encoder"
                )
            size = next((config[key] for key in SIZE_KEYS if key in config), 0)
        elif kind == "Pooling":
            size *= _count_pooling_modes(_read_json(module_folder / "config.json"))
        elif kind == "Dense":
            size = _read_json(module_folder / "config.json").get("out_features", 0)
        if kind in ("Transformer", "Dense") and not any(module_folder.glob("*.safetensors")):
            pickles = sorted(path.name for path in module_folder.glob("*.bin"))
            reason = (
                f"its weights are a pickle ({pickles[0]}), which is not read"
                if pickles
                else "it has no weights (model.safetensors)"
            )
            raise InputError(
                f"{module_folder}: {reason}: save the encoder by sentence-transformers as "
                "safetensors"
            )
    if type(size) is not int or size < 1:
        raise InputError(
            f"{folder} does not state the size of its embeddings: save it by sentence-transformers"
        )
    return size


def _count_pooling_modes(config: dict[str, Any]) -> int:
    if isinstance(config.get("pooling_mode"), str):
        return 1
    flags = [k for k, v in config.items() if k.startswith("pooling_mode") and v is True]
    return len(config.get("pooling_mode", flags))


def describe_encoder(folder: Path) -> dict[str, Any]:
    """Return the name of an encoder and the digest of everything that its embeddings depend on.

    Raises:
        InputError: The folder has no usable encoder.
    """
    embedding_size(folder)
    folders = dict.fromkeys(
        [folder, *(module_folder for _, module_folder in _list_modules(folder))]
    )
    files = {
        path
        for module_folder in folders
        if module_folder.is_dir()
        for path in module_folder.iterdir()
        if path.is_file() and _affects_embeddings(path)
    }
    digests = []
    for path in sorted(files):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        digests.append([path.relative_to(folder).as_posix(), digest])
    return {
        "name": folder.resolve().name,
        "digest": hashlib.sha256(json.dumps(digests).encode()).hexdigest(),
    }


def _affects_embeddings(path: Path) -> bool:
    return path.suffix in (".json", ".safetensors", ".model") or path.name in (
        "vocab.txt",
        "merges.txt",
    )


def _list_modules(folder: Path) -> list[tuple[str, Path]]:
    """Return the kind and the folder of each module, in their order."""
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist: specify the folder of a sentence encoder")
    if not holds_data(folder):
        raise InputError(
            f"{folder} is empty: put the files of a sentence encoder there, or set features.path "
            "to its folder"
        )
    if not (folder / "modules.json").exists():
        return [("Transformer", folder)]  # the library then takes the mean over tokens
    modules = []
    for module in _read_json(folder / "modules.json", list):
        library, _, kind = str(module.get("type")).rpartition(".")
        module_folder = folder / str(module.get("path", ""))
        if library.split(".")[0] != "sentence_transformers" or kind not in MODULES:
            raise InputError(
                f"{folder / 'modules.json'} lists {module.get('type')}: the modules of an encoder "
                f"must be of {', '.join(MODULES)}"
            )
        if not module_folder.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{folder / 'modules.json'} refers to {module_folder}, which lies outside: put all "
                "of the encoder into its folder"
            )
        modules.append((kind, module_folder))
    return modules


def _read_json(path: Path, kind: type = dict) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} is not a sentence encoder, since it has no {path.name}: "
            "specify a different folder"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({' '.join(str(error).split())}): copy the encoder again"
        ) from error
    if not isinstance(content, kind):
        raise InputError(f"{path} must contain a JSON {kind.__name__}: copy the encoder again")
    return content


@dataclass(frozen=True)
class EncoderPreprocessor(SentencePreprocessor):
    """Preprocessor that embeds sentences.

    Args:
        input: Shape of one example, `(size,)`.
        name: Name of the encoder's folder.
        digest: Digest of the encoder, as `describe_encoder` returns it.
        path: The encoder's folder; None to look it up in EPISODIC_ENCODER.
    """

    name: str = ""
    digest: str = ""
    path: Path | None = None

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name:
            raise ValueError(f"encoder.name is {self.name!r}; it must be the name of a folder")

    def encode(self, sentences: Sequence[str], progress: ProgressCallback = no_progress) -> Tensor:
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        embeddings = np.zeros((len(sentences), *self.input), np.float32)
        encoder = self._encoder
        with _one_thread():
            for start in range(0, len(order), BATCH_SIZE):
                rows = order[start : start + BATCH_SIZE]
                vectors = encoder.encode(
                    [sentences[i] for i in rows], batch_size=BATCH_SIZE, show_progress_bar=False
                )
                if vectors.shape != (len(rows), *self.input) or not np.isfinite(vectors).all():
                    raise InputError(
                        f"the encoder {self.name} returned {vectors.shape}, not {self.input[0]} "
                        "finite numbers per sentence: choose another encoder"
                    )
                length = np.linalg.norm(vectors, axis=1, keepdims=True)
                embeddings[rows] = vectors / np.maximum(length, 1e-12)
                progress("sentences", min(start + BATCH_SIZE, len(order)), len(order))
        return torch.from_numpy(embeddings)

    @cached_property
    def _encoder(self) -> Any:
        folder = self.path or self._find_folder()
        digest = describe_encoder(folder)["digest"]
        if digest != self.digest:
            raise InputError(
                f"{folder} is not the encoder {self.name} that the model was trained with (digest "
                f"{digest[:12]}, not {self.digest[:12]}): put that encoder there, or train again"
            )
        return _load_encoder(folder)

    def _find_folder(self) -> Path:
        named = os.environ.get(ENCODER_VARIABLE)
        if not named:
            raise InputError(
                f"the model needs the sentence encoder {self.name}: set {ENCODER_VARIABLE} to its "
                "folder"
            )
        inside = Path(named) / self.name
        return inside if inside.is_dir() else Path(named)


def _load_encoder(folder: Path) -> Any:
    """Return a `sentence_transformers.SentenceTransformer`."""
    try:
        import huggingface_hub.constants as hub
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError as error:
        raise InputError(
            "a sentence encoder needs one more package: pip install 'episodic-learning[encoder]' "
            f"({error})"
        ) from error
    offline, bars = hub.HF_HUB_OFFLINE, logging.is_progress_bar_enabled()
    hub.HF_HUB_OFFLINE = True
    logging.disable_progress_bar()
    try:
        return SentenceTransformer(
            str(folder.resolve()),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        ).eval()
    except Exception as error:  # the library has no dedicated exception type
        raise InputError(
            f"{folder} cannot be read as a sentence encoder ({' '.join(str(error).split())[:300]})"
        ) from error
    finally:
        hub.HF_HUB_OFFLINE = offline
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
