"""Logistic regression, Meta-Baseline, FEAT and transductive fine-tuning: plain code, and claims."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import linear_model
from torch import Tensor

from episodic.algorithms import (
    feat,
    finetune,
    logistic,
    meta_baseline,
    protonet,
    transductive_finetune,
)
from episodic.core import random_numbers
from episodic.core.config import ConfigError
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.core.objective import Objective
from episodic.core.statistics import mean_ci95
from episodic.engine.inner import expand
from episodic.engine.learner import Algorithm, MetaLearner
from episodic.engine.outer import meta_gradient
from episodic.models import mlp
from episodic.training import evaluation, loop
from episodic.training.config import TrainingConfig

WAYS, WIDTH = 5, 16


def learner(algorithm: Algorithm, hidden: tuple[int, ...] = (), outputs: int = 0) -> MetaLearner:
    """An algorithm on vectors; without hidden layers, the features are the vectors."""
    model = mlp.MLP(hidden).build((WIDTH,), outputs)
    return MetaLearner(model, algorithm, Objective("classification"))


def perturbed(method: MetaLearner) -> Params:
    """Initial meta-parameters in float64, each moved at random."""
    generator = random_numbers.generator(0, "perturbation")
    return {
        name: p.double() + 0.1 * torch.randn(p.shape, generator=generator).double()
        for name, p in method.init(0).items()
    }


def outputs(method: MetaLearner, meta: Params, episode: Episode) -> Tensor:
    theta = evaluation.adapt(method, meta, episode)
    return method.test_variant.query_outputs(theta, episode).detach()


@dataclass(frozen=True)
class Clusters:
    """Episodes of Gaussian clusters with standard deviation 1, as a sampler.

    Args:
        name: Purpose of the random numbers.
        shots: Support examples per class.
        distance: Standard deviation of the class means.
        offset: Standard deviation of a vector that is added to the whole support set of a task.
        nuisance: Standard deviation of the last 12 of the 16 features, which tell nothing.
    """

    name: str
    shots: int = 1
    distance: float = 1.0
    offset: float = 0.0
    nuisance: float = 0.0

    def __call__(self, index: Tensor) -> Episode:
        tasks = [self.draw_task(i) for i in index.tolist()]
        return Episode(*(torch.stack(tensors) for tensors in zip(*tasks, strict=True)), WAYS)

    def draw_task(self, i: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = random_numbers.generator(i, self.name)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        means = self.distance * normal(WAYS, WIDTH)
        size = torch.ones(WIDTH)
        if self.nuisance:
            means[:, 4:], size[4:] = 0, self.nuisance
        support_y, query_y = (torch.arange(WAYS).repeat_interleave(n) for n in (self.shots, 10))
        support_x, query_x = (means[y] + size * normal(len(y), WIDTH) for y in (support_y, query_y))
        return support_x + self.offset * normal(WIDTH), support_y, query_x, query_y


def clusters(tasks: int, **settings: float) -> Episode:
    episode = Clusters("test", **settings)(torch.arange(tasks))
    return episode._replace(support_x=episode.support_x.double(), query_x=episode.query_x.double())


def scores(algorithm: Algorithm, episode: Episode, meta: Params | None = None) -> np.ndarray:
    method = learner(algorithm, outputs=algorithm.count_model_outputs(WAYS, WAYS))
    meta = meta or method.init(0)
    return evaluation.evaluate(method, {n: p.double() for n, p in meta.items()}, episode).scores


def trained(
    method: MetaLearner, iterations: int = 300, meta_lr: float = 0.01, **settings: float
) -> loop.TrainingResult:
    config = TrainingConfig(
        iterations=iterations, meta_batch=16, meta_lr=meta_lr, validate_every=iterations
    )
    validation = Clusters("validation", **settings)(torch.arange(50))
    return loop.train(method, Clusters("train", **settings), validation, config)


# --- equality with plain code for one task -----------------------------------------------------


def softmax(x: np.ndarray) -> np.ndarray:
    exponential = np.exp(x - x.max(-1, keepdims=True))
    return exponential / exponential.sum(-1, keepdims=True)


def class_means(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([x[y == k].mean(0) for k in range(WAYS)])


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)


def plain_logistic(meta, support, y, query, regularization=0.3):
    model = linear_model.LogisticRegression(
        C=1 / regularization, solver="newton-cholesky", tol=1e-10, max_iter=1000
    )
    return model.fit(support, y).predict_proba(query)


def plain_meta_baseline(meta, support, y, query):
    return softmax(meta["cosine.scale"] * cosine(query, class_means(support, y)))


def plain_feat(meta, support, y, query):
    adapted, means = [], class_means(support, y)
    for p in means:
        keys = [m @ meta["attention.key"] for m in means]
        attention = softmax(np.array([p @ meta["attention.query"] @ k for k in keys]) / 4)
        value = sum(a * m for a, m in zip(attention, means, strict=True)) @ meta["attention.value"]
        total = p + value @ meta["attention.output"] + meta["attention.bias"]
        total = (total - total.mean()) / np.sqrt(total.var() + 1e-5)
        adapted.append(total * meta["attention.scale"] + meta["attention.shift"])
    distances = np.square(query[:, None] - np.stack(adapted)).sum(-1)
    return softmax(-distances / 8.0)


PLAIN: dict[str, tuple[Algorithm, Callable, float]] = {
    "feat": (feat.FEAT(temperature=8.0), plain_feat, 1e-12),
    "logistic": (logistic.LogisticRegression(0.3), plain_logistic, 1e-6),
    "meta_baseline": (meta_baseline.MetaBaseline(), plain_meta_baseline, 1e-12),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("shots", [1, 3])
def test_a_batch_equals_plain_code_for_each_task(name, shots):
    algorithm, plain, tolerance = PLAIN[name]
    method, episode = learner(algorithm), clusters(3, shots=shots)
    meta = perturbed(method)
    probabilities = outputs(method, meta, episode).softmax(-1).numpy()
    arrays = {key: p.numpy() for key, p in meta.items()}
    for task in range(3):
        support, y, query = (
            tensor[task].numpy()
            for tensor in (episode.support_x, episode.support_y, episode.query_x)
        )
        expected = plain(arrays, support, y, query)
        np.testing.assert_allclose(probabilities[task], expected, rtol=0, atol=tolerance)


def test_one_shot_has_the_documented_regularization():
    episode = clusters(3)
    probabilities = outputs(learner(logistic.LogisticRegression()), {}, episode).softmax(-1)
    for task in range(3):
        support, y, query = (
            tensor[task].numpy()
            for tensor in (episode.support_x, episode.support_y, episode.query_x)
        )
        strength = 0.003 * np.square(support - support.mean(0)).sum(1).mean()
        expected = plain_logistic({}, support, y, query, strength)
        np.testing.assert_allclose(probabilities[task].numpy(), expected, rtol=0, atol=1e-6)


def plain_feat_layer(meta, x):
    logits = (x @ meta["attention.query"]) @ (x @ meta["attention.key"]).T / 4
    total = x + softmax(logits) @ x @ meta["attention.value"] @ meta["attention.output"]
    total = total + meta["attention.bias"]
    total = (total - total.mean(1)[:, None]) / np.sqrt(total.var(1)[:, None] + 1e-5)
    return total * meta["attention.scale"] + meta["attention.shift"]


def plain_contrastive_loss(meta, x, y):
    centres = np.stack([plain_feat_layer(meta, x[y == k]).mean(0) for k in range(WAYS)])
    probabilities = softmax(-np.square(x[:, None] - centres).sum(-1) / 8.0)
    return -np.log(probabilities[np.arange(len(y)), y]).mean()


@pytest.mark.parametrize("shots", [(1, 1, 1, 1, 1), (3, 1, 2, 1, 2)])
def test_the_training_loss_of_feat_is_plain_code_for_each_task(shots):
    """The contrastive regularizer, with unequal shots too. It leaves predictions alone."""
    full = clusters(3, shots=3)
    keep = torch.cat([3 * k + torch.arange(n) for k, n in enumerate(shots)])
    episode = full._replace(
        support_x=full.support_x[:, keep],
        support_y=full.support_y[:, keep],
        support_size=torch.full((3,), len(keep)),
    )
    method, bare = (learner(feat.FEAT(8.0, weight)) for weight in (0.7, 0.0))
    meta = perturbed(method)
    theta = expand(meta, 3)
    assert torch.equal(outputs(method, meta, episode), outputs(bare, meta, episode))
    loss, query_loss = (each.training_loss(theta, episode)[1] for each in (method, bare))
    arrays = {key: p.numpy() for key, p in meta.items()}
    for task in range(3):
        x = torch.cat([episode.support_x[task], episode.query_x[task]]).numpy()
        y = torch.cat([episode.support_y[task], episode.query_y[task]]).numpy()
        expected = 0.7 * plain_contrastive_loss(arrays, x, y)
        assert float(loss[task] - query_loss[task]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("regularization", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
def test_logistic_regression_meets_its_optimality_conditions(regularization, size):
    """The gradient vanishes: alpha = (y - p) / lambda, and its sums are 0."""
    episode = clusters(20, shots=4)
    x = size * episode.support_x
    y = F.one_hot(episode.support_y, WAYS).double()
    alpha, bias = logistic.fit_logistic(
        x @ x.mT, y, torch.full((20, 20), regularization, dtype=torch.float64)
    )
    p = (x @ (x.mT @ alpha) + bias).softmax(-1)
    assert (regularization * alpha - (y - p)).abs().max() < 1e-7
    assert (y - p).sum(1).abs().max() < 1e-7 and bias.sum(-1).abs().max() < 1e-7


def overlapping(size: float) -> tuple[Tensor, Tensor]:
    """The kernel of features of 8 dimensions, and labels."""
    generator = random_numbers.generator(0, "overlapping classes")
    labels = torch.arange(WAYS).repeat_interleave(10)
    means = torch.randn(10, WAYS, 8, generator=generator)
    x = size * (means[:, labels] + torch.randn(10, 50, 8, generator=generator)).double()
    return x @ x.mT, F.one_hot(labels, WAYS).double().expand(10, -1, -1)


def test_logistic_regression_converges_with_hardly_any_regularization():
    """lambda is a 10^-9th of the variance. The largest violation possible is 1."""
    kernel, y = overlapping(30.0)
    alpha, bias = logistic.fit_logistic(kernel, y, torch.full_like(kernel[:, 0], 1e-6))
    p = (kernel @ alpha + bias).softmax(-1)
    assert (y - p - 1e-6 * alpha).abs().max() < 1e-4


def test_logistic_regression_without_convergence_is_an_error():
    kernel, y = overlapping(1e4)
    message = "regularization is 1e-08; it must be larger, because logistic regression does not"
    with pytest.raises(ConfigError, match=message):
        logistic.fit_logistic(kernel, y, torch.full_like(kernel[:, 0], 1e-8))


def test_logistic_regression_of_a_task_does_not_depend_on_the_others():
    """An easy problem takes as many steps as alone."""
    kernel, y = overlapping(1.0)
    strengths = torch.full_like(kernel[:, 0], 1e-4)
    strengths[0] = 10.0
    together, alone = (
        logistic.fit_logistic(kernel[:n], y[:n], strengths[:n])[0][0] for n in (10, 1)
    )
    assert torch.equal(together, alone)


def test_logistic_regression_is_differentiated_at_its_minimum():
    generator = random_numbers.generator(0, "features")
    x = torch.randn(1, 7, 4, generator=generator).double().requires_grad_()
    y = F.one_hot(torch.tensor([[0, 0, 1, 1, 1, 2, 2]])).double()
    strengths = torch.linspace(0.1, 1.0, 7).double()[None]
    assert torch.autograd.gradcheck(
        lambda x: logistic.fit_logistic(x @ x.mT, y, strengths), [x], atol=1e-6
    )


def test_a_body_is_meta_trained_through_logistic_regression():
    method = learner(logistic.LogisticRegression(1.0), (8,))
    gradient = meta_gradient(method, perturbed(method), clusters(4, shots=2)).gradient
    assert gradient.keys() == {"hidden0.weight", "hidden0.bias"}
    assert gradient["hidden0.weight"].abs().max() > 1e-3


@pytest.mark.parametrize("body_rate", [0.0, 0.002])
@pytest.mark.parametrize(("weight", "centre"), [(0.0, True), (0.7, True), (0.7, False)])
def test_transductive_fine_tuning_is_adam_on_both_terms(weight, centre, body_rate):
    """Written out for one task, with torch.optim.Adam."""
    algorithm = transductive_finetune.TransductiveFineTuning(
        learning_rate=0.05,
        body_learning_rate=body_rate,
        gradient_steps=6,
        entropy_weight=weight,
        scale=4.0,
        centre=centre,
    )
    method, episode = learner(algorithm, (8,), outputs=7), clusters(3, shots=2)
    meta = perturbed(method)
    actual = outputs(method, meta, episode)
    for task in range(3):
        body = [meta[f"hidden0.{kind}"].clone().requires_grad_() for kind in ("weight", "bias")]
        x, y, q = episode.support_x[task], episode.support_y[task], episode.query_x[task]

        def embed(body=body, x=x, q=q) -> tuple[Tensor, Tensor]:
            features = F.linear(torch.cat([x, q]), *body).relu()
            features = 4 * F.normalize(features - centre * features.mean(0), dim=-1)
            return features[: len(x)], features[len(x) :]

        means = torch.stack([embed()[0][y == k].mean(0) for k in range(WAYS)])
        head = [F.normalize(means, dim=-1).detach().requires_grad_()]
        head.append(torch.zeros(WAYS, dtype=torch.float64, requires_grad=True))
        optimizer = torch.optim.Adam(
            [{"params": head, "lr": 0.05}, {"params": body, "lr": body_rate}], betas=(0.0, 0.999)
        )
        for _ in range(6):
            support, query = embed()
            p = F.linear(query, *head).softmax(-1)
            loss = F.cross_entropy(F.linear(support, *head), y)
            loss = loss - weight * (p * p.log()).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        expected = F.linear(embed()[1], *head).detach()
        torch.testing.assert_close(actual[task], expected, rtol=0, atol=1e-9)


# --- the papers' claims ------------------------------------------------------------------------


def test_transductive_beats_inductive_fine_tuning_with_one_shot():
    """Dhillon et al., table 1: the entropy of the query set helps. Chance is 0.2."""
    episode = clusters(200, distance=0.8)
    inductive = scores(
        transductive_finetune.TransductiveFineTuning(entropy_weight=0.0, centre=False), episode
    )
    for centre in (True, False):
        algorithm = transductive_finetune.TransductiveFineTuning(centre=centre)
        gain, ci95 = mean_ci95(scores(algorithm, episode) - inductive)
        assert gain > 0.015 and gain > 2.5 * ci95, f"{gain} ± {ci95}"
    assert 0.3 < inductive.mean() < 0.8


def test_without_centring_the_entropy_assigns_similar_features_to_one_class():
    """Features after a ReLU have a common offset. Chance is 0.2."""
    episode = clusters(100, distance=0.8)
    episode = episode._replace(support_x=episode.support_x + 3, query_x=episode.query_x + 3)
    centred, raw = (
        scores(transductive_finetune.TransductiveFineTuning(centre=centre), episode)
        for centre in (True, False)
    )
    gain, ci95 = mean_ci95(centred - raw)
    assert gain > 0.1 and gain > 3 * ci95, f"{gain} ± {ci95}"


def test_predictions_depend_on_the_other_queries():
    episode = clusters(2)
    fewer = episode._replace(query_x=episode.query_x[:, ::2], query_y=episode.query_y[:, ::2])
    for algorithm, classes in (
        (transductive_finetune.TransductiveFineTuning(), 7),
        (finetune.FineTuning(), 7),
        (logistic.LogisticRegression(), 0),
        (meta_baseline.MetaBaseline(), 0),
        (feat.FEAT(), 0),
    ):
        method = learner(algorithm, outputs=classes)
        meta = perturbed(method)
        difference = outputs(method, meta, episode)[:, ::2] - outputs(method, meta, fewer)
        assert (difference.abs().max() > 1e-3) == algorithm.transductive
        assert method.test_variant.algorithm.transductive == algorithm.transductive


def test_meta_baseline_learns_the_scale_that_cosines_lack():
    """With scale 1, the cross-entropy of 5 classes is at least log(1 + 4 exp(-2)) = 0.43."""
    method = learner(meta_baseline.MetaBaseline(scale=1.0))
    result = trained(method, meta_lr=0.1, distance=3.0)
    before, after = (
        evaluation.evaluate(
            method, {name: p.double() for name, p in meta.items()}, clusters(50, distance=3.0)
        )
        for meta in (method.init(0), result.theta)
    )
    bound = math.log(1 + 4 * math.exp(-2))
    assert before.losses.min() > bound > after.losses.mean() + 0.3
    np.testing.assert_array_equal(before.scores, after.scores)


def test_meta_baseline_improves_given_features():
    """Chen et al., section 4: meta-training improves the cosine classifier on given features."""
    settings = {"shots": 1, "distance": 2.0, "nuisance": 2.0}
    method, test = learner(meta_baseline.MetaBaseline(), (32,)), clusters(200, **settings)
    result = trained(method, **settings)
    after = evaluation.evaluate(method, {n: p.double() for n, p in result.theta.items()}, test)
    given = scores(meta_baseline.MetaBaseline(), test)
    gain, ci95 = mean_ci95(after.scores - given)
    assert gain > 0.05 and gain > 3 * ci95, f"{gain} ± {ci95}"


@dataclass(frozen=True)
class IndependentFEAT(feat.FEAT):
    """FEAT whose prototypes attend only to themselves."""

    def solve_head(self, theta: Params, support: Tensor, episode: Episode) -> tuple[Tensor, Tensor]:
        """Treat the prototype of each class as the only one of a task (one shot)."""
        single = episode._replace(
            support_y=episode.support_y.new_zeros(episode.support_y.numel(), 1), ways=1
        )
        repeated = {name: p.repeat_interleave(WAYS, 0) for name, p in theta.items()}
        weight, bias = super().solve_head(repeated, support.flatten(0, 1)[:, None], single)
        tasks = len(support)
        return weight[..., 0].view(tasks, WAYS, -1).mT, bias.view(tasks, 1, WAYS)


def test_feat_adapts_prototypes_to_each_other():
    """Ye et al., table 1 and section 4.1: adapting the set is better than each prototype alone.

    The support set of a task has a common offset, which only the set shows.
    """
    settings = {"distance": 1.5, "offset": 2.0}
    test = clusters(400, **settings)
    feat_scores, independent = (
        scores(algorithm, test, trained(learner(algorithm), 400, **settings).theta)
        for algorithm in (feat.FEAT(temperature=16.0), IndependentFEAT(temperature=16.0))
    )
    for worse in (independent, scores(protonet.ProtoNet(), test)):
        gain, ci95 = mean_ci95(feat_scores - worse)
        assert gain > 0.01 and gain > 2 * ci95, f"{gain} ± {ci95}"
