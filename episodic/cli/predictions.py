"""Predictions as text, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

__all__ = ["format_csv_row", "format_predictions"]


def format_predictions(
    examples: Sequence[Any],
    labels: Sequence[Any],
    probabilities: Any,
    classes: Sequence[Any],
    form: Literal["text", "json", "csv"],
    key: str,
) -> Iterator[str]:
    """Yield one line per example, in CSV after a header.

    Args:
        examples: File names or sentences.
        labels: The predicted label of each.
        probabilities: The class probabilities of each, `(n, classes)`.
        classes: The labels of the columns.
        form: The format.
        key: Name of the column of examples: `file` or `text`.
    """
    rows = zip(examples, labels, probabilities, strict=True)
    if form == "json":
        for example, label, row in rows:
            by_class = {str(name): round(float(p), 6) for name, p in zip(classes, row, strict=True)}
            prediction = {key: str(example), "label": label, "probabilities": by_class}
            yield json.dumps(prediction, ensure_ascii=False)
    elif form == "csv":
        yield format_csv_row([key, "label", *classes])
        for example, label, row in rows:
            yield format_csv_row([example, label, *(f"{p:.6f}" for p in row)])
    else:
        widths = max(map(len, map(str, examples))), max(map(len, map(str, classes)))
        for example, label, row in rows:
            yield f"{example!s:<{widths[0]}}  {label!s:<{widths[1]}}  {100 * max(row):5.1f} %"


def format_csv_row(cells: Sequence[Any]) -> str:
    """Return a line of CSV, without its end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
