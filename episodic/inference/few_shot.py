"""A trained model in use: adapt it to new classes by a few labelled examples, then ask it.

    learner = episodic.load("models/run")
    adapted = learner.adapt(["cat1.png", "cat2.png", "dog1.png"], ["cat", "cat", "dog"])
    adapted.predict(["new.png"])

What is asked for together does not matter: batch norm takes the support set's statistics (`inductive`), so that an answer is that of the
example alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from episodic.core.config import ConfigError
from episodic.core.device import choose_device
from episodic.core.episode import Episode
from episodic.core.errors import UserError
from episodic.core.files import atomic_folder
from episodic.core.model import Params
from episodic.core.statistics import mean_ci95
from episodic.data.sampling import ClassSampler
from episodic.preprocessing import base as preprocessing
from episodic.preprocessing.base import Inputs
from episodic.training import checkpoint, evaluation, model_folder
from episodic.training.config import MAX_INNER_STEPS
from episodic.training.model_folder import CONFIG, ModelFolderError

SUPPORT = "support.safetensors"
AT_ONCE = 64
"""Examples that are answered together; it changes no answer."""


class AdaptError(UserError, ValueError):
    """A support set that cannot be adapted to; the message is one sentence."""


@dataclass(frozen=True)
class FewShotLearner:
    """A meta-learner that adapts to new tasks; made by `load`."""

    trained: model_folder.TrainedModel
    inputs: Inputs
    device: torch.device

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says of it."""
        return self.trained.config

    @property
    def kind(self) -> str:
        """`classification` or `regression`."""
        return self.config["kind"]

    @property
    def any_ways(self) -> bool:
        """Whether it adapts to any number of classes, or to as many as it was trained with alone."""
        method = self.trained.learner.at_test.algorithm
        return method.any_ways or method.labels == "split"

    def adapt(self, support_x: Any, support_y: Any, steps: int | None = None) -> Adapted:
        """The learner adapted to a task by its support set.

        support_x: pictures as paths, Pillow images or bytes, or an array `(n, *input)` as the model sees it
        support_y: a label each, of any hashable kind; regression: targets `(n,)` or `(n, 1)`
        steps: inner steps (None: the method's own)
        InputError or AdaptError in one sentence where the method cannot take them: most methods answer for as many classes as they were
        trained with, metric methods and new heads for any number of at least two.
        """
        x = self.inputs(support_x)
        if self.kind == "classification":
            labels = _labels(support_y, len(x))
            classes = _ordered(labels)
            if len(classes) < 2:
                raise AdaptError(
                    f"all {len(x)} examples are of the class {classes[0]!r}: give examples of at least two"
                )
            y = torch.tensor([classes.index(label) for label in labels])
            order = y.argsort(stable=True)
            x, y = x[order], y[order]
            counts = y.bincount()
            ways = len(classes) if bool((counts == counts[0]).all()) else 0
        else:
            classes, ways = [], 0
            y = _targets(support_y, len(x))
        support = Episode(x[None], y[None], x[None, :0], y[None, :0], ways).to(self.device)
        learner = replace(self.trained.learner, batch_norm="inductive")
        if classes and len(classes) != self.config["ways"]:
            try:
                learner.at_test.accept(support._replace(ways=len(classes)))
            except ConfigError as error:
                trained_for = f"{self.config['algorithm']['name']} was trained for {self.config['ways']} classes a task"
                raise AdaptError(
                    f"the support set has {len(classes)} classes: {trained_for} and takes as many, no more and no fewer"
                ) from error
        if steps is not None and not 0 <= steps <= MAX_INNER_STEPS:
            raise AdaptError(f"steps is {steps}: must be between 0 and {MAX_INNER_STEPS}")
        steps = evaluation.count_inner_steps(learner, steps)
        thetas = []
        for meta in self.trained.members:
            meta = {name: p.to(self.device) for name, p in meta.items()}
            *_, theta = evaluation.adaptation_steps(learner, meta, support, steps)
            thetas.append({name: p.detach() for name, p in theta.items()})
        if not all(bool(p.isfinite().all()) for theta in thetas for p in theta.values()):
            raise AdaptError(
                "the inner loop diverged on this support set: give more examples, or fewer steps"
            )
        return Adapted(
            replace(self.trained, learner=learner),
            self.inputs,
            self.device,
            thetas,
            support,
            tuple(classes),
        )

    def evaluate(
        self,
        x: Any,
        y: Any,
        ways: int | None = None,
        shots: int | None = None,
        queries: int = 5,
        episodes: int = 200,
        seed: int = 0,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Evaluation:
        """How well the learner adapts to classes of the user's own: accuracy on episodes drawn from labelled examples.

        x, y: as in `adapt`, of all classes that episodes may ask for; ways, shots: None: as trained
        AdaptError where there are too few classes or examples.
        """
        if self.kind != "classification":
            raise AdaptError("a regression model has no classes to draw episodes from")
        x = self.inputs(x)
        labels = _labels(y, len(x))
        classes = _ordered(labels)
        numbers = torch.tensor([classes.index(label) for label in labels])
        x, counts = x[numbers.argsort(stable=True)], numbers.bincount(minlength=len(classes))
        ways, shots = ways or self.config["ways"], shots or self.config["shots"]
        learner = replace(self.trained.learner, batch_norm="inductive")
        few = [
            f"{label!r} has {n}"
            for label, n in zip(classes, counts.tolist(), strict=True)
            if n < shots + queries
        ]
        if len(classes) < ways:
            raise AdaptError(
                f"there are {len(classes)} classes and an episode has {ways}: give more, or take fewer ways"
            )
        if few:
            wanted = f"every class needs {shots} + {queries} examples, and {', '.join(few[:10])}{' ...' if len(few) > 10 else ''}"
            raise AdaptError(f"{wanted}: give more, or take fewer shots or queries")
        sampler = ClassSampler(
            torch.empty(0), counts.cumsum(0) - counts, counts, seed, "test", ways, shots, queries
        )
        _, support, query = sampler.rows(torch.arange(episodes))
        names = torch.arange(ways)

        def drawn(rows: Tensor) -> tuple[Tensor, Tensor]:
            return x[rows], names.repeat_interleave(rows.shape[1] // ways).expand(len(rows), -1)

        scores: list[Tensor] = []
        members = [
            {name: p.to(self.device) for name, p in meta.items()} for meta in self.trained.members
        ]
        steps = evaluation.count_inner_steps(learner, None)
        for start in range(0, episodes, EPISODES_AT_ONCE):
            part = slice(start, start + EPISODES_AT_ONCE)
            episode = Episode(*drawn(support[part]), *drawn(query[part]), ways).to(self.device)
            scores.append(
                evaluation.adaptation_curve(learner, members, episode, [steps], ["inductive"])
                .score["inductive"][:, 0]
                .cpu()
            )
            progress(min(start + EPISODES_AT_ONCE, episodes), episodes)
        return Evaluation(torch.cat(scores).double().numpy(), ways, shots, queries)


EPISODES_AT_ONCE = 5


@dataclass(frozen=True)
class Evaluation:
    """scores: the accuracy of each episode `(episodes,)`"""

    scores: np.ndarray
    ways: int
    shots: int
    queries: int

    @property
    def accuracy(self) -> float:
        return float(self.scores.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the accuracy's 95 % interval over episodes."""
        return mean_ci95(self.scores)[1]

    @property
    def summary(self) -> dict[str, Any]:
        shape = {
            "ways": self.ways,
            "shots": self.shots,
            "queries": self.queries,
            "episodes": len(self.scores),
        }
        return {
            "accuracy": self.accuracy,
            "accuracy_ci95": self.ci95,
            "chance": 1 / self.ways,
        } | shape


@dataclass(frozen=True)
class Adapted:
    """A model of one task; made by `FewShotLearner.adapt` or `load_adapted`.

    thetas: of each member of the ensemble, `(1, *shape)`; support: what it was adapted to, which metric methods compare with and batch norm
    takes its statistics from; classes_: the labels in the order of the columns of `predict_proba`
    """

    trained: model_folder.TrainedModel
    inputs: Inputs
    device: torch.device
    thetas: list[Params]
    support: Episode
    classes_: tuple[Hashable, ...]

    @property
    def config(self) -> dict[str, Any]:
        return self.trained.config

    def predict(self, x: Any) -> np.ndarray:
        """A label each `(n,)`; regression: the targets `(n,)`."""
        if not self.classes_:
            return self._answers(self.inputs(x))[:, 0].numpy()
        return self.named(self.predict_proba(x))

    def predict_proba(self, x: Any) -> np.ndarray:
        """Probabilities `(n, classes)`, in the order of `classes_`."""
        if not self.classes_:
            raise AdaptError("a regression model gives no probabilities: use predict")
        return self._answers(self.inputs(x)).double().softmax(-1).numpy()

    def named(self, probabilities: np.ndarray) -> np.ndarray:
        """The likeliest label of each row of `predict_proba`."""
        return as_labels(self.classes_)[probabilities.argmax(1)]

    def _answers(self, x: Tensor) -> Tensor:
        parts, heads = [], self.heads()
        with torch.no_grad():
            for start in range(0, len(x), AT_ONCE):
                parts.append(self.outputs(x[start : start + AT_ONCE].to(self.device), heads).cpu())
        return torch.cat(parts)

    def outputs(self, x: Tensor, heads: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """Logits `(n, classes)` or targets `(n, 1)` of prepared examples `(n, *input)` on the device; heads: of `heads`, if there are."""
        learner, episode = self.trained.learner.at_test, self._with(x)
        if heads is None:
            answers = [learner.query_outputs(theta, episode) for theta in self.thetas]
        else:
            answers = [
                self.features(x, i)[None] @ weight + bias for i, (weight, bias) in enumerate(heads)
            ]
        return learner.objective.together(answers)[0]

    def features(self, x: Tensor, member: int = 0) -> Tensor:
        """What the head sees `(n, width)` of prepared examples on the device."""
        learner = self.trained.learner.at_test
        return learner.on_query(
            learner.model.features, self.thetas[member], self._with(x), "inductive"
        )[0]

    def heads(self) -> list[tuple[Tensor, Tensor]] | None:
        """The head of each member that its method solves for from the support set: weight and bias. None: it solves for none."""
        learner, found = self.trained.learner.at_test, []
        with torch.no_grad():
            for theta in self.thetas:
                found.append(
                    learner.algorithm.head(
                        theta, learner.model.features(theta, self.support.support_x), self.support
                    )
                )
        return None if None in found else [head for head in found if head]

    def _with(self, x: Tensor) -> Episode:
        return self.support._replace(query_x=x[None], query_y=self.support.support_y[:, :0])

    def save(self, folder: Path | str) -> None:
        """Writes a folder that `load_adapted` reads. It holds the support set's examples, as the model sees them."""
        for label in self.classes_:
            if not isinstance(label, (str, int, float, bool)) or (
                isinstance(label, float) and not math.isfinite(label)
            ):
                raise AdaptError(
                    f"the label {label!r} is a {type(label).__name__}: only text and numbers can be written to a file"
                )
        adapted = {"classes": list(self.classes_), "ways": self.support.ways}
        with atomic_folder(Path(folder)) as draft:
            model_folder.save(draft, self.thetas, self.config | {"adapted": adapted})
            checkpoint.save(
                draft / SUPPORT,
                {"x": self.support.support_x[0], "y": self.support.support_y[0]},
                {},
            )


def load(folder: Path | str, device: str = "cpu") -> FewShotLearner:
    """A model that the pipeline trained, from its folder alone: no data, no Prefect, no DVC.

    device: `cpu`, `cuda`, `mps` or `auto`
    ModelFolderError or CheckpointError in one sentence where the folder cannot be trusted.
    """
    folder, on = Path(folder), choose_device(device)
    config = model_folder.read_config(folder)
    if "adapted" in config:
        raise ModelFolderError(
            f"{folder} is a model that was adapted to a task already: name the one that it came from, as models/run"
        )
    return FewShotLearner(model_folder.load(folder), _inputs(folder, config), on)


def load_adapted(folder: Path | str, device: str = "cpu") -> Adapted:
    """What `Adapted.save` wrote; raises as `load`."""
    folder, on = Path(folder), choose_device(device)
    config = model_folder.read_config(folder)
    if "adapted" not in config:
        raise ModelFolderError(
            f"{folder} is a model that is adapted to no task yet: adapt it first (`episodic adapt {folder} ...`)"
        )
    learner = replace(model_folder.build_checked_learner(folder, config), batch_norm="inductive")
    support, classes = _support(folder, config)
    meta = {name: p.to(support.support_x.device) for name, p in learner.init(0).items()}
    wanted = next(evaluation.adaptation_steps(learner, meta, support, 0))
    thetas = model_folder.read_members(folder, config, wanted)
    found = model_folder.TrainedModel(
        learner, [], {name: value for name, value in config.items() if name != "adapted"}
    )
    return Adapted(
        found,
        _inputs(folder, config),
        on,
        [{n: p.to(on) for n, p in theta.items()} for theta in thetas],
        support.to(on),
        classes,
    )


def _support(folder: Path, config: dict[str, Any]) -> tuple[Episode, tuple[Hashable, ...]]:
    """The support set of an adapted model, and its classes."""
    path = folder / SUPPORT
    tensors, _ = checkpoint.load(path)
    adapted = config["adapted"] if isinstance(config["adapted"], dict) else {}
    classes = adapted.get("classes")
    if (
        tensors.keys() != {"x", "y"}
        or not isinstance(classes, list)
        or not _fit(tensors["x"], tensors["y"], len(classes), config)
    ):
        raise ModelFolderError(
            f"{path} does not hold the support set that {folder / CONFIG} speaks of: adapt again"
        )
    x, y = tensors["x"][None], tensors["y"][None]
    return Episode(x, y, x[:, :0], y[:, :0], len(classes) if adapted.get("ways") else 0), tuple(
        classes
    )


def _fit(x: Tensor, y: Tensor, classes: int, config: dict[str, Any]) -> bool:
    """Whether these can be a support set of the model."""
    sound = (
        x.shape[1:] == tuple(config["input"])
        and len(x) == len(y) > 0
        and bool(x.isfinite().all())
        and bool(y.isfinite().all())
    )
    if not sound or not classes:
        return sound and y.shape == (len(x), 1)
    return y.dim() == 1 and y.dtype == torch.int64 and y.unique().tolist() == list(range(classes))


def _inputs(folder: Path, config: dict[str, Any]) -> Inputs:
    try:
        return preprocessing.build(config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFolderError(
            f"{folder / CONFIG}: its `inputs` cannot be used ({error}): copy the model again, or train it again"
        ) from error


def _labels(y: Any, examples: int) -> list[Hashable]:
    """A label each, of plain Python types."""
    found = y.tolist() if isinstance(y, (np.ndarray, Tensor)) else list(y)
    if len(found) != examples:
        raise AdaptError(
            f"there are {examples} examples and {len(found)} labels: give each example one label"
        )
    for label in found:
        if not isinstance(label, Hashable):
            raise AdaptError(
                f"the label {label!r} is a {type(label).__name__}: a label must be hashable, as text or a number"
            )
    return [label.item() if isinstance(label, np.generic) else label for label in found]


def _ordered(labels: Sequence[Hashable]) -> list[Hashable]:
    """The classes, sorted where they can be."""
    classes = list(dict.fromkeys(labels))
    try:
        return sorted(classes)  # type: ignore[type-var]
    except TypeError:
        return classes


def _targets(y: Any, examples: int) -> Tensor:
    """Regression's targets `(n, 1)`."""
    found = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if (
        found.dtype.kind not in "buif"
        or found.shape not in ((examples,), (examples, 1))
        or not np.isfinite(found).all()
    ):
        raise AdaptError(f"support_y must hold {examples} finite numbers, one for each example")
    return torch.from_numpy(found.reshape(examples, 1).astype(np.float32))


def as_labels(classes: Sequence[Hashable]) -> np.ndarray:
    """Labels as an array to pick from: of numbers or text where all are of one kind, else of objects."""
    kinds = {type(label) for label in classes}
    if len(kinds) == 1 and kinds <= {str, int, float, bool}:
        return np.array(list(classes))
    found = np.empty(len(classes), object)
    found[:] = list(classes)
    return found
