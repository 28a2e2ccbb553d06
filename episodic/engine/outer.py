"""The engine: a batch of tasks -> the meta-gradient.

The inner loop is `adapt.trajectory`. What is done here for speed: tasks go through it shard by shard, small enough for a core's cache;
the reverse pass takes one inner step after the other, v_k = (d theta_{k+1} / d theta_k)^T v_{k+1}, and lets each graph go once it is used;
query sets are differentiated a few tasks at a time, since after the inner loop tasks share nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.engine import plan as plans
from episodic.engine.inner import Step, detached, grad, trajectory
from episodic.engine.learner import MetaLearner
from episodic.engine.plan import Plan
from episodic.engine.processes import ProcessGroup
from episodic.ops import backend


class MetaGradient(NamedTuple):
    """loss: mean query loss after adaptation (or the method's weighted sum over the steps); score: mean accuracy or squared error after it;
    gradient: of `loss`, without a task axis."""

    loss: Tensor
    score: Tensor
    gradient: Params


def meta_gradient(
    learner: MetaLearner, meta: Params, episode: Episode, plan: Plan | None = None
) -> MetaGradient:
    """The gradient of the mean query loss after adaptation with respect to the meta-parameters (MAML, algorithm 1, line 8).

    meta: without a task axis; episode: any number of tasks; plan: how to compute it (chosen from the workload if None).
    """
    learner.check_episode(episode)
    return sharded_meta_gradient(
        learner,
        meta,
        episode.slice_tasks,
        episode.tasks,
        plan or choose_plan(episode, episode.tasks),
        ProcessGroup(),
    )


def choose_plan(episode: Episode, tasks: int, config: plans.PlanConfig | None = None) -> Plan:
    """The plan for `tasks` tasks like those of `episode`."""
    support, query = episode.support_x[0].numel(), episode.query_x[0].numel()
    return plans.plan_for_sizes(
        config or plans.PlanConfig(), tasks, support, query, episode.support_x.device.type
    )


def sharded_meta_gradient(
    learner: MetaLearner,
    meta: Params,
    part: Callable[[int, int], Episode],
    tasks: int,
    plan: Plan,
    group: ProcessGroup,
    progress: float = 1.0,
) -> MetaGradient:
    """`meta_gradient` of `tasks` tasks, whose shards the processes of `group` share; part(a, b) is the episode of the tasks a ... b - 1;
    progress: the fraction of training that is done, for methods that change on the way.

    Shards are added in their order, whoever computed them: the result is the same to the last bit for any number of processes.
    """
    bounds = plan.shard_bounds(tasks)

    def row(i: int) -> Tensor:
        with backend.use_compiled_kernels(plan.compiled):
            loss, score, gradient = _shard(
                learner, meta, part(*bounds[i]), tasks, plan.query_tasks, progress
            )
        return torch.cat([loss[None], score[None], *(gradient[name].reshape(-1) for name in meta)])[
            None
        ]

    idle = next(iter(meta.values())).new_empty(0, 2 + sum(p.numel() for p in meta.values()))
    total, *others = group.gather_rows(row, [1] * len(bounds), idle)
    for other in others:
        total = total + other
    loss, score, flat = total[0], total[1], total[2:]
    parts = flat.split([p.numel() for p in meta.values()])
    return MetaGradient(
        loss,
        score,
        {name: part.view(p.shape) for (name, p), part in zip(meta.items(), parts, strict=True)},
    )


def _shard(
    learner: MetaLearner,
    meta: Params,
    episode: Episode,
    tasks: int,
    query_tasks: int,
    progress: float,
) -> MetaGradient:
    """This shard's summand of the mean over all `tasks`."""
    meta = detached({name: _kernel_last(p) for name, p in meta.items()})
    method = learner.algorithm
    inner = method.inner_loop(learner.with_episode_noise(episode), meta, episode, progress)
    # Steps that nothing goes back through are not kept.
    steps = deque(
        trajectory(inner, method.training_steps), None if method.backprop_through_inner else 1
    )
    weights = method.query_loss_weights(progress) or (*[0.0] * len(steps), 1.0)
    last = steps[-1].after if steps else inner.theta
    loss, score, v = _query(learner, last, episode, weights[-1] / tasks, 1 / tasks, query_tasks)
    total = {name: torch.zeros_like(p) for name, p in meta.items()}
    if not method.backprop_through_inner:
        v = method.outer_gradient(inner, last, v, 1 / tasks)
        steps.clear()
    while steps:
        step = steps.pop()
        v = _back(step, meta, v, total)
        if weight := weights[len(steps)]:
            on_the_way = _query(
                learner, step.before, episode, weight / tasks, 1 / tasks, query_tasks
            )
            loss = loss + on_the_way.loss
            v = {name: v[name] + g for name, g in on_the_way.gradient.items()}
    _back(Step({}, inner.theta), meta, v, total)
    return MetaGradient(loss, score, total)


def _query(
    learner: MetaLearner, theta: Params, episode: Episode, weight: float, share: float, at_once: int
) -> MetaGradient:
    """Loss (a task counts `weight`) and score (it counts `share`) on the query sets, and the loss's gradient by each task's theta (empty
    for a method that does not learn from them)."""
    parts, differentiate = [], learner.algorithm.uses_query_loss
    for start in range(0, episode.tasks, at_once):
        last = min(start + at_once, episode.tasks)
        some, final = (
            episode.slice_tasks(start, last),
            detached({name: p[start:last] for name, p in theta.items()}),
        )
        with torch.set_grad_enabled(differentiate):
            outputs = learner.with_episode_noise(some).query_outputs(final, some)
            loss = learner.objective.loss(outputs, some.query_y, some.query_size).sum() * weight
        score = (
            learner.objective.score(outputs.detach(), some.query_y, some.query_size).sum() * share
        )
        parts.append(MetaGradient(loss.detach(), score, grad(loss, final) if differentiate else {}))
    if len(parts) == 1:
        return parts[0]
    gradient = {
        name: torch.cat([part.gradient[name] for part in parts]) for name in parts[0].gradient
    }
    return MetaGradient(
        torch.stack([p.loss for p in parts]).sum(),
        torch.stack([p.score for p in parts]).sum(),
        gradient,
    )


def _back(step: Step, meta: Params, v: Params, total: Params) -> Params:
    """v at `step.after` -> v at `step.before`; what reaches the meta-parameters on the way (as through a learned rate) joins `total`."""
    leaves = {
        **{("theta", name): p for name, p in step.before.items()},
        **{("meta", name): p for name, p in meta.items()},
    }
    after = {name: p for name, p in step.after.items() if p.requires_grad}
    # The graph that the steps have in common, from meta-parameters to a rule, is used again by the step before.
    found = torch.autograd.grad(
        list(after.values()),
        list(leaves.values()),
        [v[name] for name in after],
        allow_unused=True,
        retain_graph=True,
    )
    back = dict(zip(leaves, found, strict=True))
    for name in meta:
        if (g := back[("meta", name)]) is not None:
            total[name] += g
    return {
        name: torch.zeros_like(p) if (g := back[("theta", name)]) is None else g
        for name, p in step.before.items()
    }


def _kernel_last(p: Tensor) -> Tensor:
    """Convolution kernels with their channels last in memory, as the operators take them without a copy."""
    return p.contiguous(memory_format=torch.channels_last) if p.dim() == 4 else p
