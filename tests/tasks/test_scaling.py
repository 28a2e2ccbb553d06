"""Scaling and transfer between groups: experiments with known results."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from history import Repository

from tasks import compare
from tasks.reports.comparison import protocols as groups
from tasks.reports.comparison import scaling, transfer
from tests.tasks.test_report import Page


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Repository:
    """An error that falls with the root of the number of classes, and models of one group each."""
    built = Repository(tmp_path_factory.mktemp("growth") / "repo", test=120)
    for n in (10, 40, 160, 640):
        for seed in range(2):
            built.experiment(
                f"c{n}-{seed}", 1 - (n / 10) ** -0.5, train__classes=n, train__seed=seed
            )
    built.experiment("of-a", 0.5, train__groups=["a"])
    built.experiment("of-b", 0.1, train__groups=["b", "c"])
    return built


@pytest.fixture(scope="module")
def protocols(repository):
    return groups.group_protocols(compare.gather(repository.path, everything=True)[0])


def test_exponent_is_estimated(protocols):
    result = scaling.find_series(protocols, "train.classes")
    assert (
        result.points["n"].tolist() == [10, 40, 160, 640]
        and result.points["seeds"].tolist() == [2] * 4
    )
    scores = {c.first.name: c.score for c in protocols[0].configurations}
    assert result.points["se"].tolist() == [scores[f"c{n}-0"].se for n in (10, 40, 160, 640)]
    (section,) = scaling.build_scaling_sections(protocols)
    assert section.name == "scaling-classes"
    b, low, high = (
        float(x.replace("−", "-"))
        for x in re.search(
            r"power of (\S+) \(95 % CI (\S+) to ([^)]+)\)", section.sentence
        ).groups()
    )
    assert low < -0.5 < high < 0 and abs(b + 0.5) < 0.1
    first, last = result.points["error"].iloc[[0, -1]]
    assert (
        f"With 10 training classes the error is {100 * first:.1f}\xa0%; "
        f"with 640 it is {100 * last:.1f}\xa0%." in section.sentence
    )


def test_points_with_other_differences_are_excluded(repository, protocols):
    experiments = compare.gather(repository.path, everything=True)[0]
    changed = [
        replace(e, params={**e.params, "train": {**e.params["train"], "meta_lr": 0.5}})
        if e.name.startswith("c640")
        else e
        for e in experiments
    ]
    assert scaling.find_series(groups.group_protocols(changed), "train.classes") is None, (
        "three points are left"
    )
    assert (
        scaling.find_series(protocols, "episodes.shots") is None
        and scaling.find_series(protocols, "episodes.ways") is None
    )


def test_scaling_with_shots_spans_protocols(repository):
    experiments = compare.gather(repository.path, everything=True)[0]
    first = next(e for e in experiments if e.name == "c10-0")
    several = [
        replace(
            first,
            name=f"s{s}",
            meta={**first.meta, "shots": s},
            episodes=f"d{s}",
            scores=1 - (1 - first.scores) / s,
            params={**first.params, "episodes": {**first.params["episodes"], "shots": s}},
        )
        for s in (1, 2, 4, 8)
    ]
    result = groups.group_protocols(several)
    assert len(result) == 4, "the test episodes differ"
    (section,) = scaling.build_scaling_sections(result)
    assert "falls as n to the power of −1.00" in section.sentence
    assert section.heading == "Scaling: shots per class"
    assert any("not paired" in note for note in section.notes) and not any(
        "chi-square" in note for note in section.notes
    )
    trained = (
        "The number of shots per class in training varies along with that of the test episodes "
        "(train.shots is null)."
    )
    assert trained in section.notes
    with_shots = [
        replace(e, params={**e.params, "train": {**e.params["train"], "shots": 3}}) for e in several
    ]
    (section,) = scaling.build_scaling_sections(groups.group_protocols(with_shots))
    assert trained not in section.notes


def test_significant_deviations_from_the_law_are_reported(repository):
    experiments = compare.gather(repository.path, everything=True)[0]
    first = next(e for e in experiments if e.name == "c10-0")
    bent = [
        replace(
            first,
            name=f"b{n}",
            config={**first.config, "classes": n},
            scores=1 - (1 - first.scores) * factor,
            params={**first.params, "train": {**first.params["train"], "classes": n}},
        )
        for n, factor in ((10, 1.0), (20, 0.25), (40, 0.25), (80, 0.25))
    ]
    (section,) = scaling.build_scaling_sections(groups.group_protocols(bent))
    assert any(
        "The points deviate from the law by more than chance (chi-square " in note
        and "p < 0.001)" in note
        for note in section.notes
    )


def test_missing_trend_is_reported(repository):
    experiments = compare.gather(repository.path, everything=True)[0]
    first = next(e for e in experiments if e.name == "c10-0")
    flat = [
        replace(
            first,
            name=f"f{n}",
            config={**first.config, "classes": n},
            scores=np.roll(first.scores, n),
            params={**first.params, "train": {**first.params["train"], "classes": n}},
        )
        for n in (10, 20, 40, 80)
    ]
    (section,) = scaling.build_scaling_sections(groups.group_protocols(flat))
    assert "no significant trend" in section.sentence


def test_transfer_is_by_the_classes_own_group(protocols):
    (protocol,) = protocols
    section = transfer.build_transfer_section(protocol, "")
    assert (
        section.sentence.startswith(
            "Over all test groups, training on a beats training on b + c by "
        )
        and "95 % CI" in section.sentence
    )
    assert (
        "1 of 1\xa0pair of training groups differs significantly. With fewer than three seeds"
        in section.sentence
    )
    table = section.tables[0]
    assert table.head[:3] == ["trained on", "classes", "all test groups"] and [
        row[0] for row in table.rows
    ] == ["a", "b + c"]
    classes = next(e for e in protocol.experiments if e.name == "of-a").classes
    for name, of_group in classes.groupby("group"):
        cell = table.rows[0][table.head.index(name)].replace("\xa0", " ")
        assert cell.startswith(
            f"{100 * of_group['correct'].sum() / of_group['queries'].sum():.1f} % ± "
        )


def test_insignificant_group_differences_are_reported_as_such(protocols):
    (protocol,) = protocols
    level = replace(protocol, pairs=[replace(pair, p=0.2) for pair in protocol.pairs])
    section = transfer.build_transfer_section(level, "")
    assert section.sentence.startswith(
        "No training group is significantly better than another: a is ahead of b + c by "
    )
    assert section.sentence.endswith(" (corrected p = 0.20).")
    assert transfer.build_transfer_section(replace(protocol, pairs=[]), "").sentence.startswith(
        "Only the 20 best"
    )


def test_every_column_of_the_heatmap_is_labelled(protocols):
    chart = next(iter(transfer.build_transfer_section(protocols[0], "").figures)).spec
    axes = [axis for layer in chart["layer"] for axis in [layer["encoding"]["x"]["axis"]]]
    assert axes and all(axis["labelOverlap"] is False for axis in axes)


def test_no_transfer_table_without_groups(protocols):
    (protocol,) = protocols
    few = replace(
        protocol,
        configurations=[
            c for c in protocol.configurations if "of-b" not in [e.name for e in c.experiments]
        ],
    )
    assert transfer.build_transfer_section(few, "") is None


def test_scaling_and_transfer_are_on_the_page(repository, tmp_path):
    compare.run(*compare.gather(repository.path, everything=True), tmp_path / "out")
    page, text = (
        Page((tmp_path / "out/comparison.html").read_text()),
        (tmp_path / "out/comparison.md").read_text(),
    )
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {"scaling-classes", "transfer"} <= anchors
    assert {
        attrs["href"][1:] for attrs in page.with_tag("a") if attrs["href"].startswith("#")
    } <= anchors
    for name in ("scaling-classes", "transfer"):
        assert f"({name}.svg)" in text and (tmp_path / f"out/{name}.svg").is_file()
