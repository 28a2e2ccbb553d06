"""Ratings as tasks: MovieLens in both formats and the user's own, in temporal order, split."""

from __future__ import annotations

import hashlib
import zipfile
from collections import Counter
from pathlib import Path

import films
import numpy as np
import pytest

from episodic.core.config import ConfigError
from episodic.datasets import movielens
from episodic.datasets.base import SPLITS, FetchError, Tasks
from episodic.datasets.movielens import MovieLens
from episodic.datasets.ratings import Ratings
from episodic.datasets.sources.folder import assign_splits
from episodic.preprocessing.base import InputError, build

FORMATS = {"ml-100k": films.write_ml_100k, "ml-1m": films.write_ml_1m}


def prepared(source: Path, raw: Path, seed: int = 0, **config) -> Tasks:
    raw.mkdir(exist_ok=True)
    settings = MovieLens(**{"min_ratings": 20} | config)
    settings.fetch(raw, source=source)
    return settings.prepare(raw, seed)


def write_csvs(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.csv").write_text(content, encoding="utf-8")
    return folder


def of(tasks: Tasks, name: str) -> tuple[list[str], list[float]]:
    """The items and ratings of a user, in the order of the rows."""
    index = tasks.names.index(name)
    first = int(tasks.counts[:index].sum())
    rows = slice(first, first + int(tasks.counts[index]))
    return tasks.texts[rows], tasks.targets[rows].tolist()


@pytest.mark.parametrize("version", FORMATS)
def test_both_formats_hold_the_same_ratings(version, tmp_path):
    tasks = prepared(FORMATS[version](tmp_path / "source"), tmp_path / "raw", version=version)
    rows, genres = films.draw_ratings(60, 70)
    assert tasks.kind == "regression" and tasks.input == movielens.INPUT == tasks.examples.shape[1:]
    assert sum(tasks.counts) == len(tasks.examples) == len(tasks.targets) == len(tasks.texts)
    by_user = {}
    for user, film, value, time in rows:
        by_user.setdefault(str(user + 1), []).append((time, film, value))
    assert tasks.names == sorted(user for user, of_user in by_user.items() if len(of_user) >= 20)
    name = tasks.names[7]
    items, values = of(tasks, name)
    assert Counter(zip(items, values, strict=True)) == Counter(
        (f"Fäden {f} ({1980 + f % 20})", float(v)) for _, f, v in by_user[name]
    )
    times = {f"Fäden {f} ({1980 + f % 20})": t for t, f, _ in by_user[name]}
    assert [times[item] for item in items] == sorted(times.values()), "in chronological order"
    assert {feature.split("=")[0] for feature in tasks.inputs["users"]} == {
        "gender",
        "age",
        "occupation",
    }
    numbers = tasks.inputs["items"]["Fäden 3 (1983)"].split()
    assert len(numbers) == 2 + len(genres[3]), "the film, its year and its genres"


def test_the_archive_is_checked_and_read(tmp_path, monkeypatch):
    source = films.write_ml_100k(tmp_path / "ml-100k")
    mirror = tmp_path / "mirror"
    (mirror / "movielens").mkdir(parents=True)
    archive = mirror / "movielens" / "ml-100k.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(source.iterdir()):
            file.write(path, f"ml-100k/{path.name}")
    raw = tmp_path / "raw"
    raw.mkdir()
    with pytest.raises(
        FetchError,
        match=r"is not the archive of ml-100k: its MD5 is .* set dataset.source to a folder with "
        "the files",
    ):
        MovieLens().fetch(raw, mirror=mirror)
    real = movielens.VERSIONS["ml-100k"]._replace(
        md5=hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()
    )
    monkeypatch.setitem(movielens.VERSIONS, "ml-100k", real)
    MovieLens().fetch(raw, mirror=mirror)
    assert sorted(path.name for path in raw.iterdir()) == ["u.data", "u.item", "u.user"]
    assert (raw / "u.data").read_bytes() == (source / "u.data").read_bytes()


def test_users_are_split(tmp_path):
    source = films.write_ml_100k(tmp_path / "source", users=200, films=70)
    tasks = prepared(source, tmp_path / "raw")
    counts = Counter(tasks.splits)
    assert set(counts) == set(SPLITS) and abs(counts["train"] / len(tasks.names) - 0.7) < 0.05
    again, other = prepared(source, tmp_path / "raw"), prepared(source, tmp_path / "raw", seed=1)
    assert again.splits == tasks.splits and (again.examples == tasks.examples).all()
    assert other.splits != tasks.splits
    assert (
        tasks.protocol == "new users, known items, "
        f"{counts['train']} / {counts['validation']} / {counts['test']} users"
    )
    seen = {
        text
        for text, split in zip(tasks.texts, np.repeat(tasks.splits, tasks.counts), strict=True)
        if split == "train"
    }
    assert set(tasks.texts) == seen, "every item is known from training"
    assert (tasks.examples[:, 0, 0] > 0).all()


def test_new_items_occur_only_at_test_users(tmp_path):
    tasks = prepared(
        films.write_ml_100k(
            tmp_path / "source", users=200, films=120, min_ratings=60, max_ratings=90
        ),
        tmp_path / "raw",
        items="new",
        min_ratings=5,
    )
    split = np.repeat(tasks.splits, tasks.counts)
    items = {
        name: {t for t, s in zip(tasks.texts, split, strict=True) if s == name} for name in SPLITS
    }
    assert (
        all(items.values())
        and not items["train"] & items["test"]
        and not items["validation"] & items["test"]
    )
    test = tasks.examples[split == "test"]
    assert (test[:, 0, 0] == 0).all(), "the item itself is not known"
    assert (test[:, 0, 1:] > 0).any(), "its genres are"


def test_repeated_titles_are_distinguished(tmp_path):
    source = films.write_ml_1m(tmp_path / "source")
    text = (source / "movies.dat").read_text("latin-1").replace("Fäden 1 (1981)", "Fäden 0 (1980)")
    (source / "movies.dat").write_text(text, "latin-1")
    tasks = prepared(source, tmp_path / "raw", version="ml-1m")
    assert {"Fäden 0 (1980) [1]", "Fäden 0 (1980) [2]"} <= set(tasks.texts)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("u.data", "1\t2\t3\n", r"u\.data, line 1: 3 columns instead of 4"),
        (
            "u.data",
            "1\t2\tgood\t5\n",
            r"the rating 'good' at '5' of film 2 by user 1 is not a number",
        ),
        ("u.data", "", "has no ratings"),
        ("u.item", "1|a film\n", r"u\.item, line 1: 2 columns instead of 24"),
    ],
)
def test_files_that_are_not_movielens_are_reported(tmp_path, file, content, message):
    source = films.write_ml_100k(tmp_path / "source")
    (source / file).write_text(content)
    with pytest.raises(FetchError, match=message):
        prepared(source, tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == [], "nothing is written"


def test_other_errors_are_reported(tmp_path):
    source = films.write_ml_100k(tmp_path / "source")
    with pytest.raises(
        FetchError, match=r"must be a folder that contains u\.data, u\.item, u\.user of ml-100k"
    ):
        prepared(tmp_path / "nowhere", tmp_path / "raw")
    with pytest.raises(
        FetchError,
        match=r"has no ratings\.dat and no movies\.dat and no users\.dat, which ml-1m consists of",
    ):
        prepared(source, tmp_path / "raw", version="ml-1m")
    with pytest.raises(
        FetchError,
        match="no train and no validation and no test user has 500 ratings of known items: lower "
        "min_ratings",
    ):
        prepared(source, tmp_path / "raw", min_ratings=500)
    with pytest.raises(
        FetchError,
        match=r"the data has \d+ features, and tokens is 20: set it, and the tokens of the model, "
        "above that",
    ):
        prepared(source, tmp_path / "raw", tokens=20)
    with pytest.raises(FetchError, match="run the stage download first"):
        MovieLens().prepare(tmp_path / "empty", 0)
    with pytest.raises(ConfigError, match="min_ratings is 1; it must be at least 2"):
        MovieLens(min_ratings=1)


LINES = ["user,item,rating,timestamp"] + [
    f"{user},thing {(user + index) % 7},{(user + index) % 5 + 0.5},2024-01-{index + 1:02d}"
    for user in range(12)
    for index in (3, 0, 2, 1)
]
ITEMS = "item,kind,maker\n" + "".join(
    f"thing {i},{'large|red' if i % 2 else 'small'},m{i % 3}\n" for i in range(7)
)


def rated(source: Path, raw: Path, **config) -> Tasks:
    raw.mkdir(exist_ok=True)
    settings = Ratings(**{"min_ratings": 4} | config)
    settings.fetch(raw, source=source)
    tasks = settings.prepare(raw, 0)
    assert settings.shape(source) == tasks.input
    return tasks


def test_user_provided_ratings(tmp_path):
    source = write_csvs(
        tmp_path / "own", ratings="\n".join(LINES), items=ITEMS, users="user,age\n3,25\n4,25\n"
    )
    tasks = rated(source, tmp_path / "raw")
    assert tasks.input == (2, 4) and len(tasks.names) == 12
    assert of(tasks, "3") == (
        [f"thing {(3 + index) % 7}" for index in range(4)],
        [(3 + index) % 5 + 0.5 for index in range(4)],
    )
    ratings_only = rated(
        write_csvs(tmp_path / "alone", ratings="\n".join(LINES)), tmp_path / "raw alone"
    )
    assert ratings_only.input == (1, 1)
    file = rated(tmp_path / "alone" / "ratings.csv", tmp_path / "raw file")
    assert (file.examples == ratings_only.examples).all() and file.names == ratings_only.names


def test_an_item_that_only_a_dropped_user_rated_is_not_known(tmp_path):
    lines = [
        *LINES,
        "few,rare,3.0,2024-01-01",
        *(f"{user},rare,1.0,2024-02-01" for user in range(12)),
    ]
    names = {
        user
        for user in range(12)
        if assign_splits([*map(str, range(12)), "few"], Ratings().split_fractions, 0)[str(user)]
        != "train"
    }
    assert names, "a user outside the training split rates it too"
    kept = [
        line
        for line in lines
        if not (",rare," in line and line.split(",")[0] not in {"few", *map(str, names)})
    ]
    tasks = rated(write_csvs(tmp_path / "own", ratings="\n".join(kept)), tmp_path / "raw")
    assert "rare" not in tasks.texts and "rare" not in tasks.inputs["items"]
    everywhere = rated(write_csvs(tmp_path / "all", ratings="\n".join(lines)), tmp_path / "raw all")
    assert "rare" in everywhere.texts


def test_without_timestamps_lines_are_in_temporal_order(tmp_path):
    lines = [line.rsplit(",", 1)[0] for line in LINES]
    tasks = rated(write_csvs(tmp_path / "own", ratings="\n".join(lines)), tmp_path / "raw")
    assert of(tasks, "3")[0] == [f"thing {(3 + index) % 7}" for index in (3, 0, 2, 1)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "user,item\n1,2\n",
            "has no column rating: its first line must list the columns user, item, rating",
        ),
        (
            "user,item,rating\n1,2,good\n",
            r"ratings\.csv, line 2: the rating 'good' is not a number",
        ),
        ("user,item,rating\n1,2,nan\n", r"ratings\.csv, line 2: the rating 'nan' is not a number"),
        ("user,item,rating\n1,,3\n", r"ratings\.csv, line 2: item is empty"),
        (
            "user,item,rating\n1,2,3\n1,2,4\n",
            r"ratings\.csv, line 3: user 1 rates item 2 a second time",
        ),
        (
            "user,item,rating,timestamp\n1,2,3,yesterday\n",
            r"line 2: the timestamp 'yesterday' is neither a number nor a date",
        ),
        (
            "user,item,rating,timestamp\n1,2,3,\n",
            r"line 2: the timestamp '' is neither a number nor a date",
        ),
        ("user,item,rating\n", "has no rows"),
        (
            "user,item,rating\n1,2,3,5\n",
            r"line 2: more cells than the first line has columns \(a comma in a number\?\)",
        ),
        (
            "user,item,rating,timestamp\n1,2,3,77\n1,3,3,2020-01-01\n",
            r"has a number as timestamp in line 2 and a date in line 3",
        ),
    ],
)
def test_errors_in_user_provided_ratings_include_the_line(tmp_path, content, message):
    source = write_csvs(tmp_path / "own", ratings=content)
    with pytest.raises(FetchError, match=message):
        rated(source, tmp_path / "raw")
    with pytest.raises(FetchError, match=message):
        Ratings().shape(source)


