"""Ratings: the error by number of ratings, and example users with their recommendations."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import pandas as pd

from tasks.reports.kit import charts, wording
from tasks.reports.kit.charts import Line
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import Figure, ReportSection, Table, build_figure
from tasks.reports.run import sentences
from tasks.reports.run.facts import measure_rating_errors

ERRORS = {"mae": "mean absolute error", "rmse": "RMSE"}
RANKINGS = {
    f"{gain}_{length}": f"nDCG@{length}{of_gain}"
    for gain, of_gain in (("ndcg", ""), ("ndcg_exp", ", exponential gain"))
    for length in (1, 3, 10)
}
STYLES = {
    "model": ("model", (1, 0)),
    "feature_factorization": ("early", (6, 3)),
    "factorization": ("published", (6, 3)),
    "shifted_item_mean": ("other", (6, 3)),
    "item_mean": ("baseline", (2, 3)),
    "global_mean": ("training", (2, 3)),
}
"""Colour and dash pattern of the line of each method in the chart."""

METHODS = (*STYLES, "feature_ridge", "neighbours", "ease")
"""The methods in the tables."""

SHORT_NAMES = {
    "model": "this model",
    "feature_factorization": "with features",
    "factorization": "factorization",
    "shifted_item_mean": "item mean + offset",
    "global_mean": "global mean",
}


def build_rating_section(results: Results) -> ReportSection:
    """Build the section with the error by number of ratings."""
    sentence = sentences.describe_rating_errors(measure_rating_errors(results))
    return ReportSection(
        "ratings",
        "Error by number of ratings",
        sentence,
        [_draw_errors(results.ratings, sentence)],
        [sentences.RATING_NOTE],
        [
            _score_table(results.ratings, "Errors by number of ratings", ERRORS),
            _score_table(results.ratings, "Rankings by number of ratings", RANKINGS),
        ],
    )


def _draw_errors(ratings: pd.DataFrame, sentence: str) -> Figure:
    lines = []
    for method, (colour, dash) in STYLES.items():
        errors = ratings[ratings["method"] == method].sort_values("shots")
        mae, half = errors["mae"], errors["mae_ci95"]
        data = pd.DataFrame({"x": errors["shots"], "y": mae, "low": mae - half, "high": mae + half})
        data["value"] = [_format_error(v, h) for v, h in zip(mae, half, strict=True)]
        name = SHORT_NAMES.get(method, wording.name_baseline(method))
        lines.append(Line(name, colour, data, dash=dash))
    low = min(line.data["low"].min() for line in lines)
    high = max(line.data["high"].max() for line in lines)
    pad = 0.06 * (high - low)
    shots = sorted(ratings["shots"].unique().tolist())
    chart = charts.draw_curves(
        lines,
        {
            "axis": alt.Axis(title="ratings of the user", format="d", values=shots),
            "scale": alt.Scale(type="log", domain=[shots[0], shots[-1]], nice=False),
        },
        {
            "axis": alt.Axis(title=ERRORS["mae"], format="~r", tickCount=5),
            "scale": alt.Scale(domain=[low - pad, high + pad], nice=False),
        },
        labels_gap=0.075 * (high - low),
        tooltip=[
            alt.Tooltip("x:Q", title="ratings", format="d"),
            alt.Tooltip("value:N", title=ERRORS["mae"]),
        ],
    )
    description = "Mean absolute error of the model and of baselines by number of ratings."
    return build_figure("ratings", chart, description, sentence)


def _format_error(value: float, ci95: float) -> str:
    """Format an error with three decimals, since all ratings share one scale."""
    return f"{value:.3f} ± {ci95:.3f}"


def _score_table(ratings: pd.DataFrame, caption: str, measures: dict[str, str]) -> Table:
    by_method = ratings.set_index(["shots", "method"])
    rows = []
    for shots in sorted(ratings["shots"].unique().tolist()):
        for method in METHODS:
            if (shots, method) not in by_method.index:
                continue
            scores = by_method.loc[shots, method]
            if scores[[*measures]].isna().all():
                continue  # A method that only ranks has no errors.
            name = "this model" if method == "model" else wording.name_baseline(method)
            cells = [_format_error(scores[key], scores[f"{key}_ci95"]) for key in measures]
            rows.append([str(shots), name, *cells])
    head = ["ratings", "method", *measures.values()]
    return Table(caption, head, rows, frozenset({0, *range(2, len(head))}))


@dataclass(frozen=True)
class User:
    """An example user, with texts for the page.

    Attributes:
        episode: Index of the episode.
        rank: The user's rank among all, as text.
        error: Mean squared error.
        rated: First ratings: (item, rating).
        recommended: Later items that the model ranks first: (item, prediction, rating).
    """

    episode: int
    rank: str
    error: str
    rated: list[tuple[str, str]]
    recommended: list[tuple[str, str, str]]


def select_users(results: Results) -> list[User]:
    """Return the users of lists.parquet, from a typical one to the worst."""
    users: list[User] = []
    errors = results.headline_episodes.set_index("episode")["mse"].to_dict()
    user_count = results.lists["episode"].nunique()
    for episode, items in results.lists.groupby("episode", sort=False):
        support, ranked = items[items["part"] == "support"], items[items["part"] == "list"]
        last = len(users) + 1 == user_count
        rank = "worst user" if users and last else "harder user" if users else "typical user"
        users.append(
            User(
                episode=int(str(episode)),
                rank=rank,
                error=wording.format_number(float(errors[episode])),
                rated=[
                    (str(item), f"{rating:g}")
                    for item, rating in zip(support["item"], support["rating"], strict=True)
                ],
                recommended=[
                    (str(item), f"{prediction:.1f}", f"{rating:g}")
                    for item, prediction, rating in zip(
                        ranked["item"], ranked["answer"], ranked["rating"], strict=True
                    )
                ],
            )
        )
    return users
