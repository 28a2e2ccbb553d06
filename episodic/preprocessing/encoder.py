"""A pretrained sentence encoder in a folder, as sentence-transformers saves it: sentences -> embeddings of length 1, float32.

Nothing is fetched and none of the folder's code runs: weights are safetensors, modules those of the library, which the extra `encoder`
brings and which is imported where it is used. It computes on the CPU with one thread, so that the same sentences give the same bytes.
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

from episodic.preprocessing.base import InputError
from episodic.preprocessing.text import Progress, Sentences, no_progress

FOLDER = "EPISODIC_ENCODER"
"""Names the encoder's folder where a model is used, or the folder that holds it under its name."""

MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
WIDTHS = ("hidden_size", "d_model", "dim", "n_embd")
"""What config.json of a transformer calls the length of its vectors."""

AT_ONCE = 64
"""Sentences that are encoded together, those of like length."""


def width(folder: Path) -> int:
    """The length of its embeddings; InputError in one sentence where the folder holds no encoder that can be used."""
    size = 0
    for kind, place in _modules(folder):
        if kind == "Transformer":
            config = _json(place / "config.json")
            if "auto_map" in config or (place / "adapter_config.json").exists():
                raise InputError(
                    f"{place} needs more than its weights (code of its own, or another model below it): take another encoder"
                )
            size = next((config[key] for key in WIDTHS if key in config), 0)
        elif kind == "Pooling":
            config = _json(place / "config.json")
            modes = config.get(
                "pooling_mode",
                [
                    key
                    for key, value in config.items()
                    if key.startswith("pooling_mode") and value is True
                ],
            )
            size *= 1 if isinstance(modes, str) else len(modes)
        elif kind == "Dense":
            size = _json(place / "config.json").get("out_features", 0)
        if kind in ("Transformer", "Dense") and not any(place.glob("*.safetensors")):
            pickles = sorted(path.name for path in place.glob("*.bin"))
            said = (
                f"its weights are a pickle ({pickles[0]}), which is not read"
                if pickles
                else "it has no weights (model.safetensors)"
            )
            raise InputError(
                f"{place}: {said}: save the encoder with sentence-transformers, as safetensors"
            )
    if type(size) is not int or size < 1:
        raise InputError(
            f"{folder} does not say how long its embeddings are: save the encoder with sentence-transformers"
        )
    return size


def described(folder: Path) -> dict[str, Any]:
    """What a model that was trained on its embeddings says of it: its name, and the digest of all that they depend on."""
    width(folder)
    places = dict.fromkeys([folder, *(place for _, place in _modules(folder))])
    files = [
        path
        for place in places
        if place.is_dir()
        for path in place.iterdir()
        if path.is_file() and _counts(path)
    ]
    lines = []
    for path in sorted(dict.fromkeys(files)):
        with path.open("rb") as file:
            lines.append(
                [
                    path.relative_to(folder).as_posix(),
                    hashlib.file_digest(file, "sha256").hexdigest(),
                ]
            )
    return {
        "name": folder.resolve().name,
        "digest": hashlib.sha256(json.dumps(lines).encode()).hexdigest(),
    }


def _counts(path: Path) -> bool:
    return path.suffix in (".json", ".safetensors", ".model") or path.name in (
        "vocab.txt",
        "merges.txt",
    )


def _modules(folder: Path) -> list[tuple[str, Path]]:
    """Kind and place of each part, in their order."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: name one that holds a sentence encoder")
    if not (folder / "modules.json").exists():
        return [("Transformer", folder)]  # the library then takes the mean of the tokens
    found = []
    for part in _json(folder / "modules.json", list):
        library, _, kind = str(part.get("type")).rpartition(".")
        place = folder / str(part.get("path", ""))
        if library.split(".")[0] != "sentence_transformers" or kind not in MODULES:
            raise InputError(
                f"{folder / 'modules.json'} names {part.get('type')}: an encoder may be made of {', '.join(MODULES)}"
            )
        if not place.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{folder / 'modules.json'} names {place}, which lies outside: put all of the encoder into its folder"
            )
        found.append((kind, place))
    return found


def _json(path: Path, kind: type = dict) -> Any:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path.parent} is no sentence encoder, since it has no {path.name}: name the folder of one"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({' '.join(str(error).split())}): copy the encoder again"
        ) from error
    if not isinstance(found, kind):
        raise InputError(f"{path} holds no {kind.__name__}: copy the encoder again")
    return found


@dataclass(frozen=True)
class Embedded(Sentences):
    """name, digest: as `described`; path: where it lies (None: FOLDER says it)"""

    name: str = ""
    digest: str = ""
    path: Path | None = None

    def __post_init__(self):
        if Path(self.name).name != self.name:
            raise ValueError(f"encoder.name is {self.name!r}: must be the name of a folder")

    def encode(self, texts: Sequence[str], progress: Progress = no_progress) -> Tensor:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found, library = np.zeros((len(texts), *self.input), np.float32), self._encoder
        with _one_thread():
            for start in range(0, len(order), AT_ONCE):
                rows = order[start : start + AT_ONCE]
                vectors = library.encode(
                    [texts[i] for i in rows], batch_size=AT_ONCE, show_progress_bar=False
                )
                if vectors.shape != (len(rows), *self.input) or not np.isfinite(vectors).all():
                    raise InputError(
                        f"the encoder {self.name} answers {vectors.shape}, not {self.input[0]} finite numbers a sentence"
                    )
                found[rows] = vectors / np.maximum(
                    np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12
                )
                progress("sentences", min(start + AT_ONCE, len(order)), len(order))
        return torch.from_numpy(found)

    @cached_property
    def _encoder(self) -> Any:
        folder = self.path or self._found()
        found = described(folder)["digest"]
        if found != self.digest:
            other = f"{folder} is not the encoder {self.name} that the model was trained with"
            raise InputError(
                f"{other} (digest {found[:12]}, not {self.digest[:12]}): put that one there, or train again"
            )
        return _loaded(folder)

    def _found(self) -> Path:
        named = os.environ.get(FOLDER)
        if not named:
            raise InputError(
                f"the model reads sentences by the encoder {self.name}: set {FOLDER} to its folder"
            )
        inside = Path(named) / self.name
        return inside if inside.is_dir() else Path(named)


def _loaded(folder: Path) -> Any:
    """The library's own object."""
    try:
        import huggingface_hub.constants as hub
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError as error:
        raise InputError(
            f"a sentence encoder needs one more package: pip install 'episodic-learning[encoder]' ({error})"
        ) from error
    online, bars = hub.HF_HUB_OFFLINE, logging.is_progress_bar_enabled()
    hub.HF_HUB_OFFLINE = True
    logging.disable_progress_bar()
    try:
        weights = {"use_safetensors": True, "dtype": torch.float32}
        return SentenceTransformer(
            str(folder.resolve()),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs=weights,
        ).eval()
    except Exception as error:  # what the library raises has no type of its own
        raise InputError(
            f"{folder} cannot be read as a sentence encoder ({' '.join(str(error).split())[:300]})"
        ) from error
    finally:
        hub.HF_HUB_OFFLINE = online
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
