"""Synthetic ratings in the format of MovieLens, with the statistics of real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from episodic.datasets.movielens import GENRES

OCCUPATIONS = ("artist", "doctor", "engineer", "student")

FACTORS = 3
"""Latent dimensions of taste that genres do not describe."""

NOISE, MOOD, START = 0.8, 0.3, 0.3
"""Standard deviations of what no model can predict: independent noise, a mood that consecutive
ratings share, and an offset that fades over the first 20. With rounding to stars, about 0.9."""


def years(films: int) -> np.ndarray:
    """Years of release since 1980."""
    return np.arange(films) % 20


def draw_ratings(
    users: int, films: int, min_ratings: int = 20, max_ratings: int = 60, seed: int = 0
):
    """Ratings `(user, film, value, time)` and the genres of each film; numbers from 0.

    As in ml-100k, the number of raters of a film follows a power law, popular films are better,
    users mostly rate what they like, and popular films first, the number of ratings of a user has
    a long tail, consecutive ratings are alike, and the taste of a user explains less of a rating
    than noise does. Features explain a part: genre and year of the film, and of the user gender,
    occupation and age, with the numbers `user % 2`, `user % 3` and `user % 6`.
    """
    rng = np.random.default_rng(seed)
    genres = [
        sorted(rng.choice(np.arange(1, len(GENRES)), rng.integers(1, 4), replace=False))
        for _ in range(films)
    ]
    of_genre = np.zeros((films, len(GENRES)))
    for film, known in enumerate(genres):
        of_genre[film, known] = 1 / len(known)
    popularity = -0.8 * np.log(np.arange(1, films + 1) + 8)
    rank = (popularity - popularity.mean()) / popularity.std()
    quality = 0.25 * rank + rng.normal(0, 0.35, films)
    quality += of_genre @ rng.normal(0, 0.4, len(GENRES)) + rng.normal(0, 0.15, 20)[years(films)]
    of_group = rng.normal(0, 0.1, (3, 6)), rng.normal(0, 0.2, (3, 6, len(GENRES)))
    factors = rng.normal(0, 1, (films, FACTORS))
    rows = []
    for user in range(users):
        group = range(3), (user % 2, user % 3, user % 6)
        taste = rng.normal(0, 0.45, len(GENRES)) + of_group[1][group].sum(0)
        liking = quality + of_genre @ taste + factors @ rng.normal(0, 0.25, FACTORS)
        level = 2.95 + of_group[0][group].sum() + rng.normal(0, 0.25)
        start, mood = rng.normal(0, START), rng.normal(0, MOOD)
        # The largest of logits plus Gumbel noise are a draw without replacement.
        size = int(np.clip(min_ratings * np.exp(rng.normal(1.15, 0.9)), min_ratings, max_ratings))
        order = np.argsort(-(popularity + 0.7 * liking + rng.gumbel(size=films)))
        for index, film in enumerate(order[: min(size, films)]):
            mood = 0.8 * mood + 0.6 * rng.normal(0, MOOD)
            offset = level + start * np.exp(-index / 20) + mood
            value = offset + liking[film] + rng.normal(0, NOISE)
            time = 880000000 + 1000 * user + 7 * (index // 3)
            rows.append((user, int(film), int(np.clip(np.rint(value), 1, 5)), time))
    rng.shuffle(rows)  # the official file is in no order
    return [tuple(map(int, row)) for row in rows], genres


def write_ml_100k(folder: Path, users: int = 60, films: int = 70, **options) -> Path:
    """Write synthetic ratings in the format of MovieLens 100K."""
    rows, genres = draw_ratings(users, films, **options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "u.data").write_text("".join(f"{u + 1}\t{f + 1}\t{v}\t{t}\n" for u, f, v, t in rows))
    flags = [[str(int(g in film_genres)) for g in range(len(GENRES))] for film_genres in genres]
    lines = [
        f"{f + 1}|Fäden {f} ({1980 + year})|01-Jan-{1980 + year}||"
        f"http://example.com/{f}|{'|'.join(film_genres)}\n"
        for f, (film_genres, year) in enumerate(zip(flags, years(films), strict=True))
    ]
    (folder / "u.item").write_text("".join(lines), encoding="latin-1")
    people = [
        f"{u + 1}|{20 + 7 * (u % 6)}|{'MF'[u % 2]}|{OCCUPATIONS[u % 3]}|{10000 + u}\n"
        for u in range(users)
    ]
    (folder / "u.user").write_text("".join(people))
    (folder / "README").write_text("neighbours of the files that count\n")
    return folder


def write_ml_1m(folder: Path, users: int = 60, films: int = 70, **options) -> Path:
    """Write synthetic ratings in the format of MovieLens 1M."""
    rows, genres = draw_ratings(users, films, **options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ratings.dat").write_text(
        "".join(f"{u + 1}::{f + 1}::{v}::{t}\n" for u, f, v, t in rows)
    )
    lines = [
        f"{f + 1}::Fäden {f} ({1980 + year})::{'|'.join(GENRES[g] for g in film_genres)}\n"
        for f, (film_genres, year) in enumerate(zip(genres, years(films), strict=True))
    ]
    (folder / "movies.dat").write_text("".join(lines), encoding="latin-1")
    people = [
        f"{u + 1}::{'MF'[u % 2]}::{(1, 18, 25, 35)[u % 4]}::{u % 3}::{10000 + u}\n"
        for u in range(users)
    ]
    (folder / "users.dat").write_text("".join(people))
    return folder


def write_csv(folder: Path, users: int = 60, films: int = 70, **options) -> Path:
    """Write synthetic ratings as ratings.csv and items.csv."""
    rows, genres = draw_ratings(users, films, **options)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{user},film {film},{value},{time}" for user, film, value, time in rows]
    (folder / "ratings.csv").write_text("\n".join(["user,item,rating,timestamp", *lines]))
    known = [
        f"film {film},{'|'.join(GENRES[g] for g in film_genres)}"
        for film, film_genres in enumerate(genres)
    ]
    (folder / "items.csv").write_text("\n".join(["item,genre", *known]))
    return folder
