"""Facts of a run report: the content of its sentences, computed from the results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tasks.reports.kit import published, wording
from tasks.reports.kit.pooling import pool_classes
from tasks.reports.kit.results import Results

OTHER_CLASS = -1
"""Label of queries of another test class; those of no class have a smaller one."""

Interval = tuple[float, float]
"""A value and the half-width of its 95 % interval."""

SET_MEASURES = ("coverage", "size", "empty")
"""Keys of the measures of prediction sets in metrics.json."""

# --- score -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Baseline:
    """The score of a baseline.

    Attributes:
        key: Its key in metrics.json.
        value: Its mean score.
        ci95: Half-width of the 95 % interval; None for none.
        episodes: Number of test episodes that it was measured on; None if it is exact.
    """

    key: str
    value: float
    ci95: float | None
    episodes: int | None


@dataclass(frozen=True)
class ScoreComparison:
    """The model's score compared with baselines and published results.

    Attributes:
        score: `accuracy` or `mse`.
        value: The model's score.
        ci95: Half-width of its 95 % interval.
        episodes: Number of test episodes.
        meta: meta.json of data/prepared.
        baselines: The baselines, the best first.
        same_protocol: Published results under the same protocol.
        other_protocols: Published results under other protocols.
        query_statistics: Whether batch norm uses the statistics of the query set.
        transductive_inference: Whether the algorithm predicts all queries of an episode together.
        image_encoder: Name of the pretrained encoder of images; None for none.
    """

    score: str
    value: float
    ci95: float
    episodes: int
    meta: dict[str, Any]
    baselines: list[Baseline]
    same_protocol: pd.DataFrame
    other_protocols: pd.DataFrame
    query_statistics: bool
    transductive_inference: bool
    image_encoder: str | None


def rank_baselines(results: Results) -> list[Baseline]:
    """Return the baselines of metrics.json, the best first."""
    score, metrics = results.score, results.metrics
    episodes = results.baselines["method"].value_counts(sort=False).to_dict()
    keys = {key.split(".")[1] for key in metrics if key.startswith("baselines.")}
    baselines = [
        Baseline(
            key,
            metrics[f"baselines.{key}.{score}"],
            metrics.get(f"baselines.{key}.{score}_ci95"),
            None if key == "chance" else int(episodes.get(key, metrics["episodes"])),
        )
        for key in keys
        if f"baselines.{key}.{score}" in metrics
    ]
    sign = -1 if score == "accuracy" else 1
    return sorted(baselines, key=lambda baseline: (sign * baseline.value, baseline.key))


def compare_with_baselines(results: Results, settings: dict[str, Any]) -> ScoreComparison:
    """Compare the headline score with baselines and published results.

    Args:
        results: The results of the run.
        settings: Its params.yaml.
    """
    score, metrics = results.score, results.metrics
    same, others = published.find_published_results(published.extract_protocol(results, settings))
    return ScoreComparison(
        score=score,
        value=metrics[score],
        ci95=metrics[f"{score}_ci95"],
        episodes=int(metrics["episodes"]),
        meta=results.meta,
        baselines=rank_baselines(results),
        same_protocol=same,
        other_protocols=others,
        query_statistics=results.mode == "transductive" and results.other_mode is not None,
        transductive_inference=results.is_transductive,
        image_encoder=wording.name_encoder(results.meta) if results.has_images else None,
    )


@dataclass(frozen=True)
class Distribution:
    """The distribution of the score over test episodes.

    Attributes:
        score: `accuracy` or `mse`.
        values: Finite scores by episode.
        mean: Their mean.
        quantiles: Quantiles by name: `q05`, `q25`, `q50`, `q75` and `q95`.
        worst: The worst score.
        episodes: Number of test episodes.
        diverged: Number of diverged episodes.
        reference: Key of the best baseline with scores by episode; '' for none.
        reference_values: Its finite scores by episode.
        headline: The headline score and the half-width of its interval.
        label_sd: Standard deviation of the accuracy over label permutations; None if not measured.
        permutations: Number of label permutations.
    """

    score: str
    values: np.ndarray
    mean: float
    quantiles: dict[str, float]
    worst: float
    episodes: int
    diverged: int
    reference: str
    reference_values: np.ndarray
    headline: tuple[float, float]
    label_sd: float | None
    permutations: int


def measure_distribution(results: Results) -> Distribution:
    """Measure the distribution of the headline score over test episodes."""
    score, metrics = results.score, results.metrics
    scores = results.headline_episodes[score].to_numpy()
    values = scores[np.isfinite(scores)]
    measured = set(results.baselines["method"])
    reference = next((b.key for b in rank_baselines(results) if b.key in measured), "")
    other = results.baselines.loc[results.baselines["method"] == reference, score].to_numpy()
    quantiles = {
        f"q{percent:02d}": float(np.quantile(values, percent / 100))
        for percent in (5, 25, 50, 75, 95)
    }
    return Distribution(
        score=score,
        values=values,
        mean=float(values.mean()),
        quantiles=quantiles,
        worst=float(values.min() if score == "accuracy" else values.max()),
        episodes=len(scores),
        diverged=int(metrics.get("diverged", len(scores) - len(values))),
        reference=reference,
        reference_values=other[np.isfinite(other)],
        headline=(metrics[score], metrics[f"{score}_ci95"]),
        label_sd=metrics.get("labels.accuracy_sd"),
        permutations=int(metrics.get("labels.renamings", 0)),
    )


# --- calibration -------------------------------------------------------------------------------

CALIBRATION_SCORES = ("ece", "brier", "likelihood")
"""Keys of the scores of probabilities in metrics.json."""


@dataclass(frozen=True)
class CalibrationFacts:
    """How well probabilities agree with frequencies.

    Attributes:
        before: Value and half-width of the 95 % interval of each of `CALIBRATION_SCORES`, without
            calibration.
        after: The same with calibration; None without one.
        temperature: The temperature; None without a calibration.
        shots_matter: Whether the calibration also depends on the number of examples of a class.
        confidence: Mean confidence without calibration.
        accuracy: Accuracy.
    """

    before: dict[str, tuple[float, float]]
    after: dict[str, tuple[float, float]] | None
    temperature: float | None
    shots_matter: bool
    confidence: float
    accuracy: float


def read_calibration(results: Results) -> CalibrationFacts | None:
    """Return the scores of the probabilities; None for results of older versions."""
    metrics = {
        key.removeprefix("calibration."): value
        for key, value in results.metrics.items()
        if key.startswith("calibration.")
    }
    if "raw_ece" not in metrics or results.reliability.empty:
        return None

    def select(prefix: str) -> dict[str, tuple[float, float]]:
        return {
            key: (metrics[f"{prefix}{key}"], metrics[f"{prefix}{key}_ci95"])
            for key in CALIBRATION_SCORES
        }

    return CalibrationFacts(
        before=select("raw_"),
        after=select("") if "ece" in metrics else None,
        temperature=metrics.get("temperature"),
        shots_matter=metrics.get("weight", 0) != 0 or metrics.get("bias", 0) != 0,
        confidence=float(results.predictions["raw_confidence"].mean()),
        accuracy=results.metrics["accuracy"],
    )


# --- training and adaptation -------------------------------------------------------------------


@dataclass(frozen=True)
class LearningFacts:
    """The course of the validation score.

    Attributes:
        score: `accuracy` or `mse`.
        first: The first measurement.
        best: The measurement of the best checkpoint.
        best_iteration: Its iteration.
        iterations: Number of iterations.
        measurements: Number of measurements.
        best_is_last: Whether the best checkpoint is the last one measured.
    """

    score: str
    first: float
    best: float
    best_iteration: int
    iterations: int
    measurements: int
    best_is_last: bool


def measure_learning(results: Results) -> LearningFacts:
    """Measure the course of the validation score."""
    validation, score = results.validation, results.score
    best = int(results.config["iteration"])
    at_best = validation[validation["iteration"] == best]
    return LearningFacts(
        score=score,
        first=float(validation[score].iloc[0]),
        best=float((at_best if len(at_best) else validation.tail(1))[score].iloc[0]),
        best_iteration=best,
        iterations=int(results.config["iterations"]),
        measurements=len(validation),
        best_is_last=bool(best >= validation["iteration"].max()),
    )


@dataclass(frozen=True)
class AdaptationFacts:
    """The score by number of inner steps, up to the step at which the first episode diverges.

    Attributes:
        score: `accuracy` or `mse`.
        start: The score before adaptation.
        after_first: The score after the first step measured; None if some episode diverges there.
        flat_after: The step after which all later means stay within the interval.
        last_step: The last step without a diverged episode.
        last: The score after it.
        diverges_after: The first step after which some episode diverges; None if none does.
    """

    score: str
    start: float
    after_first: float | None
    flat_after: int
    last_step: int
    last: float
    diverges_after: int | None


def measure_adaptation(score: str, curve: pd.DataFrame) -> AdaptationFacts:
    """Measure the effect of the inner steps.

    Args:
        score: `accuracy` or `mse`.
        curve: `step`, the score, its `_ci95` and optionally `diverged`, one row per step.
    """
    steady = curve
    if "diverged" in curve and curve["diverged"].any():
        steady = curve.iloc[: int(np.argmax(curve["diverged"].to_numpy() > 0))]
    steps = curve["step"].astype(int).tolist()
    if steady.empty:
        return AdaptationFacts(score, np.nan, None, 0, 0, np.nan, steps[0])
    values = steady[score].to_numpy(float)
    ci95 = steady[f"{score}_ci95"].fillna(0).to_numpy(float)
    flat = next(
        i for i in range(len(values)) if (np.abs(values[i + 1 :] - values[i]) <= ci95[i]).all()
    )
    return AdaptationFacts(
        score=score,
        start=values[0],
        after_first=values[1] if len(values) > 1 else None,
        flat_after=steps[flat],
        last_step=steps[len(values) - 1],
        last=values[-1],
        diverges_after=steps[len(values)] if len(steady) < len(curve) else None,
    )


@dataclass(frozen=True)
class ModeComparison:
    """The score in both batch-norm modes: (mode, score, half-width), the headline's first."""

    headline: tuple[str, float, float]
    other: tuple[str, float, float]


