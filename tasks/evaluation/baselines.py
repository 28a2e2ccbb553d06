"""Baselines: simpler predictors evaluated on the same test episodes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from episodic.core.episode import Episode
from episodic.core.objective import mean_per_task
from episodic.engine.learner import MetaLearner
from episodic.engine.processes import ProcessGroup
from episodic.training import model_folder
from episodic.training.baselines import (
    choose_fine_tuning_rate,
    constant_prediction_errors,
    input_centroid_scores,
    random_init_scores,
)
from tasks.evaluation.evaluation import EvaluationSetup

CENTROIDS = {"image": "pixel_centroid", "ngrams": "ngram_centroid", "encoder": "encoder_centroid"}
"""Name of the nearest-class-mean baseline, by kind of input.

Token ids are categorical, so there is no class mean for them.
"""

TUNING_EPISODES = 20
"""Number of validation episodes on which the learning rate of `random_init` is chosen."""

LARGE_MODEL, LARGE_MODEL_EPISODES = 1_000_000, 100
"""For models with more than LARGE_MODEL parameters, `random_init` is scored only on the first
LARGE_MODEL_EPISODES test episodes."""

RowBaselines = Callable[[Episode, int], dict[str, torch.Tensor]]
"""(episode, index of its first task) -> score `(tasks,)` by name.

These baselines read the rows of the dataset (sentences, rated items), not only the tensors of an
episode.
"""


@dataclass(frozen=True)
class EpisodeBaselines:
    """The baselines of one evaluation.

    Attributes:
        fine_tuning_learner: A learner that fine-tunes the same model, with one output per class of
            a test episode.
        seed: Seed of the random initializations.
        learning_rate: Learning rate of `random_init`.
        random_init_episodes: Number of leading episodes on which `random_init` is scored.
        centroid: Name of the nearest-class-mean baseline; None if the input has none.
        row_baselines: Further baselines of the dataset.
    """

    fine_tuning_learner: MetaLearner
    seed: int
    learning_rate: float
    random_init_episodes: int
    centroid: str | None
    row_baselines: RowBaselines | None

    @classmethod
    def prepare(
        cls, evaluation: EvaluationSetup, row_baselines: RowBaselines | None, group: ProcessGroup
    ) -> EpisodeBaselines:
        """Choose the learning rate of `random_init` on validation episodes, shared by `group`."""
        source, trained = evaluation.source, evaluation.trained
        learner = model_folder.build_baseline_learner(trained.config)
        seed = source.meta["seed"]
        validation = source.read_episodes("validation")[:TUNING_EPISODES]
        episodes = source.build_episodes(validation)
        parameters = sum(p.numel() for p in trained.members[0].values())
        count, inputs = len(evaluation.test), source.meta["inputs"]
        is_large = parameters > LARGE_MODEL
        return cls(
            learner,
            seed,
            choose_fine_tuning_rate(learner, seed, episodes, group),
            min(count, LARGE_MODEL_EPISODES) if is_large else count,
            CENTROIDS.get(
                "encoder" if "encoder" in inputs else inputs.get("features", inputs["kind"])
            ),
            row_baselines,
        )

    def score(self, episode: Episode, first: int) -> dict[str, torch.Tensor]:
        """Score each baseline on a batch of test episodes.

        Args:
            episode: The test episodes.
            first: Index of the first episode.

        Returns:
            Scores `(tasks,)`, keyed by baseline name.
        """
        result = {"random_init": self._score_random_init(episode, first)}
        if self.fine_tuning_learner.objective.kind == "classification":
            if self.centroid:
                result[self.centroid] = input_centroid_scores(episode)
        else:
            if episode.support_size is None:
                zero = torch.zeros((), device=episode.query_y.device)
                result["zero"] = constant_prediction_errors(episode, zero)
            mean = mean_per_task(episode.support_y, episode.support_size)[:, None, None]
            result["support_mean"] = constant_prediction_errors(episode, mean)
        return result | (self.row_baselines(episode, first) if self.row_baselines else {})

    def _score_random_init(self, episode: Episode, first: int) -> torch.Tensor:
        """Score `random_init`; 0 for the episodes beyond `random_init_episodes`."""
        scored = min(episode.tasks, max(0, self.random_init_episodes - first))
        if not scored:
            return torch.zeros(episode.tasks, device=episode.query_y.device)
        leading = episode.slice_tasks(0, scored) if scored < episode.tasks else episode
        score = random_init_scores(
            self.fine_tuning_learner, self.seed, leading, self.learning_rate, first
        )
        return F.pad(score, (0, episode.tasks - scored))


def fit_sentence_baselines(evaluation: EvaluationSetup) -> RowBaselines:
    """Fit the TF-IDF baselines; IDF weights are estimated on the classes that training used."""
    from episodic.analysis.text_baselines import TfidfClassifiers

    source = evaluation.source
    texts, classes = source.read_texts(), source.read_classes()
    train = classes[classes["split"] == "train"]
    if (fitted := evaluation.trained.config.get("fitted_classes")) is not None:
        train = train[train["class"].isin(fitted)]
    baselines = TfidfClassifiers.fit(source.read_texts(train))

    def score(episode: Episode, first: int) -> dict[str, torch.Tensor]:
        lines = evaluation.test.iloc[first : first + episode.tasks]
        scores = []
        for line, support_y, query_y in zip(
            lines.to_dict("records"), episode.support_y.cpu(), episode.query_y.cpu(), strict=True
        ):
            support, query = ([texts[row] for row in line[key]] for key in ("support", "query"))
            labels_of = support_y[: len(support)].numpy(), query_y[: len(query)].numpy()
            predictions = baselines.predict(support, labels_of[0], query)
            scores.append(
                {
                    name: float((labels == labels_of[1]).mean())
                    for name, labels in predictions.items()
                }
            )
        return stack_scores(scores, episode)

    return score


def stack_scores(scores: list[dict[str, float]], episode: Episode) -> dict[str, torch.Tensor]:
    """Stack scores of single tasks to tensors `(tasks,)` on the device of `episode`, by name."""
    device = episode.query_y.device
    return {
        name: torch.tensor([score[name] for score in scores], device=device) for name in scores[0]
    }
