"""The results of a run: the files written by the stages before `report`, validated once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.reports.kit.examples import Examples, find_file_name, read_examples
from tasks.reports.kit.trees import flatten
from tasks.runtime.files import read_json
from tasks.runtime.stage import StageError

FORMAT = 2
"""Format of data/prepared and models/run.

Repeated here, so the report does not depend on the code of other stages.
"""


@dataclass(frozen=True)
class Results:
    """Contents of the files in docs/reference/files.md.

    Files that do not apply to the kind of task are empty.

    Attributes:
        kind: `classification` or `regression`.
        score: `accuracy` or `mse`, the column that contains the score.
        mode: Batch-norm mode of the headline score.
        steps: Inner steps of the headline score.
        meta: meta.json of data/prepared.
        config: config.json of models/run.
        metrics: Numbers of metrics.json by dotted key.
        train: Training history.
        validation: Validation history.
        test: Test episodes.
        episodes: Scores by mode, episode and step.
        curve: Mean scores by mode and step.
        baselines: Scores of the baselines by episode.
        weights_digest: SHA-256 of the weights.
        dataset_classes: Classes of the dataset.
        examples: Images or texts of the dataset.
        classes: Scores by test class.
        predictions: Predictions by query.
        reliability: The reliability diagram, without and with calibration.
        fits: Fitted curves of some episodes.
        support: Support points of these episodes.
        ratings: Errors by baseline and number of ratings.
        lists: Ratings of some users.
        tasks: Descriptions of the test episodes.
        difficulty: Scores by quintile of the episodes.
        space: Positions of the test classes in feature space.
        pairs: Confused pairs of classes.
        open_queries: Queries with those of unknown classes; empty without the latter.
        detection: How well each score detects unknown classes, by population; may be empty.
        selective: Accuracy by share of answered queries, for the chosen score and for the largest
            probability; may be empty.
        sizes: Results by size of the episodes; empty for results of older versions.
    """

    kind: str
    score: str
    mode: str
    steps: int
    meta: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, float]
    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    episodes: pd.DataFrame
    curve: pd.DataFrame
    baselines: pd.DataFrame
    weights_digest: str
    dataset_classes: pd.DataFrame = field(default_factory=pd.DataFrame)
    examples: Examples = field(default_factory=lambda: np.empty(0))
    classes: pd.DataFrame = field(default_factory=pd.DataFrame)
    predictions: pd.DataFrame = field(default_factory=pd.DataFrame)
    reliability: pd.DataFrame = field(default_factory=pd.DataFrame)
    fits: pd.DataFrame = field(default_factory=pd.DataFrame)
    support: pd.DataFrame = field(default_factory=pd.DataFrame)
    ratings: pd.DataFrame = field(default_factory=pd.DataFrame)
    lists: pd.DataFrame = field(default_factory=pd.DataFrame)
    tasks: pd.DataFrame = field(default_factory=pd.DataFrame)
    difficulty: pd.DataFrame = field(default_factory=pd.DataFrame)
    space: pd.DataFrame = field(default_factory=pd.DataFrame)
    pairs: pd.DataFrame = field(default_factory=pd.DataFrame)
    open_queries: pd.DataFrame = field(default_factory=pd.DataFrame)
    detection: pd.DataFrame = field(default_factory=pd.DataFrame)
    selective: pd.DataFrame = field(default_factory=pd.DataFrame)
    sizes: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def headline_episodes(self) -> pd.DataFrame:
        """Scores of the test episodes in the headline's mode and at its number of steps."""
        return self.episodes[
            (self.episodes["mode"] == self.mode) & (self.episodes["step"] == self.steps)
        ]

    def adaptation_curve(self, mode: str) -> pd.DataFrame:
        """Return the mean scores of a mode by inner step."""
        return self.curve[self.curve["mode"] == mode].sort_values("step", ignore_index=True)

    @property
    def adapts(self) -> bool:
        """Whether the algorithm takes inner steps at test time."""
        return self.curve["step"].nunique() > 1

    @property
    def has_ratings(self) -> bool:
        """Whether the tasks are users with ratings."""
        return len(self.ratings) > 0

    @property
    def has_images(self) -> bool:
        """Whether the examples are images, or features of images."""
        return self.meta.get("inputs", {}).get("kind") == "image"

    @property
    def has_one_set_of_classes(self) -> bool:
        """Whether all test episodes have the same classes."""
        return len({frozenset(classes) for classes in self.test["classes"]}) == 1

    @property
    def is_transductive(self) -> bool:
        """Whether a prediction depends on the other queries of the episode by the algorithm."""
        return bool(self.config.get("transductive"))

    @property
    def was_trained(self) -> bool:
        """Whether training had something to learn."""
        return len(self.train) > 0

    @property
    def other_mode(self) -> str | None:
        """The mode that is not the headline's, if its scores differ."""
        return find_other_mode(self.curve, self.mode, self.score)


