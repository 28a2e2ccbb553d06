"""Colours, axes and number formats of the charts and tables of a comparison."""

from __future__ import annotations

from typing import Any

import altair as alt

from episodic.analysis.comparison import Estimate
from tasks.reports.comparison.protocols import Configuration, Protocol
from tasks.reports.kit import wording
from tasks.reports.kit.maps import SERIES_COLOURS


def choose_colour(protocol: Protocol, configuration: Configuration) -> str:
    """Return the colour of a configuration on all charts; the best have distinct colours."""
    rank = next(i for i, c in enumerate(protocol.configurations) if c is configuration)
    return SERIES_COLOURS[rank] if rank < len(SERIES_COLOURS) else "baseline"


def build_zoomed_score_axis(protocol: Protocol, low: float, high: float) -> dict[str, Any]:
    """Return an axis for scores between `low` and `high`.

    The axis is zoomed in on the differences. It does not start at 0 or at the chance level, since
    no length on these charts represents a score.
    """
    pad = 0.05 * max(high - low, 1e-6)
    top = min(1.0, high + pad) if protocol.is_accuracy else high + pad
    return {
        "axis": alt.Axis(
            title=wording.name_score(protocol.score),
            format=choose_score_format(protocol, high - low),
            tickCount=5,
        ),
        "scale": alt.Scale(domain=[max(0.0, low - pad), top], nice=False, zero=False),
    }


def choose_score_format(protocol: Protocol, extent: float) -> str:
    """Return the number format of an axis, given its extent."""
    return "~r" if not protocol.is_accuracy else ".1%" if extent < 0.08 else ".0%"


def format_interval(protocol: Protocol, estimate: Estimate) -> str:
    """Format a score with its interval: `98.2 % (97.9 to 98.5)`."""
    if protocol.is_accuracy:
        ends = f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"
    else:
        ends = f"{wording.format_number(estimate.low)} to {wording.format_number(estimate.high)}"
    return f"{wording.choose_formatter(protocol.score)(estimate.mean)} ({ends})"


def format_difference(protocol: Protocol, value: float) -> str:
    """Format a signed difference, for accuracy in percentage points: `+1.3`."""
    text = f"{100 * value:+.1f}" if protocol.is_accuracy else f"{value:+.3g}"
    return text.replace("-", "−")
