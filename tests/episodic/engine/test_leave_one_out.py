"""Leave-one-out on the support set: equality with refits, and what its choice is good for."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from episodic.algorithms import logistic, metaoptnet, ridge
from episodic.core import random_numbers
from episodic.core.episode import Episode
from episodic.core.objective import Objective
from episodic.core.statistics import mean_ci95
from episodic.engine import leave_one_out
from episodic.engine.learner import Algorithm, MetaLearner
from episodic.engine.leave_one_out import Choice
from episodic.models import mlp
from episodic.training import evaluation

WAYS, WIDTH = 5, 32
UNEQUAL = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
"""Labels of three classes with three, two and four examples."""


def gaussian_episodes(
    tasks: int, shots: int, distance: float = 1.0, offset: float = 0.0, queries: int = 15
) -> Episode:
    """Gaussian clusters with standard deviation 3, in float64, around means with this offset."""
    generator = random_numbers.generator(0, "gaussian clusters")

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    means = offset + distance * normal(tasks, WAYS, WIDTH)

    def draw(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.arange(WAYS).repeat_interleave(n).expand(tasks, -1)
        centres = means.gather(1, y[..., None].expand(-1, -1, WIDTH))
        return centres + 3 * normal(*centres.shape), y

    return Episode(*draw(shots), *draw(queries), WAYS)


def scaled(episode: Episode, factor: float) -> Episode:
    return episode._replace(support_x=factor * episode.support_x, query_x=factor * episode.query_x)


def learner(algorithm: Algorithm) -> MetaLearner:
    """An algorithm on vectors: a model without parameters."""
    return MetaLearner(mlp.MLP(()).build((WIDTH,), 0), algorithm, Objective("classification"))


def initial(method: MetaLearner) -> dict[str, torch.Tensor]:
    return {name: p.double() for name, p in method.init(0).items()}


def evaluate(algorithm: Algorithm, episode: Episode) -> evaluation.Evaluation:
    method = learner(algorithm)
    return evaluation.evaluate(method, initial(method), episode)


def outputs(algorithm: Algorithm, episode: Episode) -> torch.Tensor:
    method = learner(algorithm)
    theta = evaluation.adapt(method, initial(method), episode)
    return method.query_outputs(theta, episode).detach()


def unequal_problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, one-hot labels and lambda of two tasks."""
    generator = random_numbers.generator(1, "unequal classes")
    y = F.one_hot(UNEQUAL, 3).double().expand(2, -1, -1)
    x = torch.randn(2, 9, 4, generator=generator).double() + F.pad(y, (0, 1))
    return x, y, torch.tensor([[0.3], [5.0]]).double()


def weights_without(i: int) -> np.ndarray:
    """Weights that restore the weight of the class of example i, for the other examples."""
    same = UNEQUAL[i] == UNEQUAL
    weights = torch.where(same, same.sum() / (same.sum() - 1), 1.0).double()
    return np.delete(weights.numpy(), i)


@pytest.mark.parametrize("balanced", [False, True])
def test_ridge_in_closed_form_is_a_refit_for_each_example(balanced):
    x, y, regularization = unequal_problem()
    actual = leave_one_out.ridge_outputs(x @ x.mT, y, regularization, balanced=balanced)
    weights = leave_one_out.class_weights(y) if balanced else torch.ones_like(y[..., 0])
    for task in range(2):
        for i in range(9):
            a, b = (np.delete(tensor[task].numpy(), i, 0) for tensor in (x, y))
            w = np.diag(weights_without(i) * np.delete(weights[task].numpy(), i))
            penalty = float(regularization[task]) * np.eye(4)
            expected = x[task, i].numpy() @ np.linalg.solve(a.T @ w @ a + penalty, a.T @ w @ b)
            np.testing.assert_allclose(actual[task, i].numpy(), expected, atol=1e-12)