def find_other_mode(curve: pd.DataFrame, mode: str, score: str) -> str | None:
    """Find a batch-norm mode with other scores.

    Without batch norm both modes have the same scores.

    Args:
        curve: Mean scores by mode and step.
        mode: The mode of the headline.
        score: `accuracy` or `mse`.
    """
    scores = curve[curve["mode"] == mode].sort_values("step")[score].to_numpy()
    for name in sorted(set(curve["mode"]) - {mode}):
        other = curve[curve["mode"] == name].sort_values("step")[score].to_numpy()
        if not (
            scores.shape == other.shape
            and np.allclose(scores, other, rtol=1e-9, atol=1e-12, equal_nan=True)
        ):
            return name
    return None


def read_results(data: Path, model: Path, scores: Path, metrics: Path, history: Path) -> Results:
    """Read the results of a run.

    Args:
        data: The folder data/prepared.
        model: The folder models/run.
        scores: The folder reports/scores.
        metrics: The file metrics.json.
        history: The folder reports/history.

    Raises:
        StageError: A file is missing, unreadable or of a different format, or lacks a column.
    """
    meta = _read_description(data / "meta.json", "episodes")
    config = _read_description(model / "config.json", "train")
    kind = meta["kind"]
    if kind not in ("classification", "regression"):
        raise StageError(
            f"{data / 'meta.json'} has kind {kind!r}; it must be classification or regression"
        )
    for key in ("kind", "dataset", "ways", "shots", "varied"):
        if config.get(key) != meta.get(key):
            raise StageError(
                f"{model} was trained for {key} {config.get(key)!r}, but {data} has "
                f"{meta.get(key)!r}: run the stage train again"
            )
    score = "accuracy" if kind == "classification" else "mse"
    numbers = flatten(_read(metrics, "evaluate", read_json))
    for key in (score, f"{score}_ci95", "episodes", "steps"):
        if key not in numbers:
            raise StageError(f"{metrics} has no {key}: run the stage evaluate again")
    iterations = config.get("iterations", 1)
    tables = _read_tables(kind, score, meta, iterations, data, scores, history)
    weights = _read(model / "weights.safetensors", "train", Path.read_bytes)
    results = Results(
        kind=kind,
        score=score,
        mode=config["batch_norm"],
        steps=int(numbers["steps"]),
        meta=meta,
        config=config,
        metrics=numbers,
        weights_digest=hashlib.sha256(weights).hexdigest(),
        **tables,
    )
    if results.headline_episodes.empty:
        raise StageError(
            f"{scores / 'episodes.parquet'} has no rows for {results.mode} after "
            f"{results.steps} steps: run the stage evaluate again"
        )
    return results


