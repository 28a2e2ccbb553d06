"""Reliability through the stages: queries of unknown classes, other sizes, what is learned."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from stages import EVALUATE, TRAIN, prepare_folder, prepare_sentences, run_stage, set_param

import episodic
from episodic.training.calibration import Calibration, fit_calibration
from episodic.training.reliability import read_reliability
from tasks import prepared
from tasks.runtime.files import read_json

SIZES = {"episodes.ways": "4", "episodes.other_sizes": "[[3, 2], [5, 1]]", "episodes.open": "0.25"}


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """Nearest class means of n-gram vectors, which adapt to any number of ways."""
    changes = {"algorithm.name": "protonet", "episodes.test": "60", **SIZES}
    folder = prepare_sentences(tmp_path_factory.mktemp("sentences"), **changes)
    run_stage(folder, "train", *TRAIN)
    run_stage(folder, "evaluate", *EVALUATE)
    return folder


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """MAML, whose head has five outputs, on a model with batch norm."""
    changes = {"episodes.other_sizes": "[[5, 2], [3, 1]]", "evaluate.steps": "null"}
    folder = prepare_folder(tmp_path_factory.mktemp("drawings"), **changes)
    output, _ = run_stage(folder, "train", *TRAIN)
    assert '"not calibrated for other ways"' in output and "validation-3way-1shot" in output
    run_stage(folder, "evaluate", *EVALUATE)
    return folder


def test_unknown_queries_are_of_other_classes_of_the_split(sentences):
    meta = read_json(sentences / "prepared/meta.json")
    assert meta["other_sizes"] == [[3, 2], [5, 1]]
    classes = prepared.add_offsets(pd.read_parquet(sentences / "prepared/classes.parquet"))
    of_row = np.repeat(np.arange(len(classes)), classes["count"])
    for split in ("validation", "test"):
        for name, ways in ((split, 4), (f"{split}-3way-2shot", 3), (f"{split}-5way-1shot", 5)):
            table = pd.read_parquet(sentences / f"prepared/{name}.parquet")
            if ways == 5:  # all classes of the split are in each episode
                assert (classes["split"] == split).sum() == 5 and "unknown" not in table
                continue
            assert set(table["unknown"].map(len)) == {round(ways * 4 / 3)}, "a quarter of all"
            for _, row in table.iterrows():
                others = of_row[row["unknown"]]
                assert not set(others) & set(row["classes"])
                assert set(classes["split"].iloc[others]) == {split}


def test_other_sizes_do_not_change_the_main_episodes(sentences, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(sentences, folder)
    set_param(folder, "other_sizes", "[]")
    set_param(folder, "episodes.open", "0")
    run_stage(folder, "episodes", "--raw", "raw", "--out", "prepared")
    for split in ("validation", "test"):
        name = f"prepared/{split}.parquet"
        expected = pd.read_parquet(sentences / name).drop(columns="unknown")
        pd.testing.assert_frame_equal(pd.read_parquet(folder / name), expected)
    assert not list((folder / "prepared").glob("*way*"))
    run_stage(folder, "train", *TRAIN)
    run_stage(folder, "evaluate", *EVALUATE)
    metrics, full = read_json(folder / "metrics.json"), read_json(sentences / "metrics.json")
    assert "unknown" not in metrics and not (folder / "scores/detection.csv").exists()
    for values, expected in (
        (metrics["accuracy"], full["accuracy"]),
        (metrics["calibration"], full["calibration"]),
        (metrics["sets"]["coverage_90"], full["sets"]["coverage_90"]),
    ):
        assert values == pytest.approx(expected)


def test_reliability_is_learned_on_validation_episodes_alone(sentences, tmp_path):
    """With other test episodes the model is the same; with other validation episodes it is not."""
    expected = (sentences / "model/config.json").read_bytes()
    for split, is_same in (("test", True), ("validation", False)):
        folder = tmp_path / split
        shutil.copytree(sentences, folder)
        for path in (folder / "prepared").glob(f"{split}*.parquet"):
            pd.read_parquet(path)[::-2].to_parquet(path, index=False)
        run_stage(folder, "train", *TRAIN)
        assert ((folder / "model/config.json").read_bytes() == expected) == is_same
        fitted = read_reliability(read_json(folder / "model/config.json"))
        assert [(entry.ways, entry.shots) for entry in fitted] == [(4, 1), (3, 2), (5, 1)]
        assert [entry.unknown is None for entry in fitted] == [False, False, True]


def test_measured_on_test_episodes_as_an_adapted_model_predicts(sentences):
    """Accuracy, coverage and calibration of the stage are those of adapted models."""
    metrics = read_json(sentences / "metrics.json")
    source = prepared.open_folder(sentences / "prepared", torch.device("cpu"))
    learner = episodic.load(sentences / "model")
    sizes = pd.read_csv(sentences / "scores/sizes.csv").set_index(["ways", "shots"])
    for ways, shots in ((4, 1), (3, 2)):
        sized = source if ways == 4 else source.at_size((ways, shots))
        episodes = sized.build_episodes(sized.read_episodes("test"))
        correct, covered, size, likelihood = [], [], [], []
        for x, y, query, labels in zip(*episodes.tensors, strict=True):
            adapted = learner.adapt(x.numpy(), y.tolist())
            p = adapted.predict_proba(query.numpy())
            assert (adapted.reliability.ways, adapted.reliability.shots) == (ways, shots)
            members = adapted.reliability.sets(torch.from_numpy(p), 0.9).numpy()
            true = np.arange(len(labels)), labels.numpy()
            correct.append((p.argmax(1) == labels.numpy()).mean())
            covered.append(members[true].mean())
            size.append(members.sum(1).mean())
            likelihood.append(-np.log(p[true]).mean())
        row = sizes.loc[ways, shots]
        for name, values in (
            ("accuracy", correct),
            ("set_coverage", covered),
            ("set_size", size),
            ("likelihood", likelihood),
        ):
            assert row[name] == pytest.approx(np.mean(values), rel=1e-5), name
        assert row["likelihood"] < row["raw_likelihood"] or ways == 3
    for name in ("ece", "likelihood", "brier"):  # this model has no batch norm, so one mode
        for prefix in ("", "raw_"):
            value = metrics["calibration"][f"{prefix}{name}"]
            assert value == pytest.approx(sizes.loc[4, 1][f"{prefix}{name}"], rel=1e-4)
        assert metrics["calibration"][name] < metrics["calibration"][f"raw_{name}"]
    assert metrics["sets"]["coverage_90"]["coverage"] == sizes.loc[4, 1]["set_coverage"]
    coverages = [metrics["sets"][f"coverage_{c}"]["coverage"] for c in (80, 90, 95, 99)]
    assert coverages == sorted(coverages) and coverages[-1] > 0.9


def test_unknown_classes_are_measured_at_the_threshold(sentences):
    metrics = read_json(sentences / "metrics.json")["unknown"]
    queries = pd.read_parquet(sentences / "scores/open.parquet")
    (fitted, *_) = read_reliability(read_json(sentences / "model/config.json"))
    assert (metrics["score"], metrics["threshold"]) == (
        fitted.unknown.score,
        fitted.unknown.threshold,
    )
    accepted = queries[metrics["score"]] >= metrics["threshold"]
    is_known = queries["label"] >= 0
    others = metrics["other_classes"]
    assert others["accepted_known"] == pytest.approx(accepted[is_known].mean())
    assert others["accepted_unknown"] == pytest.approx(accepted[~is_known].mean())
    assert others["accepted_known"] > others["accepted_unknown"] + 0.2
    detection = pd.read_csv(sentences / "scores/detection.csv").set_index("score")
    assert detection.loc[metrics["score"], "auroc"] == pytest.approx(others["auroc"])
    known, unknown = (queries[part][metrics["score"]].to_numpy() for part in (is_known, ~is_known))
    larger = (known[:, None] > unknown).mean() + (known[:, None] == unknown).mean() / 2
    assert others["auroc"] == pytest.approx(larger) and larger > 0.7, "chance is 0.5"
    selective = pd.read_csv(sentences / "scores/selective.csv").query(
        f"score == '{metrics['score']}'"
    )
    correct = (queries["label"] == queries["prediction"]).mean()
    assert selective["accuracy"].iloc[-1] == pytest.approx(correct)
    assert selective["answered"].iloc[-1] == 1
    order = np.argsort(-queries[metrics["score"]].to_numpy(), kind="stable")
    half = (queries["label"] == queries["prediction"]).to_numpy()[order][: len(order) // 2]
    assert selective["accuracy"].iloc[9] == pytest.approx(half.mean())


def test_batch_norm_is_inductive_for_adapted_models(drawings):
    config = read_json(drawings / "model/config.json")
    assert config["reliability"].keys() == {"inductive", "transductive"}
    inductive, transductive = (read_reliability(config, m) for m in ("inductive", "transductive"))
    assert [(entry.ways, entry.shots) for entry in inductive] == [(5, 1), (5, 2)]
    assert len(transductive) == 1 and transductive[0].unknown is None
    assert inductive[0].calibration != transductive[0].calibration
    # The temperature is that of adapted models' own outputs for the validation episodes.
    source = prepared.open_folder(drawings / "prepared", torch.device("cpu"))
    episodes = source.build_episodes(source.read_episodes("validation"))
    learner = episodic.load(drawings / "model")
    outputs = [
        learner.adapt(x.numpy(), y.tolist()).outputs(query)
        for x, y, query, _ in zip(*episodes.tensors, strict=True)
    ]
    expected = fit_calibration(torch.stack(outputs), episodes.query_y).temperature
    assert inductive[0].calibration.temperature == pytest.approx(expected, rel=1e-3)
    assert abs(expected / transductive[0].calibration.temperature - 1) > 0.01
    metrics = read_json(drawings / "metrics.json")
    assert metrics["calibration"]["temperature"] == transductive[0].calibration.temperature
    sizes = pd.read_csv(drawings / "scores/sizes.csv")
    assert sizes["accuracy"][0] == pytest.approx(metrics["inductive"]["accuracy"], abs=1e-6)
    assert sizes["temperature"][0] == inductive[0].calibration.temperature


def test_without_calibration(drawings, tmp_path):
    """Sets and unknown classes need none."""
    folder = tmp_path / "copy"
    shutil.copytree(drawings, folder)
    set_param(folder, "train.calibration", "null")
    run_stage(folder, "train", *TRAIN)
    run_stage(folder, "evaluate", *EVALUATE)
    (fitted, *_) = read_reliability(read_json(folder / "model/config.json"))
    assert fitted.calibration is None and fitted.sets is not None and fitted.unknown is not None
    metrics = read_json(folder / "metrics.json")
    assert "ece" not in metrics["calibration"] and "raw_ece" in metrics["calibration"]
    learner = episodic.load(folder / "model")
    x = np.zeros((5, *learner.config["input"]), np.float32)
    x[range(5), :, range(5)] = 1
    assert learner.adapt(x, list("abcde")).calibration == Calibration()


@pytest.mark.parametrize(
    "key, value, message",
    [
        (
            "other_sizes",
            "[[1, 1]]",
            "episodes.other_sizes.0 is [1, 1]; it must have at least 2 ways",
        ),
        ("other_sizes", "[[4, 1]]", "episodes.other_sizes.0 is [4, 1]; it must differ from"),
        (
            "other_sizes",
            "[[3, 1], [3, 1]]",
            "episodes.other_sizes.1 is [3, 1]; it must differ from",
        ),
        ("other_sizes", "[[9, 1]]", "episodes.other_sizes.0 has 9 ways; it must have at most 5"),
        ("other_sizes", "[[5, 8]]", "episodes.other_sizes.0 has 8 shots; with 4 episodes.queries"),
        ("other_sizes", "[[3]]", "episodes.other_sizes.0"),
        ("other_sizes", "[3]", "episodes.other_sizes.0 is 3; it must be a list"),
        ("episodes.open", "1.0", "episodes.open is 1.0; it must be at most 0.9"),
    ],
)
def test_sizes_that_are_not_possible(sentences, tmp_path, key, value, message):
    text = (sentences / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    shutil.copy(sentences / "sentences.csv", tmp_path)
    set_param(tmp_path, key, value)
    _, error = run_stage(tmp_path, "download", "--out", "raw", code=1)
    assert message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "raw").exists()
