"""When the meta-gradient of iMAML is implicit: measured in float64 on glyphs.

The reference is the meta-gradient by backpropagation through the inner steps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from episodic.algorithms.imaml import IMAML
from episodic.core.model import Model, Params
from episodic.core.objective import Objective
from episodic.data.sampling import ClassSampler
from episodic.datasets import glyphs
from episodic.engine.inner import adapted_parameters, detached, expand, grad
from episodic.engine.learner import MetaLearner
from episodic.models import conv4, mlp

TASKS = 8


def glyph_tasks():
    """5-way 1-shot tasks in float64."""
    images = torch.cat([torch.from_numpy(glyphs.draw_alphabet(i)) for i in range(4)])
    sampler = ClassSampler.from_classes(
        list(images.unsqueeze(2)), ways=5, shots=1, queries=15, split="test"
    )
    episode = sampler(torch.arange(TASKS))
    return episode._replace(support_x=episode.support_x.double(), query_x=episode.query_x.double())


def flatten(theta: Params) -> torch.Tensor:
    return torch.cat([p.flatten(1) for p in theta.values()], 1)


def cosines(model: Model, algorithm: IMAML) -> dict[str, float]:
    """Mean cosines of meta-gradients at the initialization, and the norm ratio `length`.

    `implicit` is that of the algorithm, `first` the query gradient at the adapted parameters.
    """
    learner, episode = MetaLearner(model, algorithm, Objective("classification")), glyph_tasks()
    meta = {name: p.double() for name, p in learner.init(0).items()}
    inner = algorithm.inner_loop(learner, meta, episode, 1.0)
    adapted = adapted_parameters(inner, algorithm.inner_steps)
    leaves = detached(adapted)
    first = grad(learner.training_loss(leaves, episode)[1].sum(), leaves)
    implicit = flatten(algorithm.outer_gradient(inner, adapted, first, 1.0))

    start = detached({name: p.contiguous() for name, p in expand(meta, TASKS).items()})
    theta = start
    for _ in range(algorithm.inner_steps):
        gradient = grad(learner.support_loss(theta, episode).sum(), theta, create_graph=True)
        theta = {
            name: p
            - algorithm.inner_lr * (gradient[name] + algorithm.regularization * (p - start[name]))
            for name, p in theta.items()
        }
    through = flatten(grad(learner.training_loss(theta, episode)[1].sum(), start))

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(F.cosine_similarity(a, b).mean())

    v = flatten(first)
    return {
        "implicit, first": cosine(implicit, v),
        "implicit, through": cosine(implicit, through),
        "first, through": cosine(v, through),
        "length": float((implicit.norm(dim=1) / v.norm(dim=1)).mean()),
    }


CONV4 = conv4.Conv4(filters=4).build((1, 28, 28), 5)
MLP = mlp.MLP(hidden=(64,)).build((1, 28, 28), 5)


def test_with_the_damping_of_the_benchmark_the_gradient_is_first_order():
    """Neither its direction nor its length depends on the Hessian."""
    found = cosines(CONV4, IMAML(0.5, 6, 0.5, cg_steps=1, damping=50.0))
    assert found["implicit, first"] > 0.999 and 0.97 < found["length"] < 1
    assert abs(found["implicit, through"] - found["first, through"]) < 0.01


def test_the_system_of_the_authors_code_is_close_to_first_order():
    """(2 I + H / 12) g = v, which has the direction of damping 22."""
    found = cosines(CONV4, IMAML(0.1, 16, 2.0, cg_steps=5, damping=22.0))
    assert found["implicit, first"] > 0.98


def test_with_batch_norm_some_damping_is_better_than_first_order():
    found = cosines(CONV4, IMAML(0.1, 16, 2.0, cg_steps=5, damping=10.0))
    assert found["implicit, first"] < 0.99
    assert found["implicit, through"] > found["first, through"] + 0.02


def test_without_batch_norm_the_implicit_gradient_is_that_of_the_inner_loop():
    found = cosines(MLP, IMAML(0.1, 50, 0.5, cg_steps=5))
    assert found["implicit, through"] > 0.99 and found["first, through"] < 0.97
    assert found["implicit, first"] < 0.97


def test_with_batch_norm_the_default_system_is_not_the_gradient_of_the_inner_loop():
    """The inner loop ends at no minimum, and I + H / lambda is not positive definite."""
    found = cosines(CONV4, IMAML(0.1, 16, 2.0, cg_steps=5))
    assert found["implicit, first"] < 0.9
    assert found["implicit, through"] < found["first, through"]


if __name__ == "__main__":
    for name, model, settings in (
        ("conv4, method benchmark", CONV4, (0.5, 6, 0.5, 1, 50.0)),
        ("conv4, authors' system", CONV4, (0.1, 16, 2.0, 5, 22.0)),
        ("conv4, defaults", CONV4, (0.1, 16, 2.0, 5, 0.0)),
        ("conv4, damping 10", CONV4, (0.1, 16, 2.0, 5, 10.0)),
        ("conv4, lambda 10", CONV4, (0.05, 100, 10.0, 5, 0.0)),
        ("mlp, defaults", MLP, (0.1, 16, 2.0, 5, 0.0)),
        ("mlp, lambda 0.5", MLP, (0.1, 50, 0.5, 5, 0.0)),
    ):
        print(name, {key: round(x, 4) for key, x in cosines(model, IMAML(*settings)).items()})
