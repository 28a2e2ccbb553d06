"""Transfer across domains: the parameters are valid, and cells become a matrix."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from encoders import import_small_encoder
from photographs import write_photographs
from support import ROOT

from benchmarks.cross_domain import cell, table
from benchmarks.methods import cell as methods_cell
from episodic.core.statistics import mean_ci95
from tasks import params, prepared
from tasks.evaluation.evaluation import check_inputs
from tasks.runtime.files import read_json, write_json
from tasks.runtime.stage import StageError

PIPELINE = params.read_yaml(ROOT / "benchmarks/cross_domain/dvc.yaml")["stages"]
MATRIX = params.read_yaml(ROOT / "benchmarks/cross_domain/matrix.yaml")
LEARNERS = [(learner["input"], learner["method"]) for learner in MATRIX["learners"]]
OWN = "image_folder"


@pytest.mark.parametrize(
    ("benchmark_stage", "stage"),
    [("raw", "download"), ("data", "episodes"), ("train", "train"), ("cell", "evaluate")],
)
def test_benchmark_stages_have_the_code_deps_of_the_pipeline(benchmark_stage, stage):
    known = params.read_yaml(ROOT / "dvc.yaml")["stages"][stage]["deps"]
    names = {
        "${dataset.name}": "${item.dataset.dataset}",
        "models/${model.name}.py": "models",  # of two inputs
        "${algorithm.name}": "${item.learner.method}",
    }
    expected = {dep for dep in known if dep.startswith(("episodic/", "tasks/"))}
    for name, replacement in names.items():
        expected = {dep.replace(name, replacement) for dep in expected}
    if benchmark_stage == "cell":  # scores without baselines and analyses, of all methods
        expected -= {"episodic/analysis", "tasks/evaluation", "tasks/evaluate.py"}
        expected -= {"episodic/algorithms/${item.learner.method}.py"}
        expected |= {"episodic/algorithms", "tasks/evaluation/evaluation.py"}
    deps = PIPELINE[benchmark_stage]["deps"]
    code = {dep for dep in deps if dep.startswith("../") or dep.endswith(".py")}
    assert code == {f"../../{dep}" for dep in expected} | {"../methods/cell.py", "cell.py"}
    assert len(code) <= 15


def test_dvc_reads_the_pipeline():
    environment = os.environ | {
        "DVC_SITE_CACHE_DIR": str(ROOT / ".dvc/tmp/site-cache"),
        "DVC_NO_ANALYTICS": "1",
    }
    stdout = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only"],
        cwd=ROOT / "benchmarks" / "cross_domain",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    datasets, learners = len(MATRIX["datasets"]), len(LEARNERS)
    numbers = {"raw": datasets, "data": datasets, "train": datasets * learners}
    numbers |= {"cell": datasets**2, "table": 1}
    assert {name: sum(n.split("@")[0] == name for n in stdout) for name in numbers} == numbers


@pytest.mark.parametrize(("input", "method"), LEARNERS)
def test_parameters_are_sound(input, method):
    for dataset in MATRIX["datasets"]:
        if dataset["dataset"] != OWN:
            settings = cell.load_settings(dataset["name"], input, "5w5s", method)
            assert (settings.algorithm.name, settings.episodes.ways, settings.episodes.shots) == (
                method, 5, 5,
            )  # fmt: skip
            assert settings.dataset.config.features.kind == input


def test_every_recipe_is_a_learner():
    folder = ROOT / "benchmarks/cross_domain/methods"
    assert {(path.parent.name, path.stem) for path in folder.glob("*/*.yaml")} == set(LEARNERS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A matrix of glyphs and photographs, from scratch and over an encoder, in seconds."""
    folder = tmp_path_factory.mktemp("cross_domain")
    names = [f"class{label:02d}" for label in range(15)]
    write_photographs(folder / "photographs", names, 6, (60, 40))
    import_small_encoder(folder / "small.safetensors", 64)
    for name, text in {
        "matrix.yaml": "datasets:\n"
        "  - {name: glyphs, dataset: glyphs, source: ../../data/own}\n"
        "  - {name: photos, dataset: image_folder, source: photographs}\n"
        "settings: [3w1s]\n"
        "learners:\n"
        "  - {input: pixels, method: protonet}\n"
        "  - {input: pixels, method: maml}\n"
        "  - {input: encoder, method: simpleshot}\n",
        "base.yaml": "dataset: {glyphs: {alphabets: 5}}\n"
        "episodes: {validation: 4, test: 30, queries: 2, open: 0.0, other_sizes: []}\n"
        "train: {iterations: 4, meta_batch: 2, queries: 2, validate_every: 2, calibration: null}\n",
        "inputs/pixels.yaml": "dataset: {features: {size: 16}}\nmodel: {conv4: {filters: 8}}\n",
        "inputs/encoder.yaml": "dataset: {features: {kind: encoder, path: "
        f"{folder / 'small.safetensors'}}}}}\n"
        "subset: {classes: {train: 5, validation: 3, test: 4}, examples: 5}\n"
        "model: {name: mlp, mlp: {hidden: []}}\n",
        "methods/pixels/protonet.yaml": "{}\n",
        "methods/pixels/maml.yaml": "evaluate: {steps: 2}\n",
        "methods/encoder/simpleshot.yaml": "{}\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell, "FOLDER", folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for dataset in ("glyphs", "photos"):
            cell.download_data(dataset, folder / "raw" / dataset)
            data = folder / "data/3w1s" / dataset
            cell.prepare_episodes("3w1s", dataset, folder / "raw" / dataset, data)
            for learner in cell.read_matrix()["learners"]:
                methods_cell.train(
                    cell.load_settings(dataset, learner["input"], "3w1s", learner["method"]),
                    data / learner["input"],
                    folder / "trained/3w1s" / dataset / cell.name_learner(learner),
                )
        for source in ("glyphs", "photos"):
            for target in ("glyphs", "photos"):
                cell.score(
                    "3w1s",
                    source,
                    target,
                    folder / "data/3w1s" / target,
                    folder / "trained/3w1s" / source,
                    folder / f"cells/3w1s/{source}-{target}",
                )
        yield folder


def test_all_examples_have_one_form(tiny):
    for input, shape in (("pixels", [3, 16, 16]), ("encoder", [1280])):
        metas = [
            read_json(tiny / "data/3w1s" / dataset / input / "meta.json")
            for dataset in ("glyphs", "photos")
        ]
        assert [meta["input"] for meta in metas] == [shape] * 2
        assert metas[0]["inputs"] == metas[1]["inputs"]
    assert metas[0]["classes"] == {"train": 5, "validation": 3, "test": 4}
    counts = pd.read_parquet(tiny / "data/3w1s/glyphs/encoder/classes.parquet")["count"]
    assert set(counts) == {5}


def test_from_cells_to_the_matrix(tiny):
    table.write(tiny / "cells", tiny / "matrix.yaml", tiny / "results")
    rows = pd.read_csv(tiny / "results/results.csv").set_index(["source", "target", "method"])
    assert len(rows) == 2 * 2 * 3
    episodes = {
        key: pd.read_csv(tiny / f"cells/3w1s/{key[0]}-{key[1]}/episodes.csv")
        for key in (("glyphs", "glyphs"), ("photos", "glyphs"), ("photos", "photos"))
    }
    moved, home = episodes["photos", "glyphs"], episodes["glyphs", "glyphs"]
    row = rows.loc["photos", "glyphs", "maml"]
    np.testing.assert_allclose(row["accuracy"], moved["pixels-maml"].mean())
    expected = mean_ci95((moved["pixels-maml"] - home["pixels-maml"]).to_numpy())
    np.testing.assert_allclose([row["to_home"], row["to_home_ci95"]], expected)
    expected = mean_ci95((moved["pixels-maml"] - moved["pixels-protonet"]).to_numpy())
    np.testing.assert_allclose([row["to_protonet"], row["to_protonet_ci95"]], expected)
    assert np.isnan(rows.loc["glyphs", "glyphs", "maml"]["to_home"])
    assert rows.loc["photos", "glyphs", "maml"]["steps"] == 2
    # Photographs of a class are variations of one image, which the encoder tells apart.
    assert rows.loc["glyphs", "photos", "simpleshot"]["accuracy"] > 0.8
    ranks = pd.read_csv(tiny / "results/ranks.csv")
    assert set(ranks["source"]) == {"glyphs", "photos", "all"} and set(ranks["input"]) == {"pixels"}
    assert (ranks.groupby("source")["rank"].sum() == 3).all()
    text = (tiny / "results/results.md").read_text()
    assert "**3w1s, pixels**" in text and "**3w1s, encoder**" in text
    assert re.search(r"\| photos \| `maml` \| [\d.]+.%.± [\d.]+ \([\d.]+\) \| \*\*", text)
    assert "| photos | encoder | classes split at random, subset of" in text
    assert "Not computed yet" not in text
    assert (tiny / "results/results.svg").read_text().startswith("<svg")


def test_a_matrix_with_missing_cells_says_so(tiny, tmp_path):
    matrix = params.read_yaml(tiny / "matrix.yaml")
    cells = table.read_cells(tiny / "cells", matrix)
    del cells["3w1s", "glyphs", "photos"]
    assert table.list_missing(cells, matrix) == ("\nNot computed yet: glyphs to photos (3w1s).\n")
    rows, ranks = table.build_table(cells), table.build_ranks(cells)
    assert len(rows) == 9
    assert "| glyphs | `maml` |" in table.render_markdown(rows, ranks, cells, matrix)


def test_a_model_is_refused_on_other_inputs(tiny, tmp_path):
    """Examples of another shape, and of the same shape but computed in another way."""
    trained = tiny / "trained/3w1s/glyphs"
    with pytest.raises(
        StageError,
        match=r"pixels has examples \(image, 1 x 28 x 28, inverted\) of glyphs, and the model was "
        r"trained on examples \(image, 3 x 16 x 16\) of glyphs: prepare both with the same feat",
    ):
        score_changed(tiny, tmp_path / "shape", trained, input=[1, 28, 28], inverted=True)
    with pytest.raises(
        StageError,
        match=r"has examples \(image, 3 x 16 x 16, inverted\) of glyphs, and the model was trained",
    ):
        score_changed(tiny, tmp_path / "inverted", trained, input=[3, 16, 16], inverted=True)


def test_a_model_is_refused_on_features_of_another_encoder(tiny):
    config = read_json(tiny / "trained/3w1s/glyphs/encoder-simpleshot/model/config.json")
    folder = prepared.open_folder(tiny / "data/3w1s/photos/encoder", torch.device("cpu"))
    check_inputs(config, folder)
    config["inputs"]["encoder"] = config["inputs"]["encoder"] | {"digest": "0123456789"}
    with pytest.raises(
        StageError,
        match=r"has features \(1280\) of the encoder \w+ \(\w{7}\) of image_folder, and the model "
        r"was trained on features \(1280\) of the encoder \w+ \(0123456\) of glyphs: prepare both",
    ):
        check_inputs(config, folder)


def score_changed(tiny, folder, trained, input, inverted) -> None:
    """Score models on prepared data whose meta.json tells of other inputs."""
    for name in ("pixels", "encoder"):
        meta = read_json(tiny / "data/3w1s/glyphs" / name / "meta.json")
        if name == "pixels":
            meta |= {"input": input, "inputs": {"kind": "image", "inverted": inverted}}
        (folder / name).mkdir(parents=True)
        write_json(folder / name / "meta.json", meta)
    cell.score("3w1s", "glyphs", "glyphs", folder, trained, folder / "out")


def test_unknown_names_are_refused(tiny):
    with pytest.raises(StageError, match=r"matrix\.yaml has no dataset photo; it has glyphs, ph"):
        cell.load_settings("photo", "pixels")
    with pytest.raises(StageError, match=r"has the setting 5x1; it must be ways and shots, such"):
        cell.load_settings("glyphs", "pixels", "5x1")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: photos", "name: glyphs", "has several datasets with the name glyphs: choose"),
        (
            "dataset: image_folder",
            "dataset: sinusoid",
            "has the dataset sinusoid as photos; it must be one of images",
        ),
    ],
)
def test_a_wrong_matrix_is_refused(old, new, message, tiny, monkeypatch, tmp_path):
    for path in ("base.yaml", "inputs/pixels.yaml"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text((tiny / path).read_text())
    (tmp_path / "matrix.yaml").write_text((tiny / "matrix.yaml").read_text().replace(old, new))
    monkeypatch.setattr(cell, "FOLDER", tmp_path)
    with pytest.raises(StageError, match=message):
        cell.load_settings("photos", "pixels")


def test_inconsistent_cells_are_refused(tiny, tmp_path):
    matrix = params.read_yaml(tiny / "matrix.yaml")
    with pytest.raises(StageError, match="there are no cells in"):
        table.read_cells(tmp_path, matrix)
    for folder in (tiny / "cells/3w1s").iterdir():
        copy = tmp_path / "3w1s" / folder.name
        copy.mkdir(parents=True)
        for file in folder.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    changed = tmp_path / "3w1s/photos-glyphs/cell.json"
    facts = read_json(changed)
    facts["inputs"]["pixels"]["data_digest"] = "other"
    write_json(changed, facts)
    with pytest.raises(
        StageError,
        match="photos and glyphs were tested on different 3w1s episodes of glyphs: run make cross",
    ):
        table.read_cells(tmp_path, matrix)
    matrix["learners"] = matrix["learners"][:2]
    with pytest.raises(StageError, match=r"glyphs-glyphs has other learners than matrix\.yaml"):
        table.read_cells(tmp_path, matrix)


def test_documentation_has_the_tables_of_the_results():
    """Each row of results.md is on the page, in the same order."""

    def rows(text: str) -> list[str]:
        return [line for line in text.replace("\xa0", " ").splitlines() if line.startswith("| ")]

    generated = rows((ROOT / "benchmarks/cross_domain/results/results.md").read_text())
    page = rows((ROOT / "docs/results/cross-domain.md").read_text())
    assert len(generated) > 80 and page == generated