def _read_tables(
    kind: str,
    score: str,
    meta: dict[str, Any],
    iterations: int,
    data: Path,
    scores: Path,
    history: Path,
) -> dict[str, Any]:
    """Read the tables of a kind of task, keyed by their attribute of Results.

    The training history is empty after 0 iterations, when the model had nothing to train.
    """

    def read_history(name: str, *columns: str, empty: bool = False) -> pd.DataFrame:
        return _read_table(history / name, "train", ["iteration", "loss", *columns], empty)

    def read_scores(name: str, *columns: str, empty: bool = False) -> pd.DataFrame:
        return _read_table(scores / name, "evaluate", list(columns), empty)

    def read_data(name: str, *columns: str) -> pd.DataFrame:
        return _read_table(data / name, "episodes", list(columns))

    def read_optional(name: str, *columns: str) -> pd.DataFrame:
        """Read a table that older versions, or runs without unknown classes, do not write."""
        return read_scores(name, *columns) if (scores / name).exists() else pd.DataFrame()

    ci95 = f"{score}_ci95"
    tables: dict[str, Any] = {
        "train": read_history(
            "train.csv", *([score] if score == "accuracy" else []), empty=not iterations
        ),
        "validation": read_history("validation.csv", score, ci95, "best"),
        "episodes": read_scores("episodes.parquet", "mode", "episode", "step", score),
        "curve": read_scores("curve.csv", "mode", "step", score, ci95),
        "baselines": read_scores("baselines.parquet", "method", "episode", score),
        "tasks": read_scores("tasks.parquet", "episode", "x", "y", score),
        "difficulty": read_scores(
            "difficulty.parquet", "fifth", "low", "high", "mean", "episodes", score, "ci95"
        ),
    }
    if kind == "classification":
        return tables | {
            "test": read_data("test.parquet", "episode", "classes", "support", "query"),
            "dataset_classes": read_data("classes.parquet", "class", "group", "split", "count"),
            "examples": _read(data / find_file_name(meta), "episodes", read_examples),
            "classes": read_scores(
                "classes.parquet", "class", "group", "episodes", "queries", "correct", score, "ci95"
            ),
            "space": read_scores(
                "space.parquet", "row", "class", "group", "x", "y", "nearest", "similarity"
            ),
            "pairs": read_scores(
                "pairs.parquet", "first", "second", "similarity", "queries", "confused", empty=True
            ),
            "predictions": read_scores(
                "answers.parquet", "episode", "image", "label", "before", "after"
            ),
            "reliability": read_optional(
                "reliability.csv",
                "calibrated",
                "confidence",
                "accuracy",
                "accuracy_low",
                "accuracy_high",
                "count",
            ),
            "open_queries": read_optional("open.parquet", "episode", "label"),
            "detection": read_optional(
                "detection.csv", "population", "score", "auroc", "auroc_ci95", "fpr", "fpr_ci95"
            ),
            "selective": read_optional(
                "selective.csv", "score", "answered", "accuracy", "low", "high"
            ),
            "sizes": read_optional("sizes.csv", "ways", "shots", "accuracy", "ece"),
        }
    tables["test"] = read_data("test.parquet", "episode")
    if "tasks" in meta:
        return tables | {
            "ratings": read_scores(
                "ratings.csv", "method", "shots", "mae", "rmse", "ndcg_exp_10", "ahead"
            ),
            "lists": read_scores("lists.parquet", "episode", "part", "item", "rating", "answer"),
        }
    return tables | {
        "fits": read_scores("fits.parquet", "episode", "x", "truth"),
        "support": read_scores("support.parquet", "episode", "x", "y"),
    }


def _read_description(path: Path, stage: str) -> dict[str, Any]:
    description = _read(path, stage, read_json)
    if description.get("format") != FORMAT:
        raise StageError(
            f"{path} has format {description.get('format')!r}, not {FORMAT}: "
            f"run the stage {stage} again"
        )
    required = ["kind", "dataset", "ways", "shots"]
    if stage == "episodes":
        required += ["queries", "protocol", "license", "inputs"]
    else:
        required += ["algorithm", "model", "batch_norm", "inputs", "input"]
    missing = [key for key in required if key not in description]
    if missing:
        raise StageError(f"{path} has no {', '.join(missing)}: run the stage {stage} again")
    return description


def _read(path: Path, stage: str, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise StageError(
            f"{path} does not exist: run the stage {stage} first (dvc repro runs what is needed)"
        ) from error
    except (ValueError, OSError, json.JSONDecodeError) as error:  # includes pyarrow and pandas
        raise StageError(
            f"{path} cannot be read ({' '.join(str(error).split())}): run the stage {stage} again"
        ) from error


def _read_table(path: Path, stage: str, columns: list[str], empty: bool = False) -> pd.DataFrame:
    table = _read(path, stage, pd.read_csv if path.suffix == ".csv" else pd.read_parquet)
    missing = [column for column in columns if column not in table]
    if missing:
        raise StageError(f"{path} has no column {', '.join(missing)}: run the stage {stage} again")
    if table.empty and not empty:
        raise StageError(f"{path} has no rows: run the stage {stage} again")
    return table
