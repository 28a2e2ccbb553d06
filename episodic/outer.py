"""The engine: a batch of tasks -> the meta-gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from episodic.adapt import trajectory
from episodic.episode import Episode
from episodic.learner import MetaLearner
from episodic.ops import Params
from episodic.workers import Workers


class MetaGradient(NamedTuple):
    """loss: mean query loss after adaptation; score: mean accuracy or squared error; gradient: of `loss`, without a task axis."""

    loss: Tensor
    score: Tensor
    gradient: Params


def meta_gradient(learner: MetaLearner, meta: Params, episode: Episode, workers: Workers | None = None) -> MetaGradient:
    """The gradient of the mean query loss after adaptation with respect to the meta-parameters (MAML, algorithm 1, line 8).

    meta: without a task axis; episode: any number of tasks, of which each worker computes its share at once. The result is the
    mean over tasks, added up in the order of the shares.
    """
    workers = workers or Workers()
    shares = workers.shares(episode)
    parts = workers.map(lambda share: _share(learner, meta, share), shares)
    weights = [share.tasks / episode.tasks for share in shares]

    def mean(values: list[Tensor]) -> Tensor:
        return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(0)

    gradient = {name: mean([part.gradient[name] for part in parts]) for name in meta}
    return MetaGradient(mean([part.loss for part in parts]), mean([part.score for part in parts]), gradient)


def _share(learner: MetaLearner, meta: Params, episode: Episode) -> MetaGradient:
    meta = {name: p.detach().requires_grad_() for name, p in meta.items()}
    inner = learner.algorithm.inner(meta, episode.tasks)
    *_, theta = trajectory(lambda theta: learner.support_loss(theta, episode), inner, learner.algorithm.inner_steps)
    outputs = learner.query_outputs(theta, episode)
    loss = learner.objective.loss(outputs, episode.query_y).mean()
    gradient = torch.autograd.grad(loss, list(meta.values()))
    score = learner.objective.score(outputs.detach(), episode.query_y).mean()
    return MetaGradient(loss.detach(), score, dict(zip(meta, gradient, strict=True)))
