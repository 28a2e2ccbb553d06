"""Measures of single experiments in metrics.json, and the tables of queries that pair them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from tasks.experiments import Experiment
from tasks.reports.comparison.protocols import Configuration, Protocol
from tasks.reports.kit import wording
from tasks.runtime.stage import StageError

LISTED = 20
"""Maximum number of experiments in a table: the best ones."""

Interval = tuple[float, float]
"""A value and the half-width of its 95 % interval."""


@dataclass(frozen=True)
class Measures:
    """The measures of an experiment.

    Attributes:
        name: Its name.
        experiment: The experiment.
        values: Those measures that its metrics.json has.
    """

    name: str
    experiment: Experiment
    values: dict[str, Interval]

    def format(self, key: str, score: str = "mse") -> str:
        """Format a measure; '' if it is missing. `score` is as for `wording.format_estimate`."""
        return wording.format_estimate(score, *self.values[key]) if key in self.values else ""


def read_measures(protocol: Protocol, keys: Mapping[str, str]) -> list[Measures]:
    """Read the measures of all experiments that have any.

    Args:
        protocol: The protocol.
        keys: Key in metrics.json of each measure. `_ci95` is added for its interval.
    """
    found = []
    for configuration in protocol.configurations:
        for experiment in configuration.experiments:
            metrics = experiment.metrics
            values = {
                name: (float(metrics[key]), float(metrics[f"{key}_ci95"]))
                for name, key in keys.items()
                if metrics.get(key) is not None
            }
            if values:
                name = name_experiment(configuration, experiment)
                found.append(Measures(name, experiment, values))
    return found


def name_experiment(configuration: Configuration, experiment: Experiment) -> str:
    """Return the name of a configuration, with that of the experiment if it has several."""
    several = len(configuration.experiments) > 1
    return f"{configuration.name} ({experiment.name})" if several else configuration.name


def read_queries(experiment: Experiment, file: str, columns: Sequence[str]) -> pd.DataFrame | None:
    """Read a table of queries of reports/scores; None without it, or without a column.

    Args:
        experiment: The experiment.
        file: Name of the file.
        columns: The columns to read, in addition to `episode` and `label`.
    """
    try:
        path = experiment.file(f"reports/scores/{file}")
    except StageError:  # not in DVC's cache
        return None
    try:
        return pd.read_parquet(path, columns=["episode", "label", *columns])
    except ValueError:  # an earlier version wrote fewer columns
        return None


def have_same_queries(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Return whether two tables are of the same queries, in the same order."""
    return first[["episode", "label"]].equals(second[["episode", "label"]])
