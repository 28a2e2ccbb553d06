"""Predictions as text, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from episodic.core.errors import UserError

if TYPE_CHECKING:
    from episodic.inference.predictions import Predictions

__all__ = ["format_csv_row", "format_predictions"]

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
        UserError: In CSV, a label contains the separator of the sets or is the name of a column.
    """
    classes, entries = predictions.classes, predictions.to_json(coverage)
    names = [name for name in ("familiarity", "set") if name in entries[0]]
    if form == "json":
        for example, entry in zip(examples, entries, strict=True):
            values = {key: str(example)} | {
                name: _round(entry[name]) for name in ("label", *names, "probabilities")
            }
            yield json.dumps(values, ensure_ascii=False)
    elif form == "csv":
        if coverage is not None:
            _check_separator(classes)
        columns = [key, "label", *names]
        _check_columns(classes, columns)
        yield format_csv_row([*columns, *classes])
        for example, entry in zip(examples, entries, strict=True):
            cells = {
                "familiarity": f"{entry.get('familiarity', 0):.6f}",
                "set": SEPARATOR.join(map(str, entry.get("set", ()))),
            }
            shares = (f"{p:.6f}" for p in entry["probabilities"].values())
            yield format_csv_row(
                [example, entry["label"], *(cells[name] for name in names), *shares]
            )
    else:
        labels = [str(label) for label in (*classes, *(entry["label"] for entry in entries))]
        widths = max(map(len, map(str, examples))), max(map(len, labels))
        for i, (example, entry) in enumerate(zip(examples, entries, strict=True)):
            # The probabilities of an unknown example only compare the classes with each other.
            hidden = predictions.is_unknown is not None and predictions.is_unknown[i]
            percent = " " * 7 if hidden else f"{100 * max(entry['probabilities'].values()):5.1f} %"
            text = f"{example!s:<{widths[0]}}  {entry['label']!s:<{widths[1]}}  {percent}"
            if coverage is not None:
                text += f"  {{{', '.join(map(str, entry['set']))}}}"
            yield text.rstrip()


def _round(value: Any) -> Any:
    """Round numbers to 6 decimal places, also those of a dictionary."""
    if isinstance(value, dict):
        return {name: _round(number) for name, number in value.items()}
    return round(value, 6) if isinstance(value, float) else value


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


def _check_columns(classes: Sequence[Hashable], columns: Sequence[str]) -> None:
    """Check that no label is the name of another column.

    Raises:
        UserError: A label is.
    """
    for label in classes:
        if str(label) in columns:
            raise UserError(
                f"the label {label!r} is also the name of a column of the CSV table: use --json, or"
                " rename the class and adapt again"
            )


def format_csv_row(cells: Sequence[Any]) -> str:
    """Return a line of CSV, without its end."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
