"""MovieLens: ratings of films by users."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from episodic.core.files import atomic_path
from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import FetchError, Tasks
from episodic.datasets.sources.fetch import (
    MIRROR_VARIABLE,
    download,
    find_in_mirror,
    read_folder,
    read_zip,
)
from episodic.datasets.sources.ratings import (
    Features,
    Rating,
    RatingDataset,
    RatingTable,
    make_tasks,
)
from episodic.preprocessing.base import shorten_errors

__all__ = ["MovieLens"]

ADDRESS = "https://files.grouplens.org/datasets/movielens"
MAX_BYTES = 100 << 20
"""Bound on an archive, which has at most 6 MB, and on its files, which have at most 25 MB."""

AGES = (1, 18, 25, 35, 45, 50, 56)
"""Where the age groups of ml-1m begin. The ages of ml-100k are grouped in the same way."""

MAX_GENRES = 6
INPUT = (2, 2 + MAX_GENRES)
"""Shape of one example: the film, its year and genres; the user's gender, age and occupation."""


class Version(NamedTuple):
    """The files of a version.

    Attributes:
        md5: MD5 of the official archive.
        files: Names of the files of ratings, films and users.
        separator: Separator of the columns of films and users.
    """

    md5: str
    files: tuple[str, str, str]
    separator: str


VERSIONS = {
    "ml-100k": Version("0e33842e24a9c977be4e0107933c0723", ("u.data", "u.item", "u.user"), "|"),
    "ml-1m": Version(
        "c4d9eecfca2ab87c1945afe126590906", ("ratings.dat", "movies.dat", "users.dat"), "::"
    ),
}
GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
"""The flags at the end of a line of u.item."""


