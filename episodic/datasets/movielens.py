"""MovieLens: ratings of films by users, 100,000 of 943 users (ml-100k) or 1,000,209 of 6,040 (ml-1m).

F. Maxwell Harper, Joseph A. Konstan: The MovieLens Datasets: History and Context, ACM TiiS 2015. https://grouplens.org/datasets/movielens
As in MeLU (Lee et al. 2019) a task is a user. `dataset.source` may name a folder of the user's own that holds the unpacked files; of
films their year and genres are taken, of users gender, age and occupation.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from episodic.core.files import atomic_path
from episodic.datasets.base import FetchError, Progress, Tasks, no_progress
from episodic.datasets.sources import rated
from episodic.datasets.sources.fetch import MIRROR, download, in_mirror, read_folder, read_zip
from episodic.datasets.sources.rated import Features, Found, Rating
from episodic.preprocessing.base import first_problems

LICENSE = "MovieLens, https://grouplens.org/datasets/movielens, GroupLens; free for research, not to be redistributed or sold."
OWN = "if named"

ADDRESS = "https://files.grouplens.org/datasets/movielens"
CAP = 100 << 20
"""A bound on an archive and on what is in it: at most 6 and 25 MB."""

AGES = (1, 18, 25, 35, 45, 50, 56)
"""Where ml-1m's groups of ages begin; ml-100k's years are put into them."""

MOST_GENRES = 6
INPUT = (2, 2 + MOST_GENRES)
"""Film and user: the film itself, its year and genres; gender, age and occupation."""


class Version(NamedTuple):
    """md5: of the official archive; files: ratings, films, users; separator: between the columns of the first and last"""

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
class Config(rated.Config):
    """version: ml-100k or ml-1m."""

    version: Literal["ml-100k", "ml-1m"] = "ml-100k"


def shape(config: Config, source: Path | None) -> tuple[int, int]:
    if source is not None and not source.is_dir():
        raise FetchError(_no_folder(source, config.version))
    return INPUT


def _no_folder(source: Path, version: str) -> str:
    return f"dataset.source is {source}; it must be a folder that holds {', '.join(VERSIONS[version].files)} of {version}"


def fetch(
    raw: Path,
    config: Config,
    *,
    source: Path | None,
    mirror: Path | None = None,
    progress: Progress = no_progress,
) -> None:
    """Writes the files of ratings, films and users, from `source`, the mirror's folder `movielens` (the archive) or the official address.

    FetchError where they are not what they should be.
    """
    version = VERSIONS[config.version]
    wanted = rf"[^/]+/({'|'.join(map(re.escape, version.files))})"
    if source is not None:
        if not source.is_dir():
            raise FetchError(_no_folder(source, config.version))
        files = read_folder(source, wanted=wanted, cap=CAP, most=len(version.files))
        name = str(source)
    else:
        files, name = _official(raw, config.version, wanted, mirror, progress)
    by_name = {Path(inner).name: content for inner, content in files.items()}
    if absent := [file for file in version.files if file not in by_name]:
        raise FetchError(
            f"{name} has no {' and no '.join(absent)}, which {config.version} consists of"
        )
    _read(by_name, version, name)  # what is no MovieLens is told before anything is written
    for file, content in by_name.items():
        with atomic_path(raw / file) as draft:
            draft.write_bytes(content)


def _official(
    raw: Path, version: str, wanted: str, mirror: Path | None, progress: Progress
) -> tuple[dict[str, bytes], str]:
    target, md5 = raw / f"{version}.zip", VERSIONS[version].md5
    path = in_mirror(mirror, f"movielens/{version}.zip")
    name = str(path or f"{ADDRESS}/{version}.zip")
    try:
        if path is None:
            download(f"{ADDRESS}/{version}.zip", target, cap=CAP, progress=progress)
        with (path or target).open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found != md5:
            raise FetchError(
                f"{name} is not the archive of {version}: its MD5 is {found}, {md5} is expected"
            )
        files = read_zip(path or target, wanted=wanted, cap=CAP, most=100, name=name)
    except FetchError as error:
        mend = f"set dataset.source to a folder with the files of {version}, or {MIRROR} to one that holds movielens/{version}.zip"
        raise type(error)(f"{error}; {mend}") from error
    target.unlink(missing_ok=True)
    return files, name


def prepare(raw: Path, config: Config, seed: int) -> Tasks:
    version = VERSIONS[config.version]
    for file in version.files:
        if not (raw / file).is_file():
            raise FetchError(f"{raw / file} is missing: run the stage download first")
    found = _read({file: (raw / file).read_bytes() for file in version.files}, version, str(raw))
    return rated.tasks(found, config, seed, INPUT)


def _read(files: dict[str, bytes], version: Version, name: str) -> Found:
    """FetchError lists the lines that are none."""
    ratings_file, films_file, users_file = version.files
    problems: list[str] = []

    def lines(file: str, separator: str, least: int) -> list[list[str]]:
        rows = []
        for number, line in enumerate(files[file].decode("latin-1").splitlines(), 1):
            parts = line.split(separator)
            if len(parts) >= least:
                rows.append(parts)
            elif line.strip():
                problems.append(
                    f"{name}/{file}, line {number}: {len(parts)} columns, where there should be {least}"
                )
        return rows

    large = version.separator == "::"
    rows = lines(ratings_file, "::" if large else "\t", 4)
    films = lines(films_file, version.separator, 3 if large else 5 + len(GENRES))
    people = lines(users_file, version.separator, 5 if large else 4)
    titles = _titles({film[0]: film[1].strip() for film in films})
    ratings = []
    for user, number, value, time, *_ in rows:
        try:
            ratings.append(Rating(user, titles.get(number, number), float(value), float(time)))
        except ValueError:
            problems.append(
                f"{name}/{ratings_file}: the rating {value!r} at {time!r} of film {number} by user {user} is no number"
            )
    if problems or not ratings:
        raise FetchError(
            "\n".join(first_problems(problems)) or f"{name}/{ratings_file} has no ratings"
        )
    of_films: Features = {}
    for film in films:
        own = (
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
        of_films[titles[film[0]]] = (*year, *(f"genre={genre}" for genre in own[:MOST_GENRES]))
    of_users: Features = {}
    for person in people:
        user, first, second, occupation = person[:4]
        gender, age = (first, second) if large else (second, first)
        of_users[user] = (f"gender={gender}", f"age={_age(age)}", f"occupation={occupation}")
    return Found(ratings, of_films, of_users)


def _titles(films: dict[str, str]) -> dict[str, str]:
    """What each film is called: its title, with its number where two have the same."""
    times = Counter(films.values())
    return {
        number: title if times[title] == 1 and title else f"{title} [{number}]"
        for number, title in films.items()
    }


def _age(years: str) -> str:
    """The group of ages, by where it begins."""
    try:
        return str(next(low for low, high in pairwise((*AGES, 1000)) if low <= int(years) < high))
    except (ValueError, StopIteration):
        return "unknown"
