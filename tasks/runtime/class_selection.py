"""Classes of training: `train.classes`, `train.groups` and `train.hard_episode_fraction`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from episodic.core import random_numbers
from episodic.core.registry import did_you_mean
from episodic.data.sampling import NEIGHBOURS_PER_WAY, HardEpisodes
from episodic.data.similarity import find_neighbours, mean_class_inputs
from episodic.data.storage import Examples

if TYPE_CHECKING:
    from episodic.datasets.base import Limits
    from episodic.training.config import TrainingConfig


def find_errors(
    config: TrainingConfig, dataset: str, ways: int, limits: Limits | None
) -> list[str]:
    """Find settings of the section `train` that do not fit the dataset.

    Args:
        config: The section `train`.
        dataset: Name of the dataset.
        ways: Classes per training episode.
        limits: Numbers of classes and examples of the dataset; None for data without classes.

    Returns:
        One sentence per error.
    """
    if limits is None:
        values = {
            "classes": config.classes,
            "groups": config.groups and list(config.groups),
            "hard_episode_fraction": config.hard_episode_fraction or None,
        }
        allowed = {"classes": "null", "groups": "null", "hard_episode_fraction": "0"}
        return [
            f"train.{key} is {value}; it must be {allowed[key]} for {dataset}, which has no classes"
            for key, value in values.items()
            if value is not None
        ]
    available, description = limits.classes["train"], f"the number of training classes of {dataset}"
    if config.groups is not None:
        groups = limits.groups.get("train", {})
        if not groups:
            return [
                f"train.groups is {list(config.groups)}; it must be null for {dataset}, whose "
                "classes have no groups"
            ]
        if unknown := [group for group in config.groups if group not in groups]:
            return [
                f"train.groups contains {group!r}, which has no training classes; choose from "
                f"{', '.join(sorted(groups))}{did_you_mean(group, sorted(groups))}"
                for group in unknown
            ]
        available = sum(groups[group] for group in set(config.groups))
        description = "the number of classes of train.groups"
        if available < ways:
            return [
                f"train.groups is {list(config.groups)}, which has {available} classes; it must "
                f"have at least {ways}, the ways of a training episode"
            ]
    if config.classes is not None and not ways <= config.classes <= available:
        return [
            f"train.classes is {config.classes}; it must be null or between {ways} and "
            f"{available}, {description}"
        ]
    selected, neighbours = config.classes or available, NEIGHBOURS_PER_WAY * ways
    if config.hard_episode_fraction and neighbours >= selected:
        return [
            f"train.hard_episode_fraction is {config.hard_episode_fraction}; it must be 0 with at "
            f"most {neighbours} training classes ({NEIGHBOURS_PER_WAY} x ways), here {selected}"
        ]
    return []


def select_classes(table: pd.DataFrame, config: TrainingConfig) -> pd.DataFrame:
    """Select the rows of the class table that training draws from.

    The order depends only on `train.seed` and the row of each class, so a smaller selection is a
    subset of a larger one.

    Args:
        table: The class table of all splits.
        config: The section `train`.
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


def find_hard_episodes(
    fraction: float, examples: Examples, offsets: Tensor, counts: Tensor, ways: int
) -> HardEpisodes:
    """Find the neighbourhood of each class: the NEIGHBOURS_PER_WAY * ways most similar classes.

    Args:
        fraction: Fraction of the episodes that are hard.
        examples: Examples by row.
        offsets: First row of each class.
        counts: Examples per class.
        ways: Classes per episode.
    """
    means = mean_class_inputs(examples, offsets, counts)
    neighbours = find_neighbours(means, NEIGHBOURS_PER_WAY * ways)
    return HardEpisodes.from_neighbours(fraction, neighbours.to(offsets.device))
