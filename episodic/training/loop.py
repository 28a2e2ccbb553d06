"""Meta-training with validation, checkpoints and resuming."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim.adam import adam

from episodic.core import float64
from episodic.core.errors import UserError
from episodic.core.model import Params
from episodic.core.statistics import mean_ci95
from episodic.data.sampling import Sampler
from episodic.data.stored_episodes import Episodes
from episodic.engine import cuda_graph, outer
from episodic.engine.learner import MetaLearner
from episodic.engine.plan import Plan
from episodic.engine.processes import ProcessGroup
from episodic.ops import backend
from episodic.training import evaluation
from episodic.training.config import TrainingConfig
from episodic.training.state import History, TrainingState

__all__ = ["DivergedError", "TrainingResult", "build_iteration", "choose_training_plan", "train"]

LOG_EVERY = 10
"""Iterations per row of the training history."""

ESTIMATION_EPISODES = 100
"""Number of training episodes from which meta-parameters such as the mean features are estimated.
They are the first ones of the sampler."""


class DivergedError(UserError):
    """The loss or the gradient is not finite."""


@dataclass(frozen=True)
class TrainingResult:
    """The result of `train`.

    Args:
        theta: The best meta-parameters by validation, without a task axis.
        members: The best `config.ensemble` checkpoints, or fewer if fewer were validated. The first
            is `theta`.
        iteration: The iteration of `theta`.
        iterations: The number of iterations done.
        score: The validation score of `theta`.
        history: The tables of training. The training table is empty if no meta-parameter is
            learned.
        resumed_at: Iteration of the checkpoint that training resumed from; 0 for none.
    """

    theta: Params
    members: list[Params]
    iteration: int
    iterations: int
    score: float
    history: History
    resumed_at: int


OnProgress = Callable[[int, dict[str, float]], None]


def train(
    learner: MetaLearner,
    sampler: Sampler,
    validation: Episodes,
    config: TrainingConfig | None = None,
    *,
    plan: Plan | None = None,
    group: ProcessGroup | None = None,
    checkpoint_path: Path | None = None,
    initial: Params | None = None,
    on_progress: OnProgress = lambda iteration, metrics: None,
    on_resume: Callable[[int], None] = lambda iteration: None,
) -> TrainingResult:
    """Train until `config.iterations` are done or `config.patience` runs out.

    If gradient descent learns none of the meta-parameters, no iteration is done: they are estimated
    from training episodes and validated once.

    Identical arguments produce bitwise-identical results on the same platform, for any number of
    processes and interruptions.

    Args:
        learner: The model, the algorithm and the objective.
        sampler: Training episodes by index. Iteration `i` uses the indices `i * meta_batch` to
            `(i + 1) * meta_batch - 1`.
        validation: The validation episodes, on the device of the computation. They are scored after
            the number of inner steps that the algorithm takes at test time. `StoredEpisodes` are
            built chunk by chunk at each validation.
        config: The settings. None: the defaults.
        plan: How meta-gradients are computed. None: chosen from `config.plan` and the workload.
        group: The processes that share the work. Each calls this function with the same arguments
            and receives the same result. Only rank 0 writes checkpoints.
        checkpoint_path: File to save the state to every `config.checkpoint_every` iterations. If
            it exists, training resumes from it.
        initial: Initial values of some meta-parameters, such as regularized means, instead of
            those of `learner.init`. They are validated before the first iteration, so that training
            can only improve on them.
        on_progress: Called after every iteration with its number and the latest metrics.
        on_resume: Called with the iteration of the checkpoint that training resumes from.

    Returns:
        The best meta-parameters by validation, and the training history.

    Raises:
        ConfigError: The learner is not compatible with the training episodes.
        DivergedError: The loss or the gradient is not finite. `checkpoint_path` still contains the
            last valid state.
        CheckpointError: `checkpoint_path` is not a checkpoint of this training run.
    """
    config, group = config or TrainingConfig(), group or ProcessGroup()
    device = validation.slice_tasks(0, 1).support_x.device
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.plan.tf32
    plan = plan or choose_training_plan(sampler, config, device, learner)
    state = _start(learner, config, device, group, checkpoint_path, initial)
    resumed_at = state.iteration
    estimate = _build_estimation(learner, sampler, state, validation)
    if resumed_at:
        on_resume(resumed_at)
    else:
        estimate()
    if not learner.has_learned_parameters(state.theta):
        _validate(learner, state, validation, group, plan.compiled and device.type == "cpu")
        return _build_result(state, resumed_at)
    if initial and not resumed_at:
        _validate(learner, state, validation, group, plan.compiled and device.type == "cpu")
    iterate = build_iteration(learner, sampler, state, config, device, plan, group)
    window: list[Tensor] = []
    metrics: dict[str, float] = {}
    while state.iteration < config.iterations and not (
        config.patience and state.stale >= config.patience
    ):
        window.append(iterate())
        state.iteration += 1
        done = state.iteration
        at_checkpoint = done % config.checkpoint_every == 0
        at_validation = done % config.validate_every == 0 or done == config.iterations
        if done % LOG_EVERY == 0 or at_checkpoint or at_validation:
            metrics |= _record(state, window, learner.objective.score_name, config, checkpoint_path)
            window = []
        if at_validation:
            estimate()
            compiled = plan.compiled and device.type == "cpu"
            metrics |= _validate(learner, state, validation, group, compiled)
        if checkpoint_path is not None and at_checkpoint and group.rank == 0:
            state.save(checkpoint_path)
        on_progress(done, metrics)
    return _build_result(state, resumed_at)


def _build_result(state: TrainingState, resumed_at: int) -> TrainingResult:
    if not state.best_scores:
        raise DivergedError("no validation had a finite loss: lower inner_lr or train.meta_lr")
    members = [
        {name: p[i].clone() for name, p in state.best.items()}
        for i in range(len(state.best_scores))
    ]
    return TrainingResult(
        theta=members[0],
        members=members,
        iteration=state.best_iterations[0],
        iterations=state.iteration,
        score=state.best_scores[0],
        history=state.history,
        resumed_at=resumed_at,
    )


def choose_training_plan(
    sampler: Sampler,
    config: TrainingConfig,
    device: torch.device,
    learner: MetaLearner | None = None,
) -> Plan:
    """Choose the plan by `config.plan` and, where that is automatic, by the workload.

    The arguments are those of `train`; without a learner, it is one that handles padding.

    Raises:
        ConfigError: The learner is not compatible with the episodes.
    """
    index = torch.zeros(1, dtype=torch.int64, device=float64.supporting_device(device))
    episode = sampler(index)
    if learner is not None:
        learner.check_ways(episode)
    return outer.choose_plan(episode, config.meta_batch, config.plan, learner)


def _build_estimation(
    learner: MetaLearner, sampler: Sampler, state: TrainingState, validation: Episodes
) -> Callable[[], None]:
    """Build the function that estimates the meta-parameters `estimated_names` of `state`."""
    episode = validation.slice_tasks(0, 1)
    device, size = episode.support_x.device, evaluation.episodes_per_chunk(episode)
    index = torch.arange(ESTIMATION_EPISODES, device=float64.supporting_device(device))

    def estimate() -> None:
        if not state.theta.keys() & learner.algorithm.estimated_names:
            return
        with torch.no_grad():
            episodes = (
                chunk
                for indices in torch.split(index, size)
                for chunk in evaluation.ExactChunks(learner, sampler(indices), size)
            )
            for name, p in learner.algorithm.estimate(learner, state.theta, episodes).items():
                state.theta[name].copy_(p)

    return estimate


Iterate = Callable[[], Tensor]
"""One iteration of training, in place. It returns `[loss, score, gradient norm]` on the device,
without synchronizing."""


def build_iteration(
    learner: MetaLearner,
    sampler: Sampler,
    state: TrainingState,
    config: TrainingConfig,
    device: torch.device,
    plan: Plan,
    group: ProcessGroup,
    capture: bool = True,
) -> Iterate:
    """Build the function that performs one iteration on `state`.

    On a GPU with a single process, the whole iteration is captured as a CUDA graph, including
    sampling and Adam, unless `capture` is false, the algorithm is `scheduled`, or the shapes differ
    between tasks.
    """
    decayed = list_decayed_names(learner) if config.weight_decay else []

    def update(tasks: Tensor, rate: float | Tensor) -> Tensor:
        loss, score, gradient = outer.sharded_meta_gradient(
            learner,
            state.theta,
            lambda first, last: sampler(tasks[first:last]),
            config.meta_batch,
            plan,
            group,
            state.iteration / config.iterations,
        )
        norm = torch.stack([g.norm() for g in gradient.values()]).norm()
        if (clip := config.gradient_clip) is not None:
            gradient = {name: g.clamp(-clip, clip) for name, g in gradient.items()}
        for name in decayed:
            state.theta[name] *= 1 - rate * config.weight_decay
        (_step_adam if config.optimizer == "adam" else _step_sgd)(state, gradient, rate)
        return torch.stack([loss, score, norm])

    is_static = not learner.algorithm.scheduled and not plan.trim
    if capture and device.type == "cuda" and group.size == 1 and is_static:
        rates = torch.tensor([config.rate(i) for i in range(config.iterations)], device=device)
        return cuda_graph.capture_iteration(
            update, state.tensors(), state.iteration, rates, config.meta_batch
        )

    def iterate() -> Tensor:
        first = state.iteration * config.meta_batch
        last = first + config.meta_batch
        tasks = torch.arange(first, last, device=float64.supporting_device(device))
        return update(tasks, config.rate(state.iteration))

    return iterate


def list_decayed_names(learner: MetaLearner) -> list[str]:
    """Return the names of the parameters with weight decay: the matrices and filters of the model.

    Source: Loshchilov, Hutter: Decoupled Weight Decay Regularization, ICLR 2019.
    https://arxiv.org/abs/1711.05101
    """
    parameters = learner.model.init(torch.Generator())
    return [
        name
        for name, p in parameters.items()
        if p.ndim > 1 and name not in learner.model.norm_names
    ]


def _step_adam(state: TrainingState, gradient: Params, rate: float | Tensor) -> None:
    """Perform one step of Adam (Kingma and Ba, 2015).

    torch's optimizer class would import torch's compiler, which takes seconds.
    """
    theta, gradients, exp_avg, exp_avg_sq, step = (
        [tensors[name] for name in state.theta]
        for tensors in (state.theta, gradient, state.exp_avg, state.exp_avg_sq, state.step)
    )
    adam(
        theta,
        gradients,
        exp_avg,
        exp_avg_sq,
        [],
        step,
        foreach=True,
        capturable=step[0].is_cuda,
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=rate,
        weight_decay=0.0,
        eps=1e-8,
        maximize=False,
    )


def _step_sgd(state: TrainingState, gradient: Params, rate: float | Tensor) -> None:
    for name, p in state.theta.items():
        p -= rate * gradient[name]


def _record(
    state: TrainingState,
    window: list[Tensor],
    score_name: str,
    config: TrainingConfig,
    checkpoint_path: Path | None,
) -> dict[str, float]:
    """Add the mean over `window` to the history as one row, and return its loss and score."""
    table = torch.stack(window).cpu().double()  # (iterations, [loss, score, norm])
    diverged = ~table.isfinite().all(1)
    if diverged.any():
        iteration = state.iteration - len(window) + int(diverged.nonzero()[0]) + 1
        remedy = (
            f"; the last valid state is {checkpoint_path}"
            if checkpoint_path is not None and checkpoint_path.exists()
            else ""
        )
        raise DivergedError(
            f"training diverged at iteration {iteration}: loss or gradient is not finite; lower"
            " inner_lr or train.meta_lr, or set train.gradient_clip (10 is a common value)" + remedy
        )
    loss, score, norm = table.mean(0).tolist()
    row = {
        "iteration": state.iteration,
        "loss": loss,
        score_name: score,
        "gradient_norm": norm,
        "meta_lr": config.rate(state.iteration - 1),
    }
    if score_name == "mse":
        del row["mse"]  # equals the loss
    state.history.train.append(row)
    return {key: row[key] for key in ("loss", score_name) if key in row}


def _validate(
    learner: MetaLearner,
    state: TrainingState,
    validation: Episodes,
    group: ProcessGroup,
    compiled: bool,
) -> dict[str, float]:
    """Score theta on the validation episodes and keep it if it is among the best."""
    with backend.use_compiled_kernels(compiled):
        score, loss = evaluation.episode_scores(
            learner,
            state.theta,
            validation,
            learner.test_variant.algorithm.inner_steps,
            group=group,
        )
    name = learner.objective.score_name
    mean, ci95 = mean_ci95(score, share=name == "accuracy")
    mean_loss = float(loss.mean())
    previous_best = state.best_scores[:1]
    best = (
        math.isfinite(mean)
        and math.isfinite(mean_loss)
        and state.insert_checkpoint(mean, learner.objective) == 0
    )
    # A score equal to the best replaces it, but does not count as an improvement.
    state.stale = 0 if best and previous_best != [mean] else state.stale + 1
    row = {
        "iteration": state.iteration,
        "loss": mean_loss,
        name: mean,
        f"{name}_ci95": ci95,
        "best": int(best),
    }
    state.history.validation.append(row)
    return {f"validation_{name}": mean}


def _start(
    learner: MetaLearner,
    config: TrainingConfig,
    device: torch.device,
    group: ProcessGroup,
    checkpoint_path: Path | None,
    initial: Params | None,
) -> TrainingState:
    """Return the initial state of all processes, restored by rank 0 if there is a checkpoint."""
    restored = group.rank == 0 and checkpoint_path is not None and checkpoint_path.exists()
    if restored and checkpoint_path is not None:
        state = TrainingState.restore(checkpoint_path, learner, config, device)
    else:
        state = TrainingState.initial(learner, config, device, initial)
    message = json.dumps(state.counters() if restored else None).encode()
    counters = json.loads(group.broadcast_object(message, device))
    if counters is not None:
        group.broadcast_(state.tensors())
        state.set_counters(counters)
    return state