def compare_modes(results: Results) -> ModeComparison | None:
    """Compare the batch-norm modes; None if they have the same scores."""
    if results.other_mode is None:
        return None
    rows = []
    for mode in (results.mode, results.other_mode):
        curve = results.adaptation_curve(mode)
        row = curve[curve["step"] == results.steps].iloc[0]
        rows.append((mode, float(row[results.score]), float(row[f"{results.score}_ci95"])))
    return ModeComparison(*rows)


# --- unknown classes and prediction sets --------------------------------------------------------


@dataclass(frozen=True)
class DetectionFacts:
    """How well the chosen score detects the queries of a population of unknown classes.

    Attributes:
        auroc: Area under the ROC curve.
        gain: The area minus that of the largest probability.
        accepted_known: Share of the queries of the episode's classes that are accepted.
        accepted_unknown: Share of the queries of unknown classes that are accepted.
    """

    auroc: Interval
    gain: Interval
    accepted_known: Interval
    accepted_unknown: Interval


@dataclass(frozen=True)
class UnknownFacts:
    """The detection of unknown classes.

    Attributes:
        score: Key of the chosen score.
        known: Share of the episode's classes in the queries of the accuracy-coverage curve.
        other_classes: The detection of other test classes.
        out_of_scope: The detection of examples of no class; None if the data has none.
    """

    score: str
    known: float
    other_classes: DetectionFacts
    out_of_scope: DetectionFacts | None


