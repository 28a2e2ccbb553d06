"""Episodes are a pure function of (seed, split, index), and fair."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from episodic.core import random_numbers
from episodic.core.config import ConfigError
from episodic.data.sampling import (
    ClassGroups,
    ClassSampler,
    HardEpisodes,
    SinusoidSampler,
    draw_classes_and_examples,
)


def sampler(
    classes: int = 7,
    ways: int = 3,
    shots: int = 1,
    queries: int = 2,
    seed: int = 0,
    split: str = "train",
    counts=None,
) -> ClassSampler:
    counts = torch.full((classes,), 5) if counts is None else torch.tensor(counts)
    offsets = counts.cumsum(0) - counts
    images = torch.arange(int(counts.sum()), dtype=torch.uint8)[:, None, None, None].expand(
        -1, 1, 2, 2
    )
    return ClassSampler(images, offsets, counts, seed, split, ways, shots, queries)


sizes = st.fixed_dictionaries(
    {
        "ways": st.integers(1, 6),
        "shots": st.integers(1, 3),
        "queries": st.integers(1, 4),
        "seed": st.integers(0, 2**40),
    }
)


@given(
    size=sizes,
    counts=st.lists(st.integers(7, 30), min_size=6, max_size=12),
    index=st.integers(0, 2**40),
)
def test_an_episode_is_well_formed(size, counts, index):
    episode_sampler = sampler(counts=counts, **size)
    classes, support, query = episode_sampler.draw_rows(torch.tensor([index]))
    assert len(set(classes[0].tolist())) == size["ways"], "classes are distinct"
    rows = support[0].tolist() + query[0].tolist()
    assert len(set(rows)) == len(rows), "support and query are disjoint and without repetition"
    for position, name in enumerate(classes[0].tolist()):
        low, high = (
            int(episode_sampler.offsets[name]),
            int(episode_sampler.offsets[name] + episode_sampler.counts[name]),
        )
        of_class = (
            support[0].view(size["ways"], -1)[position].tolist()
            + query[0].view(size["ways"], -1)[position].tolist()
        )
        assert all(low <= row < high for row in of_class), "every image is one of its class"
    episode = episode_sampler(torch.tensor([index]))
    for y, n in ((episode.support_y, size["shots"]), (episode.query_y, size["queries"])):
        assert y[0].tolist() == [label for label in range(size["ways"]) for _ in range(n)]
    assert episode.support_x.dtype == torch.float32 and float(episode.support_x.max()) <= 1


@given(size=sizes, index=st.lists(st.integers(0, 2**40), min_size=1, max_size=8))
def test_a_batch_equals_single_episodes(size, index):
    episode_sampler = sampler(classes=9, counts=[9] * 9, **size)
    batch = episode_sampler.draw_rows(torch.tensor(index))
    for position, i in enumerate(index):
        for whole, single in zip(batch, episode_sampler.draw_rows(torch.tensor([i])), strict=True):
            assert torch.equal(whole[position], single[0])


def test_splits_and_seeds_draw_different_episodes():
    index = torch.arange(50)
    base = sampler(classes=100).draw_rows(index)[0]
    assert not torch.equal(base, sampler(classes=100, split="test").draw_rows(index)[0])
    assert not torch.equal(base, sampler(classes=100, seed=1).draw_rows(index)[0])
    assert torch.equal(base, sampler(classes=100).draw_rows(index)[0])


def chi_square(counts: torch.Tensor) -> float:
    expected = counts.double().mean()
    return float(((counts - expected) ** 2 / expected).sum())


def bound(degrees: int) -> float:
    """About the 99.99 % quantile of chi-square (Wilson and Hilferty's cube)."""
    return degrees * (1 - 2 / (9 * degrees) + 3.72 * (2 / (9 * degrees)) ** 0.5) ** 3


def test_classes_images_and_orders_are_uniform():
    index = torch.arange(20_000)
    classes, examples = draw_classes_and_examples(
        random_numbers.key(3, "train"), index, torch.full((12,), 6), ways=3, size=4
    )
    for position in range(3):
        assert chi_square(classes[:, position].bincount(minlength=12)) < bound(11)
    for slot in range(4):
        assert chi_square(examples[:, :, slot].flatten().bincount(minlength=6)) < bound(5)
    # Every ordered selection of two of the six images is equally likely, in all pairs of places.
    for a, b in ((0, 1), (2, 3), (0, 3)):
        pairs = (examples[:, 0, a] * 6 + examples[:, 0, b]).bincount(minlength=36)
        allowed = torch.tensor([x * 6 + y for x, y in itertools.permutations(range(6), 2)])
        assert pairs.sum() == pairs[allowed].sum()
        assert chi_square(pairs[allowed]) < bound(29)
    # The order of a set of classes is random too.
    codes = torch.tensor([9 * a + 3 * b + c for a, b, c in itertools.permutations(range(3))])
    order = (classes.argsort(1).argsort(1) * torch.tensor([9, 3, 1])).sum(1)
    assert chi_square((order[:, None] == codes).sum(0)) < bound(5)


def test_uniformity_bound_can_fail():
    skewed = torch.tensor([1700] * 6 + [1640] * 5 + [1600])
    assert chi_square(skewed * 12) > bound(11)


def test_choose_all_is_a_permutation():
    bits = random_numbers.random_bits(random_numbers.key(0, "x"), torch.arange(500), 6)
    assert torch.equal(
        random_numbers.sample_distinct(bits, 6, 6).sort(1).values, torch.arange(6).expand(500, 6)
    )


def test_draws_are_frozen():
    """A change here changes all episodes of earlier experiments."""
    assert random_numbers.key(0, "train") == 2765697047129211453
    drawn = random_numbers.random_bits(
        random_numbers.key(0, "train"), torch.tensor([0, 1, 10**12]), 2
    )
    assert drawn.tolist() == FROZEN


FROZEN = [
    [-3466687042821201363, 7051051229073953925],
    [-4048328670470656912, -6153497036186027842],
    [-8636087071775866882, 5852818250068692312],
]


def splitmix(state: int) -> int:
    """SplitMix64's output function as published, on Python integers."""
    mask = (1 << 64) - 1
    z = state & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return z ^ (z >> 31)


@given(
    key=st.integers(-(2**63), 2**63 - 1), index=st.integers(0, 2**50), position=st.integers(0, 5)
)
def test_draws_are_splitmix64(key, index, position):
    gamma = 0x9E3779B97F4A7C15
    expected = splitmix(splitmix(key + gamma * (index + 1)) + gamma * (position + 1))
    assert (
        random_numbers.random_bits(key, torch.tensor([index]), 6)[0, position].item() % (1 << 64)
        == expected
    )


def _rows(index: range) -> list:
    return [tensor.tolist() for tensor in sampler(classes=50).draw_rows(torch.tensor(list(index)))]


def test_processes_share_the_work():
    whole = _rows(range(8))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        halves = pool.map(_rows, [range(4), range(4, 8)])
    assert whole == [a + b for a, b in zip(*halves, strict=True)]


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device to compare with the CPU"
)
def test_gpu_draws_the_same_episodes():
    index = torch.arange(1000)
    key, counts = random_numbers.key(0, "train"), torch.full((4400,), 20)
    cpu = draw_classes_and_examples(key, index, counts, 5, 16)
    gpu = draw_classes_and_examples(key, index.cuda(), counts.cuda(), 5, 16)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(cpu, gpu, strict=True))


