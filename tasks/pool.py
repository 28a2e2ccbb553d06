"""Which classes training draws from (`train.classes`, `train.groups`), and which of its episodes are harder (`train.hard`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from episodic import counter
from episodic.registry import did_you_mean
from episodic.sampling import NEAR, Hard
from episodic.similarity import class_means, nearest
from episodic.stored import Rows
from tasks.stage import StageError

if TYPE_CHECKING:
    from episodic.train import Config


def mistakes(config: Config, name: str, ways: int, classes: int | None, grouped: bool) -> list[str]:
    """What is wrong with the keys for the data set `name`, as far as it shows before there is data, a sentence each.

    ways: of a training episode; classes: how many there are to train on (None: the data has no classes); grouped: whether they have groups
    """
    if classes is None:
        given = {"classes": config.classes, "groups": config.groups and list(config.groups), "hard": config.hard or None}
        wanted = {"classes": "null", "groups": "null", "hard": "0"}
        return [
            f"train.{key} is {value}: must be {wanted[key]} for {name}, which has no classes"
            for key, value in given.items()
            if value is not None
        ]
    found = []
    if config.classes is not None and not ways <= config.classes <= classes:
        found.append(f"train.classes is {config.classes}: must be null or between {ways} and {classes}, the classes of {name} to train on")
    if config.groups is not None and not grouped:
        found.append(f"train.groups is {list(config.groups)}: must be null for {name}, whose classes have no groups")
    return found


def chosen(table: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The rows of the class table that training draws from.

    Which are the first `train.classes` depends on train.seed and each class's row alone: fewer are part of more.
    """
    train = table[table["split"] == "train"]
    if config.groups is not None:
        known = sorted(set(train["group"]))
        for name in config.groups:
            if name not in known:
                said = f"must be some of {', '.join(known)}{did_you_mean(name, known)}"
                raise StageError(f"train.groups names {name!r}, which no class to train on is of: {said}")
        train = train[train["group"].isin(config.groups)]
    if config.classes is None:
        return train
    if config.classes > len(train):
        raise StageError(f"train.classes is {config.classes}: must be at most {len(train)}, the classes of train.groups")
    bits = counter.draws(counter.key(config.seed, "training classes"), torch.tensor(train.index.to_numpy()), 1)[:, 0]
    return train.iloc[bits.argsort(stable=True)[: config.classes].sort().values.numpy()]


def hard_episodes(share: float, examples: Rows, offsets: Tensor, counts: Tensor, ways: int) -> Hard:
    """Episodes around each class, from how alike the inputs are; offsets, counts: as of `ClassSampler`."""
    return Hard.of(share, nearest(class_means(examples, offsets, counts), NEAR * ways).to(offsets.device))