def read_unknown(results: Results) -> UnknownFacts | None:
    """Return the detection of unknown classes; None if it was not measured."""
    metrics = results.metrics
    if "unknown.other_classes.auroc" not in metrics or results.selective.empty:
        return None

    def read(population: str) -> DetectionFacts:
        keys = "auroc", "auroc_gain", "accepted_known", "accepted_unknown"
        prefix = f"unknown.{population}."
        return DetectionFacts(*(_read_interval(metrics, prefix + key) for key in keys))

    label = results.open_queries["label"]
    return UnknownFacts(
        score=str(metrics["unknown.score"]),
        known=float((label[label >= OTHER_CLASS] >= 0).mean()),
        other_classes=read("other_classes"),
        out_of_scope=read("out_of_scope") if "unknown.out_of_scope.auroc" in metrics else None,
    )


@dataclass(frozen=True)
class SetFacts:
    """The prediction sets of a coverage.

    Attributes:
        promised: The promised coverage.
        coverage: Share of the sets that contain the true class.
        size: Mean number of classes.
        empty: Share of empty sets.
    """

    promised: float
    coverage: Interval
    size: Interval
    empty: Interval


def read_sets(results: Results) -> list[SetFacts]:
    """Return the prediction sets by promised coverage; empty if they were not measured."""
    metrics, prefix = results.metrics, "sets.coverage_"
    promised = sorted(
        {int(key.removeprefix(prefix).split(".")[0]) for key in metrics if key.startswith(prefix)}
    )
    return [
        SetFacts(
            percent / 100,
            *(_read_interval(metrics, f"{prefix}{percent}.{key}") for key in SET_MEASURES),
        )
        for percent in promised
    ]


