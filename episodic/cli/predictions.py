"""Predictions as text, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Literal

from episodic.core.errors import UserError
from episodic.inference.predictions import Predictions

__all__ = ["format_predictions"]

SEPARATOR = "|"
"""Separator of the labels of a prediction set in CSV."""


def format_predictions(
    examples: Sequence[Any],
    predictions: Predictions,
    form: Literal["text", "json", "csv"],
    key: str,
    coverage: float | None = None,
) -> Iterator[str]:
    """Yield one line per example, in CSV after a header.

    Args:
        examples: File names or sentences.
        predictions: Their predictions. Their familiarity is written if they have it.
        form: The format.
        key: Name of the column of examples: `file` or `text`.
        coverage: The coverage of the prediction sets. None: no sets are written.

    Raises:
        ConfigError: The coverage is out of range.
        UserError: A label contains the separator of the sets in CSV.
    """
    classes, labels = predictions.classes, predictions.labels.tolist()
    rows = list(zip(examples, labels, predictions.probabilities, strict=True))
    familiarity = None if predictions.familiarity is None else predictions.familiarity.tolist()
    sets = None if coverage is None else predictions.find_sets(coverage)
    if form == "json":
        for i, (example, label, row) in enumerate(rows):
            prediction: dict[str, Any] = {key: str(example), "label": label}
            if familiarity is not None:
                prediction["familiarity"] = round(familiarity[i], 6)
            if sets is not None:
                prediction["set"] = sets[i]
            prediction["probabilities"] = {
                str(name): round(float(p), 6) for name, p in zip(classes, row, strict=True)
            }
            yield json.dumps(prediction, ensure_ascii=False)
    elif form == "csv":
        if sets is not None:
            _check_separator(classes)
        further = {"familiarity": familiarity, "set": sets}
        names = [name for name, values in further.items() if values is not None]
        yield _csv([key, "label", *names, *classes])
        for i, (example, label, row) in enumerate(rows):
            cells = [example, label]
            if familiarity is not None:
                cells.append(f"{familiarity[i]:.6f}")
            if sets is not None:
                cells.append(SEPARATOR.join(map(str, sets[i])))
            yield _csv([*cells, *(f"{p:.6f}" for p in row)])
    else:
        is_unknown = predictions.is_unknown
        widths = max(map(len, map(str, examples))), max(map(len, map(str, [*classes, *labels])))
        for i, (example, label, row) in enumerate(rows):
            # The probabilities of an unknown example say how it compares with the classes only.
            hidden = is_unknown is not None and is_unknown[i]
            percent = " " * 7 if hidden else f"{100 * max(row):5.1f} %"
            text = f"{example!s:<{widths[0]}}  {label!s:<{widths[1]}}  {percent}"
            if sets is not None:
                text += f"  {{{', '.join(map(str, sets[i]))}}}"
            yield text.rstrip()


def _check_separator(classes: Sequence[Hashable]) -> None:
    """Check that no label contains the separator of sets.

    Raises:
        UserError: A label does.
    """
    for label in classes:
        if SEPARATOR in str(label):
            raise UserError(
                f"the label {label!r} contains {SEPARATOR}, which separates the labels of a set in"
                " CSV: use --json"
            )


def _csv(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
