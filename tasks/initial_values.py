"""Initial values of meta-parameters that are fitted to the training data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from episodic.core import random_numbers
from episodic.core.model import Params
from episodic.data import storage
from episodic.data.factorization import RatingRows, fit_biases, fit_factors, sum_features
from episodic.engine.learner import MetaLearner
from tasks.prepared import PreparedFolder

DEFAULT_STRENGTH = 10.0
"""Strength of the penalty of the factors of users if the algorithm has no damping."""


def fit_initial_values(source: PreparedFolder, learner: MetaLearner, seed: int) -> Params | None:
    """Fit the biases and embeddings from which an additive model of ratings is trained.

    Args:
        source: The prepared data. Only ratings of training users are read.
        learner: The meta-learner. Its damping sets the scale of the embeddings, so that the inner
            loop is ridge regression as the factorization assumes.
        seed: Seed of the factorization.

    Returns:
        Values of the tables of biases and embeddings; None if the model has no such tables.
    """
    model: Any = learner.model
    spec = getattr(model, "spec", None)
    if not source.has_recorded_tasks or not getattr(spec, "additive", False):
        return None
    rows = read_training_rows(source)
    tokens, embedding = model.spec.tokens, model.spec.embedding
    mean, biases = fit_biases(rows, tokens)
    predicted = mean + sum_features(rows.x, biases[:, None]).sum((1, 2))
    factors = fit_factors(
        replace(rows, y=rows.y - predicted),
        tokens,
        embedding,
        random_numbers.generator(seed, "rating factors"),
        getattr(learner.algorithm, "damping", 0.0) or DEFAULT_STRENGTH,
    )
    values: Params = model.start_at(
        torch.from_numpy(biases).float(), torch.from_numpy(factors).float()
    )
    return values


def read_training_rows(source: PreparedFolder) -> RatingRows:
    """Read all ratings of the training users."""
    lines = source.read_tasks("train")
    offset, count = lines["offset"].to_numpy(), lines["count"].to_numpy()
    index = np.concatenate([np.arange(o, o + n) for o, n in zip(offset, count, strict=True)])
    examples = storage.read_examples(source.examples, torch.from_numpy(index))
    targets = source.targets.cpu().numpy()[index].astype(np.float64)
    return RatingRows(
        examples.cpu().numpy().astype(np.int64), targets, np.repeat(np.arange(len(count)), count)
    )
