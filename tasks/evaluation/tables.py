"""Tables in `reports/scores`, and the headline metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from episodic.core.episode_size import compute_chance, stack_lists
from episodic.core.statistics import mean_ci95
from episodic.engine.learner import BATCH_NORM
from episodic.training.evaluation import CURVE_STEPS, adaptation_steps
from tasks.evaluation import calibration
from tasks.evaluation.evaluation import EvaluationSetup
from tasks.evaluation.results import EpisodeResults

DIVERGED = 100.0
"""Regression: squared error above which an episode counts as diverged, like a non-finite error.

For predefined tasks, the limit is this many variances of their targets.
"""

FITS = 6
"""Regression: number of episodes, from typical to worst, whose curves the report draws."""


def build_episode_table(results: EpisodeResults, points: list[int], name: str) -> pd.DataFrame:
    """Build a table with one row per mode, episode and point.

    Args:
        results: Results by episode.
        points: Numbers of inner steps.
        name: Column of the score.
    """
    tables = []
    for mode in BATCH_NORM:
        score, loss = (
            values[mode].cpu().double().numpy() for values in (results.score, results.loss)
        )
        episode, point = np.indices(score.shape)
        columns = {
            "mode": mode,
            "episode": episode.ravel(),
            "step": np.array(points)[point.ravel()],
            "loss": loss.ravel(),
            name: score.ravel(),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def build_baseline_table(results: EpisodeResults, name: str) -> pd.DataFrame:
    """Build a table with one row per baseline and episode; `name` is the column of the score."""
    tables = []
    for baseline, score in results.baselines.items():
        columns = {
            "method": baseline,
            "episode": np.arange(len(score)),
            name: score.cpu().double().numpy(),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables)


def build_curve_table(episodes: pd.DataFrame, name: str, limit: float) -> pd.DataFrame:
    """Build the adaptation curve: one row per mode and point."""
    rows = []
    for (mode, step), scores in episodes.groupby(["mode", "step"], sort=True):
        rows.append(
            {"mode": mode, "step": step, "loss": scores["loss"].mean()}
            | summarize(scores[name].to_numpy(), name, limit)
        )
    return pd.DataFrame(rows)


def summarize(values: np.ndarray, name: str, limit: float) -> dict[str, Any]:
    """Return the mean and the half-width of the 95 % confidence interval.

    Regression adds the median and the number of diverged episodes, for which the mean may be
    infinite. `limit` is the squared error from which an episode counts as diverged.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        mean, ci95 = mean_ci95(values, share=name == "accuracy")
    result: dict[str, Any] = {name: mean, f"{name}_ci95": ci95}
    if name == "mse":
        result |= {
            "mse_median": float(np.median(values)),
            "diverged": int((~np.isfinite(values) | (values > limit)).sum()),
        }
    return result


def build_prediction_table(evaluation: EvaluationSetup, results: EpisodeResults) -> pd.DataFrame:
    """Build a table with one row per query: its label, and its predictions before and after steps.

    The confidence and the scores of the prediction after all steps are those of the calibrated
    probabilities, and with `raw_` those without calibration.
    """
    source, test = evaluation.source, evaluation.test
    before, after = results.outputs[:, 0], results.outputs[:, _headline_point(evaluation)]
    counts = source.count_queries(test)
    queries = counts.sum(1)
    is_query = np.arange(queries.max()) < queries[:, None]
    labels = np.tile(np.arange(counts.shape[1]), len(test)).repeat(counts.ravel())
    columns = {
        "episode": np.arange(len(test)).repeat(queries),
        "image": np.concatenate(test["query"].to_list()),
        "label": labels,
        "before": _take_queries(before.argmax(-1), is_query),
        "after": _take_queries(after.argmax(-1), is_query),
    }
    scaling = calibration.read_calibration(evaluation)
    for prefix, used in (("", scaling), ("raw_", None)):
        probabilities = calibration.compute_probabilities(evaluation, results, used)
        scores = calibration.score_predictions(
            probabilities[:, : is_query.shape[1]][is_query], labels
        )
        columns |= {prefix + name: values for name, values in scores.items()}
    return pd.DataFrame(columns)


def _headline_point(evaluation: EvaluationSetup) -> int:
    return evaluation.step_counts.index(evaluation.steps)


def _take_queries(values: torch.Tensor, is_query: np.ndarray) -> np.ndarray:
    """Return the values `(episodes, n)` of queries, without padding."""
    taken: np.ndarray = values.cpu().numpy()[:, : is_query.shape[1]][is_query]
    return taken


def build_class_table(evaluation: EvaluationSetup, predictions: pd.DataFrame) -> pd.DataFrame:
    """Compute the accuracy of each test class.

    The 95 % interval is over episodes; it is empty for a single episode.
    """
    source, test = evaluation.source, evaluation.test
    table = source.read_classes()
    class_of = stack_lists(test["classes"])
    predictions = predictions.assign(
        row=class_of[predictions["episode"], predictions["label"]],
        is_correct=predictions["label"] == predictions["after"],
    )
    rows = []
    for row, of_class in predictions.groupby("row"):
        by_episode = of_class.groupby("episode")["is_correct"].mean().to_numpy()
        _, ci95 = mean_ci95(by_episode, share=True)
        rows.append(
            {
                "class": table["class"][row],
                "group": table["group"][row],
                "episodes": of_class["episode"].nunique(),
                "queries": len(of_class),
            }
            | {
                "correct": int(of_class["is_correct"].sum()),
                "accuracy": float(of_class["is_correct"].mean()),
                "ci95": ci95,
            }
        )
    return pd.DataFrame(rows)