ALPHABETS = ["b"] * 4 + ["a"] * 3 + ["c"] * 5 + ["a"] * 3 + ["d"] * 2


def within(ways: int) -> ClassSampler:
    episode_sampler = sampler(classes=len(ALPHABETS), ways=ways)
    return replace(episode_sampler, groups=ClassGroups.from_names(ALPHABETS, ways))


def test_episodes_within_a_group_use_one_group_and_groups_are_equally_likely():
    episode_sampler = within(3)
    classes, support, _ = episode_sampler.draw_rows(torch.arange(6000))
    groups = [{ALPHABETS[name] for name in row} for row in classes.tolist()]
    assert all(len(group) == 1 for group in groups)
    assert all(len(set(row)) == 3 for row in classes.tolist())
    seen = Counter(next(iter(group)) for group in groups)
    assert set(seen) == {"a", "b", "c"}, "d has fewer classes than an episode"
    assert chi_square(torch.tensor(list(seen.values()))) < bound(2)
    of_c = (
        torch.tensor([row for row in classes.tolist() if ALPHABETS[row[0]] == "c"])
        .flatten()
        .bincount()[7:12]
    )
    assert chi_square(of_c) < bound(4), "all of its classes occur"
    assert (support.view(6000, 3, -1) // 5 == classes[..., None]).all(), (
        "images are those of the classes"
    )


