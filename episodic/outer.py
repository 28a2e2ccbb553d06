"""The engine: a batch of tasks -> the meta-gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch

from episodic.adapt import trajectory
from episodic.episode import Episode
from episodic.learner import MetaLearner
from episodic.ops import Params


class MetaGradient(NamedTuple):
    """loss: mean query loss after adaptation; score: mean accuracy or squared error; gradient: of `loss`, without a task axis."""

    loss: torch.Tensor
    score: torch.Tensor
    gradient: Params


def meta_gradient(learner: MetaLearner, meta: Params, episode: Episode) -> MetaGradient:
    """The gradient of the mean query loss after adaptation with respect to the meta-parameters (MAML, algorithm 1, line 8).

    meta: without a task axis; episode: any number of tasks. The tasks of a batch are computed at once, and the result is the
    mean over them.
    """
    meta = {name: p.detach().requires_grad_() for name, p in meta.items()}
    inner = learner.algorithm.inner(meta, episode.tasks)
    *_, theta = trajectory(lambda theta: learner.support_loss(theta, episode), inner, learner.algorithm.inner_steps)
    outputs = learner.query_outputs(theta, episode)
    loss = learner.objective.loss(outputs, episode.query_y).mean()
    gradient = torch.autograd.grad(loss, list(meta.values()))
    score = learner.objective.score(outputs.detach(), episode.query_y).mean()
    return MetaGradient(loss.detach(), score, dict(zip(meta, gradient, strict=True)))
