"""Synthetic ratings in the format of MovieLens, with planted groups of users."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from episodic.datasets.movielens import GENRES

GROUPS = 4
OCCUPATIONS = ("artist", "doctor", "engineer", "student")


def draw_ratings(
    users: int, films: int, min_ratings: int = 20, max_ratings: int = 60, seed: int = 0
):
    """Ratings `(user, film, value, time)` and the genres of each film; numbers from 0."""
    rng = np.random.default_rng(seed)
    liking = rng.normal(0, 1.2, (GROUPS, len(GENRES)))
    genres = [
        sorted(rng.choice(np.arange(1, len(GENRES)), rng.integers(1, 4), replace=False))
        for _ in range(films)
    ]
    quality, popular = rng.normal(0, 0.4, films), 1 / np.arange(1, films + 1) ** 0.7
    group, level = rng.integers(0, GROUPS, users), rng.normal(0, 0.4, users)
    rows = []
    for user in range(users):
        seen = rng.choice(
            films,
            rng.integers(min_ratings, max_ratings + 1),
            replace=False,
            p=popular / popular.sum(),
        )
        for index, film in enumerate(seen):
            value = (
                3.5
                + quality[film]
                + level[user]
                + liking[group[user], genres[film]].mean()
                + rng.normal(0, 0.4)
            )
            rows.append(
                (
                    user,
                    film,
                    int(np.clip(np.rint(value), 1, 5)),
                    880000000 + 1000 * user + 7 * (index // 3),
                )
            )
    rng.shuffle(rows)  # the official file is in no order
    return [tuple(map(int, row)) for row in rows], genres


def write_ml_100k(folder: Path, users: int = 60, films: int = 70, **options) -> Path:
    """Write synthetic ratings in the format of MovieLens 100K."""
    rows, genres = draw_ratings(users, films, **options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "u.data").write_text("".join(f"{u + 1}\t{f + 1}\t{v}\t{t}\n" for u, f, v, t in rows))
    flags = [[str(int(g in film_genres)) for g in range(len(GENRES))] for film_genres in genres]
    lines = [
        f"{f + 1}|Fäden {f} ({1980 + f % 20})|01-Jan-{1980 + f % 20}||"
        f"http://example.com/{f}|{'|'.join(film_genres)}\n"
        for f, film_genres in enumerate(flags)
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
        f"{f + 1}::Fäden {f} ({1980 + f % 20})::{'|'.join(GENRES[g] for g in film_genres)}\n"
        for f, film_genres in enumerate(genres)
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
