"""User-provided ratings, in a CSV."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from episodic.core.config import require
from episodic.core.files import atomic_path
from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import FetchError, Tasks
from episodic.datasets.sources.ratings import (
    MAX_FEATURES,
    Features,
    Rating,
    RatingDataset,
    RatingTable,
    make_tasks,
)
from episodic.preprocessing.base import shorten_errors

__all__ = ["Ratings"]

FILES = ("ratings.csv", "items.csv", "users.csv")


@dataclass(frozen=True)
class Ratings(RatingDataset):
    """User-provided ratings. A task is a user, and users are split at random.

    They are a CSV with the columns `user`, `item`, `rating` and optionally `timestamp`, a number or
    a date (ISO 8601). Without timestamps, lines must be in chronological order. A folder contains
    this file as `ratings.csv`, and optionally features in `items.csv` and `users.csv`, one line per
    item or user. The first column of these is `item` or `user`. Every other column is a feature,
    with several values separated by `|`. Numeric values are treated as categories; bin values such
    as ages first.

    Args:
        items: `known`: validation and test users are scored on items of training users, and other
            items are left out. `new`: items are split as users are, and each user is seen with the
            items of its own split only.
        min_ratings: Ratings that a user must have.
        split_fractions: Fractions of the users, and of new items, for training, validation and
            test.
        tokens: Number of distinct features.
    """

    license = "User-provided ratings; the user's licence terms apply."
    source_policy = "required"

    def shape(self, source: Path | None = None) -> tuple[int, int]:
        shape = _read_ratings(_find_files(source)).input
        require(
            shape[1] <= MAX_FEATURES,
            "source",
            str(source),
            f"has {shape[1]} features of one item or user; it must be at most {MAX_FEATURES}",
        )
        return shape

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Copy the files.

        Raises:
            FetchError: Some lines are malformed. All of them are listed.
        """
        files = _find_files(source)
        _read_ratings(files)
        for name, path in files.items():
            with atomic_path(raw / name) as draft:
                draft.write_bytes(path.read_bytes())

    def prepare(self, raw: Path, seed: int) -> Tasks:
        if not (raw / FILES[0]).is_file():
            raise FetchError(f"{raw / FILES[0]} does not exist: run the stage download first")
        table = _read_ratings(_find_files(raw))
        return make_tasks(table, self, seed, table.input)


def _find_files(source: Path | None) -> dict[str, Path]:
    if source is not None and source.is_file():
        if others := [name for name in FILES[1:] if (source.parent / name).is_file()]:
            raise FetchError(
                f"{' and '.join(others)} is in the folder of {source}: specify the folder, with "
                f"{source.name} as {FILES[0]}, or move the file"
            )
        return {FILES[0]: source}
    if source is None or not (source / FILES[0]).is_file():
        raise FetchError(
            f"dataset.source is {source}; it must be a CSV with the columns user, item and rating, "
            f"or a folder that contains it as {FILES[0]}"
        )
    return {name: source / name for name in FILES if (source / name).is_file()}


def _read_ratings(files: dict[str, Path]) -> RatingTable:
    errors: list[str] = []
    path = files[FILES[0]]
    ratings, rated = [], set()
    kinds: dict[str, int] = {}  # the first line of each kind of timestamp
    for index, (number, row) in enumerate(_iterate_rows(path, ("user", "item", "rating"), errors)):
        try:
            value = float(row["rating"])
        except ValueError:
            value = math.nan
        time, kind = _parse_time(row["timestamp"]) if "timestamp" in row else (float(index), "")
        kinds.setdefault(kind, number)
        if not math.isfinite(value):
            errors.append(f"{path}, line {number}: the rating {row['rating']!r} is not a number")
        elif not math.isfinite(time):
            errors.append(
                f"{path}, line {number}: the timestamp {row['timestamp']!r} is neither a number "
                "nor a date"
            )
        elif (row["user"], row["item"]) in rated:
            errors.append(
                f"{path}, line {number}: user {row['user']} rates item {row['item']} a second time"
            )
        rated.add((row["user"], row["item"]))
        ratings.append(Rating(row["user"], row["item"], value, time))
    if {"number", "date"} <= kinds.keys():
        errors.append(
            f"{path} has a number as timestamp in line {kinds['number']} and a date in line "
            f"{kinds['date']}: use one of them"
        )
    items, users = (
        _read_features(files.get(f"{entity}s.csv"), entity, errors) for entity in ("item", "user")
    )
    if errors or not ratings:
        raise FetchError("\n".join(shorten_errors(errors)) or f"{path} has no rows")
    for entity, features, rated_names in (
        ("item", items, {r.item for r in ratings}),
        ("user", users, {r.user for r in ratings}),
    ):
        if features and not features.keys() & rated_names:
            raise FetchError(
                f"{files[f'{entity}s.csv']} has no {entity} of {path.name}: write the names in the "
                "same way"
            )
    return RatingTable(ratings, items, users)


def _read_features(path: Path | None, entity: str, errors: list[str]) -> Features:
    if path is None:
        return {}
    features: Features = {}
    for number, row in _iterate_rows(path, (entity,), errors):
        name = row.pop(entity)
        if name in features:
            errors.append(f"{path}, line {number}: {entity} {name} is repeated")
        features[name] = tuple(
            f"{column}={value.strip()}"
            for column, cell in row.items()
            for value in cell.split("|")
            if value.strip()
        )
    return features


def _iterate_rows(
    path: Path, required: tuple[str, ...], errors: list[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number and the cells of each line of a CSV that has all `required` columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [
                column for column in required if column not in (reader.fieldnames or [])
            ]:
                errors.append(
                    f"{path} has no column {' and '.join(missing)}: its first line must list the "
                    f"columns {', '.join(required)}"
                )
                return
            for row in reader:
                if None in row:
                    errors.append(
                        f"{path}, line {reader.line_num}: more cells than the first line has "
                        "columns (a comma in a number?)"
                    )
                    continue
                cells = {
                    key: (value or "").strip()
                    for key, value in row.items()
                    if isinstance(key, str) and not isinstance(value, list)
                }
                if empty := [column for column in required if not cells[column]]:
                    errors.append(f"{path}, line {reader.line_num}: {' and '.join(empty)} is empty")
                else:
                    yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        errors.append(f"{path} cannot be read: {' '.join(str(error).split())}")


def _parse_time(text: str) -> tuple[float, str]:
    """Return a timestamp as a number, and whether it was a `number` or a `date`; NaN if neither."""
    try:
        return float(text), "number"
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return math.nan, ""
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp(), "date"