@dataclass(frozen=True)
class MovieLens(RatingDataset):
    """Ratings of films: 100,000 by 943 users (ml-100k) or 1,000,209 by 6,040 users (ml-1m).

    A task is a user, as in MeLU (Lee et al. 2019). The features of a film are its year and genres,
    those of a user are gender, age and occupation. User-provided data is a folder with the
    unpacked files. Users are split at random.

    Licence: free for research; the ratings may not be redistributed or sold.

    Args:
        items: `known`: validation and test users are scored on items of training users, and other
            items are left out. `new`: items are split as users are, and each user is seen with the
            items of its own split only.
        min_ratings: Ratings that a user must have.
        split_fractions: Fractions of the users, and of new items, for training, validation and
            test.
        tokens: Number of distinct features.
        version: `ml-100k` or `ml-1m`.

    F. Maxwell Harper, Joseph A. Konstan: The MovieLens Datasets: History and Context, ACM TiiS
    2015. https://grouplens.org/datasets/movielens
    """

    version: Literal["ml-100k", "ml-1m"] = "ml-100k"

    license = (
        "MovieLens, https://grouplens.org/datasets/movielens, GroupLens; free for research, not to "
        "be redistributed or sold."
    )
    source_policy = "optional"

    def shape(self, source: Path | None = None) -> tuple[int, int]:
        if source is not None:
            self._require_folder(source)
        return INPUT

    def _require_folder(self, source: Path) -> None:
        if not source.is_dir():
            raise FetchError(
                f"dataset.source is {source}; it must be a folder that contains "
                f"{', '.join(VERSIONS[self.version].files)} of {self.version}"
            )

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Write the files of ratings, films and users.

        They come from `source`, from the archive in the folder `movielens` of the mirror or from
        the official address.
        """
        version = VERSIONS[self.version]
        pattern = rf"[^/]+/({'|'.join(map(re.escape, version.files))})"
        if source is not None:
            self._require_folder(source)
            files = read_folder(
                source, pattern=pattern, max_bytes=MAX_BYTES, max_members=len(version.files)
            )
            name = str(source)
        else:
            files, name = _read_official(raw, self.version, pattern, mirror, progress)
        by_name = {Path(inner).name: content for inner, content in files.items()}
        if missing := [file for file in version.files if file not in by_name]:
            raise FetchError(
                f"{name} has no {' and no '.join(missing)}, which {self.version} consists of"
            )
        _parse_files(by_name, version, name)  # errors are reported before anything is written
        for file, content in by_name.items():
            with atomic_path(raw / file) as draft:
                draft.write_bytes(content)

    def prepare(self, raw: Path, seed: int) -> Tasks:
        version = VERSIONS[self.version]
        for file in version.files:
            if not (raw / file).is_file():
                raise FetchError(f"{raw / file} does not exist: run the stage download first")
        files = {file: (raw / file).read_bytes() for file in version.files}
        return make_tasks(_parse_files(files, version, str(raw)), self, seed, INPUT)


def _read_official(
    raw: Path, version: str, pattern: str, mirror: Path | None, progress: ProgressCallback
) -> tuple[dict[str, bytes], str]:
    target, md5 = raw / f"{version}.zip", VERSIONS[version].md5
    path = find_in_mirror(mirror, f"movielens/{version}.zip")
    name = str(path or f"{ADDRESS}/{version}.zip")
    try:
        if path is None:
            download(f"{ADDRESS}/{version}.zip", target, max_bytes=MAX_BYTES, progress=progress)
        with (path or target).open("rb") as file:
            digest = hashlib.file_digest(file, "md5").hexdigest()
        if digest != md5:
            raise FetchError(
                f"{name} is not the archive of {version}: its MD5 is {digest}, {md5} is expected"
            )
        files = read_zip(
            path or target, pattern=pattern, max_bytes=MAX_BYTES, max_members=100, name=name
        )
    except FetchError as error:
        remedy = (
            f"set dataset.source to a folder with the files of {version}, or {MIRROR_VARIABLE} to "
            f"one that contains movielens/{version}.zip"
        )
        raise type(error)(f"{error}; {remedy}") from error
    target.unlink(missing_ok=True)
    return files, name


def _parse_files(files: dict[str, bytes], version: Version, name: str) -> RatingTable:
    """Parse the files.

    Raises:
        FetchError: Some lines are malformed. All of them are listed.
    """
    ratings_file, films_file, users_file = version.files
    errors: list[str] = []

    def lines(file: str, separator: str, min_columns: int) -> list[list[str]]:
        rows = []
        for number, line in enumerate(files[file].decode("latin-1").splitlines(), 1):
            columns = line.split(separator)
            if len(columns) >= min_columns:
                rows.append(columns)
            elif line.strip():
                errors.append(
                    f"{name}/{file}, line {number}: {len(columns)} columns instead of {min_columns}"
                )
        return rows

    large = version.separator == "::"
    rows = lines(ratings_file, "::" if large else "\t", 4)
    films = lines(films_file, version.separator, 3 if large else 5 + len(GENRES))
    people = lines(users_file, version.separator, 5 if large else 4)
    titles = _name_films({film[0]: film[1].strip() for film in films})
    ratings = []
    for user, number, value, time, *_ in rows:
        try:
            ratings.append(Rating(user, titles.get(number, number), float(value), float(time)))
        except ValueError:
            errors.append(
                f"{name}/{ratings_file}: the rating {value!r} at {time!r} of film {number} by user "
                f"{user} is not a number"
            )
    if errors or not ratings:
        raise FetchError(
            "\n".join(shorten_errors(errors)) or f"{name}/{ratings_file} has no ratings"
        )
    film_features: Features = {}
    for film in films:
        genres = (
            film[2].split("|")
            if large
            else [
                genre for genre, flag in zip(GENRES, film[5:], strict=False) if flag.strip() == "1"
            ]
        )
        dated = re.search(r"\((\d{4})\)\s*$", film[1]) or (
            None if large else re.search(r"(\d{4})$", film[2])
        )
        year = [f"year={dated[1]}"] if dated else []
        film_features[titles[film[0]]] = (
            *year,
            *(f"genre={genre}" for genre in genres[:MAX_GENRES]),
        )
    user_features: Features = {}
    for person in people:
        user, first, second, occupation = person[:4]
        gender, age = (first, second) if large else (second, first)
        user_features[user] = (
            f"gender={gender}",
            f"age={_age_group(age)}",
            f"occupation={occupation}",
        )
    return RatingTable(ratings, film_features, user_features)


def _name_films(films: dict[str, str]) -> dict[str, str]:
    """Return the name of each film: its title, with its number where two titles are equal."""
    times = Counter(films.values())
    return {
        number: title if times[title] == 1 and title else f"{title} [{number}]"
        for number, title in films.items()
    }


def _age_group(years: str) -> str:
    """Return the age group, by where it begins."""
    try:
        return str(next(low for low, high in pairwise((*AGES, 1000)) if low <= int(years) < high))
    except (ValueError, StopIteration):
        return "unknown"
