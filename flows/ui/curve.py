"""The learning curve of a training that runs, as a picture in Prefect's UI."""

from __future__ import annotations

import base64
import time
from contextlib import suppress
from typing import Any

EVERY = 15.0
"""Seconds between two pictures."""

POINTS = 400
"""Of the training's measurements, at most so many are drawn: from there on every second one, and so forth."""


class Curve:
    """Progress events of the stage `train`, drawn now and then into a Markdown artifact under `key`."""

    def __init__(self, key: str):
        self.key = key
        self.rows: list[dict[str, Any]] = []
        self.stride = 1
        self.seen = 0
        self.drawn = time.monotonic()
        self.artifact: Any = None

    def add(self, event: dict[str, Any], finished: bool) -> None:
        measured: dict[str, Any] = {
            name: event[name]
            for name in ("accuracy", "validation_accuracy", "loss", "validation_mse")
            if name in event
        }
        if not measured:
            return
        self.seen += 1
        if self.seen % self.stride == 0 or finished:
            self.rows.append({"iteration": event["done"], **measured})
        if len(self.rows) > POINTS:
            self.rows, self.stride = self.rows[::2], 2 * self.stride
        if finished or time.monotonic() - self.drawn >= EVERY:
            self.drawn = time.monotonic()
            if len(self.rows) > 1:
                self.publish()

    def publish(self) -> None:
        from prefect.artifacts import create_markdown_artifact
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import ArtifactUpdate

        last = self.rows[-1]
        picture = base64.b64encode(svg(self.rows).encode()).decode()
        said = ", ".join(
            f"{name.replace('_', ' ')} {value:.4g}"
            for name, value in last.items()
            if name != "iteration"
        )
        text = f"![Learning curve](data:image/svg+xml;base64,{picture})\n\nIteration {last['iteration']:,}: {said}"
        if self.artifact is None:
            self.artifact = create_markdown_artifact(
                text, key=self.key, description="the training as it runs"
            )
        else:
            with (
                suppress(Exception),
                get_client(sync_client=True) as client,
            ):  # a picture less; the training goes on
                client.update_artifact(self.artifact, ArtifactUpdate(data=text))


def svg(rows: list[dict[str, Any]]) -> str:
    """Training and validation over the iterations, in the report's style."""
    import altair as alt
    import pandas as pd

    from tasks.reports.kit import charts
    from tasks.reports.kit.charts import Line

    table = pd.DataFrame(rows)
    measure = "accuracy" if "accuracy" in table else "loss"
    validation = (
        "validation_accuracy" if measure == "accuracy" else "validation_mse"
    )  # the loss of a regression is its squared error
    lines = []
    for name, column, colour in (
        ("training", measure, "training"),
        ("validation", validation, "model"),
    ):
        if column in table and table[column].notna().sum() > 1:
            part = table.dropna(subset=[column])
            part = part[part[column] != part[column].shift()] if name == "validation" else part
            if len(part) > 1:
                lines.append(
                    Line(
                        name,
                        colour,
                        pd.DataFrame({"x": part["iteration"], "y": part[column]}),
                        points=name == "validation",
                    )
                )
    values = pd.concat([line.data["y"] for line in lines])
    low, high = (
        (max(0.0, float(values.min()) - 0.02), 1.0)
        if measure == "accuracy"
        else (0.0, float(values.quantile(0.98)) * 1.05)
    )
    chart = charts.curves(
        lines,
        {
            "axis": alt.Axis(title="iteration", format=",d", tickCount=5),
            "scale": alt.Scale(domain=[0, int(table["iteration"].max())], nice=False),
        },
        {
            "axis": alt.Axis(
                title=measure, format=".0%" if measure == "accuracy" else "~r", tickCount=5
            ),
            "scale": alt.Scale(domain=[low, high]),
        },
        labels_gap=0.075 * (high - low),
    )
    return charts.svg(charts.page_spec(chart, 240))
