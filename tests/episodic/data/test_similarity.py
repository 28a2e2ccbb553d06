"""Class similarity, against values computed by hand."""

from __future__ import annotations

import math

import torch

from episodic.data.similarity import (
    CHUNK_SIZE,
    MAX_EXAMPLES,
    cosine_similarity,
    find_neighbours,
    mean_class_inputs,
    rank_neighbours,
)
from episodic.data.storage import SparseRows


def test_means_are_per_class():
    images = torch.arange(12, dtype=torch.uint8).view(6, 1, 1, 2)
    means = mean_class_inputs(images, torch.tensor([0, 4]), torch.tensor([4, 2]))
    assert means.tolist() == [[3.0, 4.0], [9.0, 10.0]] and means.dtype == torch.float64


def test_means_of_large_classes_use_the_first_examples():
    images = torch.zeros(MAX_EXAMPLES + 50, 1, 1, 1, dtype=torch.uint8)
    images[MAX_EXAMPLES:] = 255
    assert mean_class_inputs(images, torch.tensor([0]), torch.tensor([len(images)])).item() == 0


def test_features_and_tokens_have_means_too():
    sparse = SparseRows(
        torch.tensor([0, 1, 3]),
        torch.tensor([2, 0, 1], dtype=torch.int32),
        torch.tensor([1.0, 4.0, 2.0]),
        3,
    )
    assert mean_class_inputs(sparse, torch.tensor([0, 1]), torch.tensor([1, 1])).tolist() == [
        [0, 0, 1],
        [4, 2, 0],
    ]
    tokens = torch.tensor([[1, 1, 0], [1, 2, 0], [3, 3, 3]])
    assert mean_class_inputs(tokens, torch.tensor([0, 2]), torch.tensor([2, 1])).tolist() == [
        [1, 1.5, 0.5, 0],
        [0, 0, 0, 3],
    ]


def test_cosine_similarity_is_centred():
    square = torch.tensor(
        [[5.0, 4.0], [6.0, 5.0], [5.0, 6.0], [4.0, 5.0]]
    )  # around (5, 5): all of nearly one direction seen from 0
    result = cosine_similarity(square)
    assert torch.equal(result, result.T)
    assert torch.allclose(result[0], torch.tensor([1.0, 0.0, -1.0, 0.0], dtype=torch.float64))
    triangle = cosine_similarity(torch.eye(3))
    assert torch.allclose(
        triangle[0, 1:], torch.full((2,), math.cos(2 * math.pi / 3), dtype=torch.float64)
    )
    assert cosine_similarity(torch.ones(3, 2)).abs().max() == 0, "of classes that are all the same"


def test_neighbours_begin_with_the_class_itself():
    similarity = torch.tensor(
        [[1.0, 0.2, 0.9, 0.2], [0.2, 1.0, 0.1, 1.0], [0.9, 0.1, 1.0, 0.3], [0.2, 1.0, 0.3, 1.0]]
    )
    assert rank_neighbours(similarity, 3).tolist() == [[0, 2, 1], [1, 3, 0], [2, 0, 3], [3, 1, 2]]
    assert rank_neighbours(similarity, 9).shape == (4, 4), "no more than there are"


def test_neighbours_in_chunks_equal_those_at_once():
    points = torch.randn(CHUNK_SIZE + 40, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(find_neighbours(points, 7), rank_neighbours(cosine_similarity(points), 7))
