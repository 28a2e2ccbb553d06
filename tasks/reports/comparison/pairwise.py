"""The matrix of pairwise differences."""

from __future__ import annotations

from typing import Any

from tasks.reports.comparison import sentences
from tasks.reports.comparison.protocols import SIGNIFICANCE, Configuration, Pair, Protocol
from tasks.reports.comparison.style import format_difference
from tasks.reports.kit import wording


def build_matrix(protocol: Protocol) -> dict[str, Any] | None:
    """Build the matrix of pairwise differences, row minus column; None for a single configuration.

    Returns:
        `sentence`; `names`; `rows` of cells with `text`, `verdict` (`win`, `lose`, `open` or
        `self`) and `title` (a tooltip); `note`; and `left_out`, the number of configurations
        without a row.
    """
    compared = {id(c) for pair in protocol.pairs for c in (pair.first, pair.second)}
    if not compared:
        return None
    members = [c for c in protocol.configurations if id(c) in compared]
    pairs = {(id(pair.first), id(pair.second)): pair for pair in protocol.pairs}
    rows = []
    for first in members:
        cells = []
        for second in members:
            if first is second:
                cells.append({"text": "", "verdict": "self", "title": ""})
            elif pair := pairs.get((id(first), id(second))):
                cells.append(_build_cell(protocol, first, second, pair, 1))
            else:
                pair = pairs[id(second), id(first)]
                cells.append(_build_cell(protocol, first, second, pair, -1))
        rows.append({"name": first.name, "cells": cells})
    return {
        "sentence": sentences.describe_pairs(protocol),
        "names": [c.name for c in members],
        "rows": rows,
        "note": sentences.explain_matrix(protocol),
        "left_out": len(protocol.configurations) - len(members),
    }


def _build_cell(
    protocol: Protocol, first: Configuration, second: Configuration, pair: Pair, sign: int
) -> dict[str, str]:
    difference = pair.difference
    mean, low, high = (sign * v for v in (difference.mean, difference.low, difference.high))
    verdict = "open"
    if pair.p < SIGNIFICANCE:
        verdict = "win" if mean * protocol.sign > 0 else "lose"
    text = format_difference(protocol, mean)
    low_text, high_text = (format_difference(protocol, v) for v in sorted((low, high)))
    title = (
        f"{first.name} minus {second.name}: {text}, 95 % CI {low_text} to {high_text}, "
        f"corrected p {wording.format_p_value(pair.p)}"
    )
    return {"text": text, "verdict": verdict, "title": title}
