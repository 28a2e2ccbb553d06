"""Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn once by 20 people.

Brenden Lake, Ruslan Salakhutdinov, Joshua Tenenbaum: Human-level concept learning through probabilistic program induction,
Science 350, 1332-1338 (2015). https://doi.org/10.1126/science.aab3050

Which characters are for training, validation and test (`split`):

`maml`
    1,100 / 100 / 423 characters drawn at random, alphabets mixed: what the code of Finn, Abbeel, Levine: Model-Agnostic
    Meta-Learning (2017) does; the paper itself says 1,200 for training. https://arxiv.org/abs/1703.03400
`vinyals`
    1,028 / 172 / 423, after Vinyals et al.: Matching Networks (2016), https://arxiv.org/abs/1606.04080, as Snell, Swersky, Zemel
    published it with Prototypical Networks (2017): whole alphabets, but for one that has four characters among the test ones.
`lake`
    The authors' own: 30 background alphabets (964 characters) to learn from and 20 others (659) to be tested on. Five of the
    background alphabets, chosen by `seed`, are for validation.

A turn of a character by 90, 180 or 270 degrees (counter-clockwise) may count as a class of its own, as in Matching Networks.
Images are brought from 105x105 to 28x28 with antialiasing, by Pillow's integer arithmetic, so that every machine finds the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from episodic.datasets.base import FetchError, Images, Limits, Progress, no_progress
from episodic.datasets.sources.fetch import (
    MIRROR,
    content_digest,
    download,
    in_mirror,
    read_folder,
    read_zip,
    write_zip,
)

LICENSE = "Omniglot, https://github.com/brendenlake/omniglot, MIT License, Copyright (c) 2015 Brenden Lake."

CONTENT = {
    "images_background": "7c563fb7d98dbd312c5e0ccb87230ca9d7e8a13d672e5de6186245e7905ed43e",
    "images_evaluation": "e5a69b751aa33f555bdc92febd48220b69a811b2ff01de32bf4d1bca47bd1809",
}
"""The archives and the `content_digest` of their images; torchvision knows their addresses and MD5s."""

CAP, MEMBERS = 64 << 20, 100_000
"""Bounds on an archive: the real ones are 10 MB with 20,000 members."""

TABLE = Path(__file__).parent / "splits" / "omniglot.csv"
MAML = {"train": 1100, "validation": 100, "test": 423}
LAKE_VALIDATION = 5
DRAWERS, SIZE = 20, 28
TURNS = (0, 90, 180, 270)


@dataclass(frozen=True)
class Config:
    """split: see above
    rotations: turns are classes of their own, for training
    rotate_test: ... and for validation and test too; without `rotations` there are none anywhere
    """

    split: Literal["maml", "vinyals", "lake"] = "maml"
    rotations: bool = True
    rotate_test: bool = True

    __pydantic_config__ = {"extra": "forbid"}

    def turns(self, split: str) -> tuple[int, ...]:
        return TURNS if self.rotations and (self.rotate_test or split == "train") else (0,)

    @property
    def protocol(self) -> str:
        if not self.rotations:
            return f"{self.split} split, no rotations"
        return f"{self.split} split, rotations as classes ({'test too' if self.rotate_test else 'training only'})"


class Character(NamedTuple):
    name: str  # Greek/character07
    alphabet: str
    archive: str
    vinyals: str


@cache
def characters() -> tuple[Character, ...]:
    """All characters, sorted by name; known without the images."""
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


def splits(config: Config, seed: int) -> dict[str, str]:
    """The split of each character by name, in the order of `characters`."""
    known = characters()
    if config.split == "vinyals":
        return {c.name: c.vinyals for c in known}
    if config.split == "maml":
        order = _shuffled([c.name for c in known], seed, "maml")
        drawn = dict(zip(order, np.repeat(list(MAML), list(MAML.values())).tolist(), strict=True))
        return {c.name: drawn[c.name] for c in known}
    background = {c.alphabet for c in known if c.archive == "images_background"}
    held_out = _shuffled(sorted(background), seed, "lake")[:LAKE_VALIDATION]
    return {
        c.name: "test"
        if c.alphabet not in background
        else "validation"
        if c.alphabet in held_out
        else "train"
        for c in known
    }


def _shuffled(names: list[str], seed: int, purpose: str) -> list[str]:
    """A random order that no version of any library can change: by a hash of each name."""
    return sorted(
        names, key=lambda name: hashlib.sha256(f"{seed}/{purpose}/{name}".encode()).digest()
    )


def limits(config: Config, seed: int) -> Limits:
    known = splits(config, seed)
    return Limits.of(
        DRAWERS,
        ((known[c.name], c.alphabet) for c in characters() for _ in config.turns(known[c.name])),
    )


def fetch(
    raw: Path, config: Config, *, mirror: Path | None = None, progress: Progress = no_progress
) -> None:
    """Writes `images_background.zip` and `images_evaluation.zip`, the same bytes wherever the images come from.

    They come from the mirror's folder `omniglot` (a zip archive, or the same unpacked) or else from the official address.
    Raises FetchError where neither has them, or has something else.
    """
    for archive in CONTENT:
        target = raw / f"{archive}.zip"
        source = in_mirror(mirror, f"omniglot/{archive}.zip", f"omniglot/{archive}")
        try:
            if source:
                files = _accepted(source, str(source), archive)
            else:
                url = f"{_official().download_url_prefix}/{archive}.zip"
                download(url, target, cap=CAP, progress=progress)
                files = _accepted(target, url, archive)
        except FetchError as error:
            mend = f"connect to the network and run again, or set {MIRROR} to a folder that holds omniglot/{archive}.zip"
            if source:
                mend = f"put the real archive there, or unset {MIRROR} to download it"
            elif mirror:
                mend += f" ({mirror} does not)"
            raise type(error)(f"{error}; {mend}") from error
        write_zip(target, files)


def _accepted(source: Path, name: str, archive: str) -> dict[str, bytes]:
    """The images of a zip archive or a folder, if their contents or the archive itself are the official ones."""
    files = (read_folder if source.is_dir() else read_zip)(
        source, wanted=_wanted(archive), cap=CAP, most=MEMBERS, name=name
    )
    found = content_digest(files)
    if found != CONTENT[archive] and (
        source.is_dir() or _md5(source) != _official().zips_md5[archive]
    ):
        raise FetchError(
            f"{name} is not Omniglot's {archive}: its {len(files)} images have the content digest {found[:12]}... "
            f"where {CONTENT[archive][:12]}... is expected"
        )
    return files


def _official() -> Any:
    """torchvision's class: it knows the addresses and the archives' MD5s."""
    from torchvision.datasets import Omniglot

    return Omniglot


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _wanted(archive: str) -> str:
    return rf"{archive}/[^/\\]+/character\d\d/\d{{4}}_\d\d\.png"


def prepare(raw: Path, config: Config, seed: int) -> Images:
    """Images `(N, 1, 28, 28)`, ink 255 on 0, character after character, each followed by its turns as `NAME/90` and so on.

    Raises FetchError where `raw` is not what `fetch` writes.
    """
    from torchvision.transforms.v2 import functional

    drawings, split_of = _drawings(raw), splits(config, seed)
    classes = [(c, turn) for c in characters() for turn in config.turns(split_of[c.name])]
    images = np.empty((len(classes) * DRAWERS, 1, SIZE, SIZE), np.uint8)
    upright = torch.empty(0)
    for i, (character, turn) in enumerate(classes):
        if turn == 0:
            drawn = torch.stack(
                [_decode(png) for png in drawings[character.name]]
            )  # (20, 1, 28, 28)
            upright = functional.invert(drawn)
        images[i * DRAWERS : (i + 1) * DRAWERS] = functional.rotate(upright, turn).numpy()
    return Images(
        images=images,
        classes=[f"{c.name}/{turn}" if turn else c.name for c, turn in classes],
        groups=[c.alphabet for c, _ in classes],
        splits=[split_of[c.name] for c, _ in classes],
        counts=np.full(len(classes), DRAWERS, np.int64),
        protocol=config.protocol,
        inverted=True,
    )


def _drawings(raw: Path) -> dict[str, list[bytes]]:
    """The PNG files of each character, drawer after drawer."""
    result: dict[str, list[bytes]] = defaultdict(list)
    for archive in CONTENT:
        path = raw / f"{archive}.zip"
        if not path.is_file():
            raise FetchError(f"{path} is missing: run the stage download first")
        for name, content in read_zip(path, wanted=_wanted(archive), cap=CAP, most=MEMBERS).items():
            result[name.split("/", 1)[1].rsplit("/", 1)[0]].append(content)
    if {name: len(files) for name, files in result.items()} != {
        c.name: DRAWERS for c in characters()
    }:
        raise FetchError(
            f"{raw} does not hold all of Omniglot: remove it and run the stage download again"
        )
    return result


def _decode(png: bytes) -> torch.Tensor:
    """A PNG file as uint8 `(1, 28, 28)`."""
    from PIL import Image
    from torchvision.transforms.v2 import functional

    # On a Pillow image the resizing is exact integer arithmetic; on a tensor it would depend on the processor.
    return functional.pil_to_tensor(
        functional.resize(Image.open(io.BytesIO(png)).convert("L"), [SIZE, SIZE], antialias=True)
    )
