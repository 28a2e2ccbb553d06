"""The meta-gradient of a batch of tasks.

The inner loop is `episodic.engine.inner.trajectory`. Three optimizations reduce time and memory:

- Tasks are adapted in shards, each small enough for the cache of a core.
- The backward pass goes through one inner step at a time,
  v_k = (d theta_{k+1} / d theta_k)^T v_{k+1}, and then releases the graph of that step.
- Query sets are differentiated a few tasks at a time, because tasks are independent after the inner
  loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from episodic.core.config import require
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine import plan as plans
from episodic.engine.inner import Step, detached, grad, trajectory
from episodic.engine.learner import MetaLearner
from episodic.engine.plan import Plan
from episodic.engine.processes import ProcessGroup
from episodic.ops import backend
from episodic.ops.convolution import average_shared_gradients

__all__ = ["MetaGradient", "choose_plan", "meta_gradient", "sharded_meta_gradient"]


class MetaGradient(NamedTuple):
    """The meta-gradient of a batch of tasks.

    Args:
        loss: Mean query loss after adaptation `()`, or the weighted sum over inner steps if the
            algorithm defines `query_loss_weights`. It includes the term that the algorithm adds in
            `training_outputs`.
        score: Mean accuracy or squared error after adaptation `()`.
        gradient: Gradient of `loss` with respect to the meta-parameters, without a task axis.
    """

    loss: Tensor
    score: Tensor
    gradient: Params


def meta_gradient(
    learner: MetaLearner, meta: Params, episode: Episode, plan: Plan | None = None
) -> MetaGradient:
    """Compute the gradient of the mean query loss after adaptation.

    Args:
        learner: The meta-learner.
        meta: Meta-parameters without a task axis, as `learner.init` returns them.
        episode: The tasks.
        plan: How it is computed; None to choose by the size of the tasks.

    Raises:
        ConfigError: The learner is not compatible with the episode.

    Source: MAML (Finn et al. 2017), algorithm 1, line 8.
    """
    plan = plan or choose_plan(episode, episode.tasks, learner=learner)
    (learner.check_ways if plan.trim else learner.check_episode)(episode)
    return sharded_meta_gradient(
        learner, meta, episode.slice_tasks, episode.tasks, plan, ProcessGroup()
    )


def choose_plan(
    episode: Episode,
    tasks: int,
    config: plans.PlanConfig | None = None,
    learner: MetaLearner | None = None,
) -> Plan:
    """Choose the plan for a batch of tasks.

    Args:
        episode: Tasks with the size and the device of those of the batch.
        tasks: Tasks per batch.
        config: Settings that override the choice.
        learner: The meta-learner. Tasks of different sizes are computed one at a time if padding
            would change its results. None: one that handles padding.

    Raises:
        ConfigError: Tasks must be computed one at a time, but the settings require otherwise.
    """
    config = config or plans.PlanConfig()
    support, query = episode.support_x[0].numel(), episode.query_x[0].numel()
    device = episode.support_x.device.type
    plan = plans.plan_for_sizes(config, tasks, support, query, device)
    if episode.support_size is None or learner is None or learner.handles_padding:
        return plan
    cause = "batch norm" if learner.model.norm_names else type(learner.algorithm).__name__
    for key in ("shard", "query_tasks"):
        require(
            getattr(config, key) in (None, 1),
            f"train.plan.{key}",
            getattr(config, key),
            f"must be null or 1, because tasks differ in size and {cause} does not mask padding",
        )
    reason = f"one task at a time, since tasks differ in size and {cause} does not mask padding"
    return replace(plan, shard=1, query_tasks=1, reason=reason, trim=True)


def sharded_meta_gradient(
    learner: MetaLearner,
    meta: Params,
    load_tasks: Callable[[int, int], Episode],
    tasks: int,
    plan: Plan,
    group: ProcessGroup,
    progress: float = 1.0,
) -> MetaGradient:
    """Compute the meta-gradient of a batch whose shards are distributed over processes.

    Shards are summed in a fixed order, so the result is bitwise identical for any number of
    processes.

    Args:
        learner: The meta-learner.
        meta: Meta-parameters without a task axis.
        load_tasks: `load_tasks(first, last)` returns the tasks first, ..., last - 1.
        tasks: Tasks per batch.
        plan: How it is computed.
        group: The processes.
        progress: Fraction of training that is done.
    """
    bounds = plan.shard_bounds(tasks)

    def compute_shard(shard: int) -> Tensor:
        episode = load_tasks(*bounds[shard])
        with backend.use_compiled_kernels(plan.compiled):
            loss, score, gradient = _shard_meta_gradient(
                learner,
                meta,
                episode.trim() if plan.trim else episode,
                tasks,
                plan.query_tasks,
                progress,
            )
        flat = [gradient[name].reshape(-1) for name in meta]
        return torch.cat([loss[None], score[None], *flat])[None]

    empty = next(iter(meta.values())).new_empty(0, 2 + sum(p.numel() for p in meta.values()))
    total, *others = group.gather_rows(compute_shard, [1] * len(bounds), empty)
    for other in others:
        total = total + other
    flat_gradients = total[2:].split([p.numel() for p in meta.values()])
    gradient = {
        name: flat.view(p.shape)
        for (name, p), flat in zip(meta.items(), flat_gradients, strict=True)
    }
    return MetaGradient(total[0], total[1], gradient)


def _shard_meta_gradient(
    learner: MetaLearner,
    meta: Params,
    episode: Episode,
    tasks: int,
    query_tasks: int,
    progress: float,
) -> MetaGradient:
    """Compute the contribution of one shard to the mean over all `tasks`."""
    meta = detached({name: _with_channels_last(p) for name, p in meta.items()})
    algorithm = learner.algorithm
    inner = algorithm.inner_loop(learner.with_episode_noise(episode), meta, episode, progress)
    # Only the last step is kept if nothing is backpropagated through the others.
    steps = deque(
        trajectory(inner, algorithm.training_steps), None if algorithm.backprop_through_inner else 1
    )
    weights = algorithm.query_loss_weights(progress) or (*[0.0] * len(steps), 1.0)
    adapted = steps[-1].after if steps else inner.theta
    # Where theta is still the same for all tasks, only the sum of their gradients is used.
    with average_shared_gradients(not steps and algorithm.backprop_through_inner):
        loss, score, v = _query_gradient(
            learner, adapted, episode, weights[-1] / tasks, 1 / tasks, query_tasks
        )
    total = {name: torch.zeros_like(p) for name, p in meta.items()}
    if not algorithm.backprop_through_inner:
        v = algorithm.outer_gradient(inner, adapted, v, 1 / tasks)
        steps.clear()
    while steps:
        step = steps.pop()
        with average_shared_gradients(not steps):
            v = _backpropagate(step, meta, v, total)
            if weight := weights[len(steps)]:
                query = _query_gradient(
                    learner, step.before, episode, weight / tasks, 1 / tasks, query_tasks
                )
                loss = loss + query.loss
                v = {name: v[name] + g for name, g in query.gradient.items()}
    with average_shared_gradients():
        _backpropagate(Step({}, inner.theta), meta, v, total)
    return MetaGradient(loss, score, total)


def _query_gradient(
    learner: MetaLearner,
    theta: Params,
    episode: Episode,
    loss_weight: float,
    score_weight: float,
    tasks_at_once: int,
) -> MetaGradient:
    """Compute weighted sums of loss and score over the query sets, and the gradient of the loss.

    The gradient is with respect to the theta of each task. It is empty for algorithms that do not
    use the query loss.
    """
    results, differentiate = [], learner.algorithm.uses_query_loss
    for first in range(0, episode.tasks, tasks_at_once):
        last = min(first + tasks_at_once, episode.tasks)
        chunk = episode.slice_tasks(first, last)
        leaves = detached({name: p[first:last] for name, p in theta.items()})
        with torch.set_grad_enabled(differentiate):
            outputs, losses = learner.with_episode_noise(chunk).training_loss(leaves, chunk)
            loss = losses.sum() * loss_weight
        scores = learner.objective.score(outputs.detach(), chunk.query_y, chunk.query_size)
        gradient = grad(loss, leaves) if differentiate else {}
        results.append(MetaGradient(loss.detach(), scores.sum() * score_weight, gradient))
    if len(results) == 1:
        return results[0]
    return MetaGradient(
        torch.stack([result.loss for result in results]).sum(),
        torch.stack([result.score for result in results]).sum(),
        {
            name: torch.cat([result.gradient[name] for result in results])
            for name in results[0].gradient
        },
    )


def _backpropagate(step: Step, meta: Params, v: Params, total: Params) -> Params:
    """Backpropagate through one inner step: from v at `step.after` to v at `step.before`.

    The gradient of meta-parameters used in this step, such as learned rates, is added to `total`.
    """
    leaves = {
        **{("theta", name): p for name, p in step.before.items()},
        **{("meta", name): p for name, p in meta.items()},
    }
    after = {name: p for name, p in step.after.items() if p.requires_grad}
    # All steps share the graph from the meta-parameters to the inner optimizer, so it is kept.
    gradients = torch.autograd.grad(
        list(after.values()),
        list(leaves.values()),
        [v[name] for name in after],
        allow_unused=True,
        retain_graph=True,
    )
    by_leaf = dict(zip(leaves, gradients, strict=True))
    for name in meta:
        if (g := by_leaf[("meta", name)]) is not None:
            total[name] += g
    return {
        name: torch.zeros_like(p) if (g := by_leaf[("theta", name)]) is None else g
        for name, p in step.before.items()
    }


def _with_channels_last(p: Tensor) -> Tensor:
    """Convert convolution kernels to channels-last memory, which operators use without a copy."""
    return p.contiguous(memory_format=torch.channels_last) if p.dim() == 4 else p
