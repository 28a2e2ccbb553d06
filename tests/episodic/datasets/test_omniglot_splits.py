"""Omniglot's splits need no images: they are known from the table."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest

from episodic.datasets import omniglot
from episodic.datasets.base import SPLITS
from episodic.datasets.omniglot import Omniglot


def members(config: Omniglot, seed: int = 0) -> dict[str, set[str]]:
    assigned = omniglot.assign_characters(config.split, seed)
    return {split: {name for name, where in assigned.items() if where == split} for split in SPLITS}


def sizes(config: Omniglot, seed: int = 0) -> list[int]:
    return [len(names) for names in members(config, seed).values()]


def test_the_table_is_omniglot():
    known = omniglot.list_characters()
    assert [c.name for c in known] == sorted({c.name for c in known})
    assert Counter(c.archive for c in known) == {"images_background": 964, "images_evaluation": 659}
    assert {
        archive: len({c.alphabet for c in known if c.archive == archive})
        for archive in omniglot.CONTENT
    } == {
        "images_background": 30,
        "images_evaluation": 20,
    }


@pytest.mark.parametrize("split", ["maml", "vinyals", "lake"])
def test_every_character_is_in_one_split_and_limits_report_their_number(split):
    unrotated = Omniglot(split, rotations=False)
    assert list(omniglot.assign_characters(split, 3)) == [
        c.name for c in omniglot.list_characters()
    ]
    assert sum(sizes(unrotated, 3)) == 1623
    assert list(unrotated.limits(3).classes.values()) == sizes(unrotated, 3)
    assert list(Omniglot(split).limits(3).classes.values()) == [4 * n for n in sizes(unrotated, 3)]
    train, validation, test = sizes(unrotated, 3)
    assert list(Omniglot(split, rotate_test=False).limits(3).classes.values()) == [
        4 * train,
        validation,
        test,
    ]
    assert unrotated.limits(3).examples == 20


def test_maml_draws_characters_by_seed_for_good():
    assert sizes(Omniglot("maml")) == [1100, 100, 423]
    assert (
        members(Omniglot("maml"), 1) == members(Omniglot("maml"), 1) != members(Omniglot("maml"), 2)
    )
    # By chance two seeds share 423 * 423 / 1623 = 110 test characters (standard deviation 8).
    assert (
        80 < len(members(Omniglot("maml"), 1)["test"] & members(Omniglot("maml"), 2)["test"]) < 140
    )
    pinned = hashlib.sha256(
        "\n".join(sorted(members(Omniglot("maml"))["test"])).encode()
    ).hexdigest()
    assert pinned[:16] == "0ad0826a38bee0b8", (
        "published figures rest on this split: it must never change"
    )


def test_vinyals_keeps_alphabets_apart_but_for_one():
    parts = members(Omniglot("vinyals"))
    assert [len(names) for names in parts.values()] == [1028, 172, 423]
    assert parts == members(Omniglot("vinyals"), 5)
    alphabets = {split: {name.split("/")[0] for name in names} for split, names in parts.items()}
    assert alphabets["train"] & alphabets["test"] == {"Gurmukhi"}
    assert not alphabets["validation"] & (alphabets["train"] | alphabets["test"])
    assert {name for name in parts["test"] if name.startswith("Gurmukhi/")} == {
        f"Gurmukhi/character{i}" for i in range(42, 46)
    }


def test_lake_holds_out_whole_background_alphabets_by_seed():
    background = {c.name for c in omniglot.list_characters() if c.archive == "images_background"}
    held_out = set()
    for seed in range(4):
        parts = members(Omniglot("lake"), seed)
        assert len(parts["test"]) == 659 and len(parts["train"] | parts["validation"]) == 964
        assert parts["train"] | parts["validation"] == background
        alphabets = {
            split: {name.split("/")[0] for name in names} for split, names in parts.items()
        }
        assert (
            len(alphabets["validation"]) == 5 and not alphabets["validation"] & alphabets["train"]
        )
        held_out.add(frozenset(alphabets["validation"]))
    assert len(held_out) == 4


def test_the_real_split_of_vinyals_is_the_published_one(mirror):
    if not (mirror / "omniglot" / "splits").is_dir():
        pytest.skip("the mirror has no omniglot/splits, the split files of Prototypical Networks")
    for split, short in zip(SPLITS, ("train", "val", "test"), strict=True):
        lines = (mirror / "omniglot" / "splits" / f"vinyals-{short}.txt").read_text().split()
        published = {
            f"{name}/rot{turn:03d}"
            for name in members(Omniglot("vinyals"))[split]
            for turn in omniglot.ROTATIONS
        }
        assert published == set(lines) and len(lines) == len(published)
