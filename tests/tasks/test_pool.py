"""Which classes training draws from, and how alike those of a harder episode are."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import torch

from episodic.similarity import class_means, cosine
from episodic.train import Config
from tasks import download, episodes, params, pool, prepared, preset
from tasks.stage import StageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, wanted = tmp_path_factory.mktemp("pool"), preset.defaults()
    preset.merge(wanted, {"dataset": {"glyphs": {"alphabets": 8}}, "episodes": {"validation": 20, "test": 200}})
    settings = params.parse(wanted)
    download.run(settings, root / "raw")
    episodes.run(settings, root / "raw", root / "prepared")
    return prepared.read(root / "prepared", torch.device("cpu")), settings


def trained_with(settings, **changes):
    return dataclasses.replace(settings, train=dataclasses.replace(settings.train, **changes))


def test_without_the_keys_every_class_is_trained_on(folder):
    source, settings = folder
    table = source.classes()
    assert pool.chosen(table, settings.train).equals(table[table["split"] == "train"])


def test_fewer_classes_are_part_of_more_and_another_seed_takes_others(folder):
    table = folder[0].classes()
    sets = [set(pool.chosen(table, Config(classes=n)).index) for n in (5, 20, 60)]
    assert [len(s) for s in sets] == [5, 20, 60] and sets[0] < sets[1] < sets[2]
    assert set(table["split"].iloc[list(sets[2])]) == {"train"}
    assert set(pool.chosen(table, Config(classes=20, seed=1)).index) != sets[1]
    small = pool.chosen(table, Config(classes=20)).index
    assert list(small) == sorted(small), "in the order of the table, as all of them are"


def test_groups_by_name(folder):
    table = folder[0].classes()
    names = sorted(table[table["split"] == "train"]["group"].unique())[:2]
    found = pool.chosen(table, Config(groups=tuple(names)))
    assert set(found["group"]) == set(names) and len(found) == int(table["group"].isin(names).sum())
    few = pool.chosen(table, Config(groups=tuple(names), classes=6))
    assert len(few) == 6 and set(few.index) < set(found.index)
    of_test = table[table["split"] == "test"]["group"].iloc[0]
    with pytest.raises(StageError, match=f"train.groups names '{of_test}', which no class to train on is of: must be some of {names[0]}, "):
        pool.chosen(table, Config(groups=(of_test,)))
    with pytest.raises(StageError, match=r"train\.classes is 500: must be at most"):
        pool.chosen(table, Config(groups=tuple(names), classes=500))


def test_harder_episodes_are_more_alike_than_chance(folder):
    source, settings = folder
    table, index = source.classes(), torch.arange(300)
    train = pool.chosen(table, settings.train)
    alike = cosine(class_means(source.examples(), torch.tensor(train["offset"].to_numpy()), torch.tensor(train["count"].to_numpy())))

    def similarity(share: float) -> float:
        classes = source.training(trained_with(settings, hard=share)).rows(index)[0]
        pairs = torch.combinations(torch.arange(classes.shape[1]))
        return float(alike[classes[:, pairs[:, 0]], classes[:, pairs[:, 1]]].mean())

    plain, half, all_of_them = similarity(0.0), similarity(0.5), similarity(1.0)
    assert abs(plain) < 0.03, "by chance they are not alike"
    assert all_of_them > 0.2 and abs(half - (plain + all_of_them) / 2) < 0.04


def test_a_share_of_0_is_the_episodes_without_it(folder):
    source, settings = folder
    index = torch.arange(50)
    plain, none = (source.training(s)(index) for s in (settings, trained_with(settings, hard=0.0)))
    assert all(torch.equal(a, b) for a, b in zip(plain[:4], none[:4], strict=True))
    assert not torch.equal(plain.support_x, source.training(trained_with(settings, hard=1.0))(index).support_x)


def test_test_and_validation_episodes_are_never_harder(folder, tmp_path):
    source, settings = folder
    episodes.run(trained_with(settings, hard=1.0, classes=10), source.folder.parent / "raw", tmp_path / "prepared")
    for split in ("validation", "test"):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"prepared/{split}.parquet"), source.table(split))
