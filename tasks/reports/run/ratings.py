"""Ratings: the error by the number of a user's ratings, and what a user would be shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from tasks.reports.kit import charts, wording
from tasks.reports.kit.charts import Line
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import Section, Table, figure

MEASURES = {
    "mae": "mean absolute error",
    "rmse": "RMSE",
    "ndcg_1": "nDCG@1",
    "ndcg_3": "nDCG@3",
    "ndcg_10": "nDCG@10",
}
LOOKS = {
    "model": ("model", (1, 0)),
    "factorisation": ("published", (6, 3)),
    "shifted_item_mean": ("other", (6, 3)),
    "item_mean": ("baseline", (2, 3)),
    "global_mean": ("training", (2, 3)),
}
"""Colour and dashes of each method's line."""
SHORT = {
    "model": "this model",
    "factorisation": "factorisation",
    "shifted_item_mean": "shifted item mean",
    "global_mean": "global mean",
}


def section(results: Results) -> Section:
    """Mean absolute error after 1, 3, ... ratings, of the model and of what people had before."""
    found = results.ratings
    lines = []
    for method, (colour, dash) in LOOKS.items():
        part = found[found["method"] == method].sort_values("shots")
        data = pd.DataFrame({"x": part["shots"], "y": part["mae"]})
        data["low"], data["high"] = part["mae"] - part["mae_ci95"], part["mae"] + part["mae_ci95"]
        data["figure"] = [shown(v, h) for v, h in zip(part["mae"], part["mae_ci95"], strict=True)]
        lines.append(
            Line(SHORT.get(method, wording.METHODS.get(method, method)), colour, data, dash=dash)
        )
    low, high = (
        min(line.data["low"].min() for line in lines),
        max(line.data["high"].max() for line in lines),
    )
    shots = sorted(found["shots"].unique().tolist())
    frame = [low - 0.06 * (high - low), high + 0.06 * (high - low)]
    chart = charts.curves(
        lines,
        {
            "axis": alt.Axis(title="ratings of the user", format="d", values=shots),
            "scale": alt.Scale(type="log", domain=[shots[0], shots[-1]], nice=False),
        },
        {
            "axis": alt.Axis(title=MEASURES["mae"], format="~r", tickCount=5),
            "scale": alt.Scale(domain=frame, nice=False),
        },
        labels_gap=0.075 * (high - low),
        tooltip=[
            alt.Tooltip("x:Q", title="ratings", format="d"),
            alt.Tooltip("figure:N", title=MEASURES["mae"]),
        ],
    )
    sentence = _sentence(found, shots)
    notes = [
        "A user's first ratings in time are what the model adapts on; the ratings that it has to tell come after them and are the same for "
        "every number. Intervals are over users, who count alike; nDCG@k is of the user's rated items in the order of the answers, its "
        "gains how far a rating is above the lowest one (1 for a user whose ratings are all equal). The baselines' strengths were chosen "
        "on validation users, for each number of ratings; they know no features of users and items."
    ]
    drawn = figure(
        "ratings",
        chart,
        "Mean absolute error by the number of a user's ratings, of the model and of baselines.",
        sentence,
    )
    return Section(
        "ratings", "By the number of ratings", sentence, [drawn], notes, [_table(found, shots)]
    )


def shown(value: float, ci95: float) -> str:
    """Three digits after the point: ratings have one scale."""
    return f"{value:.3f} ± {ci95:.3f}"


def _sentence(found: pd.DataFrame, shots: list[int]) -> str:
    """After the fewest and after the most ratings, against the best baseline there."""
    said = []
    for number in dict.fromkeys((shots[0], shots[-1])):
        part: dict[Any, Any] = found[found["shots"] == number].set_index("method").to_dict("index")
        best = min(
            (method for method in part if method != "model"), key=lambda method: part[method]["mae"]
        )
        ahead, half = part[best]["ahead"], part[best]["ahead_ci95"]
        sure = "" if abs(ahead) > half else " (which may be chance)"
        than = f"{shown(abs(ahead), half)} {'less' if ahead >= 0 else 'more'} than {wording.METHODS.get(str(best), str(best))}{sure}"
        said.append(
            f"after {wording.count(number, 'rating')} by {part['model']['mae']:.3f}, {than}"
        )
    return f"The model errs on average {'; '.join(said)}."


def _table(found: pd.DataFrame, shots: list[int]) -> Table:
    methods = [method for method in LOOKS if method in set(found["method"])]
    rows = []
    for number in shots:
        part = found[found["shots"] == number].set_index("method").to_dict("index")
        for method in methods:
            line = part[method]
            cells = [shown(line[m], line[f"{m}_ci95"]) for m in MEASURES]
            rows.append(
                [
                    str(number),
                    "this model" if method == "model" else wording.METHODS.get(method, method),
                    *cells,
                ]
            )
    head = ["ratings", "", *MEASURES.values()]
    return Table(
        "Errors and lists by the number of a user's ratings",
        head,
        rows,
        frozenset({0, *range(2, len(head))}),
    )


@dataclass(frozen=True)
class User:
    """rated, told: (item, rating) and (item, answer, rating), in words; place: among all users by the model's error"""

    episode: int
    place: str
    error: str
    rated: list[tuple[str, str]]
    told: list[tuple[str, str, str]]


def users(results: Results) -> list[User]:
    """The users of lists.parquet, from typical to worst."""
    found: list[User] = []
    errors = results.headline.set_index("episode")["mse"].to_dict()
    for episode, part in results.lists.groupby("episode", sort=False):
        support, told = part[part["part"] == "support"], part[part["part"] == "list"]
        place = (
            "a typical user"
            if not found
            else "the worst"
            if len(found) + 1 == results.lists["episode"].nunique()
            else "a harder one"
        )
        error = errors[episode]
        rated = [
            (str(item), f"{value:g}")
            for item, value in zip(support["item"], support["rating"], strict=True)
        ]
        lines = zip(told["item"], told["answer"], told["rating"], strict=True)
        first = [(str(item), f"{answer:.1f}", f"{value:g}") for item, answer, value in lines]
        found.append(User(int(str(episode)), place, wording.number(float(error)), rated, first))
    return found
