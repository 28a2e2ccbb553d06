"""The stage `episodes`: its output depends only on params, and episodes stay within groups."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from tasks import download, episodes, params, prepared
from tasks.runtime.files import read_json

WAYS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Glyphs of ten alphabets, episodes within one of them."""
    root = tmp_path_factory.mktemp("episodes")
    raw = params.default_params()
    params.merge_into(
        raw,
        {
            "dataset": {"name": "glyphs", "glyphs": {"alphabets": 10}},
            "episodes": {"ways": WAYS, "within_group": True, "validation": 20, "test": 60},
            "train": {"within_group": True, "ways": 5},
            "algorithm": {"name": "protonet"},
        },
    )
    settings = params.parse(raw)
    download.run(settings, root / "raw")
    episodes.run(settings, root / "raw", root / "prepared")
    return root / "prepared", settings


def test_fixed_episodes_within_a_group(folder):
    path, _ = folder
    table = pd.read_parquet(path / "classes.parquet")
    for split in ("validation", "test"):
        groups = [
            set(table["group"].iloc[list(classes)])
            for classes in pd.read_parquet(path / f"{split}.parquet")["classes"]
        ]
        assert all(len(group) == 1 for group in groups)
    of_test = table[table["split"] == "test"].groupby("group").size()
    large = set(of_test[of_test >= WAYS].index)
    assert {name for group in groups for name in group} == large and len(large) > 1, (
        "every group that is large enough occurs"
    )
    assert read_json(path / "meta.json")["protocol"].endswith(
        f"each episode within one of {len(large)} groups (of {len(of_test)})"
    )


def test_training_episodes_within_a_group(folder):
    path, settings = folder
    source = prepared.open_folder(path, torch.device("cpu"))
    train = source.read_classes().query("split == 'train'")
    sampler = source.training_sampler(settings)
    classes, _, _ = sampler.draw_rows(torch.arange(40))
    assert classes.shape == (40, 5)
    assert all(train["group"].iloc[row].nunique() == 1 for row in classes.tolist())
    assert train["group"].iloc[classes.flatten().tolist()].nunique() > 1
