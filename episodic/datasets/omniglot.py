"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from annotated_types import Ge, Le

from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import FetchError, Images, Limits, PhotoDataset
from episodic.datasets.sources.fetch import read_zip
from episodic.datasets.sources.omniglot import (
    CONTENT,
    MAX_BYTES,
    MAX_MEMBERS,
    fetch_archives,
    file_pattern,
)

__all__ = ["Omniglot"]

TABLE = Path(__file__).parent / "splits" / "omniglot.csv"
MAML = {"train": 1100, "validation": 100, "test": 423}
LAKE_VALIDATION = 5
DRAWINGS_PER_CHARACTER, FULL_SIZE = 20, 105
ROTATIONS = (0, 90, 180, 270)


@dataclass(frozen=True)
class Omniglot(PhotoDataset):
    """1,623 handwritten characters of 50 alphabets, each drawn by 20 people.

    Rotations by 90, 180 and 270 degrees, counter-clockwise, may be additional classes, as in
    Matching Networks. Images are resized from 105x105 pixels with antialiasing in Pillow's integer
    arithmetic, so every machine computes the same bytes. The splits are:

    `maml`: 1,100 / 100 / 423 random characters of all alphabets, as in the code of Finn, Abbeel,
    Levine: Model-Agnostic Meta-Learning (2017). The paper states 1,200 for training.
    https://arxiv.org/abs/1703.03400

    `vinyals`: 1,028 / 172 / 423 characters, after Vinyals et al.: Matching Networks (2016), as
    published by Snell, Swersky, Zemel with Prototypical Networks (2017). Whole alphabets, except
    one with four characters in the test split. https://arxiv.org/abs/1606.04080

    `lake`: the authors' own. 30 background alphabets (964 characters) for training and validation,
    20 others (659) for test. Five of the background alphabets, drawn at random, are for validation.

    Args:
        split: `maml`, `vinyals` or `lake`.
        rotations: Whether rotations are additional classes in training.
        rotate_test: Whether they are in validation and test too. Without `rotations` there are
            none.
        size: Height and width to which drawings are resized, in pixels.
        features: How images become examples. If they are resized or encoded, this starts from
            105x105 pixels.

    Licence: MIT.

    Brenden Lake, Ruslan Salakhutdinov, Joshua Tenenbaum: Human-level concept learning through
    probabilistic program induction, Science 350 (2015). https://doi.org/10.1126/science.aab3050
    """

    split: Literal["maml", "vinyals", "lake"] = "maml"
    rotations: bool = True
    rotate_test: bool = True
    size: Annotated[int, Ge(8), Le(FULL_SIZE)] = 28

    license = (
        "Omniglot, https://github.com/brendenlake/omniglot, MIT License, Copyright (c) 2015 "
        "Brenden Lake."
    )

    def rotations_of(self, split: str) -> tuple[int, ...]:
        """Return the rotations of each character in a split, in degrees."""
        rotated = self.rotations and (self.rotate_test or split == "train")
        return ROTATIONS if rotated else (0,)

    @property
    def protocol(self) -> str:
        """Description of the split and the rotations, for captions."""
        if not self.rotations:
            return f"{self.split} split, no rotations"
        where = "test too" if self.rotate_test else "training only"
        return f"{self.split} split, rotations as additional classes ({where})"

    def limits(self, seed: int, source: Path | None = None) -> Limits:
        splits = assign_characters(self.split, seed)
        members = (
            (splits[c.name], c.alphabet)
            for c in list_characters()
            for _ in self.rotations_of(splits[c.name])
        )
        shape = self.features.example_shape((1, self.size, self.size))
        return Limits.from_members(DRAWINGS_PER_CHARACTER, members, shape)

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Write `images_background.zip` and `images_evaluation.zip`.

        They come from the folder `omniglot` of the mirror, as zip archives or unpacked, or from the
        official address. Their bytes do not depend on it.
        """
        fetch_archives(raw, mirror, progress)

    def prepare(self, raw: Path, seed: int) -> Images:
        """Return images `(N, 1, size, size)`, ink 255 on 0, character after character.

        If `features` changes them, they are `(N, 1, 105, 105)`.

        Each character is followed by its rotations, whose names are `NAME/90` and so on.
        """
        from torchvision.transforms.v2 import functional

        drawings, splits = _read_drawings(raw), assign_characters(self.split, seed)
        classes = [
            (c, angle) for c in list_characters() for angle in self.rotations_of(splits[c.name])
        ]
        size = self.size if self.features.keeps_pixels else FULL_SIZE
        images = np.empty((len(classes) * DRAWINGS_PER_CHARACTER, 1, size, size), np.uint8)
        upright = torch.empty(0)
        for i, (character, angle) in enumerate(classes):
            if angle == 0:
                files = drawings[character.name]
                pixels = torch.stack([_decode_drawing(png, size) for png in files])
                upright = functional.invert(pixels)  # (20, 1, size, size)
            images[i * DRAWINGS_PER_CHARACTER : (i + 1) * DRAWINGS_PER_CHARACTER] = (
                functional.rotate(upright, angle).numpy()
            )
        return Images(
            images=images,
            classes=[f"{c.name}/{angle}" if angle else c.name for c, angle in classes],
            groups=[c.alphabet for c, _ in classes],
            splits=[splits[c.name] for c, _ in classes],
            counts=np.full(len(classes), DRAWINGS_PER_CHARACTER, np.int64),
            protocol=self.protocol,
            inverted=True,
            features=self.features,
        )


class Character(NamedTuple):
    """A character.

    Attributes:
        name: Its name, such as `Greek/character07`.
        alphabet: Name of its alphabet.
        archive: Name of the archive that contains its drawings.
        vinyals: Its split in `vinyals`.
    """

    name: str
    alphabet: str
    archive: str
    vinyals: str


@cache
def list_characters() -> tuple[Character, ...]:
    """Return all characters, sorted by name. They are known without the images."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(
            Character(
                f"{run['alphabet']}/character{number:02d}",
                run["alphabet"],
                run["archive"],
                run["vinyals"],
            )
            for run in csv.DictReader(file)
            for number in range(int(run["first"]), int(run["last"]) + 1)
        )


