"""Selection of examples to label: closed forms on a line, bounds, ties, copies and sizes."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from episodic.analysis import selection
from episodic.analysis.selection import (
    count_represented,
    margins,
    select_covering,
    select_random,
    select_typical,
    select_uncertain,
    typicality,
)

NONE = torch.zeros(0, 1)


def line(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def cost(x: torch.Tensor, centres: torch.Tensor, weights: torch.Tensor) -> float:
    return float((weights * torch.cdist(x, centres).square().min(1).values).sum())


def test_margin_is_the_difference_of_the_two_largest():
    table = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0], [0.4, 0.4, 0.2]])
    torch.testing.assert_close(margins(table), torch.tensor([0.2, 1.0, 0.0]))


def test_typicality_by_hand():
    """Of 0, 1, 3: mean distances to two neighbours 2, 1.5, 2.5; to one neighbour 1, 1, 2."""
    x = line(0, 1, 3)
    torch.testing.assert_close(typicality(x), 1 / torch.tensor([2, 1.5, 2.5]).double())
    torch.testing.assert_close(typicality(x, 1), 1 / torch.tensor([1, 1, 2]).double())
    assert typicality(x[:1]).isinf().all() and typicality(line(2, 2)).isinf().all()


def test_the_first_example_is_the_medoid():
    """Sums of squared distances of 0, 1, 2, 7: 54, 38, 30, 110."""
    assert select_covering(line(0, 1, 2, 7), NONE, 4).tolist()[:2] == [2, 3]


def test_labelled_examples_cover_their_surroundings():
    x = line(0, 0.1, 0.2, 5, 5.1)
    assert select_covering(x, line(0.1), 1).tolist() == [3]
    assert select_covering(x, line(5), 1).tolist() == [1]
    assert select_covering(x, line(5), 1, torch.tensor([0.0, 0, 0, 0, 1])).tolist() == [4]


@pytest.mark.parametrize("seed", range(5))
def test_coverage_is_at_least_63_percent_of_the_best(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 2, generator=generator).double()
    labelled = torch.randn(1, 2, generator=generator).double()
    weights = torch.rand(12, generator=generator).double()
    chosen = select_covering(x, labelled, 3, weights)
    start = cost(x, labelled, weights)
    best = min(
        cost(x, torch.cat([labelled, x[list(c)]]), weights) for c in combinations(range(12), 3)
    )
    found = cost(x, torch.cat([labelled, x[chosen]]), weights)
    assert start - found >= (1 - 1 / torch.e) * (start - best)
    # Each step is the best single one: the lazy evaluation changes nothing.
    for step in range(3):
        before = torch.cat([labelled, x[chosen[:step]]])
        costs = [cost(x, torch.cat([before, x[j : j + 1]]), weights) for j in range(12)]
        assert min(range(12), key=costs.__getitem__) == chosen[step]


def test_a_large_pool_is_covered_by_a_random_part(monkeypatch):
    monkeypatch.setattr(selection, "MAX_REFERENCES", 40)
    monkeypatch.setattr(selection, "ROWS", 7)
    x = torch.arange(5.0).repeat_interleave(60)[:, None] * 100 + torch.rand(300, 1)
    chosen = select_covering(x, NONE, 5)
    assert sorted((chosen // 60).tolist()) == [0, 1, 2, 3, 4]


def test_uncertain_examples_in_the_order_of_their_margins():
    x = 100 * torch.eye(4)
    p = torch.tensor([0.7, 0.5, 0.9, 0.6])
    table = torch.stack([p, 1 - p], 1)
    assert select_uncertain(x, table, 4).tolist() == [1, 3, 0, 2]
    assert select_uncertain(x, torch.full((4, 2), 0.5), 4).tolist() == [0, 1, 2, 3]


def test_near_duplicates_do_not_fill_a_batch():
    x = torch.cat([1e-3 * torch.arange(10.0), torch.tensor([5.0, 9.0])])[:, None]
    p = torch.full((12,), 0.5)
    p[10:] = 0.8
    assert set(select_uncertain(x, torch.stack([p, 1 - p], 1), 3).tolist()) >= {10, 11}
    assert set(select_covering(x, NONE, 3).tolist()) >= {10, 11}
    assert set(select_typical(x, NONE, 3).tolist()) >= {10, 11}


def test_typical_examples_of_the_largest_clusters_without_a_label():
    x = line(0, 1, 1.1, 1.3, 20, 20.5, 20.6, 40)
    assert select_typical(x, NONE, 3).tolist() == [2, 5, 7]
    assert select_typical(x, line(1), 2).tolist() == [5, 7]
    # Clusters with fewer labels come before larger ones.
    assert select_typical(line(0, 0, 0, 9), line(0), 1).tolist() == [3]


def test_every_example_is_represented_once():
    x = line(0, 1, 2, 8, 9, 20)
    assert count_represented(x, NONE, torch.tensor([1, 4])).tolist() == [3, 3]
    assert count_represented(x, line(21), torch.tensor([1, 4])).tolist() == [3, 2]
    assert count_represented(x, line(1), torch.tensor([1])).tolist() == [0]


def test_sizes():
    """n larger than the pool, and an empty pool."""
    x, table = torch.rand(5, 3), torch.rand(5, 2).softmax(-1)
    for n in (0, 2, 5, 9):
        for chosen in (
            select_random(5, n, 0),
            select_uncertain(x, table, n),
            select_covering(x, x[:0], n),
            select_covering(x, x[:2], n),
            select_typical(x, x[:0], n),
            select_typical(x, x[:2], n),
        ):
            assert len(chosen) == len(set(chosen.tolist())) == min(n, 5)
            assert set(chosen.tolist()) <= set(range(5))
    assert len(select_covering(x[:0], x[:0], 3)) == len(select_typical(x[:0], x, 3)) == 0
    same = torch.zeros(4, 2)
    assert select_covering(same, same[:0], 4).tolist() == [0, 1, 2, 3], "ties: the first"


def test_random_order_depends_on_the_seed():
    assert select_random(50, 50, 0).tolist() != select_random(50, 50, 1).tolist()
    assert select_random(50, 10, 0).tolist() == select_random(50, 50, 0).tolist()[:10]
