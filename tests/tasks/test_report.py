"""The report: numbers, names and bytes, from synthetic results (synthetic.py)."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from PIL import Image

from episodic.core.registry import DATASETS
from episodic.datasets.cifar_fs import CifarFS
from episodic.datasets.mini_imagenet import MiniImageNet
from tasks import report
from tasks.params import parse, read_yaml
from tasks.reports.kit import charts, gallery, published, results, wording
from tasks.reports.kit import page as pages
from tasks.reports.kit.pooling import pool_classes
from tasks.reports.kit.trees import select_used
from tasks.reports.run import (
    calibration,
    classes,
    curves,
    facts,
    fits,
    reliability,
    scores,
    sentences,
)
from tasks.reports.run import card as model_card
from tasks.reports.run.headline import build_headline
from tasks.runtime.files import ROOT, compute_digest, read_json
from tasks.runtime.stage import StageError


class Page(HTMLParser):
    """Tags with their attributes, the text of scripts by id, and all other text."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: dict[str, str] = {}
        self.words: list[str] = []
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        self.open = tag

    def handle_endtag(self, tag):
        self.open = ""

    def handle_data(self, data):
        if self.open == "script":
            name = self.tags[-1][1].get("id", f"script {len(self.scripts)}")
            self.scripts[name] = self.scripts.get(name, "") + data
        elif self.open != "style":
            self.words.append(data)

    def with_tag(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def specs(self):
        return {
            name: json.loads(text)
            for name, text in self.scripts.items()
            if name.startswith("spec-")
        }


def read_run(root: Path) -> results.Results:
    return results.read_results(
        root / "data/prepared",
        root / "models/run",
        root / "reports/scores",
        root / "reports/metrics.json",
        root / "reports/history",
    )


def raw(root: Path) -> dict:
    return read_yaml(root / "params.yaml")


def make(root: Path | str) -> None:
    root = Path(root)
    report.run(
        parse(raw(root), sections=["report"]),
        read_run(root),
        root / "reports/report.html",
        root / "reports/tasks.html",
        root / "reports/summary",
        root / "models/run/README.md",
    )


@pytest.fixture(scope="module")
def image_root(tmp_path_factory):
    """Two equal runs of the stage in fresh processes, with other folder names and hash seeds."""
    roots = [
        synthetic.write(tmp_path_factory.mktemp(name) / "run") for name in ("first", "elsewhere")
    ]
    stage = ["-m", "tasks.report", *synthetic.arguments(roots[0])]
    # The second one without the check of all of params.yaml, which takes half of the stage's time.
    call = [
        "-c",
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_report; "
        f"test_report.make({str(roots[1])!r})",
    ]
    runs = [
        subprocess.Popen(
            [sys.executable, *args],
            cwd=ROOT,
            env=os.environ
            | {
                "PYTHONHASHSEED": str(i),
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i, args in enumerate([stage, call])
    ]
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    return roots


@pytest.fixture(scope="module")
def page(image_root):
    return Page((image_root[0] / "reports/report.html").read_text())


@pytest.fixture(scope="module")
def wave_root(tmp_path_factory):
    root = synthetic.write(tmp_path_factory.mktemp("waves") / "run", "regression")
    make(root)
    return root


def specs_data(spec):
    """All rows of a chart's data."""
    return [row for rows in spec["datasets"].values() for row in rows]


# --- bytes ----------------------------------------------------------------------------------------


def test_two_fresh_processes_write_the_same_bytes(image_root):
    first, second = (root / "reports" for root in image_root)
    assert (first / "report.html").read_bytes() == (second / "report.html").read_bytes()
    assert compute_digest(first / "summary") == compute_digest(second / "summary")
    assert len(list((first / "summary").glob("*.svg"))) >= 7


def test_page_contains_no_paths_and_has_a_moderate_size(image_root):
    for file in [
        image_root[0] / "reports/report.html",
        *(image_root[0] / "reports/summary").iterdir(),
    ]:
        assert str(image_root[0]) not in file.read_text()
        assert str(ROOT) not in file.read_text()
    assert 900_000 < (image_root[0] / "reports/report.html").stat().st_size < 3_000_000


# --- names ----------------------------------------------------------------------------------------


def test_hostile_names_are_escaped(page, image_root):
    shown = page.text
    names = [name for name in synthetic.HOSTILE if " ".join(name.split()) in shown]
    assert names == synthetic.HOSTILE, "every hostile name is hard enough to be shown"
    assert not [attrs for _, attrs in page.tags if any(key.startswith("on") for key in attrs)]
    assert not page.with_tag("b") or all(not attrs for attrs in page.with_tag("b"))
    executable = [
        attrs for attrs in page.with_tag("script") if attrs.get("type") != "application/json"
    ]
    assert len(executable) == 2  # Vega and the page's own
    drawn = {row.get("name") for row in specs_data(page.specs["spec-classes"])}
    assert sum(
        any(str(name).startswith(hostile) for name in drawn) for hostile in synthetic.HOSTILE
    ) == len(synthetic.HOSTILE)


def test_hostile_names_are_escaped_in_markdown_and_svg(image_root):
    summary = image_root[0] / "reports/summary"
    markdown, svg = (summary / "summary.md").read_text(), (summary / "classes.svg").read_text()
    assert "<script" not in markdown + svg
    assert "<img" not in markdown + svg
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in svg


def test_markdown_characters_are_escaped():
    assert (
        pages.escape_markdown("a|b *c* [d](e) `f`\n<g>") == r"a\|b \*c\* \[d\](e) \`f\` &lt;g&gt;"
    )


def test_embedded_scripts_cannot_be_closed_early():
    assert "</script" not in pages.embed_script("x = '</script><script>alert(1)</SCRIPT>'").lower()


# --- page -----------------------------------------------------------------------------------------


def test_page_loads_no_external_resources(page):
    loads = [
        attrs[key]
        for tag, attrs in page.tags
        for key in ("src", "srcset", "data", "poster")
        if key in attrs and tag != "data"
    ]
    loads += [attrs["href"] for attrs in page.with_tag("link")]
    assert loads
    assert all(address.startswith("data:") for address in loads)
    assert not [attrs for attrs in page.with_tag("script") if "src" in attrs]
    policy = next(
        attrs["content"]
        for attrs in page.with_tag("meta")
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    links = [attrs["href"] for attrs in page.with_tag("a")]
    assert all(
        link == "tasks.html"
        or link.startswith(("#", "https://arxiv.org/", "https://openreview.net/"))
        for link in links
    )


@pytest.mark.parametrize("kind", ["image_root", "wave_root"])
def test_every_chart_has_a_text_alternative(kind, request):
    root = request.getfixturevalue(kind)
    page = Page(((root[0] if kind == "image_root" else root) / "reports/report.html").read_text())
    drawn = [attrs for _, attrs in page.tags if "data-chart" in attrs]
    assert len(drawn) == len(page.specs) >= 4
    for attrs in drawn:
        assert attrs["role"] == "img"
        assert len(attrs["aria-label"]) > 20
        assert attrs["data-chart"] in page.specs
    assert all(attrs["aria-label"] for _, attrs in page.tags if attrs.get("role") == "img")
    assert len(page.with_tag("img")) == len(drawn)  # for readers without scripts
    assert all(attrs["alt"] for attrs in page.with_tag("img"))
    assert len(page.with_tag("caption")) == len(page.with_tag("table"))
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {
        attrs["href"][1:] for attrs in page.with_tag("a") if attrs["href"].startswith("#")
    } <= anchors


def test_values_equal_metrics_json(page, image_root):
    metrics = read_json(image_root[0] / "reports/metrics.json")
    values = {attrs["id"]: float(attrs["value"]) for attrs in page.with_tag("data")}
    assert values == {"headline": metrics["accuracy"], "headline-ci95": metrics["accuracy_ci95"]}
    at = [
        metrics,
        metrics["before"],
        metrics["inductive"],
        *(metrics["baselines"][m] for m in ("pixel_centroid", "random_init")),
    ]
    for figures in at:
        shown = f"{100 * figures['accuracy']:.1f} % ± {100 * figures['accuracy_ci95']:.1f}"
        assert shown in page.text.replace("\xa0", " ")
    assert f"{metrics['episodes']} test episodes" in page.text.replace("\xa0", " ")
    drawn = {
        row["name"]: row["value"]
        for row in specs_data(page.specs["spec-baselines"])
        if "name" in row
    }
    assert drawn["this model (maml, conv4)"] == metrics["accuracy"]
    assert (
        drawn["nearest class mean in pixels"] == metrics["baselines"]["pixel_centroid"]["accuracy"]
    )
    assert drawn["chance"] == 0.2


def test_markdown_summary_has_the_same_values(image_root):
    summary = image_root[0] / "reports/summary"
    text = (summary / "summary.md").read_text()
    metrics = read_json(image_root[0] / "reports/metrics.json")
    assert f"{100 * metrics['accuracy']:.1f}\xa0% ± {100 * metrics['accuracy_ci95']:.1f}**" in text
    charts_in_text = re.findall(r"\]\((\w+\.svg)\)", text)
    assert sorted(charts_in_text) == sorted(file.name for file in summary.glob("*.svg"))


def test_provenance(page, image_root):
    import hashlib

    weights = (image_root[0] / "models/run/weights.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() in page.text
    assert synthetic.DIGESTS["data_digest"] in page.text
    assert synthetic.DIGESTS["code_digest"] in page.text
    assert "dvc repro" in page.text
    assert "inner_lr: 0.4" in page.text
    assert "fomaml" not in page.text  # not in use


def test_unused_settings_are_omitted():
    assert select_used(
        {
            "device": "cpu",
            "model": {"name": "b", "a": {"x": 1}, "b": {"y": 2}},
            "train": {"seed": 0},
        }
    ) == {
        "device": "cpu",
        "model": {"name": "b", "b": {"y": 2}},
        "train": {"seed": 0},
    }


# --- published results ----------------------------------------------------------------------------


def compared(root):
    section = scores.build_baseline_section(read_run(root), raw(root))
    return section, {row["name"] for row in specs_data(section.figures[0].spec) if "name" in row}


def test_published_results_are_drawn_only_under_the_same_protocol(tmp_path, image_root):
    section, drawn = compared(synthetic.write(tmp_path / "one query", queries=1))
    assert {"MAML, conv4 (Finn et al. 2017)", "MAML, fully connected (Finn et al. 2017)"} <= drawn
    assert not [name for name in drawn if "Reptile" in name]  # another split
    assert section.notes[0].startswith("Under the same protocol")
    section, drawn = compared(image_root[0])  # 15 queries
    assert not [name for name in drawn if "Finn" in name]
    assert "not drawn" in section.notes[0]
    assert "queries per class 1 (here 15)" in str(section.tables[1].rows)


@pytest.mark.parametrize(
    ("key", "value"), [("split", "vinyals"), ("rotations", False), ("rotate_test", False)]
)
def test_another_protocol_is_not_drawn(tmp_path, key, value):
    root = synthetic.write(tmp_path / "run", queries=1)
    mine = published.extract_protocol(read_run(root), raw(root))
    same = published.find_published_results(mine)[0]
    assert set(same["source"]) == {"Finn et al. 2017", "Park and Oliva 2019"} and len(same) == 4
    params = raw(root)
    params["dataset"]["omniglot"][key] = value
    protocol = published.extract_protocol(read_run(root), params)
    assert len(published.find_published_results(protocol)[0]) == 0


def test_dataset_without_published_results(image_root):
    same, others = published.find_published_results(
        published.extract_protocol(read_run(image_root[0]), raw(image_root[0]))
        | {"dataset": "glyphs"}
    )
    assert same.empty
    assert others.empty
    comparison = facts.compare_with_baselines(read_run(image_root[0]), raw(image_root[0]))
    without_results = replace(comparison, same_protocol=same, other_protocols=others)
    assert "only baselines are shown" in sentences.describe_published_results(without_results)


def test_table_of_published_results_is_complete():
    table = pd.read_csv(published.TABLE, dtype=str, keep_default_na=False)
    columns = (
        "dataset split rotations method network ways shots accuracy ci95 mse steps queries "
        "batch_norm source link note"
    )
    assert list(table) == columns.split()
    assert not table.duplicated(
        ["dataset", "method", "network", "ways", "shots", "steps", "source"]
    ).any()
    percent = pd.to_numeric(table.loc[table["accuracy"] != "", "accuracy"])
    assert percent.between(40, 100).all()
    assert (
        table["link"].str.startswith("https://") | (table["source"] == "own reference run")
    ).all()
    maml = table.query(
        "dataset == 'omniglot' and method == 'MAML' and network == 'conv4' "
        "and ways == '20' and shots == '1'"
    ).iloc[0]
    assert (maml["accuracy"], maml["ci95"]) == ("95.8", "0.3")


@pytest.mark.parametrize(
    ("dataset", "protocol", "method"),
    [("mini_imagenet", MiniImageNet.protocol, "MAML"), ("cifar_fs", CifarFS.protocol, "R2-D2")],
)
def test_published_results_belong_to_datasets(image_root, dataset, protocol, method):
    """The names in the table are those of the datasets, and so are the splits."""
    table = pd.read_csv(published.TABLE, dtype=str, keep_default_na=False)
    assert set(table["dataset"]) <= set(DATASETS)
    data = read_run(image_root[0])
    meta = data.meta | {"dataset": dataset, "protocol": protocol, "queries": 15}
    mine = published.extract_protocol(replace(data, meta=meta), {"dataset": {dataset: None}})
    rows = pd.concat(published.find_published_results(mine))
    found = rows[rows["method"] == method]
    assert len(found) and not found["differs"].str.contains("split|rotations").any()


# --- gallery, classes, curves ---------------------------------------------------------------------


def test_gallery_shows_the_predictions(image_root):
    data = read_run(image_root[0])
    cards = gallery.select_cards(data)
    accuracy = data.headline_episodes.set_index("episode")["accuracy"]
    shown = [accuracy[card.episode] for card in cards]
    assert len({card.episode for card in cards}) == 6
    assert shown == sorted(shown, reverse=True)
    assert shown[-1] == accuracy.min()
    assert abs(shown[0] - accuracy.median()) < 0.02
    for card in cards:
        predictions = data.predictions[data.predictions["episode"] == card.episode]
        for when in ("before", "after"):
            wrong = sum(not q.is_correct for c in card.classes for q in getattr(c, when))
            assert wrong == (predictions[when] != predictions["label"]).sum() > 0


def test_gallery_cells_are_the_pixels_of_the_data(image_root):
    data = read_run(image_root[0])
    card = gallery.select_cards(data)[0]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(card.sheet.uri.split(",")[1]))))
    line = data.test[data.test["episode"] == card.episode].iloc[0]

    def cell(index):
        x, y = card.sheet.locate(index)
        return 255 - sheet[28 * y : 28 * y + 28, 28 * x : 28 * x + 28]

    for way, c in enumerate(card.classes):
        assert np.array_equal(cell(c.support[0]), data.examples[line["support"][way], 0])
        for i, query in enumerate(c.after):
            assert np.array_equal(cell(query.cell), data.examples[line["query"][15 * way + i], 0])


def test_wrong_predictions_are_marked_by_letter_and_colour(image_root):
    text = (image_root[0] / "reports/report.html").read_text()
    wrong = re.findall(r'<i class="tile no" style="--x: \d+; --y: \d+">(.*?)</i>', text)
    assert len(wrong) > 50
    assert all(re.fullmatch(r"<b>[A-E]</b>", inside) for inside in wrong)
    assert not re.findall(r'<i class="tile ok"[^>]*><b>', text)


def test_number_of_queries_is_limited_for_many_ways(tmp_path):
    root = synthetic.write(tmp_path / "run", ways=20, shots=2, queries=15, test=3)
    card = gallery.select_cards(read_run(root))[0]
    assert (card.shown, card.queries) == (5, 15)
    assert all(len(c.after) == 5 and len(c.support) == 2 for c in card.classes)


def test_hardest_classes_and_groups(image_root):
    data = read_run(image_root[0])
    hardest = data.classes.sort_values("accuracy").iloc[0]
    section = classes.build_class_section(data)
    assert section.tables[0].rows[0][0] == hardest["class"]
    assert wording.format_percent(hardest["accuracy"]) in section.sentence
    (groups,) = classes.build_group_sections(data)
    pooled = data.classes.groupby("group")[["correct", "queries"]].sum()
    worst = (pooled["correct"] / pooled["queries"]).min()
    assert wording.format_percent(worst) in groups.sentence
    assert len(groups.tables[0].rows) == data.classes["group"].nunique()


def test_the_interval_of_a_group_is_over_its_classes():
    equal = pd.DataFrame({"queries": [30] * 4, "correct": [15, 20, 25, 30], "ci95": [np.nan] * 4})
    accuracy, half = pool_classes(equal)
    assert accuracy == 0.75
    se = np.std([0.5, 2 / 3, 5 / 6, 1], ddof=1) / 2
    n, t = 0.75 * 0.25 / se**2, 3.182446  # independent queries with this standard error
    low = (n * 0.75 + t**2 / 2 - t * (0.75 * 0.25 * n + t**2 / 4) ** 0.5) / (n + t**2)
    assert half == pytest.approx(0.75 - low, rel=5e-3), "Wilson's interval"
    assert pool_classes(equal.assign(ci95=0.1).iloc[:1]) == (0.5, 0.1)


def test_confusions_are_counted_from_the_predictions(image_root):
    data = read_run(image_root[0])
    hard = classes.illustrate_hard_classes(data).rows[0]
    truth = np.stack(data.test["classes"].to_list())
    names = data.dataset_classes["class"].to_numpy()
    wrong = data.predictions[data.predictions["label"] != data.predictions["after"]]
    of_class = (
        pd.Series(names[truth[wrong["episode"], wrong["label"]]])
        .map(lambda name: hard.first.startswith(f"{name} ("))
        .to_numpy()
    )
    taken = pd.Series(names[truth[wrong["episode"], wrong["after"]]][of_class]).value_counts()
    assert hard.text.replace("\xa0", " ") == f"{taken.max()} of {of_class.sum()} errors"
    assert hard.second.startswith(tuple(taken[taken == taken.max()].index))


def adaptation(score: str, curve: pd.DataFrame) -> str:
    return sentences.describe_adaptation(facts.measure_adaptation(score, curve))


def course(steps=None, **columns) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    return table.assign(step=range(len(table)) if steps is None else steps)


def test_sentence_describes_the_adaptation_curve():
    rise = course(accuracy=[0.2, 0.61, 0.80, 0.85, 0.851, 0.852], accuracy_ci95=[0.01] * 6)
    assert (
        adaptation("accuracy", rise)
        == "Accuracy rises by 41 percentage points in one step and is flat after three."
    )
    still = course(accuracy=[0.2, 0.3, 0.4, 0.5], accuracy_ci95=[0.01] * 4)
    assert adaptation("accuracy", still).startswith(
        "Accuracy rises by 10 percentage points in one step and still changes up to the last "
        "step: 50"
    )
    nothing = course(accuracy=[0.2, 0.201, 0.199], accuracy_ci95=[0.01] * 3)
    assert "no measurable effect" in adaptation("accuracy", nothing)
    waves = course(
        mse=[3.0, 0.4, 0.39, 90.0], mse_ci95=[0.1, 0.1, 0.1, 80.0], diverged=[0, 0, 0, 2]
    )
    assert (
        adaptation("mse", waves)
        == "The error falls from 3.00 to 0.400 in one step and is flat after that; with three or "
        "more steps some episodes diverge."
    )


def test_curve_with_gaps_is_described_by_its_steps():
    far = course(
        [0, 1, 2, 10, 20, 50], accuracy=[0.2, 0.3, 0.4, 0.6, 0.7, 0.701], accuracy_ci95=[0.01] * 6
    )
    assert (
        adaptation("accuracy", far)
        == "Accuracy rises by 10 percentage points in one step and is flat after 20."
    )
    moving = course(
        [0, 1, 2, 10, 20, 50], accuracy=[0.2, 0.3, 0.4, 0.6, 0.7, 0.8], accuracy_ci95=[0.01] * 6
    )
    assert adaptation("accuracy", moving).endswith(": 80.0\xa0% after 50.")


@pytest.mark.parametrize(
    ("score", "value", "ci95", "text"),
    [
        ("accuracy", 0.98214, 0.0031, "98.2 % ± 0.3"),
        ("accuracy", 0.9768, 0.0004, "97.68 % ± 0.04"),
        ("accuracy", 0.2, None, "20.0 %"),
        ("accuracy", 1.0, 0.0, "100.0 % ± 0.0"),
        ("mse", 0.413, 0.007, "0.413 ± 0.007"),
        ("mse", 3.03, 0.0412, "3.030 ± 0.041"),
        ("mse", 12.3, 4.2, "12.3 ± 4.2"),
        ("mse", float("inf"), float("nan"), "not finite"),
        ("mse", 0.01234, None, "0.0123"),
    ],
)
def test_formatted_estimates(score, value, ci95, text):
    assert wording.format_estimate(score, value, ci95).replace("\xa0", " ") == text


def test_group_name_is_not_repeated():
    assert wording.format_class_name("Greek/character01/90", "Greek") == "Greek/character01/90"
    assert wording.format_class_name("character01", "Greek") == "character01 (Greek)"
    assert wording.format_class_name("character01", "") == "character01"


def test_labels_are_spread_without_changing_their_order():
    assert charts.spread_labels([0.1, 0.9], 0.2) == [0.1, 0.9]
    positions = charts.spread_labels([0.95, 0.94, 0.5], 0.1)
    assert positions[0] - positions[1] >= 0.1 - 1e-6
    assert positions[2] == 0.5


def _luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(a, b):
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_contrast_is_aa_in_both_themes(theme):
    for background in ("surface", "panel"):
        for name, pair in charts.PALETTE.items():
            if name.endswith("-text") or name in ("text", "muted"):
                assert _contrast(pair[theme], charts.PALETTE[background][theme]) >= 4.5, name
    for name in ("model", "other", "training", "wrong", "baseline", "published"):
        assert _contrast(charts.PALETTE[name][theme], charts.PALETTE["surface"][theme]) >= 3, name


# --- modes, regression ----------------------------------------------------------------------------


def test_both_statistics_are_compared_unless_they_agree(image_root):
    data = read_run(image_root[0])
    (section,) = curves.build_mode_sections(data)
    metrics = read_json(image_root[0] / "reports/metrics.json")
    difference = metrics["transductive"]["accuracy"] - metrics["inductive"]["accuracy"]
    assert wording.format_points(difference) in section.sentence
    data.curve["accuracy"] = np.tile(data.adaptation_curve("transductive")["accuracy"], 2)
    (section,) = curves.build_mode_sections(data)
    assert not section.figures
    assert "no batch norm" in section.sentence


def test_regression_report(wave_root):
    page = Page((wave_root / "reports/report.html").read_text())
    metrics = read_json(wave_root / "reports/metrics.json")
    assert float(page.with_tag("data")[0]["value"]) == metrics["mse"]
    assert wording.format_number(metrics["mse_median"]) in page.text
    anchors = {attrs["id"] for attrs in page.with_tag("section")}
    assert "fits" in anchors
    assert not {"gallery", "classes", "groups", "statistics"} & anchors
    assert {f"spec-fit-{i}" for i in range(1, 7)} <= set(page.specs)
    drawn = {
        row["name"]: row["value"]
        for row in specs_data(page.specs["spec-baselines"])
        if "name" in row
    }
    assert drawn["constant 0"] == metrics["baselines"]["zero"]["mse"]
    assert drawn["MAML (inner rate 0.01), 2x40 ReLU (own reference run)"] == 0.413
    assert not [
        name for name in drawn if "0.171" in str(drawn[name])
    ]  # after ten steps: not this protocol
    assert "1 episode diverged" in page.text.replace("\xa0", " ")
    assert (wave_root / "reports/summary/fit-6.svg").is_file()


def test_fits_go_from_typical_to_worst(wave_root):
    data = read_run(wave_root)
    drawn = fits.draw_fits(data)
    errors = data.headline_episodes.set_index("episode")["mse"]
    shown = [errors[fit.episode] for fit in drawn]
    assert shown == sorted(shown)
    assert (drawn[0].rank, drawn[-1].rank) == ("typical", "worst")
    assert shown[-1] == errors.max()


def test_diverged_mean_switches_to_a_logarithmic_axis(wave_root):
    data = read_run(wave_root)
    data.metrics["baselines.random_init.mse"], data.metrics["baselines.random_init.mse_ci95"] = (
        4e5,
        3e5,
    )
    spec = scores.build_baseline_section(data, raw(wave_root)).figures[0].spec
    assert '"type": "log"' in json.dumps(spec)


# --- errors ---------------------------------------------------------------------------------------

NEEDED = {
    "data/prepared/meta.json": "episodes",
    "data/prepared/test.parquet": "episodes",
    "data/prepared/images.npy": "episodes",
    "data/prepared/classes.parquet": "episodes",
    "models/run/config.json": "train",
    "models/run/weights.safetensors": "train",
    "reports/history/train.csv": "train",
    "reports/history/validation.csv": "train",
    "reports/metrics.json": "evaluate",
    "reports/scores/episodes.parquet": "evaluate",
    "reports/scores/curve.csv": "evaluate",
    "reports/scores/baselines.parquet": "evaluate",
    "reports/scores/classes.parquet": "evaluate",
    "reports/scores/answers.parquet": "evaluate",
}


@pytest.fixture(scope="module")
def spare(tmp_path_factory):
    return synthetic.write(tmp_path_factory.mktemp("spare") / "run", test=5)


@pytest.mark.parametrize(("file", "stage"), NEEDED.items())
def test_missing_or_broken_file_raises_stage_error(spare, file, stage):
    path, kept = spare / file, spare / "kept"
    path.rename(kept)
    try:
        message = f"{path.name} does not exist: run the stage {stage} first"
        with pytest.raises(StageError, match=message) as caught:
            read_run(spare)
        assert "\n" not in str(caught.value)
        if not file.endswith("weights.safetensors"):
            path.write_bytes(b"\x00\xff not a table")
            with pytest.raises(
                StageError, match=f"{path.name} .*run the stage {stage} again"
            ) as caught:
                read_run(spare)
            assert "\n" not in str(caught.value)
    finally:
        kept.rename(path)


@pytest.mark.parametrize(
    ("file", "stage"),
    [("data/prepared/meta.json", "episodes"), ("models/run/config.json", "train")],
)
def test_different_format_raises_stage_error(spare, file, stage):
    path = spare / file
    kept = path.read_text()
    try:
        path.write_text(kept.replace('"format": 2', '"format": 3'))
        with pytest.raises(StageError, match=f"format 3, not 2: run the stage {stage} again"):
            read_run(spare)
    finally:
        path.write_text(kept)


def test_formats_are_those_of_the_stages():
    from episodic.training import model_folder
    from tasks import prepared

    assert results.FORMAT == prepared.FORMAT == model_folder.FORMAT


def test_missing_column_and_different_model_raise_stage_error(spare):
    path = spare / "reports/scores/curve.csv"
    kept = path.read_text()
    try:
        path.write_text(kept.replace("accuracy_ci95", "spread"))
        with pytest.raises(StageError, match=r"curve\.csv has no column accuracy_ci95"):
            read_run(spare)
    finally:
        path.write_text(kept)
    path = spare / "models/run/config.json"
    kept = path.read_text()
    try:
        path.write_text(kept.replace('"ways": 5', '"ways": 20'))
        with pytest.raises(StageError, match="was trained for ways 20"):
            read_run(spare)
    finally:
        path.write_text(kept)


def test_optional_columns_may_be_missing(spare):
    path = spare / "reports/history/train.csv"
    kept = path.read_text()
    try:
        pd.read_csv(path).drop(columns=["gradient_norm", "meta_lr"]).to_csv(path, index=False)
        assert curves.build_learning_section(read_run(spare)).figures
    finally:
        path.write_text(kept)


# --- unknown classes, prediction sets, other ways and shots ---------------------------------------


def reliability_sections(run):
    return {s.name: s for s in reliability.build_reliability_sections(run)}


def test_the_sections_on_reliability_have_the_values_of_the_metrics(image_root):
    run = read_run(image_root[0])
    sections, metrics = reliability_sections(run), run.metrics
    assert list(sections) == ["unknown", "sets", "sizes"]
    accepted = metrics["unknown.other_classes.accepted_unknown"]
    unknown = sections["unknown"]
    assert f"recognizes {100 * (1 - accepted):.1f}\xa0% ±" in unknown.sentence
    assert [table.caption.split(",")[0] for table in unknown.results] == [
        "Detection of queries of other test classes",
        "Detection of out-of-scope queries",
    ]
    chosen = [row for row in unknown.results[0].rows if row[0].endswith(" (chosen)")]
    value, ci95 = (metrics[f"unknown.other_classes.{key}"] for key in ("auroc", "auroc_ci95"))
    expected = f"{100 * value:.1f}\xa0% ± {100 * ci95:.1f}"
    assert [row[:2] for row in chosen] == [
        ["distance from the nearest class mean (chosen)", expected]
    ]
    assert len(unknown.results[0].rows) == 4
    sets = sections["sets"]
    assert sets.results[0].rows[1] == [
        "90\xa0%",
        "88.5\xa0% ± 1.0",
        "0.970 ± 0.020",
        "5.0\xa0% ± 0.2",
    ]
    assert "88.5\xa0% ± 1.0 of the queries. This is less than promised" in sets.sentence
    assert "at most 2.1\xa0%" in sections["sizes"].sentence
    assert [row[:2] for row in sections["sizes"].results[0].rows] == [["5", "1"], ["5", "5"]]


def test_the_curve_draws_the_chosen_score_in_front_of_the_largest_probability(image_root):
    run = read_run(image_root[0])
    rows = specs_data(reliability_sections(run)["unknown"].figures[0].spec)
    assert {row["series"] for row in rows if "series" in row} == {
        "largest probability",
        "nearest class mean",
    }
    drawn = {(row["x"], row["y"]) for row in rows if row.get("series") == "nearest class mean"}
    chosen = run.selective[run.selective["score"] == "mean_distance"]
    assert drawn == set(zip(chosen["answered"], chosen["accuracy"], strict=True))
    # Half of the queries on the curve are of other classes; out-of-scope ones are not on it.
    assert [row["x"] for row in rows if row.get("text") == "share of known classes"] == [0.5]


@pytest.mark.parametrize(
    ("score", "gain", "expected"),
    [
        ("max_softmax", 0.0, "are detected by the largest probability (AUROC 80.0\xa0% ± 1.0"),
        ("energy", 0.02, "detects unknown classes better than the largest probability (AUROC"),
        ("energy", -0.02, "2.0 percentage points lower"),
        ("energy", 0.005, "does not detect unknown classes significantly better"),
    ],
)
def test_the_chosen_score_is_compared_with_the_largest_probability(score, gain, expected):
    detection = facts.DetectionFacts((0.8, 0.01), (gain, 0.01), (0.9, 0.01), (0.3, 0.01))
    sentence = sentences.compare_detection_scores(
        facts.UnknownFacts(score, 0.5, detection, out_of_scope=None)
    )
    assert expected in sentence


def test_a_kept_promise_is_not_called_broken(image_root):
    kept = facts.SetFacts(0.9, (0.895, 0.01), (1.2, 0.1), (0.0, 0.0))
    assert "less than promised" not in sentences.describe_sets([kept])
    assert "less than promised" in sentences.describe_sets([replace(kept, coverage=(0.88, 0.01))])


@pytest.mark.parametrize("removed", ["everything", "unknown classes", "the calibration"])
def test_results_that_were_not_measured_have_no_section(image_root, tmp_path, removed):
    """Older versions, `episodes.open: 0`, and `train.calibration: none`."""
    root = tmp_path / "run"
    shutil.copytree(image_root[0], root)
    folder, file = root / "reports/scores", root / "reports/metrics.json"
    metrics, sizes = read_json(file), pd.read_csv(folder / "sizes.csv")
    expected = {
        "everything": [],
        "unknown classes": ["sets", "sizes"],
        "the calibration": ["unknown", "sets", "sizes"],
    }[removed]
    if removed != "the calibration":
        del metrics["unknown"]
        for name in ("detection.csv", "selective.csv"):
            (folder / name).unlink()
        sizes = sizes.drop(columns=[c for c in sizes if c.startswith("unknown_")] + ["score"])
    else:
        sizes = sizes.drop(columns="temperature")
    sizes.to_csv(folder / "sizes.csv", index=False)
    if removed == "everything":
        del metrics["sets"]
        (folder / "sizes.csv").unlink()
        (folder / "open.parquet").unlink()
    file.write_text(json.dumps(metrics))
    make(root)
    text = Page((root / "reports/report.html").read_text()).text
    shown = {
        "unknown": "Unknown classes",
        "sets": "Prediction sets",
        "sizes": "Other ways and shots",
    }
    assert [name for name, heading in shown.items() if heading in text] == expected
    calibrated = {"unknown classes": True, "the calibration": False}.get(removed, False)
    assert ("ECE before" in text) == ("Brier score before" in text) == calibrated
    assert "nan" not in (root / "reports/summary/summary.md").read_text().split()


def test_names_of_scores_and_populations_are_escaped(image_root, tmp_path):
    root, name = tmp_path / "run", synthetic.HOSTILE[0]
    shutil.copytree(image_root[0], root)
    folder, file = root / "reports/scores", root / "reports/metrics.json"
    for table, column, known in (
        ("detection", "population", "out_of_scope"),
        ("detection", "score", "mean_distance"),
        ("selective", "score", "mean_distance"),
        ("sizes", "score", "mean_distance"),
    ):
        rows = pd.read_csv(folder / f"{table}.csv")
        rows[column] = rows[column].replace(known, name)
        rows.to_csv(folder / f"{table}.csv", index=False)
    file.write_text(file.read_text().replace("mean_distance", name))
    make(root)
    page = Page((root / "reports/report.html").read_text())
    assert f"Detection of {name}, with" in page.text and f"{name} (chosen)" in page.text
    markdown = (root / "reports/summary/summary.md").read_text()
    assert "<script" not in markdown + (root / "reports/summary/selective.svg").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; (chosen)" in markdown


# --- browser --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["image_root", "wave_root"])
def test_browser_draws_every_chart_without_errors(kind, request, tmp_path):
    """The page's policy forbids requests and foreign scripts; the console would show an attempt."""
    chromium = next(
        (
            path
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (path := shutil.which(name))
        ),
        None,
    )
    if chromium is None:
        pytest.skip("no chromium here: the console and the drawn charts were not looked at")
    root = request.getfixturevalue(kind)
    file = (root[0] if kind == "image_root" else root) / "reports/report.html"
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path}",
        "--enable-logging=stderr",
        "--v=0",
        "--virtual-time-budget=20000",
        "--window-size=1280,2000",
        "--dump-dom",
    ]
    seen = subprocess.run(
        [chromium, *flags, file.as_uri()], capture_output=True, text=True, timeout=90
    )
    console = [line for line in seen.stderr.splitlines() if ":CONSOLE" in line]
    assert not console, console
    page = Page(seen.stdout)
    assert page.with_tag("html")[0].get("data-rendered") == "yes"
    charts_drawn = [attrs for attrs in page.with_tag("svg") if "marks" in attrs.get("class", "")]
    assert len(charts_drawn) == len(page.specs)
    assert not [attrs for attrs in page.with_tag("img") if not attrs["src"].startswith("data:")]
    executable = [
        attrs for attrs in page.with_tag("script") if attrs.get("type") != "application/json"
    ]
    assert len(executable) == 2