def assign_characters(split: str, seed: int) -> dict[str, str]:
    """Return the split of each character by name, in the order of `list_characters`."""
    known = list_characters()
    if split == "vinyals":
        return {c.name: c.vinyals for c in known}
    if split == "maml":
        order = _shuffle([c.name for c in known], seed, "maml")
        assigned = np.repeat(list(MAML), list(MAML.values())).tolist()
        by_name = dict(zip(order, assigned, strict=True))
        return {c.name: by_name[c.name] for c in known}
    background = {c.alphabet for c in known if c.archive == "images_background"}
    validation = _shuffle(sorted(background), seed, "lake")[:LAKE_VALIDATION]
    return {
        c.name: "test"
        if c.alphabet not in background
        else "validation"
        if c.alphabet in validation
        else "train"
        for c in known
    }


def _shuffle(names: list[str], seed: int, purpose: str) -> list[str]:
    """Return a random order: by a hash of each name, which no version of a library changes."""
    return sorted(
        names, key=lambda name: hashlib.sha256(f"{seed}/{purpose}/{name}".encode()).digest()
    )


def _read_drawings(raw: Path) -> dict[str, list[bytes]]:
    """Return the PNG files of each character, in the order of the people."""
    drawings: dict[str, list[bytes]] = defaultdict(list)
    for archive in CONTENT:
        path = raw / f"{archive}.zip"
        if not path.is_file():
            raise FetchError(f"{path} does not exist: run the stage download first")
        files = read_zip(
            path, pattern=file_pattern(archive), max_bytes=MAX_BYTES, max_members=MAX_MEMBERS
        )
        for name, content in files.items():
            drawings[name.split("/", 1)[1].rsplit("/", 1)[0]].append(content)
    if {name: len(files) for name, files in drawings.items()} != {
        c.name: DRAWINGS_PER_CHARACTER for c in list_characters()
    }:
        raise FetchError(
            f"{raw} does not contain all of Omniglot: remove it and run the stage download again"
        )
    return drawings


def _decode_drawing(png: bytes, size: int) -> torch.Tensor:
    """Decode a PNG file to uint8 `(1, size, size)`."""
    from PIL import Image
    from torchvision.transforms.v2 import functional

    # Resizing is integer arithmetic on a Pillow image; on a tensor it depends on the processor.
    image = Image.open(io.BytesIO(png)).convert("L")
    resized = functional.resize(image, [size, size], antialias=True)
    tensor: torch.Tensor = functional.pil_to_tensor(resized)
    return tensor
