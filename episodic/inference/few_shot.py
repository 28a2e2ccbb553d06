"""Trained models that adapt to new classes from a few labelled examples per class.

learner = episodic.load("models/run")
adapted = learner.adapt(["cat1.png", "cat2.png", "dog1.png"], ["cat", "cat", "dog"])
adapted.predict(["new.png"])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from episodic.core.config import ConfigError
from episodic.core.device import choose_device
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.core.statistics import mean_ci95
from episodic.data.sampling import ClassSampler
from episodic.engine.learner import MetaLearner
from episodic.inference import suggestion
from episodic.inference.adapted import CHUNK, AdaptedModel, build_inputs
from episodic.inference.heads import CALIBRATED
from episodic.inference.labelled_examples import Change
from episodic.inference.labels import (
    AdaptError,
    index_labels,
    read_labels,
    read_targets,
    unique_labels,
)
from episodic.inference.suggestion import DEFAULT_STRATEGY, Suggestions
from episodic.inference.support_reliability import learn_on_support
from episodic.preprocessing.base import Preprocessor
from episodic.training import evaluation, model_folder
from episodic.training.config import MAX_INNER_STEPS
from episodic.training.model_folder import ModelFolderError

__all__ = ["FewShotEvaluation", "FewShotLearner", "load"]

EPISODES_PER_CHUNK = 5
MAX_BALANCE = 1e6
REFERENCES = 128
"""Examples of a pool whose statistics batch norm uses before there is a support set."""


@dataclass(frozen=True)
class FewShotLearner:
    """A trained meta-learner that adapts to new tasks, returned by `load`.

    Args:
        trained: The meta-learner and its meta-parameters.
        inputs: The preprocessing of files, images or sentences.
        device: Device of the computation.
    """

    trained: model_folder.TrainedModel
    inputs: Preprocessor
    device: torch.device

    @property
    def config(self) -> dict[str, Any]:
        """The content of the model's config.json."""
        return self.trained.config

    @property
    def kind(self) -> str:
        """`classification` or `regression`."""
        return str(self.config["kind"])

    @property
    def any_ways(self) -> bool:
        """Whether the model adapts to any number of classes, not only to that of training."""
        algorithm = self.trained.learner.test_variant.algorithm
        return algorithm.any_ways or algorithm.labels == "split"

    def adapt(self, support_x: Any, support_y: Any, steps: int | None = None) -> AdaptedModel:
        """Adapt to a task, given its support set.

        Most algorithms adapt to exactly as many classes as in training. Algorithms that are
        metric-based or fit a new head adapt to two or more classes (see `any_ways`). Classes may
        have different numbers of examples.

        Args:
            support_x: Images as paths, Pillow images or bytes; sentences; or an array of
                preprocessed examples `(n, *input)`.
            support_y: A hashable label per example. For regression, targets `(n,)` or `(n, 1)`.
            steps: Number of inner steps. None: the default of the algorithm.

        Raises:
            InputError: An example cannot be read.
            AdaptError: The labels, the number of classes or of steps are invalid, or the inner loop
                diverged.
        """
        x = self.inputs(support_x)
        if self.kind == "classification":
            classes, y = index_labels(read_labels(support_y, len(x)))
            order = y.argsort(stable=True)
            x, y = x[order], y[order]
            labels = [classes[k] for k in y.tolist()]
            counts = y.bincount()
            ways = len(classes) if bool((counts == counts[0]).all()) else 0
        else:
            classes, ways = [], 0
            y = read_targets(support_y, len(x))
            labels = y[:, 0].tolist()
        support = Episode(x[None], y[None], x[None, :0], y[None, :0], ways).to(self.device)
        learner = self._inductive_learner()
        if classes and len(classes) != self.config["ways"]:
            try:
                learner.test_variant.check_episode(support._replace(ways=len(classes)))
            except ConfigError as error:
                raise AdaptError(
                    f"the support set has {len(classes)} classes:"
                    f" {self.config['algorithm']['name']} was trained for {self.config['ways']}"
                    " classes per task and adapts only to this number"
                ) from error
        if steps is not None and not 0 <= steps <= MAX_INNER_STEPS:
            raise AdaptError(f"steps is {steps}; it must be between 0 and {MAX_INNER_STEPS}")
        if steps is not None and learner.test_variant.algorithm.inner_steps == 0:
            name = self.config.get("head", self.config["algorithm"]["name"])
            raise AdaptError(
                f"steps is {steps}; it must be omitted, since {name} has no inner loop"
            )
        thetas = [
            {name: p.detach() for name, p in theta.items()}
            for theta in (
                evaluation.adapt(learner, params, support, steps) for params in self._members()
            )
        ]
        if not all(bool(p.isfinite().all()) for theta in thetas for p in theta.values()):
            raise AdaptError(
                "the inner loop diverged on this support set: use more examples or fewer steps"
            )
        return AdaptedModel(
            replace(
                self.trained, learner=learner, config=self._describe(learner, thetas[0], support)
            ),
            self.inputs,
            self.device,
            thetas,
            support,
            tuple(classes),
            self,
            steps,
            history=(Change.describe("adapt", x, labels, bool(classes)),),
        )

    def _describe(self, learner: MetaLearner, theta: Params, support: Episode) -> dict[str, Any]:
        """Return the configuration, for a head without meta-training with its reliability."""
        if self.config.get("head") not in CALIBRATED:
            return self.config
        fitted = learn_on_support(learner, self._members()[0], theta, support)
        config = {key: value for key, value in self.config.items() if key != "reliability"}
        if fitted is not None:
            config["reliability"] = {learner.batch_norm: [fitted.to_json()]}
        return config

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
        query_balance: float | None = None,
    ) -> FewShotEvaluation:
        """Evaluate the learner on episodes drawn from your own examples.

        Args:
            x: Examples, as for `adapt`, of all classes to draw episodes from.
            y: A label per example.
            ways: Classes per episode. None: as in the model's (largest) test episodes; without
                training, 5 or all classes.
            shots: Support examples per class. None: likewise; without training, 1.
            queries: Query examples per class.
            episodes: Number of episodes.
            seed: Seed of the episodes.
            progress: Called with the number of completed and of all episodes.
            query_balance: Dirichlet concentration of unbalanced query sets, as in `ClassSampler`.
                The number of queries per episode stays `ways * queries`. None: balanced.

        Raises:
            InputError: An example cannot be read.
            AdaptError: There are too few classes or examples, the model is a regression model, or
                a number is out of bounds.
        """
        if self.kind != "classification":
            raise AdaptError("a regression model has no classes to draw episodes from")
        for name, number, minimum in (
            ("ways", ways, 2),
            ("shots", shots, 1),
            ("queries", queries, 1),
            ("episodes", episodes, 2),
        ):
            if number is not None and number < minimum:
                raise AdaptError(f"{name} is {number}; it must be at least {minimum}")
        if query_balance is not None and not 0 < query_balance <= MAX_BALANCE:
            raise AdaptError(
                f"query_balance is {query_balance:g}; it must be greater than 0 and at most"
                f" {MAX_BALANCE:g}"
            )
        x = self.inputs(x)
        labels = read_labels(y, len(x))
        classes = unique_labels(labels)
        class_index = torch.tensor([classes.index(label) for label in labels])
        x = x[class_index.argsort(stable=True)]
        counts = class_index.bincount(minlength=len(classes))
        ways = ways or self.config["ways"] or max(2, min(5, len(classes)))
        shots = shots or self.config["shots"] or 1
        if len(classes) < ways:
            raise AdaptError(
                f"an episode has {ways} classes, and there are only {len(classes)}: add classes,"
                " or use fewer ways"
            )
        too_small = [
            f"{label!r} has {count}"
            for label, count in zip(classes, counts.tolist(), strict=True)
            if count < shots + queries
        ]
        if too_small:
            listed = ", ".join(too_small[:10]) + (" ..." if len(too_small) > 10 else "")
            raise AdaptError(
                f"every class needs {shots} + {queries} examples, and {listed}: add examples, or"
                " use fewer shots or queries"
            )
        sampler = ClassSampler(
            x,
            counts.cumsum(0) - counts,
            counts,
            seed,
            "test",
            ways,
            shots,
            queries,
            query_balance=query_balance,
        )
        if query_balance is not None and sampler.most_queries == queries:
            raise AdaptError(
                f"query_balance is {query_balance:g}, but the smallest class has {counts.min()}"
                f" examples, {shots} + {queries}, which leaves no class more queries than another:"
                " add examples, or use fewer shots or queries"
            )
        scores: list[Tensor] = []
        for start in range(0, episodes, EPISODES_PER_CHUNK):
            end = min(start + EPISODES_PER_CHUNK, episodes)
            scores.append(self.score_episodes(sampler, torch.arange(start, end)))
            progress(end, episodes)
        return FewShotEvaluation(
            torch.cat(scores).double().numpy(),
            ways,
            shots,
            queries,
            query_balance,
            self._inductive_learner().test_variant.algorithm.transductive,
        )

    def suggest(
        self, pool: Any, n: int = 10, strategy: str = DEFAULT_STRATEGY, seed: int = 0
    ) -> Suggestions:
        """Suggest which examples of an unlabelled pool to label first.

        `AdaptedModel.suggest` takes labels into account, once there are some. Batch norm uses the
        statistics of a part of the pool.

        Args:
            pool: Examples, as for `adapt`.
            n: Number of suggestions. There are fewer if the pool has fewer examples.
            strategy: One of `episodic.inference.suggestion.STRATEGIES` except `margin`.
            seed: Seed of the strategy `random`, and of the part of a large pool that is covered.

        Raises:
            InputError: An example cannot be read.
            AdaptError: The model is a regression model, or `n` or `strategy` is invalid.
        """
        if self.kind != "classification":
            raise AdaptError("a regression model has no classes whose examples could be suggested")
        return suggestion.suggest(self.pool_inputs(pool), n, strategy, seed, self.embed)

    @property
    def pool_inputs(self) -> Preprocessor:
        """The preprocessing of the pool of `suggest`."""
        return self.inputs

    def embed(self, x: Tensor) -> list[Tensor]:
        """Compute the features of examples before adaptation, for each member of the ensemble.

        Args:
            x: Preprocessed examples `(n, *input)`. Batch norm normalizes by the first ones.

        Returns:
            Features `(n, width)` of each member.
        """
        learner, members = self._inductive_learner().test_variant, []
        reference = x[None, :REFERENCES].to(self.device)
        no_labels = torch.zeros(1, reference.shape[1], dtype=torch.int64, device=self.device)
        with torch.no_grad():
            for meta in self._members():
                theta = {name: p[None] for name, p in meta.items()}
                parts = []
                for part in torch.split(x, CHUNK):
                    query = part[None].to(self.device)
                    episode = Episode(reference, no_labels, query, no_labels[:, :0], 0)
                    features = learner.apply_to_query(
                        learner.model.features, theta, episode, "inductive"
                    )
                    parts.append(features[0].cpu())
                members.append(torch.cat(parts))
        return members

    def score_episodes(self, sampler: ClassSampler, index: Tensor) -> Tensor:
        """Compute the accuracy of episodes.

        Args:
            sampler: Sampler of episodes of preprocessed examples.
            index: Episode indices, int64 `(tasks,)`.

        Returns:
            Fractions `(tasks,)`.
        """
        learner, episode = self._inductive_learner(), sampler(index).to(self.device)
        steps = evaluation.count_inner_steps(learner, None)
        curve = evaluation.adaptation_curve(
            learner, self._members(), episode, [steps], ["inductive"]
        )
        return curve.score["inductive"][:, 0].cpu()

    def _inductive_learner(self) -> MetaLearner:
        return replace(self.trained.learner, batch_norm="inductive")

    def _members(self) -> list[Params]:
        # Copied: a file does not align its tensors, on which the rounding of some products depends.
        return [
            {name: p.to(self.device, copy=True) for name, p in params.items()}
            for params in self.trained.members
        ]


