"""The tasks page: it shows the measured values and loads no external resources."""

from __future__ import annotations

import numpy as np
import pytest
import synthetic
from test_report import Page, make, read_run, specs_data

from tasks.reports.run import classes, difficulty, facts, sentences, task_maps
from tasks.runtime.files import read_json


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folders = {
        kind: synthetic.write(tmp_path_factory.mktemp(kind) / "run", kind)
        for kind in ("classification", "regression")
    }
    for root in folders.values():
        make(root)
    return folders


@pytest.fixture(scope="module", params=["classification", "regression"])
def page(roots, request):
    return Page((roots[request.param] / "reports/tasks.html").read_text())


def test_pages_link_to_each_other(roots):
    for root in roots.values():
        report, tasks = (
            Page((root / f"reports/{name}.html").read_text()) for name in ("report", "tasks")
        )
        assert "tasks.html" in [a["href"] for a in report.with_tag("a")] and "report.html" in [
            a["href"] for a in tasks.with_tag("a")
        ]


def test_page_loads_no_external_resources(page):
    loads = [attrs["src"] for _, attrs in page.tags if "src" in attrs] + [
        attrs["href"] for attrs in page.with_tag("link")
    ]
    assert loads and all(address.startswith("data:") for address in loads)
    assert all(
        attrs["href"].startswith("#") or attrs["href"] == "report.html"
        for attrs in page.with_tag("a")
    )
    policy = next(
        attrs["content"]
        for attrs in page.with_tag("meta")
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none';")
    addresses = [
        v
        for spec in page.specs.values()
        for row in specs_data(spec)
        for k, v in row.items()
        if k == "image"
    ]
    assert all(address.startswith("data:image/png;base64,") for address in addresses)


def test_every_chart_has_a_text_alternative(page):
    drawn = [attrs for _, attrs in page.tags if "data-chart" in attrs]
    assert len(drawn) == len(page.specs) >= 2
    assert all(len(attrs["aria-label"]) > 40 for attrs in drawn)
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {
        attrs["href"][1:] for attrs in page.with_tag("a") if attrs["href"].startswith("#")
    } <= anchors


def test_hostile_names_are_escaped(roots):
    page = Page((roots["classification"] / "reports/tasks.html").read_text())
    assert all(" ".join(name.split()) in page.text for name in synthetic.HOSTILE)
    assert len([a for a in page.with_tag("script") if a.get("type") != "application/json"]) == 2
    assert not [attrs for _, attrs in page.tags if any(key.startswith("on") for key in attrs)]


def test_tasks_page_values_equal_metrics_json(roots):
    page, metrics = (
        (roots["classification"] / "reports/tasks.html").read_text(),
        read_json(roots["classification"] / "reports/metrics.json"),
    )
    text = Page(page).text.replace("\xa0", " ")
    tasks = metrics["tasks"]
    expected = [
        f"{tasks['similarity'][key]:.2f}".replace("-", "−") for key in ("spearman", "low", "high")
    ]
    assert f"rank correlation {expected[0]}, 95 % CI {expected[1]} to {expected[2]}" in text
    for end in ("least_alike", "most_alike"):
        assert (
            f"{100 * tasks[end]['accuracy']:.1f} % ± {100 * tasks[end]['accuracy_ci95']:.1f}"
            in text
        )
    assert (
        f"Two principal axes explain {100 * (tasks['map']['first'] + tasks['map']['second']):.0f} %"
        in text
    )


def test_sentence_claims_no_more_than_the_interval(roots):
    data = read_run(roots["classification"])
    for low, high, expected in (
        (-0.5, -0.1, "are harder (rank"),
        (0.1, 0.5, "are easier (rank"),
        (-0.3, 0.1, "does not measurably affect"),
    ):
        data.metrics.update(
            {
                "tasks.similarity.spearman": (low + high) / 2,
                "tasks.similarity.low": low,
                "tasks.similarity.high": high,
            }
        )
        assert expected in sentences.describe_difficulty(facts.measure_difficulty(data))
    data.metrics.update({f"tasks.similarity.{key}": None for key in ("spearman", "low", "high")})
    assert "undefined" in sentences.describe_difficulty(facts.measure_difficulty(data))


def test_the_map_of_parameters_claims_no_more_than_the_intervals(roots):
    data = read_run(roots["regression"])
    for ends, expected in (
        (
            ((-0.2, 0.1), (-0.1, 0.2)),
            "No correlation of the error was found with the amplitude (rank correlation ",
        ),
        (
            ((0.1, 0.5), (-0.1, 0.2)),
            "The error correlates with the amplitude (rank correlation 0.30, 95 % CI 0.10 to "
            "0.50), "
            "but not measurably with the phase (rank",
        ),
        (((0.1, 0.5), (0.1, 0.2)), " and with the phase (rank correlation "),
    ):
        for key, (low, high) in zip(("amplitude", "phase"), ends, strict=True):
            data.metrics.update(
                {
                    f"tasks.{key}.spearman": (low + high) / 2,
                    f"tasks.{key}.low": low,
                    f"tasks.{key}.high": high,
                }
            )
        section, _ = task_maps.map_parameters(data)
        assert expected in section.sentence
        notes = section.notes + difficulty.build_difficulty_section(data).notes
        assert not any("classes" in note for note in notes)


def test_only_axes_of_quantities_have_tick_labels(roots):
    for kind, numbers in (("regression", True), ("classification", False)):
        spec = Page((roots[kind] / "reports/tasks.html").read_text()).specs["spec-episodes-map"]
        axes = (
            [spec["layer"][0]["encoding"][channel]["axis"] for channel in "xy"]
            if "layer" in spec
            else []
        )
        assert [axis["labels"] for axis in axes] == [numbers] * 2


def test_pair_states_its_number_of_episodes(roots):
    data = read_run(roots["classification"])
    for episodes, expected in (
        (1, "from the 1\xa0episode that contains both"),
        (7, "from the 7\xa0episodes that contain both"),
    ):
        data.pairs.loc[0, "episodes"] = episodes
        assert expected in classes.build_pair_section(data).sentence


def test_every_class_and_episode_is_on_its_map(roots):
    data, page = (
        read_run(roots["classification"]),
        Page((roots["classification"] / "reports/tasks.html").read_text()),
    )
    dots = [row for row in specs_data(page.specs["spec-map"]) if "neighbour" in row]
    assert len(dots) == 20 and {round(row["x"], 6) for row in dots} == {
        round(x, 6) for x in data.space["x"]
    }
    episodes = [row for row in specs_data(page.specs["spec-episodes-map"]) if "episode" in row]
    assert len(episodes) == 60
    worst = min(episodes, key=lambda row: row["accuracy"])
    assert worst["colour"] == "wrong" and episodes[-1]["colour"] == "wrong", (
        "the worst are drawn last, over the others"
    )


def test_images_on_the_map_do_not_overlap(roots):
    data = read_run(roots["classification"])
    positions = task_maps.select_apart(data.space, 34, 34)
    x, y = (
        (data.space[c] - data.space[c].min()) / (data.space[c].max() - data.space[c].min())
        for c in ("x", "y")
    )
    at = np.stack([x * task_maps.MAP_WIDTH, y * task_maps.MAP_HEIGHT], 1)[positions]
    gaps = np.abs(at[:, None] - at[None]).max(-1)[np.triu_indices(len(at), 1)]
    assert len(positions) > 5 and (gaps >= 34 - 1e-9).all()
    assert len(task_maps.select_apart(data.space, 10_000, 10_000)) == 1
