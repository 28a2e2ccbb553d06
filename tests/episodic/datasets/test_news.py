"""News and newsgroups, from files of exactly the official layout."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
from official_archives import digest, pack, unpack

from episodic.datasets import news, newsgroups
from episodic.datasets.base import FetchError
from episodic.datasets.news import CATEGORIES, News
from episodic.datasets.newsgroups import Newsgroups, extract_text
from episodic.datasets.sources.class_table import read_class_table

HEADLINES, MESSAGES = 3, 2
GROUPS = read_class_table("newsgroups")


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def refused(dataset, raw: Path, mirror: Path | None) -> str:
    with pytest.raises(FetchError) as error:
        dataset.fetch(raw, mirror=mirror)
    assert "\n" not in str(error.value) and list(raw.iterdir()) == []
    return str(error.value)


def write_headlines(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8"
    )


def make_headlines(categories=CATEGORIES) -> list[dict[str, str]]:
    """Four headlines per category, in turn, after one that is empty."""
    return [
        {
            "link": "https://www.huffpost.com/entry/1",
            "headline": f"  Headline {i}  of\u00a0{category} \u2028" if i >= 0 else " ",
            "category": category,
            "short_description": "Text.",
            "authors": "",
            "date": "2022-09-23",
        }
        for i in range(-1, HEADLINES + 1)
        for category in categories
    ]


@pytest.mark.parametrize("file", news.FILES)
def test_headlines_to_texts(file, raw, tmp_path, monkeypatch):
    monkeypatch.setattr(news, "HEADLINES", HEADLINES)
    rows = [*make_headlines(), {"headline": "x", "category": "U.S. NEWS"}]
    write_headlines(tmp_path / f"mirror/news/{file}", rows)
    dataset = News()
    dataset.fetch(raw, mirror=tmp_path / "mirror")
    data = dataset.prepare(raw, 0)
    assert data.classes == sorted(CATEGORIES) and len(data.classes) == 41
    assert data.texts == [f"Headline {i} of {c}" for c in data.classes for i in range(HEADLINES)]
    assert data.counts.tolist() == [HEADLINES] * 41
    assert Counter(data.splits) == dataset.limits(0).classes
    assert News().limits(0).classes == {"train": 20, "validation": 5, "test": 16}
    assert dataset.prepare(raw, 1).splits != data.splits


def test_categories_are_those_of_the_dataset():
    assert len(set(CATEGORIES)) == 41 == sum(news.CLASSES_PER_SPLIT.values())
    assert News().limits(3).examples == 900


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("headline,category", "a line is not an object with the keys category and headline"),
        ("[1, 2]", "a line is not an object"),
        ('{"headline": 3, "category": "ARTS"}', "a line is not an object"),
        ('{"text": "x"}', "KeyError('headline')"),
    ],
)
def test_another_file_is_rejected(line, reason, raw, tmp_path):
    path = tmp_path / "mirror/news/News_Category_Dataset_v3.json"
    write_headlines(path, make_headlines())
    path.write_text(path.read_text() + line)
    message = refused(News(), raw, tmp_path / "mirror")
    assert message.startswith(f"{path} is not the News Category Dataset: ") and reason in message


def test_missing_headlines_and_files_are_reported(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(news, "HEADLINES", HEADLINES)
    path = tmp_path / "mirror/news/News_Category_Dataset_v3.json"
    write_headlines(path, make_headlines(CATEGORIES[1:]))
    assert refused(News(), raw, tmp_path / "mirror") == (
        f"{path} is incomplete: 1 of its 41 categories do not have 3 headlines; ARTS has 0"
    )
    path.unlink()
    for mirror in (None, tmp_path / "mirror"):
        assert refused(News(), raw, mirror) == (
            "the News Category Dataset cannot be downloaded without an account at www.kaggle.com: "
            "set EPISODIC_MIRROR to a folder that contains news/News_Category_Dataset_v3.json"
        )
    with pytest.raises(FetchError, match=r"texts\.json does not exist: run the stage"):
        News().prepare(raw, 0)


def make_messages() -> dict[str, bytes]:
    """Two messages per group, one each in the training and test parts of the archive."""
    files = {}
    for number, group in enumerate(GROUPS):
        for i, part in enumerate(("test", "train")):
            message = (
                f"From: a@b.c\nSubject: Re: Subject {number}\nNewsgroups: {group.name}\n\n"
                f"x@y.z writes:\n> A quotation.\nMessage {i}\ncaf\xe9\n"
            )
            files[f"20news-bydate-{part}/{group.name}/{9 + i}"] = message.encode("latin-1")
    return files


@pytest.fixture
def small_groups(monkeypatch):
    table = [group._replace(examples=MESSAGES) for group in GROUPS]
    monkeypatch.setattr(newsgroups, "read_class_table", lambda name: table)


def accept(path: Path, monkeypatch) -> None:
    archive = dataclasses.replace(newsgroups.ARCHIVE, digest=digest(path, 64))
    monkeypatch.setattr(newsgroups, "ARCHIVE", archive)


@pytest.mark.parametrize("packed", [True, False])
def test_messages_to_texts(packed, small_groups, raw, tmp_path, monkeypatch):
    folder = tmp_path / "mirror/newsgroups"
    if packed:
        accept(pack(folder / "20news-bydate.tar.gz", make_messages()), monkeypatch)
    else:
        unpack(folder, {"20news-bydate.tar.gz": make_messages()})
    dataset = Newsgroups()
    dataset.fetch(raw, mirror=tmp_path / "mirror")
    assert [path.name for path in raw.iterdir()] == ["texts.json"]
    data = dataset.prepare(raw, 0)
    assert data.classes == [group.name for group in GROUPS]
    assert data.texts == [
        f"Re: Subject {number} x@y.z writes: Message {i} caf\xe9"
        for number in range(20)
        for i in range(MESSAGES)
    ], "message 9 is before message 10"
    assert dict(zip(data.groups, data.splits, strict=True)) == {
        **{"rec": "train", "sci": "train", "comp": "validation"},
        **dict.fromkeys(("alt", "misc", "soc", "talk"), "test"),
    }


def test_the_groups_are_the_published_ones():
    limits = Newsgroups().limits(0)
    assert limits.classes == {"train": 8, "validation": 5, "test": 7}
    assert sum(group.examples for group in GROUPS) == 18_846
    assert (limits.smallest, limits.examples) == ("talk.religion.misc", 628)


def test_archives_of_messages_that_are_rejected(small_groups, raw, tmp_path, monkeypatch):
    path = tmp_path / "mirror/newsgroups/20news-bydate.tar.gz"
    files = make_messages()
    pack(path, files)
    message = refused(Newsgroups(), raw, tmp_path / "mirror")
    assert message.startswith(f"{path} is not the official 20news-bydate.tar.gz: its SHA-256 is")
    del files["20news-bydate-test/sci.med/9"]
    accept(pack(path, files), monkeypatch)
    message = refused(Newsgroups(), raw, tmp_path / "mirror")
    assert message.endswith("for 1 of 20 classes; sci.med has 1 instead of 2")


def test_the_archive_of_messages_is_downloaded_and_removed(
    small_groups, raw, tmp_path, server, monkeypatch
):
    path = pack(tmp_path / "20news-bydate.tar.gz", make_messages())
    accept(path, monkeypatch)
    archive = dataclasses.replace(newsgroups.ARCHIVE, url=f"{server.url}/files/5975967")
    monkeypatch.setattr(newsgroups, "ARCHIVE", archive)
    server.responses = [server.sends(path.read_bytes())]
    Newsgroups().fetch(raw)
    assert server.paths == ["/files/5975967"]
    assert [file.name for file in raw.iterdir()] == ["texts.json"]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("Subject: A\n\nB", "A B"),
        ("SUBJECT: A: B\r\nFrom: x\r\n\r\nC\r\n  > D\r\nE", "A: B C E"),
        ("From: x\n\n> only a quotation", ""),
        ("Subject: A", "A"),
    ],
)
def test_text_of_a_message(message, text):
    assert extract_text(message) == text
