"""The method benchmark: the parameters of every cell are valid, and cells become a table."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from support import ROOT

from benchmarks.methods import cell, table
from episodic.core.registry import ALGORITHMS
from episodic.core.statistics import mean_ci95
from tasks import params
from tasks.runtime.files import read_json, write_json
from tasks.runtime.stage import StageError

PIPELINE = params.read_yaml(ROOT / "benchmarks/methods/dvc.yaml")["stages"]
SETTINGS = PIPELINE["data"]["foreach"]
"""Dataset by setting."""

GROUPS = [PIPELINE[name]["matrix"] for name in PIPELINE if name.split("_")[0] == "train"]
CELLS = [(s, m) for group in GROUPS for s in group["setting"] for m in group["method"]]
METHODS = {method for _, method in CELLS}
HEADS = {
    point["algorithm.name"] for point in params.read_yaml(ROOT / "conf/sweeps/heads.yaml")["points"]
}
"""Algorithms that are compared on the features of a pretrained encoder."""


def test_every_algorithm_is_compared():
    # melu is maml on a network without embeddings.
    assert set(ALGORITHMS) - {"melu"} == METHODS | HEADS


def test_every_method_is_a_cell_and_every_cell_a_method():
    tested = [PIPELINE[name]["matrix"] for name in PIPELINE if name.split("_")[0] == "cell"]
    assert tested == GROUPS
    recipes = (ROOT / "benchmarks/methods/methods").glob("*/*.yaml")
    assert sorted(CELLS) == sorted((path.parent.name, path.stem) for path in recipes)
    assert {setting for setting, _ in CELLS} == set(SETTINGS)
    assert {path.stem for path in (ROOT / "benchmarks/methods/settings").iterdir()} == set(SETTINGS)
    for setting, dataset in SETTINGS.items():
        assert cell.parse_setting(setting)[0] == dataset
    for dataset, setting in PIPELINE["raw"]["foreach"].items():
        assert SETTINGS[setting] == dataset


@pytest.mark.parametrize(
    ("benchmark_stage", "stage"),
    [("raw", "download"), ("data", "episodes"), ("train", "train"), ("cell", "evaluate")],
)
def test_benchmark_stages_have_the_code_deps_of_the_pipeline(benchmark_stage, stage):
    known = params.read_yaml(ROOT / "dvc.yaml")["stages"][stage]["deps"]
    names = {
        "${dataset.name}": "${key}" if benchmark_stage == "raw" else "${item}",
        "${algorithm.name}": "${item.method}",
        "${model.name}": "conv4",
    }
    expected = {dep for dep in known if dep.startswith(("episodic/", "tasks/"))}
    for name, replacement in names.items():
        expected = {dep.replace(name, replacement) for dep in expected}
    deps = PIPELINE[benchmark_stage].get("do", PIPELINE[benchmark_stage])["deps"]
    code = {dep for dep in deps if dep.startswith("../../") or dep.endswith(".py")}
    assert code == {f"../../{dep}" for dep in expected} | {"cell.py"}
    assert len(code) <= 15
    if benchmark_stage in ("train", "cell"):
        assert "methods/${item.setting}/${item.method}.yaml" in deps


def test_dvc_reads_the_pipeline():
    """All stages of the benchmark, by their DVC names."""
    environment = os.environ | {
        "DVC_SITE_CACHE_DIR": str(ROOT / ".dvc/tmp/site-cache"),
        "DVC_NO_ANALYTICS": "1",
    }
    stdout = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"],
        cwd=ROOT / "benchmarks" / "methods",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for stage in ("train", "cell"):
        names = [name.partition("@")[2] for name in stdout if name.startswith(stage)]
        assert sorted(names) == sorted(f"{setting}-{method}" for setting, method in CELLS)
    assert {"raw@omniglot", "data@5w1s", "train@5w1s-maml", "cell@5w1s-maml", "table"} < set(stdout)


@pytest.mark.parametrize(("setting", "method"), CELLS)
def test_a_cells_parameters_are_sound(method, setting):
    settings = params.parse(cell.read_settings(setting, method))
    dataset, ways, shots = cell.parse_setting(setting)
    assert (settings.algorithm.name, settings.episodes.ways, settings.episodes.shots) == (
        method,
        ways,
        shots,
    )
    assert settings.dataset.name == dataset and settings.episodes.test == 1000


@pytest.mark.parametrize(("setting", "method"), CELLS)
def test_cells_share_their_episodes(setting, method):
    """The settings that determine the episodes are the same in all cells of a setting."""
    shared, own = cell.read_settings(setting), cell.read_settings(setting, method)
    assert own["dataset"] == shared["dataset"] and own["episodes"] == shared["episodes"]


def test_an_unknown_cell_is_rejected():
    with pytest.raises(
        StageError,
        match=r"benchmarks/methods/methods/5w1s/mamal\.yaml does not exist; the name must be "
        "one of "
        r"anil, ",
    ):
        cell.read_settings("5w1s", "mamal")
    with pytest.raises(
        StageError,
        match=r"benchmarks/methods/settings/7w7s\.yaml does not exist; the name must be one of "
        r"20w1s, ",
    ):
        cell.read_settings("7w7s", "maml")
    with pytest.raises(StageError, match="5-way is no setting; it must be such as 5w1s or cifar"):
        cell.parse_setting("5-way")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A benchmark on glyphs that takes seconds per cell."""
    folder = tmp_path / "table"
    for name, text in {
        "base.yaml": "dataset: {glyphs: {alphabets: 6}}\n"
        "episodes: {validation: 10, test: 20}\n"
        "model: {conv4: {filters: 8}}\n"
        "train: {iterations: 6, meta_batch: 2, validate_every: 3}\n",
        "settings/5w1s.yaml": "episodes: {ways: 5, shots: 1, queries: 2}\n",
        "methods/5w1s/maml.yaml": "evaluate: {steps: 2}\n",
        "methods/5w1s/protonet.yaml": "train: {ways: 8}\n",
        "notes.yaml": "5w1s: {protonet: a note}\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr(cell, "FOLDER", folder)
    return folder


def test_from_data_to_table(tiny):
    cell.download_data(cell.load_settings("5w1s"), tiny / "raw")
    cell.prepare_episodes("5w1s", tiny / "raw", tiny / "data/5w1s")
    for method in ("maml", "protonet"):
        cell.train(
            cell.load_settings("5w1s", method),
            tiny / "data/5w1s",
            tiny / f"trained/{method}-5w1s",
        )
        cell.evaluate(
            method,
            "5w1s",
            tiny / "data/5w1s",
            tiny / f"trained/{method}-5w1s",
            tiny / f"cells/{method}-5w1s",
        )
    facts, episodes = (
        read_json(tiny / "cells/maml-5w1s/cell.json"),
        pd.read_csv(tiny / "cells/maml-5w1s/episodes.csv"),
    )
    assert (facts["steps"], facts["iterations"], len(episodes)) == (2, 6, 20) and facts[
        "seconds"
    ] > 0
    assert read_json(tiny / "cells/protonet-5w1s/cell.json")["steps"] == 0
    (tiny / "methods/5w1s/anil.yaml").write_text("{}")
    table.write(tiny / "cells", tiny / "notes.yaml", tiny / "methods", tiny / "results")
    rows = pd.read_csv(tiny / "results/results.csv").set_index("method")
    other = pd.read_csv(tiny / "cells/protonet-5w1s/episodes.csv")
    mean, ci95 = mean_ci95((other["transductive"] - episodes["transductive"]).to_numpy())
    np.testing.assert_allclose(
        rows.loc["protonet", ["to_maml", "to_maml_ci95"]].astype(float), [mean, ci95]
    )
    np.testing.assert_allclose(rows.loc["maml", "accuracy"], episodes["transductive"].mean())
    assert np.isnan(rows.loc["maml", "to_maml"])
    markdown = (tiny / "results/results.md").read_text()
    assert (
        "**Omniglot, 5-way 1-shot**" in markdown
        and "98.7 % ± 0.4" in markdown
        and "98.8 %" in markdown
        and "; a note |" in markdown
    )
    assert markdown.endswith("\n\nNot computed yet: `anil` 5w1s.\n")
    for name in ("omniglot.svg", "omniglot-training.svg"):
        assert (tiny / "results" / name).read_text().startswith("<svg")
    validation = pd.read_csv(tiny / "cells/maml-5w1s/validation.csv")
    assert list(validation["iteration"]) == [3, 6]


def write_cell(folder, method: str, setting: str, accuracy: float, **changes) -> None:
    """Write a synthetic cell of four episodes; `changes` are facts, and "absent" removes one."""
    cell_folder = folder / f"{method}-{setting}"
    cell_folder.mkdir(parents=True)
    pd.DataFrame(
        {"episode": range(4), "inductive": accuracy - 0.1, "transductive": accuracy}
    ).to_csv(cell_folder / "episodes.csv", index=False)
    facts = {
        "method": method,
        "setting": setting,
        "batch_norm": "transductive",
        "steps": 1,
        "iterations": 5,
        "meta_batch": 4,
        "ensemble": 1,
        "seconds": 60.0,
        "peak_memory_bytes": 10**9,
        "label_sd": 0.0123,
        "data_digest": "a",
        "device": "cpu",
        "gpu": None,
        "processes": 2,
        "processor": "x86_64",
        "protocol": "maml split",
        "queries": 1,
        "train_ways": 5,
        "train_shots": int(setting[-2]),
        "model": {"name": "conv4", "filters": 64},
        "dataset": {"split": "maml", "rotations": True, "rotate_test": True},
    }
    write_json(
        cell_folder / "cell.json",
        {key: value for key, value in (facts | changes).items() if value != "absent"},
    )


def test_settings_come_in_order_and_best_first(tmp_path):
    for number, (method, setting) in enumerate(
        [("maml", "20w1s"), ("maml", "5w5s"), ("protonet", "5w1s"), ("maml", "5w1s")]
    ):
        write_cell(tmp_path, method, setting, 0.5 + 0.1 * number)
    result = table.build_table(tmp_path)
    order = [("5w1s", "maml"), ("5w1s", "protonet"), ("5w5s", "maml"), ("20w1s", "maml")]
    assert list(zip(result["setting"], result["method"], strict=True)) == order
    np.testing.assert_allclose(result["inductive"], result["accuracy"] - 0.1)
    assert table.render_markdown(result, {}).count("**Omniglot, ") == 3


def test_notes_on_unknown_methods_and_missing_cells_are_rejected(tmp_path):
    write_cell(tmp_path / "cells", "maml", "5w1s", 0.9)
    write_cell(tmp_path / "cells", "anil", "5w1s", 0.8)
    (tmp_path / "notes.yaml").write_text("5w1s: {mamal: a note}")
    with pytest.raises(
        StageError, match=r"notes\.yaml has a note on mamal 5w1s, which has no recipe in .*methods"
    ):
        table.write(
            tmp_path / "cells", tmp_path / "notes.yaml", tmp_path / "methods", tmp_path / "out"
        )
    cut = tmp_path / "cells/anil-5w1s/episodes.csv"
    pd.read_csv(cut)[:3].to_csv(cut, index=False)
    with pytest.raises(
        StageError, match="anil and maml have 3 and 4 5w1s episodes: run make benchmark"
    ):
        table.build_table(tmp_path / "cells")


def test_documentation_has_the_figures_of_the_table():
    """Each row of the documentation is a row of results.md, in the columns that it has."""

    def tables(text: str, head: str) -> list[list[list[str]]]:
        found = re.findall(rf"^\| {head}.*?(?:\n\n|\Z)", text.replace("\xa0", " "), re.S | re.M)
        return [
            [
                [part.strip() for part in line.split("|")[1:-1]]
                for line in table.splitlines()
                if line.startswith("| `")
            ]
            for table in found
        ]

    results = (ROOT / "benchmarks/methods/results/results.md").read_text()
    page = (ROOT / "docs/results/method-benchmark.md").read_text()
    generated = tables(results, r"method \| accuracy")
    documented = tables(page, r"algorithm \| accuracy \| inductive")
    columns = [0, 1, 2, 3, 5, 6, 7]
    assert documented == [[[row[i] for i in columns] for row in rows] for rows in generated]
    assert documented


def test_rows_report_differing_settings(tmp_path):
    write_cell(tmp_path, "maml", "5w1s", 0.9)
    write_cell(
        tmp_path,
        "reptile",
        "5w1s",
        0.8,
        train_shots=10,
        steps=50,
        model={"name": "conv4", "filters": 32},
        ensemble=5,
    )
    maml, reptile = (
        line
        for line in table.render_markdown(
            table.build_table(tmp_path), {"5w1s": {"reptile": "why"}}
        ).splitlines()
        if line.startswith(("| `maml`", "| `reptile`"))
    )
    assert (
        maml.endswith("| 98.7 % ± 0.4 | 1\u00a0step |")
        and "| 1.23 |" in maml
        and "| 80.0\u00a0% |" in maml
    )
    assert (
        "−10.0 ± 0.0" in reptile
        and "trained 5-way 10-shot, 32 filters, 50\u00a0steps, "
        "ensemble of 5 checkpoints; published: "
        in reptile
    )
    assert (
        "split 1200/423 (here maml)" in reptile
        and "rotations training (here all)" in reptile
        and reptile.endswith("; why |")
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ensemble": "absent"},
            r"protonet-5w1s/cell\.json has no ensemble; it was written by a different version "
            "of the code: run make benchmark",
        ),
        (
            {"data_digest": "b"},
            "protonet and maml were tested on different 5w1s episodes: run make benchmark",
        ),
    ],
)
def test_inconsistent_cells_are_rejected(changes, message, tmp_path):
    write_cell(tmp_path, "maml", "5w1s", 0.9)
    write_cell(tmp_path, "protonet", "5w1s", 0.9, **changes)
    with pytest.raises(StageError, match=message):
        table.build_table(tmp_path)