def test_the_memory_of_ridge_regression_does_not_grow_with_the_classes():
    """No tensor is much larger than the kernel, so hundreds of examples are possible."""
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **kwargs or {})
            sizes.extend(leaf.numel() for leaf in tree_leaves(result))
            return result

    n, ways = 60, 20
    kernel = torch.eye(n, dtype=torch.float64)[None]
    y = F.one_hot(torch.arange(ways).repeat_interleave(n // ways), ways)[None].double()
    with Sizes():
        leave_one_out.ridge_outputs(kernel, y, torch.ones(1, 1, dtype=torch.float64))
    assert n * n <= max(sizes) <= 2 * n * n


def test_refits_of_logistic_regression_are_those_of_scikit_learn():
    x, y, regularization = unequal_problem()
    actual = leave_one_out.refitted_outputs(x @ x.mT, y, regularization, fit=logistic.fit_logistic)
    for task in range(2):
        for i in range(9):
            model = LogisticRegression(
                C=1 / float(regularization[task]), tol=1e-12, max_iter=10_000
            )
            others = np.delete(x[task].numpy(), i, 0), np.delete(UNEQUAL.numpy(), i)
            model.fit(*others, sample_weight=weights_without(i))
            expected = model.decision_function(x[task, i : i + 1].numpy())[0]
            np.testing.assert_allclose(actual[task, i].numpy(), expected, atol=1e-6)


def fit_svm(kernel, y, regularization, weights) -> tuple[torch.Tensor, torch.Tensor]:
    alpha = metaoptnet.crammer_singer(kernel, y, 1 / regularization[:, None], weights=weights)
    return alpha, torch.zeros_like(y[:, :1])


def test_refits_in_several_parts_are_the_same(monkeypatch):
    x, y, regularization = unequal_problem()
    refit = partial(leave_one_out.refitted_outputs, x @ x.mT, y, regularization)
    for fit, balanced in ((fit_svm, True), (logistic.fit_logistic, False)):
        monkeypatch.undo()
        at_once = refit(fit=fit, balanced=balanced)
        monkeypatch.setattr(leave_one_out, "NUMBERS_AT_ONCE", 3 * 9 * 9 * 4)
        torch.testing.assert_close(refit(fit=fit, balanced=balanced), at_once, rtol=0, atol=1e-9)


def test_some_examples_can_be_left_out():
    x, y, regularization = unequal_problem()
    rows = torch.tensor([1, 4, 8])
    refit = partial(leave_one_out.refitted_outputs, fit=logistic.fit_logistic)
    for outputs in (leave_one_out.ridge_outputs, refit):
        every = outputs(x @ x.mT, y, regularization)
        some = outputs(x @ x.mT, y, regularization, rows)
        torch.testing.assert_close(some, every[:, rows], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["logistic", "metaoptnet"])
def test_large_support_sets_take_as_many_fits_as_small_ones(name, monkeypatch):
    """The left-out examples are of all classes, and the choice is hardly worse."""
    asked = []
    refit = leave_one_out.refitted_outputs

    def record(kernel, y, regularization, rows, **options):
        asked.append(rows)
        return refit(kernel, y, regularization, rows, **options)

    module = {"logistic": logistic, "metaoptnet": metaoptnet}[name]
    monkeypatch.setattr(module, "refitted_outputs", record)
    algorithm, _ = ALGORITHMS[name]
    episode = gaussian_episodes(2, 8)
    some = accuracy(outputs(algorithm, episode), episode)
    assert {len(rows) for rows in asked} == {25}
    assert (episode.support_y[0, asked[0]].bincount() == 5).all()
    monkeypatch.setattr(module, "MAX_REFITS", 40)
    every = accuracy(outputs(algorithm, episode), episode)
    assert len(asked[-1]) == 40
    assert every > 0.5 and some > every - 0.05, "chance: 0.2"


def accuracy(logits: torch.Tensor, episode: Episode) -> float:
    return float((logits.argmax(-1) == episode.query_y).double().mean())


def test_features_without_information_are_at_chance():
    """Chance is 0.2. Unweighted, a left-out example would never be predicted correctly."""
    episode = gaussian_episodes(200, 5, distance=0.0, offset=30.0)
    kernel = episode.support_x @ episode.support_x.mT
    y = F.one_hot(episode.support_y, WAYS).double()

    def accuracy(predicted: torch.Tensor) -> float:
        return float((predicted.argmax(-1) == episode.support_y).double().mean())

    strong = leave_one_out.feature_variance(kernel) * 3
    assert accuracy(leave_one_out.ridge_outputs(kernel, y, strong)) == pytest.approx(0.2, abs=0.03)
    identity = torch.eye(25, dtype=torch.float64)
    inverse = torch.linalg.inv(kernel + strong[..., None] * identity)
    unweighted = y - (inverse @ y) / inverse.diagonal(dim1=1, dim2=2)[..., None]
    assert accuracy(unweighted) < 0.1


ALGORITHMS = {
    "ridge": (ridge.RidgeRegression(leave_one_out=True), ridge.RidgeRegression()),
    "metaoptnet": (metaoptnet.MetaOptNet(leave_one_out=True), metaoptnet.MetaOptNet()),
    "logistic": (logistic.LogisticRegression(), logistic.LogisticRegression(1.0)),
}
"""With the choice, and with the default."""


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_batch_of_tasks_is_chosen_for_as_single_tasks(name):
    algorithm, _ = ALGORITHMS[name]
    episode = gaussian_episodes(3, 3)
    singles = [outputs(algorithm, episode.slice_tasks(t, t + 1)) for t in range(3)]
    torch.testing.assert_close(
        outputs(algorithm, episode), torch.cat(singles), rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_choice_is_equivariant_to_label_permutation(name):
    algorithm, _ = ALGORITHMS[name]
    episode = gaussian_episodes(3, 3)
    order = torch.tensor([3, 0, 4, 2, 1])
    renamed = episode._replace(support_y=order[episode.support_y])
    torch.testing.assert_close(
        outputs(algorithm, renamed)[..., order], outputs(algorithm, episode), rtol=1e-7, atol=1e-9
    )


@pytest.mark.parametrize("name", ["ridge", "metaoptnet"])
def test_a_class_with_one_example_keeps_the_learned_values(name):
    """Also in a batch with tasks for which there is a choice."""
    algorithm, default = ALGORITHMS[name]
    one_shot = gaussian_episodes(3, 1)
    torch.testing.assert_close(outputs(algorithm, one_shot), outputs(default, one_shot))
    episode = gaussian_episodes(2, 3)
    labels = episode.support_y.clone()
    labels[0, 0] = labels[0, 1] = 4  # the first class of the first task has one example
    mixed = episode._replace(support_y=labels)
    method = learner(algorithm)
    theta = evaluation.adapt(method, initial(method), mixed)
    learned = {
        "ridge": {"ridge.log_lambda": 0.0, "ridge.scale": 10.0},
        "metaoptnet": {"svm.c": 0.1, "svm.scale": 5.0},
    }
    for key, value in learned[name].items():
        first, second = theta[key].flatten().tolist()
        assert first == pytest.approx(value)
        assert abs(second - value) > 0.01


REPEATED = torch.tensor([0, 0, 0, 0, 1, 2, 2, 3, 4])
"""One example of each class, some of them several times."""


@pytest.mark.parametrize(
    ("repeated", "single", "factor"),
    [
        (
            ridge.RidgeRegression(180.0, leave_one_out=True),
            ridge.RidgeRegression(100.0),
            1.0,
        ),
        (
            metaoptnet.MetaOptNet(0.01, leave_one_out=True),
            metaoptnet.MetaOptNet(0.01),
            1.8**0.5,
        ),
    ],
    ids=["ridge", "metaoptnet"],
)
def test_repeated_examples_do_not_change_a_balanced_head(repeated, single, factor):
    """The total weight of each class is 9 / 5: as if lambda were divided, or K multiplied by it."""
    once = gaussian_episodes(20, 1, offset=5.0)
    more = once._replace(
        support_x=once.support_x[:, REPEATED],
        support_y=once.support_y[:, REPEATED],
        support_size=torch.full((20,), len(REPEATED)),
    )
    expected = outputs(single, scaled(once, factor))
    torch.testing.assert_close(outputs(repeated, more), expected, rtol=1e-5, atol=1e-7)
    assert (outputs(single, more) - expected).abs().max() > 0.01, "without weights"


def test_class_weights_are_one_for_equal_shots():
    equal, unequal = (
        F.one_hot(labels, WAYS).double()[None]
        for labels in (torch.arange(WAYS).repeat_interleave(3), REPEATED)
    )
    assert (leave_one_out.class_weights(equal) == 1).all()
    total = (leave_one_out.class_weights(unequal)[..., None] * unequal).sum(1)
    torch.testing.assert_close(total, torch.full_like(total, 9 / WAYS))


def test_without_a_choice_the_gradient_reaches_the_learned_values():
    x, y, _ = unequal_problem()
    default = Choice(*(torch.ones(2, 1, dtype=torch.float64, requires_grad=True) for _ in range(2)))
    labels = UNEQUAL.clone()
    labels[4] = 0  # class 1 has one example
    episode = Episode(x, torch.stack([labels, UNEQUAL]), x, y.argmax(-1), 3)
    choice = leave_one_out.choose_regularization(x, episode, leave_one_out.ridge_outputs, default)
    (choice.regularization + choice.scale).sum().backward()
    assert default.regularization.grad.flatten().tolist() == [1, 0]
    assert default.scale.grad.flatten().tolist() == [1, 0]


def test_logistic_regression_does_not_depend_on_the_unit_of_the_features():
    episode = gaussian_episodes(5, 4)
    algorithm, fixed = ALGORITHMS["logistic"]
    large = scaled(episode, 1000.0)
    torch.testing.assert_close(
        outputs(algorithm, large), outputs(algorithm, episode), rtol=0, atol=1e-6
    )
    assert (outputs(fixed, large) - outputs(fixed, episode)).abs().max() > 1


@pytest.mark.parametrize("factor", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("name", ["ridge", "metaoptnet"])
def test_features_that_were_not_meta_trained_are_classified_better(name, factor):
    """Not worse in accuracy, and clearly better in the cross-entropy; chance is 0.2 and 1.61."""
    algorithm, default = ALGORITHMS[name]
    episode = scaled(gaussian_episodes(10 if name == "metaoptnet" else 200, 5), factor)
    chosen, fixed = evaluate(algorithm, episode), evaluate(default, episode)
    gain, ci95 = mean_ci95(chosen.scores - fixed.scores)
    assert gain > -ci95 - 0.01, f"{gain} ± {ci95}"
    assert chosen.mean > 0.4
    better, ci95 = mean_ci95(fixed.losses - chosen.losses)
    assert better > -ci95 and chosen.losses.mean() < 1.4
    if name == "ridge" and factor >= 1:
        gain, ci95 = mean_ci95(chosen.scores - fixed.scores)
        assert gain > 0.02 and gain > 2 * ci95, f"{gain} ± {ci95}"


@pytest.mark.parametrize("name", ["ridge", "metaoptnet"])
@pytest.mark.parametrize("distance", [1.0, 1.6, 3.0])
def test_probabilities_are_sensible(name, distance):
    """The best scale in hindsight, common to all tasks, improves the cross-entropy by little."""
    algorithm, default = ALGORITHMS[name]
    episode = gaussian_episodes(10 if name == "metaoptnet" else 100, 5, distance)

    def hindsight(logits: torch.Tensor) -> tuple[float, float]:
        losses = [
            float(F.cross_entropy((s * logits).flatten(0, 1), episode.query_y.flatten()))
            for s in (1.0, *(2.0 ** (k / 4) for k in range(-24, 25)))
        ]
        return losses[0], min(losses)

    actual, best = hindsight(outputs(algorithm, episode))
    assert actual < best + 0.1
    if name == "ridge" and distance < 3:
        actual, best = hindsight(outputs(default, episode))
        assert actual > best + 0.1, "shows that this test can fail"


def test_support_sets_without_errors_do_not_give_certainty():
    episode = gaussian_episodes(5, 5, distance=30.0)
    for name in ("ridge", "metaoptnet"):
        p = outputs(ALGORITHMS[name][0], episode).softmax(-1).amax(-1)
        assert 0.9 < p.mean() < 0.995, "about 26 / 27"


def test_features_that_are_all_equal_give_finite_outputs():
    episode = gaussian_episodes(2, 3)
    for value in (0.0, 1.0):
        same = episode._replace(support_x=torch.full_like(episode.support_x, value))
        for algorithm, _ in ALGORITHMS.values():
            assert outputs(algorithm, same).isfinite().all()
