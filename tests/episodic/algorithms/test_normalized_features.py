"""SimpleShot, BD-CSPN, LaplacianShot and TIM: equality with plain code, and the papers' claims."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from episodic.algorithms import bd_cspn, laplacian_shot, protonet, simpleshot, tim
from episodic.core import random_numbers
from episodic.core.config import ConfigError
from episodic.core.episode import Episode
from episodic.core.objective import Objective
from episodic.core.registry import ALGORITHMS
from episodic.core.statistics import mean_ci95
from episodic.data.sampling import ClassSampler, apportion
from episodic.data.varied_sampling import VariedClassSampler
from episodic.engine.learner import Algorithm, MetaLearner
from episodic.engine.normalized_features import CENTRE, NormalizedFeatures
from episodic.models import mlp
from episodic.training import evaluation, loop
from episodic.training.config import TrainingConfig

WAYS, WIDTH, QUERIES = 5, 64, 15
OFFSET = 3.0
"""Mean of all features, as of features after a ReLU."""

TRANSDUCTIVE = {
    "bd_cspn": bd_cspn.BDCSPN(centre=True),
    "laplacian_shot": laplacian_shot.LaplacianShot(laplacian_weight=1.0),
    "tim": tim.TIM(centre=True),
}


def learner(algorithm: Algorithm) -> MetaLearner:
    """An algorithm on vectors: a model without parameters."""
    return MetaLearner(mlp.MLP(()).build((WIDTH,), 0), algorithm, Objective("classification"))


def gaussian_episodes(
    tasks: int, noise: float, counts: torch.Tensor | None = None, shots: int = 1
) -> Episode:
    """Draw episodes of Gaussian clusters, in float64.

    Args:
        tasks: Number of episodes.
        noise: Standard deviation within a class; that between classes is 1.
        counts: Queries of each class `(tasks, WAYS)`; None for `QUERIES`.
        shots: Support examples per class.
    """
    generator = random_numbers.generator(0, "gaussian episodes")

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    means = OFFSET + normal(tasks, WAYS, WIDTH)
    support_y = torch.arange(WAYS).repeat_interleave(shots).expand(tasks, -1)
    query_y = torch.arange(WAYS).repeat_interleave(QUERIES).expand(tasks, -1)
    if counts is not None:
        query_y = torch.stack([torch.arange(WAYS).repeat_interleave(row) for row in counts])

    def draw(labels: torch.Tensor) -> torch.Tensor:
        centres = means.gather(1, labels[..., None].expand(-1, -1, WIDTH))
        return centres + noise * normal(*centres.shape)

    return Episode(draw(support_y), support_y, draw(query_y), query_y, WAYS)


def parameters(algorithm: Algorithm) -> dict[str, torch.Tensor]:
    centre = torch.full((WIDTH,), OFFSET, dtype=torch.float64)
    return {CENTRE: centre} if learner(algorithm).init(0) else {}


def score(algorithm: Algorithm, episode: Episode) -> np.ndarray:
    return evaluation.episode_scores(learner(algorithm), parameters(algorithm), episode, 0)[0]


def outputs(algorithm: Algorithm, episode: Episode) -> torch.Tensor:
    method = learner(algorithm)
    theta = evaluation.adapt(method, parameters(algorithm), episode)
    return method.test_variant.query_outputs(theta, episode)


# --- equality with plain code for one task -----------------------------------------------------


def normalized(algorithm: Algorithm, episode: Episode, task: int) -> tuple[np.ndarray, np.ndarray]:
    centre = OFFSET if algorithm.centre else 0.0
    support, query = episode.support_x[task].numpy(), episode.query_x[task].numpy()
    return tuple(
        (x - centre) / np.linalg.norm(x - centre, axis=1)[:, None] for x in (support, query)
    )


def class_means(z: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([z[y == k].mean(0) for k in range(WAYS)])


def softmax(x: np.ndarray) -> np.ndarray:
    exponential = np.exp(x - x.max(1, keepdims=True))
    return exponential / exponential.sum(1, keepdims=True)


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)


def rectified(support: np.ndarray, y: np.ndarray, query: np.ndarray) -> np.ndarray:
    means, prototypes = class_means(support, y), []
    labels = cosine(query, means).argmax(1)
    for k in range(WAYS):
        members = np.concatenate([support[y == k], query[labels == k]])
        weights = softmax(10 * cosine(members, means))[:, k]
        prototypes.append((weights[:, None] * members).sum(0) / weights.sum())
    return np.stack(prototypes)


def plain_simpleshot(algorithm, support, y, query):
    distances = np.square(query[:, None] - class_means(support, y)).sum(-1)
    return softmax(-algorithm.scale * distances)


def plain_bd_cspn(algorithm, support, y, query):
    query = query + support.mean(0) - query.mean(0)
    return softmax(algorithm.scale * cosine(query, rectified(support, y, query)))


def plain_laplacian_shot(algorithm, support, y, query):
    prototypes = class_means(support, y)
    if algorithm.rectify:
        query = query + support.mean(0) - query.mean(0)
        prototypes = rectified(support, y, query)
    distances = np.square(query[:, None] - prototypes).sum(-1)
    labels = softmax(-distances)
    for _ in range(algorithm.updates):
        new = []
        for q in range(len(query)):
            others = sorted(
                (i for i in range(len(query)) if i != q),
                key=lambda i: np.square(query[q] - query[i]).sum(),
            )
            near = labels[others[: algorithm.neighbours]].sum(0)
            new.append(-distances[q] + algorithm.laplacian_weight * near)
        labels = softmax(np.stack(new))
    return labels


def plain_tim(algorithm, support, y, query):
    """The papers' equations with torch's Adam."""
    support, query, y = torch.tensor(support), torch.tensor(query), torch.tensor(y)
    weight = torch.tensor(class_means(support.numpy(), y.numpy())).requires_grad_()
    optimizer = torch.optim.Adam([weight], algorithm.learning_rate)

    def predict(z):
        return torch.softmax(-algorithm.temperature / 2 * torch.cdist(z, weight) ** 2, -1)

    def entropy(p):
        if algorithm.alpha == 1:
            return -(p * p.log()).sum(-1)
        return (1 - (p**algorithm.alpha).sum(-1)) / (algorithm.alpha - 1)

    default = 0.1 if algorithm.alpha == 1 else 1.0
    for _ in range(algorithm.gradient_steps):
        p = predict(query)
        loss = default * F.nll_loss(predict(support).log(), y)
        loss = loss - entropy(p.mean(0)) + default * entropy(p).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return predict(query).detach().numpy()


PLAIN: dict[str, tuple[Algorithm, Callable]] = {
    "simpleshot": (simpleshot.SimpleShot(), plain_simpleshot),
    "simpleshot, not centred": (simpleshot.SimpleShot(centre=False), plain_simpleshot),
    "bd_cspn": (bd_cspn.BDCSPN(), plain_bd_cspn),
    "bd_cspn, centred": (bd_cspn.BDCSPN(centre=True), plain_bd_cspn),
    "laplacian_shot": (laplacian_shot.LaplacianShot(), plain_laplacian_shot),
    "laplacian_shot, class means": (
        laplacian_shot.LaplacianShot(neighbours=5, laplacian_weight=2.0, updates=3, rectify=False),
        plain_laplacian_shot,
    ),
    "tim": (tim.TIM(gradient_steps=30), plain_tim),
    "alpha-tim": (
        tim.TIM(centre=True, alpha=2.0, gradient_steps=30, learning_rate=1e-2),
        plain_tim,
    ),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("shots", [1, 3])
def test_a_batch_equals_plain_code_for_each_task(name, shots):
    algorithm, plain = PLAIN[name]
    counts = torch.tensor([[1, 5, 2, 3, 4], [3, 3, 3, 3, 3], [15, 0, 0, 0, 0]])
    episode = gaussian_episodes(3, 2.0, counts, shots)
    probabilities = outputs(algorithm, episode).softmax(-1).numpy()
    for task in range(3):
        support, query = normalized(algorithm, episode, task)
        expected = plain(algorithm, support, episode.support_y[task].numpy(), query)
        np.testing.assert_allclose(probabilities[task], expected, rtol=1e-9, atol=1e-10)


def test_every_transductive_algorithm_on_normalized_features_is_covered():
    transductive = {name for name, algorithm in ALGORITHMS.items() if algorithm.transductive}
    normalized = {n for n in transductive if issubclass(ALGORITHMS[n], NormalizedFeatures)}
    assert TRANSDUCTIVE.keys() == normalized


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_transductive_predictions_depend_on_the_other_queries(name):
    episode = gaussian_episodes(2, 3.0)
    fewer = episode._replace(query_x=episode.query_x[:, ::2], query_y=episode.query_y[:, ::2])
    difference = outputs(TRANSDUCTIVE[name], episode)[:, ::2] - outputs(TRANSDUCTIVE[name], fewer)
    assert TRANSDUCTIVE[name].transductive and difference.abs().max() > 1e-3
    inductive = simpleshot.SimpleShot()
    difference = outputs(inductive, episode)[:, ::2] - outputs(inductive, fewer)
    assert not inductive.transductive and difference.abs().max() < 1e-12


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_a_single_query_and_identical_queries(name):
    episode = gaussian_episodes(2, 2.0)
    single = episode._replace(query_x=episode.query_x[:, :1], query_y=episode.query_y[:, :1])
    assert outputs(TRANSDUCTIVE[name], single).shape == (2, 1, WAYS)
    same = episode._replace(query_x=episode.query_x[:, :1].expand_as(episode.query_x))
    assert outputs(TRANSDUCTIVE[name], same).isfinite().all()


def test_transductive_inference_rejects_padded_query_sets():
    episode = gaussian_episodes(2, 2.0)._replace(query_size=torch.tensor([75, 60]))
    with pytest.raises(ConfigError, match="algorithm is 'BDCSPN'; it must be one that masks"):
        evaluation.adapt(learner(bd_cspn.BDCSPN()), {}, episode)


# --- the papers' claims ------------------------------------------------------------------------


def test_centring_and_normalization_improve_the_nearest_mean():
    """SimpleShot, table 1: CL2N is better than L2N, and both than unnormalized features."""
    episode = gaussian_episodes(200, 2.5)
    lengths = torch.rand(
        200, WAYS + WAYS * QUERIES, 1, generator=random_numbers.generator(1, "lengths")
    ).double()
    lengths = torch.exp(2 * lengths - 1)
    episode = episode._replace(
        support_x=OFFSET + (episode.support_x - OFFSET) * lengths[:, :WAYS],
        query_x=OFFSET + (episode.query_x - OFFSET) * lengths[:, WAYS:],
    )
    unnormalized = score(protonet.ProtoNet(), episode)
    normalized_only = score(simpleshot.SimpleShot(centre=False), episode)
    both = score(simpleshot.SimpleShot(), episode)
    for better, worse in ((both, normalized_only), (normalized_only, unnormalized)):
        gain, ci95 = mean_ci95(better - worse)
        assert gain > 0.02 and gain > 2 * ci95, f"{gain} ± {ci95}"


@pytest.mark.parametrize("name", TRANSDUCTIVE)
def test_transductive_beats_inductive_with_one_shot(name):
    """The claim of all three papers. The same episodes and features; chance is 0.2."""
    episode = gaussian_episodes(60, 2.5)
    inductive = score(simpleshot.SimpleShot(), episode)
    gain, ci95 = mean_ci95(score(TRANSDUCTIVE[name], episode) - inductive)
    assert 0.5 < inductive.mean() < 0.9
    assert gain > 0.04 and gain > 3 * ci95, f"{gain} ± {ci95}"


def test_alpha_tim_beats_tim_on_unbalanced_query_sets():
    """Veilleux et al.: unbalanced query sets make TIM worse than inductive inference.

    alpha-TIM is better than both. On balanced query sets TIM is the best of the three.
    """
    tasks, queries = 60, WAYS * QUERIES
    key = random_numbers.key(0, "unbalanced query sets")
    shares = random_numbers.dirichlet(key, torch.arange(tasks), 2.0, WAYS)
    unbalanced = gaussian_episodes(tasks, 2.0, apportion(shares, queries, queries))
    algorithms = (simpleshot.SimpleShot(), tim.TIM(centre=True), tim.TIM(centre=True, alpha=2.0))
    inductive, shannon, tsallis = (score(algorithm, unbalanced) for algorithm in algorithms)
    for better, worse in ((inductive, shannon), (tsallis, inductive), (tsallis, shannon)):
        gain, ci95 = mean_ci95(better - worse)
        assert gain > 0.015 and gain > 1.5 * ci95, f"{gain} ± {ci95}"
    gain, ci95 = mean_ci95(tsallis - shannon)
    assert gain > 0.05 and gain > 3 * ci95, f"{gain} ± {ci95}"


def test_laplacian_regularization_propagates_labels():
    """Without it, the prediction is that of the nearest mean; with it, neighbours agree more."""
    episode = gaussian_episodes(20, 2.5)
    without = laplacian_shot.LaplacianShot(laplacian_weight=0.0, rectify=False)
    nearest = outputs(simpleshot.SimpleShot(), episode).argmax(-1)
    assert torch.equal(outputs(without, episode).argmax(-1), nearest)
    with_it = laplacian_shot.LaplacianShot(laplacian_weight=1.0, rectify=False)
    z = F.normalize(episode.query_x - OFFSET, dim=-1)
    neighbours = laplacian_shot.find_neighbours(z, 3)

    def agreement(labels: torch.Tensor) -> float:
        of_neighbours = labels[torch.arange(len(z))[:, None, None], neighbours]
        return float((of_neighbours == labels[..., None]).double().mean())

    assert agreement(outputs(with_it, episode).argmax(-1)) > agreement(nearest) + 0.05


@pytest.mark.parametrize(("n", "neighbours"), [(1, 3), (3, 3), (40, 3), (40, 50)])
def test_neighbours_are_the_nearest_other_examples(monkeypatch, n, neighbours):
    monkeypatch.setattr(laplacian_shot, "ROWS_AT_ONCE", 16)
    generator = random_numbers.generator(0, "neighbours")
    z = torch.randn(2, n, 4, generator=generator, dtype=torch.float64)
    found = laplacian_shot.find_neighbours(z, neighbours)
    order = torch.cdist(z, z).argsort(-1)[..., 1:]  # the first is the example itself
    assert torch.equal(found, order[..., :neighbours])


def test_tim_starts_at_the_class_means():
    episode = gaussian_episodes(4, 2.0)
    start = outputs(tim.TIM(centre=True, gradient_steps=0), episode)
    untrained = learner(tim.TIM(centre=True))
    theta = evaluation.adapt(untrained, parameters(untrained.algorithm), episode)
    torch.testing.assert_close(untrained.query_outputs(theta, episode), start)
    assert (outputs(tim.TIM(centre=True), episode) - start).abs().max() > 0.1


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0, 7.0])
def test_entropy_slope_is_the_derivative_of_the_entropy(alpha):
    generator = random_numbers.generator(0, "p")
    p = torch.rand(3, 5, generator=generator, dtype=torch.float64).requires_grad_()
    entropy = -(p * p.log()) if alpha == 1 else -(p**alpha) / (alpha - 1)
    (expected,) = torch.autograd.grad(entropy.sum(), p)
    torch.testing.assert_close(tim.entropy_slope(p.detach().log(), alpha), expected)


# --- estimation, and models without learned parameters -----------------------------------------


def class_sampler(classes: int = 12, split: str = "train") -> ClassSampler:
    generator = random_numbers.generator(0, "classes")
    means = OFFSET + torch.randn(classes, WIDTH, generator=generator)
    examples = [mean + torch.randn(30, WIDTH, generator=generator) for mean in means]
    return ClassSampler.from_classes(examples, WAYS, 1, 5, split=split)


def test_the_centre_is_the_mean_of_training_features():
    """It needs no training, and the estimate is within 5 standard errors of the exact mean."""
    sampler = class_sampler()
    validation = class_sampler(split="validation")(torch.arange(20))
    result = loop.train(learner(simpleshot.SimpleShot()), sampler, validation)
    assert result.iterations == result.iteration == 0 and not result.history.train
    assert [row["iteration"] for row in result.history.validation] == [0]
    assert list(result.theta) == [CENTRE] and len(result.members) == 1
    error = result.theta[CENTRE] - sampler.examples.mean(0)
    examples = loop.ESTIMATION_EPISODES * WAYS * 6
    assert error.abs().max() < 5 * np.sqrt(2 / examples) * 2
    scores = evaluation.episode_scores(
        learner(simpleshot.SimpleShot()), result.theta, validation, 0
    )[0]
    assert result.score == scores.mean()


def test_the_centre_is_that_of_episodes_without_padding():
    """Episodes of different sizes count as if each had been drawn alone."""
    sampler = VariedClassSampler(class_sampler(), (2, WAYS), (1, 1))
    validation = class_sampler(split="validation")(torch.arange(20))
    theta = loop.train(learner(simpleshot.SimpleShot()), sampler, validation).theta
    padded = sampler(torch.arange(loop.ESTIMATION_EPISODES))
    singles = [episode.trim() for episode in evaluation.split_episodes(padded, 1)]
    means = [torch.cat([single.support_x, single.query_x], 1).mean(1) for single in singles]
    torch.testing.assert_close(theta[CENTRE], torch.cat(means).mean(0))
    with_padding = torch.cat([padded.support_x, padded.query_x], 1).mean((0, 1))
    assert (theta[CENTRE] - with_padding).abs().max() > 0.01, "padding would show"


def test_a_model_without_parameters_is_only_validated():
    validation = class_sampler(split="validation")(torch.arange(20))
    result = loop.train(
        learner(protonet.ProtoNet()),
        class_sampler(),
        validation,
        TrainingConfig(iterations=500, ensemble=3),
    )
    assert result.theta == {} and result.members == [{}] and result.iterations == 0
    assert result.score > 0.9


def test_no_gradient_reaches_the_centre_while_the_body_is_trained():
    """The centre of a trained body is that of its own features."""
    method = MetaLearner(
        mlp.MLP((8,)).build((WIDTH,), 0), simpleshot.SimpleShot(), Objective("classification")
    )
    sampler = class_sampler()
    validation = class_sampler(split="validation")(torch.arange(20))
    config = TrainingConfig(iterations=20, meta_batch=4, validate_every=10)
    result = loop.train(method, sampler, validation, config)
    assert result.iterations == 20
    centre = method.algorithm.estimate(
        method, result.theta, [sampler(torch.arange(loop.ESTIMATION_EPISODES))]
    )
    torch.testing.assert_close(result.theta[CENTRE], centre[CENTRE])
    assert not torch.equal(result.theta["hidden0.weight"], method.init(0)["hidden0.weight"])
