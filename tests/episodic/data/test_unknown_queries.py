"""Queries of unknown classes: of other classes only, all of them, and reproducible."""

from __future__ import annotations

import torch

from episodic.data.unknown_queries import draw_unknown_rows

COUNTS = torch.tensor([3, 5, 2, 4, 6, 1])
OFFSETS = COUNTS.cumsum(0) - COUNTS
CLASS_OF_ROW = torch.arange(6).repeat_interleave(COUNTS)


def test_rows_are_of_all_other_classes():
    classes = torch.tensor([[4, 1, 0], [0, 5, 3], [2, 6, 6]])  # the last has one class
    rows = draw_unknown_rows(classes.repeat(50, 1), OFFSETS, COUNTS, 40, 0, "test")
    assert rows.shape == (150, 40)
    for i, others in enumerate(({2, 3, 5}, {1, 2, 4}, {0, 1, 3, 4, 5})):
        found = CLASS_OF_ROW[rows[i::3].flatten()]
        assert set(found.tolist()) == others
        shares = found.bincount(minlength=6)[sorted(others)] / len(found)
        assert (shares - 1 / len(others)).abs().max() < 0.05, "other classes are equally likely"
    assert set(rows[1::3].flatten().tolist()) == {3, 4, 5, 6, 7, 8, 9, 14, 15, 16, 17, 18, 19}


def test_rows_depend_on_seed_split_and_episode_alone():
    classes = torch.tensor([[0, 1]]).repeat(6, 1)
    rows = draw_unknown_rows(classes, OFFSETS, COUNTS, 10, 0, "test")
    assert torch.equal(draw_unknown_rows(classes[:4], OFFSETS, COUNTS, 10, 0, "test"), rows[:4])
    assert len({tuple(row) for row in rows.tolist()}) == 6
    for seed, split in ((1, "test"), (0, "validation")):
        other = draw_unknown_rows(classes, OFFSETS, COUNTS, 10, seed, split)
        assert not torch.equal(other, rows)