def test_a_sampler_without_groups_draws_from_all_classes():
    index = torch.arange(20)
    assert torch.equal(
        sampler().draw_rows(index)[0],
        draw_classes_and_examples(random_numbers.key(0, "train"), index, torch.full((7,), 5), 3, 3)[
            0
        ],
    )


def test_groups_that_are_too_small_are_rejected():
    with pytest.raises(
        ConfigError,
        match="ways is 7; it must be at most 6, the number of classes of the largest group",
    ):
        ClassGroups.from_names(ALPHABETS, 7)
    with pytest.raises(
        ConfigError,
        match="within_group is true; it must be false, since the classes have no groups",
    ):
        ClassGroups.from_names(["", "", ""], 2)


RING = (torch.arange(20)[:, None] + torch.tensor([0, 1, -1, 2, -2, 3, -3, 4])) % 20
"""Twenty classes in a circle: each and the seven nearest to it."""


def test_episodes_are_those_of_the_first_release():
    digest = hashlib.sha256()
    for groups in (None, ClassGroups.from_names([f"g{i % 3}" for i in range(20)], 4)):
        for tensor in draw_classes_and_examples(
            random_numbers.key(3, "train"), torch.arange(200), torch.arange(7, 27), 4, 6, groups
        ):
            digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest() == "0d93fcba2b063a70399b4abaeed800ca023a75eab133e1614e56ab733f3f52b2"