def test_the_model_card_states_what_is_promised(image_root, tmp_path):
    run = read_run(image_root[0])
    plain = replace(run, metrics={k: v for k, v in run.metrics.items() if k[:4] not in UNPROVEN})

    def list_limits(measured: results.Results) -> str:
        headline = build_headline(measured, None, "cpu")
        context = model_card.build_context(measured, tmp_path, headline)
        return " ".join(context["limits"]).replace(wording.NBSP, " ")

    assert "It always predicts one of the given classes, for any input." in list_limits(plain)
    assert "Prediction sets" not in list_limits(plain)
    values = {
        "unknown.other_classes.accepted_unknown": 0.25,
        "unknown.other_classes.accepted_known": 0.9,
        "sets.coverage_90.coverage": 0.912,
        "sets.coverage_90.size": 1.7,
    }
    metrics = plain.metrics | values | {f"{name}_ci95": 0.02 for name in values}
    found = list_limits(replace(plain, metrics=metrics))
    assert "Without `--unknown`, it always predicts one of the given classes" in found
    assert "75.0 % ± 2.0 of the queries of other test classes were recognized as unknown" in found
    assert "and 10.0 % ± 2.0 of those of the given classes were rejected" in found
    assert "contained the true class of 91.2 % ± 2.0 of the test queries" in found
    assert "with 1.70 ± 0.02 classes on average. The promise is marginal" in found


