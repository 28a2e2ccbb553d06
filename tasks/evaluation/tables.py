"""Tables and figures of the test episodes' scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from episodic.core.model import Params
from episodic.core.statistics import mean_ci95
from episodic.engine.learner import BATCH_NORM, MetaLearner
from episodic.training import evaluation
from episodic.training.evaluation import CURVE_STEPS
from tasks.prepared import Prepared

DIVERGED = 100.0
"""Regression: an episode whose squared error is not finite or above this (given tasks: this many variances) counts as diverged."""

FITS = 6
"""Regression: how many episodes, from typical to worst, are kept as curves for the report."""


def episode_table(curve: evaluation.AdaptationCurve, points: list[int], name: str) -> pd.DataFrame:
    tables = []
    for mode in BATCH_NORM:
        score, loss = (
            getattr(curve, part)[mode].cpu().double().numpy() for part in ("score", "loss")
        )
        episode, point = np.indices(score.shape)
        step = np.array(points)[point.ravel()]
        columns = {
            "mode": mode,
            "episode": episode.ravel(),
            "step": step,
            "loss": loss.ravel(),
            name: score.ravel(),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def curve_table(episodes: pd.DataFrame, name: str, limit: float) -> pd.DataFrame:
    rows = []
    for (mode, step), part in episodes.groupby(["mode", "step"], sort=True):
        rows.append(
            {"mode": mode, "step": step, "loss": part["loss"].mean()}
            | summary(part[name].to_numpy(), name, limit)
        )
    return pd.DataFrame(rows)


def summary(values: np.ndarray, name: str, limit: float) -> dict[str, Any]:
    """Mean and half-width; regression: also the median, and how many episodes diverged (then the mean may be infinite)."""
    with np.errstate(invalid="ignore", over="ignore"):
        mean, ci95 = mean_ci95(values)
    result: dict[str, Any] = {name: mean, f"{name}_ci95": ci95}
    if name == "mse":
        result |= {
            "mse_median": float(np.median(values)),
            "diverged": int((~np.isfinite(values) | (values > limit)).sum()),
        }
    return result


def answers(
    source: Prepared, test: pd.DataFrame, before: torch.Tensor, adapted: torch.Tensor
) -> pd.DataFrame:
    """One row a query image: what it is, and what the model says of it without and with adaptation."""
    query = np.stack(test["query"].to_list())
    after = adapted.softmax(-1)
    labels = np.arange(source.meta["ways"]).repeat(source.meta["queries"])
    columns = {
        "episode": np.arange(len(test)).repeat(query.shape[1]),
        "image": query.ravel(),
        "label": np.tile(labels, len(test)),
        "before": before.argmax(-1).cpu().numpy().ravel(),
        "after": after.argmax(-1).cpu().numpy().ravel(),
        "confidence": after.amax(-1).cpu().numpy().ravel(),
    }
    return pd.DataFrame(columns)


def class_table(source: Prepared, test: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each test class, with its 95 % interval over the episodes that it was in (empty for one episode)."""
    table = source.classes()
    class_of = np.stack(test["classes"].to_list())
    right = answers.assign(
        row=class_of[answers["episode"], answers["label"]],
        right=answers["label"] == answers["after"],
    )
    rows = []
    for row, part in right.groupby("row"):
        _, ci95 = mean_ci95(part.groupby("episode")["right"].mean().to_numpy())
        rows.append(
            {
                "class": table["class"][row],
                "group": table["group"][row],
                "episodes": part["episode"].nunique(),
                "queries": len(part),
            }
            | {
                "correct": int(part["right"].sum()),
                "accuracy": float(part["right"].mean()),
                "ci95": ci95,
            }
        )
    return pd.DataFrame(rows)


def fits(
    meta_learner: MetaLearner,
    members: list[Params],
    source: Prepared,
    test: pd.DataFrame,
    headline: pd.DataFrame,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Whole curves of a few episodes at the quantiles of the headline error, from typical to worst."""
    order = headline.sort_values(["mse", "episode"])["episode"].to_numpy()
    picked = order[np.linspace(len(order) // 2, len(order) - 1, FITS).round().astype(int)]
    episode = source.fixed(test.iloc[picked])
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
    for step, thetas in enumerate(
        zip(
            *(evaluation.adaptation_steps(meta_learner, m, episode, CURVE_STEPS) for m in members),
            strict=True,
        )
    ):
        if step in (0, 1, CURVE_STEPS):
            with torch.no_grad():
                answer = meta_learner.objective.together(
                    [meta_learner.model(theta, x) for theta in thetas]
                )
            table[f"step_{step}"] = answer.cpu().double().numpy().ravel()
    shots = episode.support_x.shape[1]
    points = [
        part.cpu().double().numpy().ravel() for part in (episode.support_x, episode.support_y)
    ]
    return table, pd.DataFrame({"episode": picked.repeat(shots), "x": points[0], "y": points[1]})


def metrics(
    episodes: pd.DataFrame,
    compared: pd.DataFrame,
    name: str,
    headline: str,
    steps: int,
    config: dict[str, Any],
    limit: float,
) -> dict[str, Any]:
    """The fixed schema of docs/files.md; limit: of `diverged`."""

    def at(mode: str, step: int) -> dict[str, Any]:
        return summary(
            episodes.query(f"mode == '{mode}' and step == {step}")[name].to_numpy(), name, limit
        )

    loss = episodes.query(f"mode == '{headline}' and step == {steps}")["loss"].mean()
    baselines = {
        method: summary(part[name].to_numpy(), name, limit)
        for method, part in compared.groupby("method")
    }
    if name == "accuracy":
        baselines["chance"] = {"accuracy": 1 / config["ways"]}
    result = at(headline, steps) | {
        "loss": float(loss),
        "episodes": int(episodes["episode"].nunique()),
        "steps": steps,
        "ensemble": config["ensemble"],
        "baselines": baselines,
        "train": {
            "iterations": config["iterations"],
            "best_iteration": config["iteration"],
            f"validation_{name}": config["validation"],
        },
    }
    if episodes["step"].nunique() > 1:
        result["before"] = at(headline, 0)
    if name == "accuracy":
        return result | {mode: at(mode, steps) for mode in BATCH_NORM}
    return result | {f"after_{step}": at(headline, step) for step in (1, CURVE_STEPS)}
