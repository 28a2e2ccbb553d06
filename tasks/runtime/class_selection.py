"""Which classes training draws from (`train.classes`, `train.groups`), and which of its episodes are harder (`train.hard`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from episodic.core import random_numbers
from episodic.core.registry import did_you_mean
from episodic.data.sampling import NEAR, Hard
from episodic.data.similarity import class_means, nearest
from episodic.data.storage import Rows

if TYPE_CHECKING:
    from episodic.datasets.base import Limits
    from episodic.training.config import TrainingConfig


def mistakes(config: TrainingConfig, name: str, ways: int, limits: Limits | None) -> list[str]:
    """What is wrong with the keys for the data set `name`, a sentence each.

    ways: of a training episode; limits: None where the data has no classes
    """
    if limits is None:
        given = {
            "classes": config.classes,
            "groups": config.groups and list(config.groups),
            "hard_episode_fraction": config.hard_episode_fraction or None,
        }
        wanted = {"classes": "null", "groups": "null", "hard_episode_fraction": "0"}
        return [
            f"train.{key} is {value}; it must be {wanted[key]} for {name}, which has no classes"
            for key, value in given.items()
            if value is not None
        ]
    classes, of = limits.classes["train"], f"the classes of {name} to train on"
    if config.groups is not None:
        known = limits.groups.get("train", {})
        if not known:
            return [
                f"train.groups is {list(config.groups)}; it must be null for {name}, whose classes have no groups"
            ]
        if unknown := [group for group in config.groups if group not in known]:
            return [
                f"train.groups names {group!r}, which no class to train on is of; it must be some of {', '.join(sorted(known))}"
                f"{did_you_mean(group, sorted(known))}"
                for group in unknown
            ]
        classes, of = (
            sum(known[group] for group in set(config.groups)),
            "the classes of train.groups",
        )
        if classes < ways:
            return [
                f"train.groups is {list(config.groups)}; it must have at least {ways} classes, as many as a training episode; has {classes}"
            ]
    if config.classes is not None and not ways <= config.classes <= classes:
        return [
            f"train.classes is {config.classes}; it must be null or between {ways} and {classes}, {of}"
        ]
    drawn = config.classes or classes
    fraction = config.hard_episode_fraction
    if fraction and NEAR * ways >= drawn:
        return [
            f"train.hard_episode_fraction is {fraction}; it must be 0 with no more than"
            f" {NEAR * ways} training classes ({NEAR} x ways), here {drawn}"
        ]
    return []


def chosen(table: pd.DataFrame, config: TrainingConfig) -> pd.DataFrame:
    """The rows of the class table that training draws from.

    Which are the first `train.classes` depends on train.seed and each class's row alone: fewer are part of more.
    """
    train = table[table["split"] == "train"]
    if config.groups is not None:
        train = train[train["group"].isin(config.groups)]
    if config.classes is None:
        return train
    bits = random_numbers.random_bits(
        random_numbers.key(config.seed, "training classes"), torch.tensor(train.index.to_numpy()), 1
    )[:, 0]
    return train.iloc[bits.argsort(stable=True)[: config.classes].sort().values.numpy()]


def hard_episodes(share: float, examples: Rows, offsets: Tensor, counts: Tensor, ways: int) -> Hard:
    """Of each class the NEAR x ways most alike to it by their inputs, itself among them; offsets, counts: as of `ClassSampler`."""
    return Hard.of(
        share, nearest(class_means(examples, offsets, counts), NEAR * ways).to(offsets.device)
    )