@dataclass(frozen=True)
class SizeFacts:
    """How far predictions can be trusted in episodes of several sizes.

    Attributes:
        sizes: Number of sizes.
        error: Largest expected calibration error.
        coverages: Smallest and largest coverage of 90 % sets; None without sets.
    """

    sizes: int
    error: float
    coverages: tuple[float, float] | None


def summarize_sizes(sizes: pd.DataFrame) -> SizeFacts:
    """Summarize the results of all sizes."""
    coverages = None
    if "set_coverage" in sizes:
        coverages = float(sizes["set_coverage"].min()), float(sizes["set_coverage"].max())
    return SizeFacts(len(sizes), float(sizes["ece"].max()), coverages)


def _read_interval(metrics: dict[str, float], key: str) -> Interval:
    return float(metrics[key]), float(metrics[f"{key}_ci95"])


# --- ratings -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RatingError:
    """The mean absolute error after a number of ratings, compared with the best baseline.

    Attributes:
        ratings: Number of ratings.
        mae: Error of the model.
        baseline: Key of the best baseline.
        ahead: Error of the baseline minus error of the model.
        ahead_ci95: Half-width of its 95 % interval.
    """

    ratings: int
    mae: float
    baseline: str
    ahead: float
    ahead_ci95: float


def measure_rating_errors(results: Results) -> list[RatingError]:
    """Measure the error after the fewest and after the most ratings."""
    errors = []
    shots = sorted(results.ratings["shots"].unique().tolist())
    for number in dict.fromkeys((shots[0], shots[-1])):
        table = results.ratings[results.ratings["shots"] == number].set_index("method")
        baselines = table.drop(index="model")
        best = baselines["mae"].idxmin()
        errors.append(
            RatingError(
                ratings=number,
                mae=float(table.loc["model", "mae"]),
                baseline=str(best),
                ahead=float(table.loc[best, "ahead"]),
                ahead_ci95=float(table.loc[best, "ahead_ci95"]),
            )
        )
    return errors


# --- classes and groups ------------------------------------------------------------------------


def rank_hardest_classes(results: Results) -> pd.DataFrame:
    """Return the scores of the test classes, the hardest first."""
    classes = results.classes.assign(ci95=pd.to_numeric(results.classes["ci95"]))
    return classes.sort_values(
        ["accuracy", "queries", "group", "class"],
        ascending=[True, False, True, True],
        ignore_index=True,
    )


@dataclass(frozen=True)
class Classes:
    """Summary of the accuracy by class."""

    number: int
    lowest: float
    median: float
    perfect: int


def summarize_classes(results: Results) -> Classes:
    """Summarize the accuracy by class."""
    classes = results.classes
    return Classes(
        number=len(classes),
        lowest=float(classes["accuracy"].min()),
        median=float(classes["accuracy"].median()),
        perfect=int((classes["correct"] == classes["queries"]).sum()),
    )


@dataclass(frozen=True)
class Group:
    """The accuracy of a group of classes, such as an alphabet."""

    name: str
    classes: int
    queries: int
    accuracy: float
    ci95: float


def measure_groups(results: Results) -> list[Group]:
    """Measure the accuracy by group, the hardest first."""
    groups = []
    for name, classes in rank_hardest_classes(results).groupby("group", sort=True):
        accuracy, half = pool_classes(classes)
        groups.append(Group(str(name), len(classes), int(classes["queries"].sum()), accuracy, half))
    return sorted(groups, key=lambda group: (group.accuracy, group.name))


