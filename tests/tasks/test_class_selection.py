"""Classes of training, and the similarity of those of a hard episode."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import torch

from episodic.core.random_numbers import integers_below, random_bits
from episodic.data.similarity import cosine_similarity, mean_class_inputs
from episodic.datasets.base import Limits
from episodic.training.config import TrainingConfig
from tasks import download, episodes, params, prepared
from tasks.runtime import class_selection
from tasks.runtime.stage import StageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, raw = tmp_path_factory.mktemp("pool"), params.default_params()
    params.merge_into(
        raw,
        {"dataset": {"glyphs": {"alphabets": 8}}, "episodes": {"validation": 20, "test": 200}},
    )
    settings = params.parse(raw)
    download.run(settings, root / "raw")
    episodes.run(settings, root / "raw", root / "prepared")
    return prepared.open_folder(root / "prepared", torch.device("cpu")), settings


def trained_with(settings, **changes):
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, **changes))


def test_all_training_classes_are_selected_by_default(folder):
    source, settings = folder
    table = source.read_classes()
    assert class_selection.select_classes(table, settings.train).equals(
        table[table["split"] == "train"]
    )


def test_smaller_selections_are_nested_and_depend_on_the_seed(folder):
    table = folder[0].read_classes()
    sets = [
        set(class_selection.select_classes(table, TrainingConfig(classes=n)).index)
        for n in (5, 20, 60)
    ]
    assert [len(s) for s in sets] == [5, 20, 60] and sets[0] < sets[1] < sets[2]
    assert set(table["split"].iloc[list(sets[2])]) == {"train"}
    assert (
        set(class_selection.select_classes(table, TrainingConfig(classes=20, seed=1)).index)
        != sets[1]
    )
    small = class_selection.select_classes(table, TrainingConfig(classes=20)).index
    assert list(small) == sorted(small), "in the order of the table"


def test_groups_by_name(folder):
    table = folder[0].read_classes()
    names = sorted(table[table["split"] == "train"]["group"].unique())[:2]
    selected = class_selection.select_classes(table, TrainingConfig(groups=tuple(names)))
    assert set(selected["group"]) == set(names) and len(selected) == int(
        table["group"].isin(names).sum()
    )
    few = class_selection.select_classes(table, TrainingConfig(groups=tuple(names), classes=6))
    assert len(few) == 6 and set(few.index) < set(selected.index)


LIMITS = Limits(
    20,
    {"train": 30},
    groups={"train": {"Greek": 20, "Latin": 6, "Runes": 4}, "test": {"Braille": 9}},
)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"groups": ("Latin", "Runes")}, ""),
        (
            {"groups": ("Latni",)},
            "contains 'Latni', which has no training classes; choose from Greek, Latin, Runes "
            "- did you mean Latin?",
        ),
        ({"groups": ("Greek", "Braille")}, "contains 'Braille', which has no training classes"),
        (
            {"groups": ("Runes",)},
            "is ['Runes'], which has 4 classes; it must have at least 5, the ways",
        ),
        ({"groups": ("Runes", "Runes")}, ", which has 4 classes"),
        ({"groups": ("Latin",), "classes": 6}, ""),
        (
            {"groups": ("Latin",), "classes": 7},
            "train.classes is 7; it must be null or between 5 and 6, the number of classes of "
            "train.groups",
        ),
        (
            {"classes": 31},
            "train.classes is 31; it must be null or between 5 and 30, the number of training "
            "classes of made",
        ),
        ({"hard_episode_fraction": 0.5}, ""),
        ({"hard_episode_fraction": 0.5, "classes": 11}, ""),
        (
            {"hard_episode_fraction": 0.5, "classes": 10},
            "train.hard_episode_fraction is 0.5; it must be 0 with at most 10 training classes (2 "
            "x ways), here 10",
        ),
        (
            {"hard_episode_fraction": 0.5, "groups": ("Latin", "Runes")},
            "training classes (2 x ways), here 10",
        ),
        ({"hard_episode_fraction": 0.5, "groups": ("Greek",)}, ""),
    ],
)
def test_conflicts_are_found_before_data_is_downloaded(keys, message):
    errors = class_selection.find_errors(TrainingConfig(**keys), "made", 5, LIMITS)
    assert len(errors) == bool(message) and message in "".join(errors)


def test_neighbourhoods_are_smaller_than_the_training_set(folder):
    """With all classes in the neighbourhood, hard episodes would be ordinary ones."""
    source, settings = folder
    with pytest.raises(
        StageError,
        match=r"train\.hard_episode_fraction is 0\.5; it must be 0 with at most 10 training",
    ):
        raw = params.default_params()
        params.merge_into(raw, {"train": {"hard_episode_fraction": 0.5, "classes": 10}})
        params.parse(raw)
    hard = source._sampler(
        trained_with(settings, hard_episode_fraction=1.0, classes=11), "episode"
    ).hard_episodes
    assert hard.neighbourhoods.members.shape == (11, 10)


def test_the_central_class_is_in_half_of_its_hard_episodes(folder):
    source, settings = folder
    hard_sampler = source._sampler(trained_with(settings, hard_episode_fraction=1.0), "episode")
    index = torch.arange(2000)
    bits = random_bits(
        hard_sampler.key, index, 5 * (1 + hard_sampler.shots + hard_sampler.queries) + 2
    )
    around = integers_below(bits[:, -2], len(hard_sampler.counts))
    assert (
        abs(
            float((hard_sampler.draw_rows(index)[0] == around[:, None]).any(1).float().mean()) - 0.5
        )
        < 0.04
    )


def test_classes_of_hard_episodes_are_more_similar(folder):
    source, settings = folder
    table, index = source.read_classes(), torch.arange(300)
    train = class_selection.select_classes(table, settings.train)
    similarities = cosine_similarity(
        mean_class_inputs(
            source.examples,
            torch.tensor(train["offset"].to_numpy()),
            torch.tensor(train["count"].to_numpy()),
        )
    )

    def similarity(fraction: float) -> float:
        classes = source._sampler(
            trained_with(settings, hard_episode_fraction=fraction), "episode"
        ).draw_rows(index)[0]
        pairs = torch.combinations(torch.arange(classes.shape[1]))
        return float(similarities[classes[:, pairs[:, 0]], classes[:, pairs[:, 1]]].mean())

    ordinary, half, all_of_them = similarity(0.0), similarity(0.5), similarity(1.0)
    assert abs(ordinary) < 0.03, "ordinary episodes are not similar"
    assert all_of_them > 0.2 and abs(half - (ordinary + all_of_them) / 2) < 0.04


def test_a_fraction_of_0_changes_no_episode(folder):
    source, settings = folder
    index = torch.arange(50)
    ordinary, none = (
        source.training_sampler(s)(index)
        for s in (settings, trained_with(settings, hard_episode_fraction=0.0))
    )
    assert all(torch.equal(a, b) for a, b in zip(ordinary[:4], none[:4], strict=True))
    assert not torch.equal(
        ordinary.support_x,
        source.training_sampler(trained_with(settings, hard_episode_fraction=1.0))(index).support_x,
    )


def test_validation_and_test_episodes_are_never_hard(folder, tmp_path):
    source, settings = folder
    episodes.run(
        trained_with(settings, hard_episode_fraction=1.0, classes=20),
        source.folder.parent / "raw",
        tmp_path / "prepared",
    )
    for split in ("validation", "test"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(tmp_path / f"prepared/{split}.parquet"), source.read_episodes(split)
        )