def test_errors_in_features_of_items(tmp_path):
    good = "\n".join(LINES)
    with pytest.raises(FetchError, match=r"items\.csv, line 3: item a is repeated"):
        rated(
            write_csvs(tmp_path / "a", ratings=good, items="item,kind\na,b\na,c\n"),
            tmp_path / "raw",
        )
    with pytest.raises(FetchError, match=r"users\.csv has no column user"):
        rated(write_csvs(tmp_path / "b", ratings=good, users="name\nx\n"), tmp_path / "raw")
    with pytest.raises(
        FetchError, match="must be a CSV with the columns user, item and rating, or a folder"
    ):
        rated(tmp_path / "nowhere", tmp_path / "raw")
    with pytest.raises(FetchError, match=r"items\.csv has no item of ratings\.csv"):
        rated(
            write_csvs(tmp_path / "d", ratings=good, items="item,kind\nThing 1,b\n"),
            tmp_path / "raw",
        )
    with pytest.raises(
        FetchError, match=r"items\.csv is in the folder of \S*ratings\.csv: specify the folder"
    ):
        rated(
            write_csvs(tmp_path / "e", ratings=good, items=ITEMS) / "ratings.csv", tmp_path / "raw"
        )
    with pytest.raises(
        FetchError, match="items is 'new', and the items of test users share no feature"
    ):
        items_csv = (
            films.write_csv(tmp_path / "f", users=80, films=120, min_ratings=60, max_ratings=80)
            / "items.csv"
        )
        items_csv.unlink()
        rated(items_csv.parent, tmp_path / "raw", items="new", min_ratings=3)
    many = "|".join(f"v{i}" for i in range(80))
    with pytest.raises(
        ConfigError, match="has 81 features of one item or user; it must be at most 64"
    ):
        Ratings().shape(
            write_csvs(tmp_path / "c", ratings=good, items=f"item,kind\nthing 1,{many}\n")
        )


