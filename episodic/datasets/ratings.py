"""Ratings of your own: a CSV with the columns `user`, `item`, `rating` and perhaps `timestamp`; a task is a user.

`dataset.source` names that file, or a folder that holds it as `ratings.csv`, and beside it perhaps `items.csv` and `users.csv`: what is
known of them, a line each. Their first column is `item` or `user`, every other one is a feature, several values of it apart by `|`. Numbers
are names there like all else: group ages before. A timestamp is a number or a date (ISO 8601); without it the order of the lines is that of
time.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from episodic.core.config import require
from episodic.core.files import atomic_path
from episodic.datasets.base import FetchError, Progress, Tasks, no_progress
from episodic.datasets.sources import rated
from episodic.datasets.sources.rated import MOST, Features, Found, Rating
from episodic.preprocessing.base import first_problems

LICENSE = "Ratings of the user's own, on the user's own terms."
OWN = True
FILES = ("ratings.csv", "items.csv", "users.csv")


@dataclass(frozen=True)
class Config(rated.Config):
    """What all ratings have."""


def shape(config: Config, source: Path) -> tuple[int, int]:
    """Of the data that is there; ConfigError where its features are too many."""
    found = _read(_files(source)).input
    require(
        found[1] <= MOST,
        "source",
        str(source),
        f"has {found[1]} features of one item or user; it must be at most {MOST}",
    )
    return found


def fetch(
    raw: Path,
    config: Config,
    *,
    source: Path,
    mirror: Path | None = None,
    progress: Progress = no_progress,
) -> None:
    """Copies the files; FetchError lists what is wrong with them."""
    files = _files(source)
    _read(files)
    for name, path in files.items():
        with atomic_path(raw / name) as draft:
            draft.write_bytes(path.read_bytes())


def prepare(raw: Path, config: Config, seed: int) -> Tasks:
    if not (raw / FILES[0]).is_file():
        raise FetchError(f"{raw / FILES[0]} is missing: run the stage download first")
    found = _read(_files(raw))
    return rated.tasks(found, config, seed, found.input)


def _files(source: Path) -> dict[str, Path]:
    if source.is_file():
        if beside := [name for name in FILES[1:] if (source.parent / name).is_file()]:
            raise FetchError(
                f"beside {source} lies {' and '.join(beside)}: name the folder, with {source.name} as {FILES[0]}, or put it elsewhere"
            )
        return {FILES[0]: source}
    if not (source / FILES[0]).is_file():
        raise FetchError(
            f"dataset.source is {source}; it must be a CSV with the columns user, item and rating, or a folder that holds it as {FILES[0]}"
        )
    return {name: source / name for name in FILES if (source / name).is_file()}


def _read(files: dict[str, Path]) -> Found:
    problems: list[str] = []
    path = files[FILES[0]]
    ratings, told_twice = [], set()
    kinds: dict[str, int] = {}  # ways of telling the time, and the line where each comes first
    for place, (number, row) in enumerate(_rows(path, ("user", "item", "rating"), problems)):
        try:
            value = float(row["rating"])
        except ValueError:
            value = math.nan
        time, kind = _time(row["timestamp"]) if "timestamp" in row else (float(place), "")
        kinds.setdefault(kind, number)
        if not math.isfinite(value):
            problems.append(f"{path}, line {number}: the rating {row['rating']!r} is no number")
        elif not math.isfinite(time):
            problems.append(
                f"{path}, line {number}: the timestamp {row['timestamp']!r} is no number and no date"
            )
        elif (row["user"], row["item"]) in told_twice:
            problems.append(
                f"{path}, line {number}: user {row['user']} rates item {row['item']} a second time"
            )
        told_twice.add((row["user"], row["item"]))
        ratings.append(Rating(row["user"], row["item"], value, time))
    if {"number", "date"} <= kinds.keys():
        problems.append(
            f"{path} tells the time as a number (line {kinds['number']}) and as a date (line {kinds['date']}): take one of them"
        )
    items, users = (
        _features(files.get(f"{what}s.csv"), what, problems) for what in ("item", "user")
    )
    if problems or not ratings:
        raise FetchError("\n".join(first_problems(problems)) or f"{path} has no rows")
    for what, features, rated_ones in (
        ("item", items, {r.item for r in ratings}),
        ("user", users, {r.user for r in ratings}),
    ):
        if features and not features.keys() & rated_ones:
            raise FetchError(
                f"{files[f'{what}s.csv']} tells of no {what} that is in {path.name}: are its names written in the same way?"
            )
    return Found(ratings, items, users)


def _features(path: Path | None, what: str, problems: list[str]) -> Features:
    if path is None:
        return {}
    found: Features = {}
    for number, row in _rows(path, (what,), problems):
        name = row.pop(what)
        if name in found:
            problems.append(f"{path}, line {number}: {what} {name} comes a second time")
        found[name] = tuple(
            f"{column}={value.strip()}"
            for column, cell in row.items()
            for value in cell.split("|")
            if value.strip()
        )
    return found


def _rows(
    path: Path, wanted: tuple[str, ...], problems: list[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of a CSV by number, those aside in which something `wanted` is missing."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if absent := [column for column in wanted if column not in (reader.fieldnames or [])]:
                problems.append(
                    f"{path} has no column {' and '.join(absent)}: its first line must name the columns {', '.join(wanted)}"
                )
                return
            for row in reader:
                if None in row:
                    problems.append(
                        f"{path}, line {reader.line_num}: more cells than the first line has columns (a comma in a number?)"
                    )
                    continue
                plain = {
                    key: (value or "").strip()
                    for key, value in row.items()
                    if isinstance(key, str) and not isinstance(value, list)
                }
                if empty := [column for column in wanted if not plain[column]]:
                    problems.append(
                        f"{path}, line {reader.line_num}: {' and '.join(empty)} is empty"
                    )
                else:
                    yield reader.line_num, plain
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        problems.append(f"{path} cannot be read: {' '.join(str(error).split())}")


def _time(said: str) -> tuple[float, str]:
    """Seconds (or whatever the numbers are), and whether it was told as a `number` or a `date`; NaN where it is neither."""
    try:
        return float(said), "number"
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(said)
    except ValueError:
        return math.nan, ""
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp(), "date"
