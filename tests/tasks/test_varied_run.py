"""Test episodes of different ways and shots, through the stages and in the reports."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from stages import (
    EVALUATE,
    REPORT,
    TRAIN,
    prepare_folder,
    prepare_sentences,
    read_outputs,
    read_text,
    run_stage,
    set_param,
)

import episodic
from episodic.core.episode_size import describe_sizes
from episodic.training import evaluation, model_folder
from tasks import params, prepared, train
from tasks.runtime.files import read_json

SIZES = {"episodes.ways": "[2, 4]", "episodes.shots": "[1, 3]", "episodes.unbalanced": "true"}


def run_all(folder) -> None:
    run_stage(folder, "train", *TRAIN)
    run_stage(folder, "evaluate", *EVALUATE)
    run_stage(folder, "report", *REPORT)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """A model without batch norm, whose episodes are padded to batches."""
    changes = {"algorithm.name": "protonet", **SIZES}
    folder = prepare_sentences(tmp_path_factory.mktemp("sentences"), **changes)
    run_all(folder)
    return folder


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """A model with batch norm, whose episodes are computed one at a time."""
    changes = {"algorithm.name": "protonet", **SIZES}
    folder = prepare_folder(tmp_path_factory.mktemp("drawings"), **changes)
    run_all(folder)
    return folder


@pytest.fixture(params=["sentences", "drawings"])
def run(request):
    """The folder of a run."""
    return request.getfixturevalue(request.param)


def test_the_episodes_are_unequal_and_within_the_bounds(run):
    meta = read_json(run / "prepared/meta.json")
    bounds = {"ways": [2, 4], "shots": [1, 3], "unbalanced": True}
    assert (meta["varied"], meta["ways"], meta["shots"]) == (bounds, 4, 3)
    config = read_json(run / "model/config.json")
    assert (config["varied"], config["ways"], config["shots"]) == (bounds, 4, 3)
    for split in ("validation", "test"):
        table = pd.read_parquet(run / f"prepared/{split}.parquet")
        ways = table["classes"].map(len)
        assert set(ways) == {2, 3, 4}
        assert (table["shots"].map(len) == ways).all()
        assert (table["support"].map(len) == table["shots"].map(sum)).all()
        assert (table["query"].map(len) == ways * meta["queries"]).all()
        assert set(np.concatenate(table["shots"])) == {1, 2, 3}
        assert any(len(set(shots)) > 1 for shots in table["shots"])
        assert all(
            len({*support, *query}) == len(support) + len(query)
            for support, query in zip(table["support"], table["query"], strict=True)
        )


def test_large_validation_sets_are_built_chunk_by_chunk(run, tmp_path, monkeypatch):
    """They give the same bytes as those that are built at once."""
    monkeypatch.chdir(run)
    monkeypatch.setattr(prepared, "MAX_NUMBERS_IN_MEMORY", 0)
    build, built = prepared.PreparedFolder.build_episodes, []

    def record(source, table):
        built.append(len(table))
        return build(source, table)

    monkeypatch.setattr(prepared.PreparedFolder, "build_episodes", record)
    settings = params.load(run / "params.yaml", "episodes", "model", "algorithm", "train")
    paths = [tmp_path / name for name in ("model", "history", "run.json")]
    train.run(settings, run / "prepared", *paths)
    assert max(built) < settings.episodes.validation and sum(built) >= settings.episodes.validation
    outputs, expected = read_outputs(tmp_path), read_outputs(run)
    del outputs["model/config.json"], expected["model/config.json"]  # with the imported modules
    assert outputs == expected


def test_every_episode_has_the_score_that_it_has_alone(run):
    """In float64, of a batch padded to the largest size and of single episodes."""
    source = prepared.open_folder(run / "prepared", torch.device("cpu"))
    test = source.read_episodes("test")
    padded = source.build_episodes(test)
    padded = padded._replace(support_x=padded.support_x.double(), query_x=padded.query_x.double())
    assert padded.is_padded and set(padded.task_ways.tolist()) == {2, 3, 4}
    trained = model_folder.load(run / "model")
    theta = {name: p.double() for name, p in trained.members[0].items()}
    scores, losses = evaluation.episode_scores(trained.learner, theta, padded, 0)
    for i, line in enumerate(test[:30].to_dict("records")):
        alone = episodic.Episode(
            *(
                part
                for name, counts in (
                    ("support", line["shots"]),
                    ("query", [source.meta["queries"]] * len(line["classes"])),
                )
                for part in read_set(source, line[name], counts)
            ),
            ways=len(line["classes"]),
            support_size=torch.tensor([len(line["support"])]),
        )
        score, loss = evaluation.episode_scores(trained.learner, theta, alone, 0)
        assert score[0] == scores[i]
        assert loss[0] == pytest.approx(losses[i], abs=1e-12)
    table = pd.read_parquet(run / "scores/episodes.parquet")
    mode = read_json(run / "model/config.json")["batch_norm"]
    stored = table[(table["mode"] == mode) & (table["step"] == 0)]["accuracy"].to_numpy()
    np.testing.assert_allclose(stored, scores, atol=0.26)  # a query may be a tie in float32
    assert (abs(stored - scores) < 1e-6).mean() > 0.95


def read_set(source, rows, counts):
    x = source.examples[torch.tensor(rows)]
    x = x / 255 if x.dtype == torch.uint8 else x
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return x.double()[None], labels[None]


def test_predictions_and_chance_leave_out_padding(run):
    test = pd.read_parquet(run / "prepared/test.parquet")
    metrics = read_json(run / "metrics.json")
    ways = test["classes"].map(len)
    assert metrics["baselines"]["chance"]["accuracy"] == pytest.approx((1 / ways).mean())
    assert metrics["baselines"]["chance"]["accuracy"] > 0.27, "more than that of four classes"
    assert metrics["accuracy"] > metrics["baselines"]["chance"]["accuracy"]
    answers = pd.read_parquet(run / "scores/answers.parquet")
    assert answers["image"].to_list() == [row for rows in test["query"] for row in rows]
    limit = answers["episode"].map(ways)
    assert (answers[["label", "before", "after"]].max(axis=1) < limit).all()
    assert answers["confidence"].between(0, 1).all()
    episodes = pd.read_parquet(run / "scores/episodes.parquet")
    mode = read_json(run / "model/config.json")["batch_norm"]
    episodes = episodes[episodes["mode"] == mode]
    accuracy = (answers["label"] == answers["after"]).groupby(answers["episode"]).mean()
    np.testing.assert_allclose(accuracy, episodes.groupby("episode")["accuracy"].first(), atol=1e-6)
    classes = pd.read_parquet(run / "scores/classes.parquet")
    assert classes["queries"].sum() == len(answers)
    assert classes["episodes"].sum() == ways.sum()
    baselines = pd.read_parquet(run / "scores/baselines.parquet")
    assert baselines["accuracy"].between(0, 1).all()
    tuned = baselines.query("method == 'random_init'")["accuracy"].mean()
    assert tuned > metrics["baselines"]["chance"]["accuracy"]


def test_reports_state_the_bounds(run):
    page, card, shown = (
        read_text(run / name) for name in ("report.html", "model/README.md", "summary/summary.md")
    )
    for text in (page, shown):
        assert "2 to 4 ways, 1 to 3 shots (unbalanced)" in text
        assert "4-way" not in text
    assert "1 to 3 examples per class" in card
    untrained = read_json(run / "run.json")["nothing_to_train"]
    assert f"{'used' if untrained else 'meta-trained'} by protonet to adapt" in " ".join(
        card.split()
    )
    chance = read_json(run / "metrics.json")["baselines"]["chance"]["accuracy"]
    assert f"{100 * chance:.1f} %" in page


@pytest.mark.parametrize("algorithm", ["bd_cspn", "ridge", "finetune"])
def test_other_algorithms(sentences, tmp_path, algorithm):
    """Transductive inference, a closed form, and labels of all training classes."""
    folder = tmp_path
    for name in ("prepared", "sentences.csv"):
        (folder / name).symlink_to(sentences / name)
    (folder / "params.yaml").write_text((sentences / "params.yaml").read_text())
    set_param(folder, "algorithm.name", algorithm)
    run_stage(folder, "train", *TRAIN)
    run_stage(folder, "evaluate", *EVALUATE)
    metrics = read_json(folder / "metrics.json")
    assert metrics["accuracy"] > metrics["baselines"]["chance"]["accuracy"] + 0.1
    if algorithm == "bd_cspn":
        test = pd.read_parquet(folder / "prepared/test.parquet")
        facts = metrics["transductive_inference"]
        assert facts["queries"] == pytest.approx(test["query"].map(len).mean())
        assert facts["largest_share"] == pytest.approx((1 / test["classes"].map(len)).mean())


def test_bounds_of_shots_suit_a_head_of_fixed_width(tmp_path):
    """MAML with batch norm: its head has one output per class, and support sets are unequal."""
    sizes = {"episodes.shots": "[1, 3]", "episodes.unbalanced": "true"}
    folder = prepare_folder(tmp_path, **sizes)
    run_stage(folder, "train", *TRAIN)
    run_stage(folder, "evaluate", *EVALUATE)
    metrics = read_json(folder / "metrics.json")
    assert metrics["baselines"]["chance"]["accuracy"] == 0.2
    assert metrics["labels"]["accuracy_sd"] > 0
    assert set(pd.read_parquet(folder / "prepared/test.parquet")["classes"].map(len)) == {5}


def test_processes_do_not_change_the_bytes(drawings, tmp_path):
    names = ("metrics.json", "scores/episodes.parquet", "scores/answers.parquet")
    before = {name: (drawings / name).read_bytes() for name in names}
    set_param(drawings, "processes", "2")
    run_stage(drawings, "evaluate", *EVALUATE)
    set_param(drawings, "processes", "1")
    assert {name: (drawings / name).read_bytes() for name in names} == before


def test_sizes_in_words():
    sizes = {"ways": 20, "shots": 5}
    assert describe_sizes(sizes) == "20-way 5-shot"
    varied = {"ways": [5, 20], "shots": [5, 5], "unbalanced": False}
    assert describe_sizes(sizes | {"varied": varied}) == "5 to 20 ways, 5 shots"
    one = {"ways": [5, 5], "shots": [1, 10], "unbalanced": True}
    assert describe_sizes(sizes | {"varied": one}) == "5 ways, 1 to 10 shots (unbalanced)"