def test_inference_uses_the_features_of_training(tmp_path):
    source = write_csvs(
        tmp_path / "own",
        ratings="\n".join(LINES),
        items=ITEMS,
        users="user,age\n" + "".join(f"{u},{20 + u % 2}\n" for u in range(12)),
    )
    tasks = rated(source, tmp_path / "raw")
    inputs = build({"input": list(tasks.input), "inputs": tasks.inputs})
    index = tasks.names.index("3")
    first = int(tasks.counts[:index].sum())
    assert inputs([(tasks.texts[first], {"age": 21})])[0].tolist() == tasks.examples[first].tolist()
    with pytest.raises(
        InputError, match="the model knows no feature age=27 of users: age may be 20, 21"
    ):
        inputs([("thing 2", {"age": 27})])
    with pytest.raises(
        InputError, match="the model knows no feature agee=20 of users: it knows age"
    ):
        inputs([("thing 2", {"agee": 20})])
    assert inputs(["thing 2"])[0, 1].tolist() == [0] * 4, "nothing is known of the user"
    assert inputs(tasks.examples.long())[5].tolist() == tasks.examples[5].tolist()
    with pytest.raises(
        InputError, match=r"the model knows no item 'thing 22' - did you mean 'thing 2'"
    ):
        inputs(["thing 22"])
    with pytest.raises(InputError, match="are not features"):
        inputs(np.full((1, 2, 4), 99))
    with pytest.raises(InputError, match="not a list"):
        inputs("thing 2")
    ratings_only = rated(
        write_csvs(tmp_path / "alone", ratings="\n".join(LINES)), tmp_path / "raw alone"
    )
    with pytest.raises(InputError, match="trained without any"):
        build({"input": list(ratings_only.input), "inputs": ratings_only.inputs})(
            [("thing 2", {"age": 21})]
        )