UNPROVEN = ("sets", "unkn")
"""How the metrics start that older versions lack."""


def test_the_calibration_section_tells_both_probabilities_apart(image_root):
    run = read_run(image_root[0])
    assert calibration.build_calibration_section(run) is None, "results of an older version"
    numbers = {"ece": (0.2, 0.05), "brier": (0.3, 0.25), "likelihood": (0.6, 0.5)}
    metrics = {"calibration.temperature": 2.0, "calibration.weight": 0, "calibration.bias": 0}
    for key, (before, after) in numbers.items():
        for prefix, value in (("raw_", before), ("", after)):
            metrics |= {f"calibration.{prefix}{key}": value}
            metrics |= {f"calibration.{prefix}{key}_ci95": 0.01}
    bins = pd.DataFrame(
        {
            "confidence": [0.6, 0.99, 0.55, 0.9],
            "accuracy": [0.5, 0.8, 0.54, 0.91],
            "accuracy_low": [0.4, 0.7, 0.5, 0.85],
            "accuracy_high": [0.6, 0.9, 0.6, 0.95],
            "count": 10,
            "calibrated": [False, False, True, True],
        }
    )
    predictions = run.predictions.assign(raw_confidence=0.99, confidence=0.9)
    run = replace(run, metrics=run.metrics | metrics, reliability=bins, predictions=predictions)
    section = calibration.build_calibration_section(run)
    assert "from 20.0 % ± 1.0 to 5.0 % ± 1.0. Without it, the model is overconfident" in (
        section.sentence.replace(wording.NBSP, " ")
    )
    assert "temperature of 2.00, which makes the model less confident" in section.notes[0]
    assert section.results[0].rows[1] == ["Brier score", "0.300 ± 0.010", "0.250 ± 0.010"]
