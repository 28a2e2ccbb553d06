"""Meta-training: iterations of [episodes -> meta-gradient -> Adam], validation, and checkpoints that resume to the same bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim.adam import adam

from episodic.core import float64
from episodic.core.config import require
from episodic.core.episode import Episode
from episodic.core.errors import UserError
from episodic.core.model import Params
from episodic.core.objective import Objective
from episodic.core.statistics import mean_ci95
from episodic.data.sampling import Sampler
from episodic.engine import cuda_graph, outer
from episodic.engine import plan as plans
from episodic.engine.learner import MetaLearner
from episodic.engine.plan import Plan
from episodic.engine.processes import Group
from episodic.ops import backend
from episodic.training import checkpoint, evaluate

LOG_EVERY = 10
"""Iterations to a row of the training history, which also ends one at each checkpoint and validation."""


@dataclass(frozen=True)
class Config:
    """The section `train` of params.yaml, where each key is explained."""

    seed: int = 0
    iterations: int = 450
    meta_batch: int = 32
    queries: int = 5
    ways: int | None = None
    shots: int | None = None
    within_group: bool = False
    vary_shots: bool = False
    classes: int | None = None
    groups: tuple[str, ...] | None = None
    hard: float = 0.0
    meta_lr: float = 0.002
    meta_lr_end: float = 0.0
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    optimizer: Literal["adam", "sgd"] = "adam"
    gradient_clip: float | None = None
    batch_norm: Literal["transductive", "inductive"] = "transductive"
    validate_every: int = 90
    patience: int | None = None
    checkpoint_every: int = 50
    ensemble: int = 1
    plan: plans.Config = field(default_factory=plans.Config)

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        for key in (
            "iterations",
            "meta_batch",
            "queries",
            "validate_every",
            "checkpoint_every",
            "ensemble",
        ):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        require(
            0 < self.meta_lr < math.inf, "meta_lr", self.meta_lr, "must be a number greater than 0"
        )
        require(
            0 <= self.meta_lr_end < math.inf,
            "meta_lr_end",
            self.meta_lr_end,
            "must be a number, 0 or greater",
        )
        for key in ("ways", "shots", "classes"):
            value = getattr(self, key)
            require(value is None or value >= 1, key, value, "must be null or at least 1")
        require(
            self.groups is None or len(self.groups) > 0,
            "groups",
            self.groups,
            "must be null or a list of names",
        )
        require(0 <= self.hard <= 1, "hard", self.hard, "must be between 0 and 1")
        require(
            not (self.hard and self.within_group),
            "hard",
            self.hard,
            "must be 0 with within_group, whose classes are of one group",
        )
        clip = self.gradient_clip
        require(
            clip is None or 0 < clip < math.inf,
            "gradient_clip",
            clip,
            "must be null or a number greater than 0",
        )
        require(self.seed >= 0, "seed", self.seed, "must be at least 0")
        looks = math.ceil(self.iterations / self.validate_every)
        said = f"must be at most {looks}, as many as there are validations of {self.iterations} iterations every {self.validate_every}"
        require(self.ensemble <= looks, "ensemble", self.ensemble, said)
        require(
            self.patience is None or self.patience >= 1,
            "patience",
            self.patience,
            "must be null or at least 1",
        )

    def rate(self, iteration: int) -> float:
        """The outer learning rate of an iteration (counted from 0)."""
        done = iteration / self.iterations
        left = {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        }[self.schedule]
        return (
            self.meta_lr_end + (self.meta_lr - self.meta_lr_end) * left
            if left < 1
            else self.meta_lr
        )


class DivergedError(UserError):
    """Loss or gradient is not finite; the message names the iteration and what to lower."""


@dataclass
class History:
    """Rows for tables: `train` every LOG_EVERY iterations and at checkpoints and validations, `validation` every `validate_every`."""

    train: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class State:
    """All that training carries from one iteration to the next.

    best: the checkpoints that did best in validation, `(ensemble, *shape)`, the best first; as many as there are scores
    """

    theta: Params
    best: Params
    exp_avg: Params
    exp_avg_sq: Params
    step: Params
    iteration: int = 0
    best_iterations: list[int] = field(default_factory=list)
    best_scores: list[float] = field(default_factory=list)
    stale: int = 0
    history: History = field(default_factory=History)

    def tensors(self) -> list[Tensor]:
        """All of them, in an order of their own."""
        return [tensor for part in TENSORS for tensor in getattr(self, part).values()]


@dataclass(frozen=True)
class Result:
    """theta: the best by validation, without a task axis; members: the best `ensemble` of them (or as many as were validated), theta first;
    `resumed_at`: the iteration a checkpoint was taken up at, or 0."""

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
    validation: Episode,
    config: Config,
    *,
    plan: Plan | None = None,
    group: Group | None = None,
    checkpoint_path: Path | None = None,
    on_progress: OnProgress = lambda iteration, figures: None,
    on_resume: Callable[[int], None] = lambda iteration: None,
) -> Result:
    """Trains until `iterations` or until `patience` runs out; returns the best meta-parameters by validation.

    sampler: training episodes by index; iteration i takes the indices i * meta_batch ... (i+1) * meta_batch - 1
    validation: the fixed validation episodes, scored after the method's own number of inner steps at test
    plan: how meta-gradients are computed (config.plan, or chosen from the workload)
    group: the processes that share the work; each calls this function and returns the same result. The one of rank 0 alone writes
    checkpoint_path: where to save the state every `checkpoint_every` iterations and to go on from, if it exists
    on_progress: called after every iteration with its number and the latest figures
    on_resume: called first with the iteration of the checkpoint that is taken up

    Raises DivergedError; the last good state is then still at `checkpoint_path`.
    """
    device = validation.support_x.device
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.plan.tf32
    plan, group = plan or suited(sampler, config, device), group or Group()
    state = _common(
        group,
        _restore(learner, config, device, checkpoint_path if group.rank == 0 else None),
        learner,
        config,
        device,
    )
    resumed_at = state.iteration
    if resumed_at:
        on_resume(resumed_at)
    iterate = iteration(learner, sampler, state, config, device, plan, group)
    window: list[Tensor] = []
    figures: dict[str, float] = {}
    while state.iteration < config.iterations and not (
        config.patience and state.stale >= config.patience
    ):
        window.append(iterate())
        state.iteration += 1
        done = state.iteration
        at_checkpoint, at_validation = (
            done % config.checkpoint_every == 0,
            done % config.validate_every == 0,
        )
        at_end = done == config.iterations
        if done % LOG_EVERY == 0 or at_checkpoint or at_validation or at_end:
            figures |= _record(state, window, learner.objective.score_name, config, checkpoint_path)
            window = []
        if at_validation or at_end:
            figures |= _validate(
                learner, state, validation, group, plan.compiled and device.type == "cpu"
            )
        if checkpoint_path is not None and at_checkpoint and group.rank == 0:
            _save(state, checkpoint_path)
        on_progress(done, figures)
    if not state.best_scores:
        raise DivergedError("no validation had a finite loss: lower inner_lr or train.meta_lr")
    members = [
        {name: p[i].clone() for name, p in state.best.items()}
        for i in range(len(state.best_scores))
    ]
    return Result(
        members[0],
        members,
        state.best_iterations[0],
        state.iteration,
        state.best_scores[0],
        state.history,
        resumed_at,
    )


def suited(sampler: Sampler, config: Config, device: torch.device) -> Plan:
    """The plan for training by `config`: params, or what fits the workload."""
    return outer.suited(
        sampler(torch.zeros(1, dtype=torch.int64, device=float64.place(device))),
        config.meta_batch,
        config.plan,
    )


Iterate = Callable[[], Tensor]
"""One iteration of training, in place; returns [loss, score, gradient norm] on the device, so that nothing waits for them."""


def iteration(
    learner: MetaLearner,
    sampler: Sampler,
    state: State,
    config: Config,
    device: torch.device,
    plan: Plan,
    group: Group,
    capture: bool = True,
) -> Iterate:
    """On a GPU of its own the whole iteration, sampling and Adam included, is one CUDA graph (unless `capture` is False, or the method
    changes on the way)."""

    def update(tasks: Tensor, rate: float | Tensor) -> Tensor:
        progress = state.iteration / config.iterations
        loss, score, gradient = outer.sharded(
            learner,
            state.theta,
            lambda a, b: sampler(tasks[a:b]),
            config.meta_batch,
            plan,
            group,
            progress,
        )
        norm = torch.stack([g.norm() for g in gradient.values()]).norm()
        if config.gradient_clip is not None:
            gradient = {
                name: g.clamp(-config.gradient_clip, config.gradient_clip)
                for name, g in gradient.items()
            }
        (_adam if config.optimizer == "adam" else _sgd)(state, gradient, rate)
        return torch.stack([loss, score, norm])

    if capture and device.type == "cuda" and group.size == 1 and not learner.algorithm.changes:
        rates = torch.tensor([config.rate(i) for i in range(config.iterations)], device=device)
        return cuda_graph.iteration(
            update, state.tensors(), state.iteration, rates, config.meta_batch
        )

    def one() -> Tensor:
        first = state.iteration * config.meta_batch
        return update(
            torch.arange(first, first + config.meta_batch, device=float64.place(device)),
            config.rate(state.iteration),
        )

    return one


def _adam(state: State, gradient: Params, rate: float | Tensor) -> None:
    """One step of Adam (Kingma, Ba 2015). torch's function and not its class, whose making imports torch's compiler (4 s)."""
    names = list(state.theta)
    theta, gradients, exp_avg, exp_avg_sq, step = (
        [part[name] for name in names]
        for part in (state.theta, gradient, state.exp_avg, state.exp_avg_sq, state.step)
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


def _sgd(state: State, gradient: Params, rate: float | Tensor) -> None:
    for name, p in state.theta.items():
        p -= rate * gradient[name]


def _record(
    state: State,
    window: list[Tensor],
    score_name: str,
    config: Config,
    checkpoint_path: Path | None,
) -> dict[str, float]:
    table = torch.stack(window).cpu().double()  # (iterations, [loss, score, norm])
    bad = ~table.isfinite().all(1)
    if bad.any():
        iteration = state.iteration - len(window) + int(bad.nonzero()[0]) + 1
        kept = (
            f"; the last good state is {checkpoint_path}"
            if checkpoint_path is not None and checkpoint_path.exists()
            else ""
        )
        raise DivergedError(
            f"training diverged at iteration {iteration}: loss or gradient is not finite; lower inner_lr or train.meta_lr, "
            f"or set train.gradient_clip (10 is usual){kept}"
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
        del row["mse"]  # the loss is the mean squared error
    state.history.train.append(row)
    return {"loss": loss} | ({} if score_name == "mse" else {score_name: score})


def _validate(
    learner: MetaLearner, state: State, validation: Episode, group: Group, compiled: bool
) -> dict[str, float]:
    with backend.compiled(compiled):
        score, loss = evaluate.scores(
            learner, state.theta, validation, learner.at_test.algorithm.inner_steps, group=group
        )
    mean, ci95 = mean_ci95(score)
    name = learner.objective.score_name
    before = state.best_scores[:1]
    best = (
        math.isfinite(mean)
        and math.isfinite(loss.mean())
        and _keep(state, mean, learner.objective) == 0
    )
    # As good as the best is good enough to be kept, later as it is, but no reason to go on for.
    state.stale = 0 if best and before != [mean] else state.stale + 1
    row = {
        "iteration": state.iteration,
        "loss": float(loss.mean()),
        name: mean,
        f"{name}_ci95": ci95,
        "best": int(best),
    }
    state.history.validation.append(row)
    return {f"validation_{name}": mean}


def _keep(state: State, score: float, objective: Objective) -> int:
    """Puts theta in its place among the best (before those as good); returns the place, which may be past the last one kept."""
    size = len(next(iter(state.best.values())))
    place = sum(objective.better(other, score) for other in state.best_scores)
    if place < size:
        for name, kept in state.best.items():
            kept[place + 1 :] = kept[place:-1].clone()
            kept[place] = state.theta[name]
        for values, value in ((state.best_scores, score), (state.best_iterations, state.iteration)):
            values.insert(place, value)  # type: ignore[arg-type]
            del values[size:]
    return place


TENSORS = ("theta", "best", "exp_avg", "exp_avg_sq", "step")
NUMBERS = ("iteration", "best_iterations", "best_scores", "stale")


def start(learner: MetaLearner, config: Config, device: torch.device) -> State:
    theta = {name: p.to(device) for name, p in learner.init(config.seed).items()}

    def zeros() -> Params:
        return {name: torch.zeros_like(p) for name, p in theta.items()}

    # Adam counts on a GPU if it is to be part of a CUDA graph.
    steps = {
        name: torch.zeros((), device=device if device.type == "cuda" else "cpu") for name in theta
    }
    best = {name: p.expand(config.ensemble, *p.shape).clone() for name, p in theta.items()}
    return State(theta, best, zeros(), zeros(), steps)


def _common(
    group: Group, restored: State | None, learner: MetaLearner, config: Config, device: torch.device
) -> State:
    """The state that all processes start from: what the first one restored, or iteration 0."""
    state = restored or start(learner, config, device)
    said = json.dumps(None if restored is None else _description(state)).encode()
    description = json.loads(group.first_says(said, device))
    if description is not None:
        group.take_first(state.tensors())
        _describe(state, description)
    return state


def _description(state: State) -> dict[str, Any]:
    return {key: getattr(state, key) for key in NUMBERS} | {"history": vars(state.history)}


def _describe(state: State, description: dict[str, Any]) -> None:
    for key in NUMBERS:
        setattr(state, key, description[key])
    state.history = History(**description["history"])


def _save(state: State, path: Path) -> None:
    tensors = {f"{part}/{name}": t for part in TENSORS for name, t in getattr(state, part).items()}
    checkpoint.save(path, tensors, _description(state))


def _restore(
    learner: MetaLearner, config: Config, device: torch.device, path: Path | None
) -> State | None:
    if path is None or not path.exists():
        return None
    tensors, description = checkpoint.load(path)
    state = start(learner, config, device)
    for part in TENSORS:
        expected: Params = getattr(state, part)
        found = {
            name.removeprefix(f"{part}/"): t
            for name, t in tensors.items()
            if name.startswith(f"{part}/")
        }
        for name, t in checkpoint.matching(found, expected, path).items():
            expected[name].copy_(t)
    _describe(state, description)
    return state