def test_missing_cells_raise_stage_error(tmp_path):
    with pytest.raises(StageError, match="there are no cells"):
        table.build_table(tmp_path)


def test_a_published_result_of_another_network_is_shown_with_a_remark(tmp_path):
    cifar = {
        "dataset": {"features": {}},
        "protocol": "CIFAR-FS split",
        "queries": 15,
        "train_ways": 20,
    }
    write_cell(tmp_path, "ridge", "cifar_fs-5w1s", 0.6, **cifar)
    write_cell(tmp_path, "protonet", "cifar_fs-5w1s", 0.5, **cifar)
    markdown = table.render_markdown(table.build_table(tmp_path), {})
    assert "**CIFAR-FS, 5-way 1-shot**" in markdown
    ridge, protonet = (line for line in markdown.splitlines() if line.startswith("| `"))
    assert "| 65.3 % ± 0.2 |" in ridge
    assert "network four blocks of 96 to 512 filters (here conv4)" in ridge
    assert "| 55.5 % ± 0.7 |" in protonet and "network" not in protonet
    assert "split" not in protonet and "rotations" not in protonet


def test_the_readme_shows_the_results_of_the_benchmark():
    results = pd.read_csv(ROOT / "benchmarks/methods/results/results.csv")
    omniglot = results[results["setting"] == "5w1s"].set_index("method")
    rows = re.findall(
        r"\| \[Omniglot, 5-way 1-shot, (\w+)\]\[b\] \| ([\d.]+) % ± ([\d.]+) \|",
        (ROOT / "README.md").read_text(encoding="utf-8"),
    )
    assert len(rows) == 2
    for name, *shown in rows:
        found = omniglot.loc[name.lower(), ["accuracy", "ci95"]] * 100
        assert shown == [f"{value:.1f}" for value in found]
