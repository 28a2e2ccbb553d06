"""The learning curve of a training run as an image in Prefect's UI."""

from __future__ import annotations

import base64
import time
from contextlib import suppress
from typing import Any

DRAW_INTERVAL = 15.0
"""Seconds between two updates of the image."""

MAX_POINTS = 400
"""Maximum number of points. Above it, every second point is dropped."""

MEASURES = ("accuracy", "validation_accuracy", "loss", "validation_mse")


class LearningCurve:
    """A Markdown artifact with a chart of the progress events of the stage `train`.

    Args:
        key: Key of the artifact.
    """

    def __init__(self, key: str):
        self.key = key
        self.points: list[dict[str, Any]] = []
        self.stride = 1
        self.event_count = 0
        self.drawn = time.monotonic()
        self.artifact: Any = None

    def add(self, event: dict[str, Any], finished: bool) -> None:
        """Add the measurements of an event, and publish the curve if an update is due."""
        measured: dict[str, Any] = {name: event[name] for name in MEASURES if name in event}
        if not measured:
            return
        self.event_count += 1
        if self.event_count % self.stride == 0 or finished:
            self.points.append({"iteration": event["done"], **measured})
        if len(self.points) > MAX_POINTS:
            self.points, self.stride = self.points[::2], 2 * self.stride
        if finished or time.monotonic() - self.drawn >= DRAW_INTERVAL:
            self.drawn = time.monotonic()
            if len(self.points) > 1:
                self.publish()

    def publish(self) -> None:
        """Create or update the artifact."""
        from prefect.artifacts import create_markdown_artifact
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import ArtifactUpdate

        last = self.points[-1]
        image = base64.b64encode(draw_curve(self.points).encode()).decode()
        values = ", ".join(
            f"{name.replace('_', ' ')} {value:.4g}"
            for name, value in last.items()
            if name != "iteration"
        )
        text = (
            f"![LearningFacts curve](data:image/svg+xml;base64,{image})\n\n"
            f"Iteration {last['iteration']:,}: {values}"
        )
        if self.artifact is None:
            self.artifact = create_markdown_artifact(
                text, key=self.key, description="LearningFacts curve of the training run"
            )
            return
        # A failed update must not end the training run.
        with suppress(Exception), get_client(sync_client=True) as client:
            client.update_artifact(self.artifact, ArtifactUpdate(data=text))


def draw_curve(points: list[dict[str, Any]]) -> str:
    """Draw training and validation scores by iteration.

    Returns:
        An SVG in the style of the report.
    """
    import altair as alt
    import pandas as pd

    from tasks.reports.kit import charts
    from tasks.reports.kit.charts import Line

    table = pd.DataFrame(points)
    is_accuracy = "accuracy" in table
    measure = "accuracy" if is_accuracy else "loss"
    # The loss of a regression is its mean squared error.
    validation = "validation_accuracy" if is_accuracy else "validation_mse"
    lines = []
    for name, column, colour in (
        ("training", measure, "training"),
        ("validation", validation, "model"),
    ):
        if column not in table:
            continue
        measured = table.dropna(subset=[column])
        if name == "validation":
            measured = measured[measured[column] != measured[column].shift()]
        if len(measured) > 1:
            data = pd.DataFrame({"x": measured["iteration"], "y": measured[column]})
            lines.append(Line(name, colour, data, points=name == "validation"))
    values = pd.concat([line.data["y"] for line in lines])
    if is_accuracy:
        low, high = max(0.0, float(values.min()) - 0.02), 1.0
    else:
        low, high = 0.0, float(values.quantile(0.98)) * 1.05
    last = int(table["iteration"].max())
    chart = charts.draw_curves(
        lines,
        {
            "axis": alt.Axis(title="iteration", format=",d", tickCount=5),
            "scale": alt.Scale(domain=[0, last], nice=False),
        },
        {
            "axis": alt.Axis(title=measure, format=".0%" if is_accuracy else "~r", tickCount=5),
            "scale": alt.Scale(domain=[low, high]),
        },
        labels_gap=0.075 * (high - low),
    )
    return charts.render_svg(charts.build_page_spec(chart, 240))