@dataclass(frozen=True)
class FewShotEvaluation:
    """The result of `FewShotLearner.evaluate`.

    Args:
        scores: The accuracy of each episode, `(episodes,)` float64 fractions.
        ways: Classes per episode.
        shots: Support examples per class.
        queries: Query examples per class, on average if query sets are unbalanced.
        query_balance: Dirichlet concentration of unbalanced query sets; None: balanced.
        transductive: Whether the queries of an episode were predicted together (transductive
            inference).
    """

    scores: np.ndarray
    ways: int
    shots: int
    queries: int
    query_balance: float | None = None
    transductive: bool = False

    @property
    def accuracy(self) -> float:
        """The mean accuracy, a fraction."""
        return float(self.scores.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the 95 % confidence interval of the accuracy over episodes."""
        return mean_ci95(self.scores, share=True)[1]

    def __str__(self) -> str:
        """The accuracy, and the episodes that it was measured on, in one sentence."""
        queries = f"{self.queries} queries per class"
        if self.query_balance is not None:
            total = self.ways * self.queries
            queries = f"{total} queries, unbalanced (Dirichlet {self.query_balance:g})"
        balance = "balanced" if self.query_balance is None else "unbalanced"
        inference = f", transductive inference on {balance} query sets" if self.transductive else ""
        return (
            f"accuracy {100 * self.accuracy:.1f} % ± {100 * self.ci95:.1f} (95 % interval) on"
            f" {len(self.scores)} {self.ways}-way {self.shots}-shot episodes, {queries}{inference}"
            f" (chance: {100 / self.ways:.1f} %)"
        )

    @property
    def summary(self) -> dict[str, Any]:
        """The results as JSON-serializable values."""
        return {
            "accuracy": self.accuracy,
            "accuracy_ci95": self.ci95,
            "chance": 1 / self.ways,
            "ways": self.ways,
            "shots": self.shots,
            "queries": self.queries,
            "query_balance": self.query_balance,
            "transductive_inference": self.transductive,
            "episodes": len(self.scores),
        }


def load(
    folder: Path | str, device: str = "cpu", encoder: Path | str | None = None
) -> FewShotLearner:
    """Load a trained model. No data, DVC or Prefect is required.

    Args:
        folder: The folder of the model, such as models/run.
        device: `cpu`, `cuda`, `mps` or `auto`, as for `choose_device`.
        encoder: File or folder of the pretrained encoder that the model uses. None:
            `efficientnet_lite0` is found by itself, and others by EPISODIC_ENCODER.

    Raises:
        ModelFolderError: The folder does not contain a valid model.
        CheckpointError: The weights are incompatible with config.json.
        AdaptError: `encoder` is given for a model without one.
        EncoderError: `encoder` does not exist.
        ConfigError: The device is not available.
    """
    folder, chosen_device = Path(folder), choose_device(device)
    config = model_folder.read_config(folder)
    if "adapted" in config:
        raise ModelFolderError(
            f"{folder} is a model that is already adapted to a task: specify the model before"
            " adaptation, such as models/run"
        )
    return FewShotLearner(
        model_folder.load(folder), build_inputs(folder, config, encoder), chosen_device
    )