def build_fit_tables(
    evaluation: EvaluationSetup, headline: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the curves of a few episodes at quantiles of the error, and their support sets."""
    source, test = evaluation.source, evaluation.test
    learner, members = evaluation.trained.learner, evaluation.trained.members
    order = headline.sort_values(["mse", "episode"])["episode"].to_numpy()
    picked = order[np.linspace(len(order) // 2, len(order) - 1, FITS).round().astype(int)]
    episode = source.build_episodes(test.iloc[picked])
    low, high = source.meta["family"]["x"]
    grid = torch.linspace(low, high, 121, device=source.device)
    x = grid[None, :, None].expand(len(picked), -1, -1)
    table = pd.DataFrame(
        {
            "episode": picked.repeat(len(grid)),
            "x": np.tile(grid.cpu().double().numpy(), len(picked)),
        }
    )
    waves = test.iloc[table["episode"]]
    table["truth"] = waves["amplitude"].to_numpy() * np.sin(
        table["x"].to_numpy() - waves["phase"].to_numpy()
    )
    adapting = [adaptation_steps(learner, member, episode, CURVE_STEPS) for member in members]
    for step, thetas in enumerate(zip(*adapting, strict=True)):
        if step in (0, 1, CURVE_STEPS):
            with torch.no_grad():
                outputs = [learner.model(theta, x) for theta in thetas]
                ensemble = learner.objective.combine_outputs(outputs)
            table[f"step_{step}"] = ensemble.cpu().double().numpy().ravel()
    shots = episode.support_x.shape[1]
    points = [
        values.cpu().double().numpy().ravel() for values in (episode.support_x, episode.support_y)
    ]
    return table, pd.DataFrame({"episode": picked.repeat(shots), "x": points[0], "y": points[1]})


def compute_headline_metrics(
    evaluation: EvaluationSetup, episodes: pd.DataFrame, baselines: pd.DataFrame, limit: float
) -> dict[str, Any]:
    """Compute the entries of metrics.json that every evaluation has.

    docs/reference/files.md describes the schema.

    Args:
        evaluation: The model and the episodes.
        episodes: As from `build_episode_table`.
        baselines: As from `build_baseline_table`.
        limit: Squared error from which an episode counts as diverged.
    """
    learner, config, steps = evaluation.trained.learner, evaluation.trained.config, evaluation.steps
    name, headline = learner.objective.score_name, learner.batch_norm

    def at(mode: str, step: int) -> dict[str, Any]:
        scores = episodes.query(f"mode == '{mode}' and step == {step}")[name]
        return summarize(scores.to_numpy(), name, limit)

    loss = episodes.query(f"mode == '{headline}' and step == {steps}")["loss"].mean()
    summaries = {
        method: summarize(scores[name].to_numpy(), name, limit)
        for method, scores in baselines.groupby("method")
    }
    if name == "accuracy":
        summaries["chance"] = {"accuracy": compute_chance(evaluation.test["classes"])}
    result = at(headline, steps) | {
        "loss": float(loss),
        "episodes": int(episodes["episode"].nunique()),
        "steps": steps,
        "ensemble": config["ensemble"],
        "baselines": summaries,
        "train": {
            "iterations": config["iterations"],
            "best_iteration": config["iteration"],
            f"validation_{name}": config["validation"],
        },
    }
    if learner.test_variant.algorithm.transductive:
        result["transductive_inference"] = _describe_query_sets(evaluation)
    if episodes["step"].nunique() > 1:
        result["before"] = at(headline, 0)
    if evaluation.augmentation.copies:
        result["support_copies"] = evaluation.augmentation.copies
    if name == "accuracy":
        return result | {mode: at(mode, steps) for mode in BATCH_NORM}
    return result | {f"after_{step}": at(headline, step) for step in (1, CURVE_STEPS)}


def _describe_query_sets(evaluation: EvaluationSetup) -> dict[str, Any]:
    """Return the size of the query sets, which are predicted together, and how balanced they are.

    `queries` is a mean if episodes differ in size. `largest_share` is the mean share of the class
    with the most queries; 1 / ways if balanced.
    """
    counts = evaluation.source.count_queries(evaluation.test)
    facts: dict[str, Any]
    if evaluation.source.is_varied:
        sizes = counts.sum(1)
        facts = {"queries": float(sizes.mean())}
        facts["largest_share"] = float((counts.max(1) / sizes).mean())
    else:
        queries = int(counts[0].sum())
        facts = {"queries": queries, "largest_share": float(counts.max(1).mean() / queries)}
    balance = evaluation.source.meta.get("query_balance")
    return facts | ({} if balance is None else {"query_balance": balance})
