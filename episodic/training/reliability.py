"""How far the predictions of a trained classifier can be trusted, learned on validation episodes.

Adapted models use it: calibrated probabilities, the detection of unknown classes, and prediction
sets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.core.config import require
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.data.stored_episodes import Episodes
from episodic.data.unknown_queries import OpenQueries
from episodic.engine.learner import MetaLearner
from episodic.engine.processes import ProcessGroup
from episodic.training.calibration import Calibration, Kind, fit_calibration
from episodic.training.conformal import PredictionSets, fit_prediction_sets
from episodic.training.evaluation import ExactChunks, adapt
from episodic.training.unknown import (
    UnknownDetector,
    choose_detector,
    feature_distances,
    logit_scores,
)

__all__ = [
    "QueryTable",
    "Reliability",
    "fit_reliability",
    "read_reliability",
    "select_reliability",
    "tabulate_queries",
]


class QueryTable(NamedTuple):
    """Predictions for the queries of episodes, in float64 on the CPU.

    Attributes:
        logits: Logits `(tasks, n, ways)`, -inf for classes that a task does not have.
        y: Labels `(tasks, n)`, negative for queries of unknown classes.
        is_query: False for padding `(tasks, n)`.
        shots: Support examples of each class `(tasks, ways)`.
        distances: Scores of `feature_distances` by name, each `(tasks, n)`.
    """

    logits: Tensor
    y: Tensor
    is_query: Tensor
    shots: Tensor
    distances: dict[str, Tensor]

    @property
    def is_known(self) -> Tensor:
        """Whether a query is of a class of its episode `(tasks, n)`."""
        return self.is_query & (self.y >= 0)

    def scaled_logits(self, calibration: Calibration | None) -> Tensor:
        """Compute the calibrated logits `(tasks, n, ways)`."""
        return self.logits if calibration is None else calibration(self.logits, self.shots)

    def familiarity(self, calibration: Calibration | None) -> dict[str, Tensor]:
        """Compute each score of `episodic.training.unknown.SCORES`, `(tasks, n)`."""
        return logit_scores(self.scaled_logits(calibration)) | self.distances


def tabulate_queries(
    learner: MetaLearner,
    members: Sequence[Params],
    episodes: Episodes,
    unknown: OpenQueries | None = None,
    group: ProcessGroup | None = None,
    steps: int | None = None,
) -> QueryTable:
    """Adapt to each episode and predict its queries, with those of unknown classes among them.

    Args:
        learner: The learner. Its batch-norm mode applies.
        members: Meta-parameters of each member of the ensemble, without a task axis.
        episodes: The episodes, on the device of the computation.
        unknown: Further queries, of classes that are not in the episode.
        group: The processes that share the work.
        steps: Number of inner steps. None: the number that the algorithm takes at test time.
    """
    learner = learner.test_variant
    largest = episodes.slice_tasks(0, 1)
    # Padding precedes queries that are appended, so episodes with sizes are computed one by one.
    is_varied = largest.query_size is not None
    chunks = ExactChunks(learner, episodes, 1 if is_varied and unknown else None)
    size = chunks.sizes[0]
    extra = 0 if unknown is None else len(unknown(0, 1)[1])
    queries, ways = largest.query_y.shape[1] + extra, largest.classes

    def compute(i: int) -> Tensor:
        episode = chunks[i].trim() if unknown else chunks[i]
        if unknown is not None:
            x, y = unknown(i * size, i * size + episode.tasks)
            y = y.to(episode.query_y.device).expand(episode.tasks, -1)
            episode = episode._replace(
                query_x=torch.cat([episode.query_x, x], 1),
                query_y=torch.cat([episode.query_y, y], 1),
                query_size=None,
            )
        return _predict(learner, members, episode, steps, queries, ways)

    table = (group or ProcessGroup()).gather_rows(compute, chunks.sizes).cpu().double()
    logits, y, is_query, shots, mean, neighbour = torch.split(
        table, [ways, 1, 1, ways, 1, 1], dim=-1
    )
    return QueryTable(
        logits,
        y[..., 0].long(),
        is_query[..., 0].bool(),
        shots[:, 0],
        {"mean_distance": mean[..., 0], "neighbour_distance": neighbour[..., 0]},
    )


def _predict(
    learner: MetaLearner,
    members: Sequence[Params],
    episode: Episode,
    steps: int | None,
    queries: int,
    ways: int,
) -> Tensor:
    """Compute the rows of a `QueryTable`, `(tasks, queries, 2 * ways + 4)`."""
    outputs, distances = [], []
    for params in members:
        theta = adapt(learner, params, episode, steps)
        with torch.no_grad():
            outputs.append(learner.query_outputs(theta, episode))
            distances.append(measure_distances(learner, theta, episode))
    logits = learner.objective.combine_outputs(outputs)
    tasks, n, classes = logits.shape
    one_hot = F.one_hot(episode.support_y, classes)
    if (mask := episode.support_mask) is not None:
        one_hot = one_hot * mask[..., None]
    parts = (
        F.pad(logits, (0, ways - classes), value=-torch.inf),
        episode.query_y[..., None],
        episode.example_mask[:, episode.support_y.shape[1] :, None],
        F.pad(one_hot.sum(1), (0, ways - classes))[:, None].expand(tasks, n, ways),
        *(
            torch.stack([values[name] for values in distances]).mean(0)[..., None]
            for name in ("mean_distance", "neighbour_distance")
        ),
    )
    table = torch.cat([part.to(logits.dtype) for part in parts], -1)
    return F.pad(table, (0, 0, 0, queries - n))


def measure_distances(learner: MetaLearner, theta: Params, episode: Episode) -> dict[str, Tensor]:
    """Compute the scores of `feature_distances` for the queries of an episode.

    Args:
        learner: The learner. Its batch-norm mode applies.
        theta: Adapted parameters `(tasks, *shape)`.
        episode: The tasks.
    """
    support, query = learner.apply_to_both(
        learner.model.features, theta, episode, learner.batch_norm
    )
    return feature_distances(
        support, episode.support_y, query, episode.classes, episode.support_mask
    )


@dataclass(frozen=True)
class Reliability:
    """What validation episodes of one size say about predictions.

    Args:
        ways: Classes per episode; the largest number if it varies.
        shots: Support examples per class; likewise.
        calibration: The scaling of the logits; None if probabilities are not calibrated.
        sets: The prediction sets; None if there are none.
        unknown: The detection of unknown classes; None if there were none to learn from.
    """

    ways: int
    shots: int
    calibration: Calibration | None = None
    sets: PredictionSets | None = None
    unknown: UnknownDetector | None = None

    def __post_init__(self) -> None:
        for key in ("ways", "shots"):
            value = getattr(self, key)
            require(value >= 1, f"reliability.{key}", value, "must be at least 1")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Reliability:
        """Build the object that `to_json` described.

        Raises:
            ConfigError: A value is out of range.
            KeyError, TypeError, ValueError: A key is missing, or a value has the wrong type.
        """
        parts = {
            name: kind.from_json(values[name]) for name, kind in _PARTS.items() if name in values
        }
        return cls(int(values["ways"]), int(values["shots"]), **parts)

    def to_json(self) -> dict[str, Any]:
        """Return the arguments as JSON-serializable values, without those that are None."""
        parts = {name: part.to_json() for name in _PARTS if (part := getattr(self, name))}
        return {"ways": self.ways, "shots": self.shots, **parts}


_PARTS: dict[str, Any] = {
    "calibration": Calibration,
    "sets": PredictionSets,
    "unknown": UnknownDetector,
}


def read_reliability(config: Mapping[str, Any], mode: str = "inductive") -> list[Reliability]:
    """Read what config.json says about the reliability of a model, by size of the episodes.

    Args:
        config: The content of the config.json of a trained or an adapted model.
        mode: The batch-norm mode. A model without batch norm has none but `inductive`.

    Raises:
        ConfigError: A value is out of range.
        KeyError, TypeError, ValueError: A key is missing, or a value has the wrong type.
    """
    by_mode = config.get("reliability", {})
    if not isinstance(by_mode, Mapping):
        raise TypeError("reliability must be an object with one list per batch-norm mode")
    return [
        Reliability.from_json(entry) for entry in by_mode.get(mode, by_mode.get("inductive", []))
    ]


def fit_reliability(
    learner: MetaLearner,
    members: Sequence[Params],
    episodes: Episodes,
    unknown: OpenQueries | None = None,
    kind: Kind | None = "temperature",
    seed: int = 0,
    group: ProcessGroup | None = None,
) -> Reliability:
    """Learn how far predictions can be trusted, on validation episodes of one size.

    Args:
        learner: The learner. Its batch-norm mode applies, which is inductive in use.
        members: Meta-parameters of each member of the ensemble, without a task axis.
        episodes: The validation episodes, on the device of the computation. Test episodes would
            make predictions look more reliable than they are on new tasks.
        unknown: Queries of classes that are not in the episode.
        kind: How probabilities are calibrated, as for `fit_calibration`. None: not at all.
        seed: Seed of the bootstrap.
        group: The processes that share the work.
    """
    is_together = learner.test_variant.algorithm.transductive
    opened = None
    if unknown is not None:
        opened = tabulate_queries(learner, members, episodes, unknown, group)
    # Unknown queries change the predictions of the others only if these are made together.
    table = (
        opened
        if opened is not None and not is_together
        else tabulate_queries(learner, members, episodes, None, group)
    )
    calibration = None
    if kind is not None:
        calibration = fit_calibration(table.logits, table.y, table.shots, table.is_known, kind)
    probabilities = table.scaled_logits(calibration).softmax(-1)
    true = probabilities.gather(-1, table.y.clamp_min(0)[..., None])[..., 0]
    detector = None
    if opened is not None:
        rows = opened.is_query
        scores = {
            name: values[rows].numpy() for name, values in opened.familiarity(calibration).items()
        }
        episode = torch.arange(len(rows))[:, None].expand_as(rows)[rows].numpy()
        detector = choose_detector(scores, opened.is_known[rows].numpy(), episode, seed)
    largest = episodes.slice_tasks(0, 1)
    return Reliability(
        largest.classes,
        int(table.shots.max()),
        calibration,
        fit_prediction_sets(true, table.is_known),
        detector,
    )


def select_reliability(
    fitted: Iterable[Reliability], ways: int, shots: float
) -> Reliability | None:
    """Return what was learned on the episodes whose size is closest to that of a task.

    Args:
        fitted: What was learned, by size of the episodes.
        ways: Classes of the task.
        shots: Mean number of support examples per class.

    Returns:
        The first of the closest by the ratios of ways and shots; None if `fitted` is empty.
    """

    def distance(entry: Reliability) -> float:
        return abs(math.log(entry.ways / ways)) + abs(math.log(entry.shots / shots))

    return min(fitted, key=distance, default=None)
