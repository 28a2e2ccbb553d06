"""Maps of class embeddings."""

from __future__ import annotations

import torch

from episodic.analysis import embedding_space
from episodic.core.objective import Objective
from episodic.core.registry import ALGORITHMS
from episodic.engine.learner import MetaLearner
from episodic.models import conv4


def test_principal_axes_are_those_of_the_data_with_a_sign_of_their_own():
    points = torch.zeros(50, 5, dtype=torch.float64)
    points[:, 3] = torch.linspace(-4, 4, 50)
    points[:, 1] = torch.linspace(0, 1, 50).square() - 7
    result = embedding_space.principal_plane(points)
    assert (
        torch.allclose(result.coordinates[:, 0], points[:, 3], atol=0.5)
        and result.variance_fractions[0] > 0.9
    )
    assert (
        abs(sum(result.variance_fractions) - 1) < 1e-9
        and result.coordinates.mean(0).abs().max() < 1e-6
    )
    turned = torch.linalg.qr(
        torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )[0]
    assert torch.allclose(
        torch.cdist(result.coordinates, result.coordinates), torch.cdist(points, points)
    ), "two dimensions explain all of the variance"
    assert torch.allclose(
        torch.cdist(*[embedding_space.principal_plane(points @ turned).coordinates] * 2),
        torch.cdist(points, points),
    )
    assert torch.equal(embedding_space.principal_plane(points).coordinates, result.coordinates)


def test_few_points_and_equal_points_have_a_map_too():
    assert embedding_space.principal_plane(torch.ones(4, 3)).variance_fractions == (0.0, 0.0)
    assert (
        embedding_space.principal_plane(torch.tensor([[0.0], [1.0], [5.0]]))
        .coordinates[:, 1]
        .abs()
        .max()
        == 0
    )


def test_every_class_is_looked_at_in_a_mixed_order():
    offsets, counts = torch.tensor([0, 30, 40]), torch.tensor([30, 10, 25])
    rows, of = embedding_space.shuffle_rows(offsets, counts, 0)
    assert of.bincount().tolist() == [20, 10, 20] and len(set(rows.tolist())) == 50
    assert all(offsets[c] <= r < offsets[c] + counts[c] for r, c in zip(rows, of, strict=True))
    assert len(set(of[:10].tolist())) > 1 and torch.equal(
        embedding_space.shuffle_rows(offsets, counts, 0)[0], rows
    )


def test_chunk_sizes_are_nearly_equal():
    assert (
        embedding_space.split_evenly(50) == [50] and sum(embedding_space.split_evenly(1000)) == 1000
    )
    assert (
        max(embedding_space.split_evenly(1000)) <= embedding_space.MAX_CHUNK
        and max(embedding_space.split_evenly(1000)) - min(embedding_space.split_evenly(1000)) <= 1
    )


def test_centroids_separate_distinct_classes():
    generator = torch.Generator().manual_seed(0)
    patterns = (torch.rand(6, 1, 28, 28, generator=generator) > 0.6).float() * 200
    images = (
        patterns.repeat_interleave(10, 0) + 40 * torch.rand(60, 1, 28, 28, generator=generator)
    ).to(torch.uint8)
    images[50:] = images[40:50].flip(0)  # the last two classes are one
    network = conv4.Conv4(filters=8).build((1, 28, 28), 0)
    learner = MetaLearner(network, ALGORITHMS["protonet"](), Objective("classification"))
    theta = {name: p[None] for name, p in network.init(generator).items()}
    rows, of = embedding_space.shuffle_rows(torch.arange(6) * 10, torch.full((6,), 10), 0)
    result = embedding_space.class_centroids(
        embedding_space.embed_rows(learner, theta, images, rows), of, 6
    )
    apart = torch.cdist(result, result)
    assert result.shape == (6, network.width)
    assert (
        apart[4, 5] < 0.2 * apart[0, 1] and apart[:5, :5].fill_diagonal_(9).min() > 5 * apart[4, 5]
    )