def test_a_fraction_of_the_episodes_is_hard_and_the_others_are_unchanged():
    index, ordinary = torch.arange(4000), sampler(classes=20, ways=4)
    before, _, _ = ordinary.draw_rows(index)

    def width(classes):
        """Width of the arc on the circle that holds the classes of an episode."""
        gaps = classes.sort(1).values.diff(dim=1, append=classes.min(1, keepdim=True).values + 20)
        return 20 - gaps.max(1).values

    for fraction in (0.0, 0.3, 1.0):
        classes, support, _ = replace(
            ordinary, hard_episodes=HardEpisodes.from_neighbours(fraction, RING)
        ).draw_rows(index)
        near = width(classes) <= 7
        changed = (classes != before).any(1)
        assert near[changed].all() and all(len(set(row)) == 4 for row in classes.tolist())
        assert abs(float(changed.double().mean()) - fraction) < 0.03
        assert (support // 5 == classes).all(), "images are those of the classes"
    by_chance = float((width(before) <= 7).double().mean())
    assert by_chance < 0.3 and near.all(), "similar classes are rare by chance"
    assert chi_square(classes.flatten().bincount(minlength=20)) < bound(19), "no class is favoured"
    for position in range(4):
        assert chi_square(classes[:, position].bincount(minlength=20)) < bound(19), (
            "nor its position"
        )


def test_a_hard_episode_depends_only_on_its_index():
    episode_sampler = replace(
        sampler(classes=20, ways=4), hard_episodes=HardEpisodes.from_neighbours(0.5, RING)
    )
    batch = episode_sampler.draw_rows(torch.arange(50))[0]
    assert all(
        torch.equal(episode_sampler.draw_rows(torch.tensor([i]))[0][0], batch[i])
        for i in (0, 7, 49)
    )


def test_labels_may_be_those_of_the_split():
    default, named = sampler(), replace(sampler(), labels="split")
    index = torch.arange(30)
    classes = default.draw_rows(index)[0]
    a, b = default(index), named(index)
    assert torch.equal(a.support_x, b.support_x) and torch.equal(a.query_x, b.query_x)
    assert torch.equal(b.support_y, classes) and torch.equal(
        b.query_y, classes.repeat_interleave(2, 1)
    )


def test_noise_depends_only_on_the_episode():
    a, b = sampler()(torch.arange(100)), sampler()(torch.tensor([7]))
    assert a.noise is not None and b.noise is not None
    assert len(set(a.noise.tolist())) == 100 and a.noise[7] == b.noise[0]
    assert torch.equal(a.slice_tasks(5, 9).noise, a.noise[5:9])


def test_too_many_ways_or_examples_are_rejected():
    with pytest.raises(
        ConfigError, match="ways is 8; it must be at most 7, the number of train classes"
    ):
        sampler(ways=8)
    with pytest.raises(ConfigError, match=r"shots \+ queries is 6; it must be at most 5"):
        sampler(shots=2, queries=4)


def test_sinusoids_are_the_family_of_the_paper():
    waves = SinusoidSampler(
        (0.1, 5.0), (0.0, 3.141592653589793), (-5.0, 5.0), 0, "test", shots=5, queries=10
    )
    amplitude, phase, x = waves.draw_waves(torch.arange(20_000))
    for drawn, low, high in (
        (amplitude, 0.1, 5.0),
        (phase, 0.0, 3.141592653589793),
        (x, -5.0, 5.0),
    ):
        assert (
            low <= float(drawn.min()) < low + 0.01 * (high - low)
            and high - 0.01 * (high - low) < float(drawn.max()) < high
        )
        bins = ((drawn - low) / (high - low) * 20).long().flatten().bincount(minlength=20)
        assert chi_square(bins) < bound(19)
    episode = waves(torch.tensor([5, 9]))
    torch.testing.assert_close(
        episode.query_y[1, :, 0], (amplitude[9] * torch.sin(x[9, 5:] - phase[9])).float()
    )
    assert torch.equal(waves(torch.tensor([9])).support_x[0], episode.support_x[1])


def unbalanced(counts: list[int], alpha: float = 2.0, **changes) -> ClassSampler:
    return replace(sampler(counts=counts, **changes), query_balance=alpha)


@given(
    counts=st.lists(st.integers(9, 60), min_size=6, max_size=8),
    alpha=st.sampled_from([0.1, 1.0, 2.0, 50.0]),
    index=st.integers(0, 2**40),
)
def test_unbalanced_query_sets_are_well_formed(counts, alpha, index):
    """The total is constant, examples are distinct, and labels are those of the classes."""
    draw = unbalanced(counts, alpha, ways=5, shots=2, queries=4)
    indices = torch.tensor([index, index + 1])
    classes, support, query = draw.draw_rows(indices)
    of_class = draw.draw_query_counts(indices)
    assert of_class.sum(1).tolist() == [20, 20] and query.shape == (2, 20)
    assert of_class.min() >= 0 and of_class.max() <= min(20, min(counts) - 2)
    episode = draw(indices)
    for task in range(2):
        rows = [*support[task].tolist(), *query[task].tolist()]
        assert len(set(rows)) == len(rows)
        assert episode.query_y[task].bincount(minlength=5).tolist() == of_class[task].tolist()
        for row, label in zip(query[task], episode.query_y[task], strict=True):
            first = draw.offsets[classes[task, label]]
            assert first <= row < first + draw.counts[classes[task, label]]
    alone = draw(indices[1:])
    assert torch.equal(alone.query_y[0], episode.query_y[1]), "a function of (seed, split, index)"
    assert torch.equal(alone.query_x[0], episode.query_x[1])


def test_unbalanced_query_sets_follow_the_dirichlet_distribution():
    """Mean and variance of the shares; a class with few examples leaves its queries to others."""
    index = torch.arange(20_000)
    for alpha in (0.5, 1.0, 2.0, 7.0):
        shares = random_numbers.dirichlet(random_numbers.key(0, "shares"), index, alpha, 5)
        assert torch.allclose(shares.sum(1), torch.ones((), dtype=torch.float64))
        torch.testing.assert_close(
            shares.mean(0), torch.full((5,), 0.2).double(), rtol=0.02, atol=0
        )
        variance = 0.2 * 0.8 / (5 * alpha + 1)
        torch.testing.assert_close(
            shares.var(0), torch.full((5,), variance).double(), rtol=0.05, atol=0
        )
    counts = unbalanced([200] * 6, ways=5, queries=15).draw_query_counts(index).double()
    assert counts.mean(0).sub(15).abs().max() < 0.3 and counts.std() > 6
    limited = unbalanced([17] * 6, ways=5, shots=1, queries=15).draw_query_counts(index[:500])
    assert limited.sum(1).eq(75).all() and limited.max() == 16
    nearly_equal = unbalanced([200] * 6, 1e6, ways=5, queries=15).draw_query_counts(index[:50])
    assert nearly_equal.eq(15).all()


def test_gamma_variates_have_the_exact_distribution():
    """Two shares of a Dirichlet distribution with alpha = 1 are uniform (Kolmogorov-Smirnov)."""
    n = 20_000
    shares = random_numbers.dirichlet(random_numbers.key(1, "shares"), torch.arange(n), 1.0, 2)
    empirical = torch.arange(1, n + 1) / n
    assert (shares[:, 0].sort().values - empirical).abs().max() < 1.95 / n**0.5  # p = 0.001


def test_balanced_query_sets_are_the_default():
    draw = sampler(counts=[9] * 6, ways=5, queries=4)
    assert draw.draw_query_counts(torch.arange(3)).eq(4).all()
    assert draw.draw_rows(torch.arange(3))[2].shape == (3, 20)