# --- tasks -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of the score with a property of the task.

    Attributes:
        value: The correlation; None if the score or the property does not vary.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
    """

    value: float | None
    low: float | None
    high: float | None

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def read_correlation(results: Results, key: str) -> Correlation:
    """Read the correlation with a property of the task from metrics.json."""
    value, low, high = (
        results.metrics.get(f"tasks.{key}.{name}") for name in ("spearman", "low", "high")
    )
    return Correlation(value, low, high)


def name_task_parameters(results: Results) -> tuple[str, str]:
    """Return the keys of the two parameters that describe a regression task."""
    return ("mean", "spread") if "tasks" in results.meta else ("phase", "amplitude")


@dataclass(frozen=True)
class Difficulty:
    """Dependence of the score on the similarity of the classes or on a parameter of the task.

    Attributes:
        score: `accuracy` or `mse`.
        property: `similarity`, or the key of the parameter.
        correlation: Correlation of the score with it.
        first: Score and half-width in the quintile with the smallest values.
        last: Score and half-width in the quintile with the largest values.
        episodes: Number of test episodes.
        closest: Correlation with the similarity of the two most similar classes.
        inputs: Correlation with the similarity of the inputs.
    """

    score: str
    property: str
    correlation: Correlation
    first: tuple[float, float]
    last: tuple[float, float]
    episodes: int
    closest: Correlation
    inputs: Correlation


def measure_difficulty(results: Results) -> Difficulty:
    """Measure how the score of an episode depends on its task."""
    key = "similarity" if results.kind == "classification" else name_task_parameters(results)[1]
    columns = results.difficulty[[results.score, "ci95"]]
    first, last = (
        (float(value), float(half)) for value, half in columns.iloc[[0, -1]].itertuples(index=False)
    )
    return Difficulty(
        score=results.score,
        property=key,
        correlation=read_correlation(results, key),
        first=first,
        last=last,
        episodes=int(np.isfinite(results.tasks[results.score]).sum()),
        closest=read_correlation(results, "closest"),
        inputs=read_correlation(results, "inputs"),
    )


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes, by their rows in classes.parquet, and how often they are confused.

    Attributes:
        first: Row of the first class.
        second: Row of the second class.
        confused: Number of queries of one class that were predicted as the other.
        queries: Queries of both in the episodes that contain both.
        episodes: Number of these episodes.
        similarity: Cosine similarity of their means.
    """

    first: int
    second: int
    confused: int
    queries: int
    episodes: int
    similarity: float


def read_confused_pairs(results: Results) -> list[ConfusedPair]:
    """Read the confused pairs, the most often confused first."""
    return [
        ConfusedPair(
            first=int(row["first"]),
            second=int(row["second"]),
            confused=int(row["confused"]),
            queries=int(row["queries"]),
            episodes=int(row["episodes"]),
            similarity=float(row["similarity"]),
        )
        for row in results.pairs.to_dict("records")
    ]


@dataclass(frozen=True)
class ClassMap:
    """Summary of the map of the test classes.

    Attributes:
        classes: Number of test classes.
        variance: Fraction of the variance explained by each axis.
        closest: Rows of the two most similar classes.
        similarity: Cosine similarity of these two.
    """

    classes: int
    variance: tuple[float, float]
    closest: tuple[int, int]
    similarity: float


def summarize_class_map(results: Results) -> ClassMap:
    """Summarize the positions of the test classes in feature space."""
    space = results.space.sort_values(["similarity", "row"], ascending=[False, True])
    top = space.iloc[0]
    return ClassMap(
        classes=len(space),
        variance=(results.metrics["tasks.map.first"], results.metrics["tasks.map.second"]),
        closest=(int(top["row"]), int(top["nearest"])),
        similarity=float(top["similarity"]),
    )


@dataclass(frozen=True)
class EpisodeMap:
    """Range of the accuracy over episodes, and the worst episode with its similarity."""

    episodes: int
    low: float
    high: float
    worst: int
    similarity: float


def summarize_episode_map(results: Results) -> EpisodeMap:
    """Summarize the accuracy of the test episodes."""
    tasks = results.tasks.sort_values(["accuracy", "episode"])
    return EpisodeMap(
        episodes=len(tasks),
        low=float(tasks["accuracy"].iloc[0]),
        high=float(tasks["accuracy"].iloc[-1]),
        worst=int(tasks["episode"].iloc[0]),
        similarity=float(tasks["similarity"].iloc[0]),
    )
