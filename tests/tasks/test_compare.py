"""The comparison: reading, comparability, sentences and the page."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from history import Repository
from support import ROOT

from episodic.analysis.comparison import PairedScores
from episodic.core.statistics import mean_ci95
from episodic.training.unknown import measure_detection
from tasks import compare, params
from tasks.experiments import Revision, RevisionHistory, lock
from tasks.experiments import history as reading
from tasks.experiments.experiment import Experiment
from tasks.params import read_yaml
from tasks.reports.comparison import (
    calibration,
    closeup,
    cost,
    curves,
    naming,
    pairwise,
    ranking,
    reliability,
    scaling,
    sentences,
)
from tasks.reports.comparison import protocols as groups
from tasks.reports.kit.trees import select_used
from tasks.runtime.stage import StageError

METHODS = {"maml": 0.0, "protonet": 0.25, "reptile": -0.2}


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Repository:
    """Three methods with three seeds each, and MAML with another learning rate."""
    built = Repository(tmp_path_factory.mktemp("history") / "a repo", test=120)
    for index, (method, skill) in enumerate(METHODS.items()):
        for seed in range(3):
            built.experiment(
                f"{method}-{seed}",
                skill,
                60.0 * (index + 1) + seed,
                algorithm__name=method,
                train__seed=seed,
            )
    built.experiment("maml-fast", 0.0, 30.0, 0.3, algorithm__name="maml", train__meta_lr=0.01)
    return built


@pytest.fixture(scope="module")
def protocol(repository) -> groups.Protocol:
    experiments, left = compare.gather(repository.path, everything=True)
    assert left == []
    (result,) = groups.group_protocols(experiments, "maml-0")
    return result


def test_experiments_are_read_as_they_were_saved(repository):
    with RevisionHistory.open(repository.path) as history:
        names = [
            "protonet-1",
            repository.git(
                "rev-parse",
                "--short",
                "refs/exps/" + repository.head[:2] + "/" + repository.head[2:] + "/maml-0",
            ).strip(),
        ]
        first, second = history.read(history.find_named(names))
        assert next(iter(history.experiments())) == "maml-0", "the oldest first"
    assert (first.name, first.params["algorithm"]["name"], first.params["train"]["seed"]) == (
        "protonet-1",
        "protonet",
        1,
    )
    assert second.params["algorithm"]["name"] == "maml"
    assert first.scores.shape == (120,) and first.scores.mean() == pytest.approx(
        first.metrics["accuracy"]
    )
    assert first.run["seconds"] == 121.0 and first.mode == "transductive" and first.steps == 3
    assert first.file("data/prepared/test.parquet").is_file()


def test_nothing_is_checked_out(repository):
    before = sorted(
        p for p in repository.path.rglob("*") if ".git" not in p.parts and ".dvc" not in p.parts
    )
    compare.gather(repository.path, everything=True)
    assert (
        sorted(
            p for p in repository.path.rglob("*") if ".git" not in p.parts and ".dvc" not in p.parts
        )
        == before
    )
    assert repository.git("status", "--porcelain") == ""


def test_seeds_are_grouped_and_names_list_differing_settings(protocol):
    assert protocol.keys == ["algorithm.name", "train.meta_lr"]
    assert {c.name: len(c.experiments) for c in protocol.configurations} == {
        "protonet, meta_lr=0.001": 3,
        "maml, meta_lr=0.001": 3,
        "maml, meta_lr=0.01": 1,
        "reptile, meta_lr=0.001": 3,
    }
    assert (
        protocol.best.name.startswith("protonet")
        and protocol.baseline.name == "maml, meta_lr=0.001"
    )


def test_differences_are_those_of_the_statistics(protocol):
    best, base = protocol.best, protocol.baseline
    a, b = (np.stack([e.scores for e in c.experiments]) for c in (best, base))
    expected = PairedScores(np.concatenate([a, b])).difference([0, 1, 2], [3, 4, 5])
    assert best.to_baseline.mean == pytest.approx((a.mean(0) - b.mean(0)).mean())
    assert (best.to_baseline.low, best.to_baseline.high) == pytest.approx(
        (expected.low, expected.high)
    )
    assert best.to_baseline.of_methods and best.to_baseline.seeds == (3, 3)
    rate_001 = next(c for c in protocol.configurations if "0.01" in c.name)
    assert not rate_001.to_baseline.of_methods, "one seed against three compares checkpoints"
    assert all(p.p >= p.difference.p for p in protocol.pairs), "corrected for multiple comparisons"


def test_sentences_claim_no_more_than_seeds_allow(protocol):
    by_name = {
        c.name.partition(",")[0] + ("-fast" if "0.01" in c.name else ""): c
        for c in protocol.configurations
    }

    def describe(a: str, b: str) -> str:
        pair = protocol.find_pair(by_name[a], by_name[b]) or protocol.find_pair(
            by_name[b], by_name[a]
        )
        return sentences.compare_pair(protocol, pair)

    assert re.fullmatch(
        r"protonet, .* beats maml, .* by \d+\.\d percentage points \(95 % CI \d+\.\d to "
        r"\d+\.\d\), 3 seeds, paired over 120.episodes\.",
        describe("protonet", "maml"),
    )
    assert re.match(r"maml, .* beats reptile", describe("reptile", "maml"))
    assert re.match(
        r"The mean of the 3 checkpoints of protonet, \S+ beats the checkpoint of maml, \S+ by .* "
        r"not algorithms\.$",
        describe("protonet", "maml-fast"),
    )
    assert describe("maml", "maml-fast").startswith(
        "No significant difference"
    ) and "corrected p = " in describe("maml", "maml-fast")
    # Where the first two are level, the headline goes on to the first that the best one beats.
    level = replace(
        protocol, configurations=[by_name[name] for name in ("maml", "maml-fast", "reptile")]
    )
    level = replace(
        level, pairs=[p for p in protocol.pairs if by_name["protonet"] not in (p.first, p.second)]
    )
    if level.find_pair(*level.configurations[:2]) is None:
        level.configurations[:2] = level.configurations[1::-1]
    first, second = re.fullmatch(
        r"(No significant difference: .*\(corrected p = .*\)\.) (.*)",
        sentences.describe_best(level),
    ).groups()
    assert first == describe("maml", "maml-fast") and second == sentences.compare_pair(
        level, level.find_pair(level.configurations[0], by_name["reptile"])
    )


def test_sentences_on_checkpoints_and_equal_scores(protocol):
    """The number of checkpoints is given for both sides; equal scores rank neither side first."""
    protonet, maml, fast = (
        next(c for c in protocol.configurations if c.name == name)
        for name in ("protonet, meta_lr=0.001", "maml, meta_lr=0.001", "maml, meta_lr=0.01")
    )
    first, other = (
        replace(e, name=name) for e, name in ((protonet.first, "one"), (maml.first, "other"))
    )

    def headline(*experiments) -> str:
        (result,) = groups.group_protocols(experiments)
        return sentences.describe_best(result)

    assert headline(first, other).startswith("The checkpoint of protonet beats that of maml by ")
    assert headline(first, *maml.experiments).startswith(
        "The checkpoint of protonet beats the mean of the 3 checkpoints of maml by "
    )
    assert headline(*protonet.experiments, other).startswith(
        "The mean of the 3 checkpoints of protonet beats the checkpoint of maml by "
    )
    second = headline(*protonet.experiments[:2], *maml.experiments)
    assert second.startswith(
        "The mean of the 2 checkpoints of protonet beats the mean of the 3 checkpoints of maml by "
    )
    assert headline(fast.first, replace(other, scores=fast.first.scores)).endswith(
        " score the same on every episode."
    )
    assert headline(fast.first, replace(other, scores=fast.first.scores[::-1])).endswith(
        " score the same on average."
    )


def test_repeated_experiment_is_counted_once(tmp_path):
    repository = Repository(tmp_path / "repo", test=40)
    for name, seed in (("one", 0), ("two", 1)):
        repository.experiment(name, 0.1, train__seed=seed)
    with RevisionHistory.open(repository.path) as history:
        first, second = history.read(history.list_experiments())
        again = next(history.read([Revision("again", first.commit)]))
    (result,) = groups.group_protocols([first, second, again])
    assert result.repetitions == [groups.Repetition("again", "one", seed=0, is_exact=True)]
    assert [len(c.experiments) for c in result.configurations] == [2]
    assert "again repeats one" in " ".join(ranking.build_ranking_section(result, "").notes)
    assert groups.group_protocols([first, second, again], "again")[0].baseline.first.name == "one"


def test_a_seed_that_was_run_again_is_one_seed(tmp_path):
    """Three near-copies of a checkpoint are no three seeds, whatever their scores."""
    repository = Repository(tmp_path / "repo", test=40)
    for name, score, seed in (("one", 0.1, 0), ("two", 0.11, 0), ("three", 0.12, 0)):
        repository.experiment(name, score, train__seed=seed)
    for seed in range(3):
        repository.experiment(f"other{seed}", 0.2, train__seed=seed, algorithm__name="reptile")
    with RevisionHistory.open(repository.path) as history:
        experiments = list(history.read(history.list_experiments()))
    (result,) = groups.group_protocols(experiments)
    assert len({e.scores.tobytes() for e in experiments}) == 6, "the scores differ"
    assert sorted(c.score.seeds[0] for c in result.configurations) == [1, 3]
    assert {r.seed for r in result.repetitions} == {0}
    assert [r.is_exact for r in result.repetitions] == [False, False]
    (other,) = (c for c in result.configurations if c is not result.baseline)
    assert other.to_baseline is not None and not other.to_baseline.of_methods
    notes = " ".join(ranking.build_ranking_section(result, "").notes)
    assert notes.count("a seed that is run twice is one seed") == 2


def test_params_are_those_of_the_run(tmp_path):
    """An edit that was not run renames no result, neither of a commit nor of the workspace."""
    repository = Repository(tmp_path / "repo", test=40)
    commit = repository.commit(repository.result(tmp_path / "r", 0.1, {"algorithm.name": "maml"}))
    repository.experiment("other", 0.2, algorithm__name="reptile")
    shutil.copytree(tmp_path / "r", repository.path, dirs_exist_ok=True)
    file = repository.path / "params.yaml"
    file.write_text(file.read_text().replace("name: maml", "name: protonet"))
    repository.git("commit", "-qm", "edited, not run", "params.yaml")
    experiments, _ = compare.gather(repository.path, [commit, "main", "workspace", "other"])
    assert [e.params["algorithm"]["name"] for e in experiments] == ["maml"] * 3 + ["reptile"]
    assert experiments[0].params["train"] == read_yaml(tmp_path / "r/params.yaml")["train"], (
        "types are kept"
    )
    (result,) = compare.run(experiments, [], tmp_path / "out")
    assert {c.name for c in result.configurations} == {"maml", "reptile"} and result.edited == [
        "main",
        "workspace",
    ]
    text = (
        "main and workspace: params.yaml was edited after the run; the scores are those of the run"
    )
    assert (
        text in (tmp_path / "out/comparison.html").read_text()
        and text in (tmp_path / "out/comparison.md").read_text()
    )


def test_the_params_of_the_lock_of_this_project():
    """Params are read with the types, quotes and stage order that DVC writes.

    The params of the report, which repeat all others, never override them.
    """
    text = """
stages:
  train:
    params:
      params.yaml:
        train:
          meta_lr: 1e-3
          ways:
          plan: {tf32: false}
        algorithm.name: 'on'
  report:
    params:
      params.yaml:
        train: {meta_lr: 5, seed: 08}
        report.title: '5'
    outs:
    - md5: 1234e567
"""
    stages = lock.parse_lock(text.encode())
    assert stages["report"]["outs"][0]["md5"] == "1234e567"
    train = {"meta_lr": 0.001, "seed": 8, "ways": None, "plan": {"tf32": False}}
    assert lock.read_params(stages) == {
        "train": train,
        "algorithm": {"name": "on"},
        "report": {"title": "5"},
    }
    ran = lock.read_params(lock.parse_lock((ROOT / "dvc.lock").read_bytes()))
    expected = select_used(read_yaml(ROOT / "params.yaml"))
    assert {key: ran[key].keys() for key in ("dataset", "train", "episodes")} == {
        key: expected[key].keys() for key in ("dataset", "train", "episodes")
    }


def test_missing_keys_of_older_files_have_default_values(protocol):
    """A missing `train.patience` or `train.meta_lr` has its default; any other value differs."""
    experiment, usual = protocol.best.first, params.default_params()["train"]["meta_lr"]
    older = deepcopy(experiment.params)
    for key in ("meta_lr", "patience"):
        older["train"].pop(key, None)
    other = replace(
        experiment, name="older", params=older, params_file=older, scores=experiment.scores * 0.9
    )
    newer = deepcopy(experiment.params)
    newer["train"] |= {"meta_lr": 10 * usual, "patience": None}
    (result,) = groups.group_protocols(
        [other, replace(experiment, params=newer, params_file=newer)]
    )
    assert result.keys == ["train.meta_lr"] and {c.name for c in result.configurations} == {
        f"meta_lr={v:g}" for v in (usual, 10 * usual)
    }
    assert result.edited == []


def test_other_code_is_another_configuration(protocol):
    experiment = protocol.best.first
    other = replace(
        experiment,
        name="later",
        config=experiment.config | {"code_digest": "0" * 16},
        scores=experiment.scores * 0.9,
    )
    (result,) = groups.group_protocols([experiment, other])
    assert result.keys == [naming.CODE] and len(result.configurations) == 2
    assert {c.name for c in result.configurations} == {"protonet-0", "later"}
    (result,) = groups.group_protocols([experiment, other, protocol.baseline.first])
    assert sum(", code " in c.name for c in result.configurations) == 2, (
        "where nothing else sets them apart"
    )


def test_code_does_not_distinguish_algorithms(protocol):
    """The digest is of the modules that a training imports, which differ from method to method."""
    first, second = protocol.best.first, protocol.baseline.first
    (result,) = groups.group_protocols(
        [first, replace(second, config=second.config | {"code_digest": "1" * 16})]
    )
    assert naming.CODE not in result.keys and {c.name for c in result.configurations} == {
        "protonet",
        "maml",
    }


def test_names_that_would_be_too_long_are_those_of_experiments(protocol, monkeypatch):
    monkeypatch.setattr(naming, "MAX_LENGTH", len("reptile, meta_lr=0.001") - 1)
    (result,) = groups.group_protocols(protocol.experiments)
    assert {c.name for c in result.configurations} == {c.first.name for c in result.configurations}
    assert result.keys == protocol.keys, "the table still lists the settings"


def test_transductive_inference_is_named_and_differs_from_transductive_batch_norm(protocol):
    first, second = protocol.best.first, protocol.baseline.first
    assert "transductive batch norm" in protocol.description
    assert not any("inference" in note for note in sentences.list_ranking_notes(protocol, 20))
    for balance, words in (({}, "balanced."), ({"query_balance": 2.0}, "(Dirichlet 2).")):
        experiments = [
            replace(first, config=first.config | {"transductive": True}, meta=first.meta | balance),
            replace(second, meta=second.meta | balance),
        ]
        (result,) = groups.group_protocols(experiments)
        notes = " ".join(sentences.list_ranking_notes(result, 20))
        assert "Transductive inference: protonet uses the whole query set" in notes
        assert notes.count("Transductive") == 1 and words in notes
        assert ("unbalanced (Dirichlet 2)" in result.description) == bool(balance)


def test_models_without_batch_norm_have_no_mode_and_encoders_are_named(protocol):
    first, second = protocol.best.first, protocol.baseline.first
    inputs = {"inputs": {"kind": "image", "encoder": {"name": "mine"}}}

    def drop_batch_norm(experiment):
        table = experiment.curve
        same = table[table["mode"] == experiment.mode]
        other = same.assign(mode="inductive")
        curve = pd.concat([same, other], ignore_index=True)
        return replace(experiment, curve=curve, meta=experiment.meta | inputs)

    assert first.mode == "transductive"
    (result,) = groups.group_protocols([drop_batch_norm(first), drop_batch_norm(second)])
    assert "batch norm" not in result.description
    assert ", features of the pretrained encoder mine, " in result.description
    (result,) = groups.group_protocols([drop_batch_norm(first), second])
    assert "transductive batch norm" in result.description


def test_pixels_and_features_of_the_same_images_are_paired(protocol):
    first, second = protocol.best.first, protocol.baseline.first
    inputs = {"inputs": {"kind": "image", "encoder": {"name": "mine"}}, "data_digest": "f" * 16}
    encoded = replace(second, meta=second.meta | inputs)
    (result,) = groups.group_protocols([first, encoded])
    assert [len(c.experiments) for c in result.configurations] == [1, 1] and result.pairs
    assert "encoder" not in result.description
    assert f"{first.meta['dataset']} ({first.meta['protocol']}), " in result.description


def test_encoders_are_named_by_what_they_are_not_by_their_path():
    def settings(path: str, kind: str, digest: str) -> dict:
        features = {"kind": kind, "path": path}
        dataset = {"name": "image_folder", "image_folder": {"features": features}}
        inputs = {"encoder": {"name": "mine", "digest": digest}} if kind == "encoder" else {}
        params_ = {"dataset": dataset}
        config = {"inputs": inputs, "code_digest": "c"}
        return naming.select_effective_settings(SimpleNamespace(params=params_, config=config))

    first, moved = (settings(path, "encoder", "a" * 64) for path in ("x", "y"))
    assert first == moved
    assert first["dataset.image_folder.features.encoder"] == "mine (aaaaaaa)"
    assert settings("x", "encoder", "b" * 64) != first
    assert settings("x", "pixels", "") == settings("y", "pixels", ""), "without effect"


class Files:
    """The files of a revision that `digest_episodes` reads."""

    def __init__(self, **tables: bytes) -> None:
        self.tables = {f"data/prepared/{name}.parquet": table for name, table in tables.items()}

    def has(self, path):
        return path in self.tables

    def locate(self, path):
        return SimpleNamespace(read_bytes=lambda: self.tables[path])


def test_the_digest_of_episodes_ignores_how_their_examples_are_encoded():
    def digest(kind="pixels", name="image_folder", source="a", data="d", path="photos", **tables):
        section = {} if name == "movielens" or kind is None else {"features": {"kind": kind}}
        params = {"dataset": {"name": name, "source": path, name: section}}
        deps = [{"path": "photos", "md5": source}, {"path": "tasks", "md5": kind}]
        files = Files(**({"classes": b"c", "test": b"t"} | tables))
        meta = {"dataset": name, "data_digest": data}
        return reading.digest_episodes(files, {"download": {"deps": deps}}, params, meta)

    assert digest() == digest("encoder", data="e")
    others = [digest(source="b"), digest(test=b"u"), digest(classes=b"b"), digest(name="cifar_fs")]
    assert len({digest(), *others}) == 5
    assert digest(name="movielens") == "d", "a dataset with one encoding"
    assert digest(None) == digest(), "an experiment that is older than the setting"
    inside = digest(path="/checkout/photos")
    assert inside == digest() != digest(path="/checkout/photos", source="b")
    assert digest(path="elsewhere") == "d", "an unknown source"
    assert digest(name="cifar_fs", source="b") == digest(name="cifar_fs"), "the source is not used"
    assert digest(name="removed") == "d", "a dataset that this version does not have"
    files = Files()
    assert (
        reading.digest_episodes(files, {}, {}, {"dataset": "image_folder", "data_digest": "d"})
        == "d"
    ), "an experiment whose files are missing"


def test_what_is_not_trained_has_no_learning_curve(protocol):
    def drop_training(configuration):
        experiments = [
            replace(e, validation=e.validation.head(1).assign(iteration=0))
            for e in configuration.experiments
        ]
        return replace(configuration, experiments=experiments)

    best, *others = protocol.configurations
    untrained = replace(protocol, configurations=[drop_training(best), *others])
    section = curves.build_learning_section(untrained, "")
    spec = json.dumps(section.figures[0].spec)
    assert '"type": "point"' in spec and '"opacity": 1' in spec, "its score is a visible point"
    untrained = replace(protocol, configurations=[drop_training(c) for c in (best, *others)])
    section = curves.build_learning_section(untrained, "")
    assert section.figures == [] and "nothing to train" in section.sentence


def test_bounds_of_ways_and_shots_are_named(protocol):
    """The comparison is paired as ever."""
    varied = {"varied": {"ways": [5, 20], "shots": [1, 10], "unbalanced": False}}
    experiments = [
        replace(e, meta=e.meta | varied) for c in protocol.configurations for e in c.experiments
    ]
    (result,) = groups.group_protocols(experiments)
    assert result.description.startswith("5 to 20 ways, 1 to 10 shots, ")
    assert [c.score for c in result.configurations] == [c.score for c in protocol.configurations]


@pytest.mark.parametrize("size", ["ways", "shots"])
def test_scaling_leaves_out_sizes_that_are_drawn_per_episode(protocol, size):
    def change(i: int, **meta) -> Experiment:
        experiment = protocol.best.first
        return replace(experiment, name=str(i), episodes=str(i), meta=experiment.meta | meta)

    experiments = [change(i, **{size: n}) for i, n in enumerate([2, 5, 10, 20])]
    for i, bounds in ((4, [5, 30]), (5, [40, 40])):
        varied = {"ways": [5, 5], "shots": [1, 1], "unbalanced": False, size: bounds}
        experiments.append(change(i, varied=varied, **{size: bounds[1]}))
    protocols = groups.group_protocols(experiments)
    series = scaling.find_series(protocols, f"episodes.{size}")
    assert series.points["n"].to_list() == [2, 5, 10, 20, 40]
    (section,) = scaling.build_scaling_sections(protocols)
    assert section.name == f"scaling-{size}" and len(section.tables[0].rows) == 5


@pytest.mark.parametrize("change", ["episodes", "batch_norm", "number"])
def test_incomparable_experiments_are_never_paired(protocol, change, tmp_path):
    experiment = protocol.best.first
    other = {
        "episodes": replace(experiment, name="other", episodes="f" * 16),
        "batch_norm": replace(
            experiment, name="other", config=experiment.config | {"batch_norm": "inductive"}
        ),
        "number": replace(experiment, name="other", scores=experiment.scores[:-1]),
    }[change]
    comparisons = compare.run([experiment, other], [], tmp_path / "out", "other")
    assert [[e.name for e in p.experiments] for p in comparisons] == [["other"], ["protonet-0"]], (
        "that of the baseline first"
    )
    assert all(c.to_baseline is None for p in comparisons for c in p.configurations) and all(
        p.pairs == [] for p in comparisons
    )
    page = (tmp_path / "out/comparison.html").read_text()
    assert "follow two protocols" in page and "There is nothing to compare it with" in page


def test_the_page_is_self_contained_and_escapes_what_it_shows(protocol, tmp_path):
    experiments = protocol.experiments
    compare.run(experiments, ["x: <b>no</b> result"], tmp_path / "out", "maml-0")
    page = (tmp_path / "out/comparison.html").read_text()
    assert not re.search(r'(src|href)="(?!#|data:)', page.split("<script>", 1)[0])
    assert (
        "Content-Security-Policy" in page
        and "&lt;b&gt;no&lt;/b&gt;" in page
        and "<b>Bold</b>" not in page.split("<script", 1)[0]
    )
    for heading in (
        "Ranking",
        "All configurations",
        "Pairwise differences",
        "Training cost",
        "Learning curves",
        "Adaptation curves",
        "Differences by group",
        "Calibration",
        "Unknown classes and prediction sets",
    ):
        assert f">{heading}</h2>" in page
    assert "an interval may exclude 0 even though the corrected p-value is not significant" in page
    assert "conditional on the test classes" in page and "Largest disagreements" in page
    table = pd.read_csv(tmp_path / "out/comparison.csv")
    assert (
        len(table) == 4
        and table["accuracy"].is_monotonic_decreasing
        and table["to_baseline"].isna().sum() == 1
    )
    summary = (tmp_path / "out/comparison.md").read_text()
    assert all(
        (tmp_path / "out" / name).is_file() for name in re.findall(r"\]\(([^)]+\.svg)\)", summary)
    )


def with_noise(experiment, folder, noise: float, **changes) -> Experiment:
    """The experiment with other scores of the same queries; `changes`: columns of the table."""
    table = pd.read_parquet(experiment.file("reports/scores/open.parquet"))
    table["mean_distance"] += np.random.default_rng(3).normal(0, noise, len(table))
    table = table.assign(**changes)
    path = folder / f"{experiment.name}.parquet"
    table.to_parquet(path, index=False)
    known = table[table["label"] >= -1]
    result = measure_detection(
        known["mean_distance"].to_numpy(),
        (known["label"] >= 0).to_numpy(),
        known["episode"].to_numpy(),
        0,
    )
    prefix = "unknown.other_classes."
    metrics = experiment.metrics | {
        f"{prefix}auroc": result.auroc,
        f"{prefix}auroc_ci95": result.auroc_ci95,
    }

    def locate(name: str):
        return path if name.endswith("/open.parquet") else experiment.file(name)

    return replace(experiment, metrics=metrics, file=locate)


def with_probabilities(experiment, folder, scale, columns=(), **metrics):
    """The experiment with answers of known confidence; `scale` is that of its likelihoods."""
    answers = pd.read_parquet(experiment.file("reports/scores/answers.parquet"))
    hard = np.random.default_rng(0).exponential(size=len(answers))
    answers = answers.assign(
        confidence=np.where(np.arange(len(answers)) % 2, 0.9, 0.6),
        likelihood=scale * hard,
        brier=scale * hard / 4,
    ).drop(columns=list(columns))
    path = folder / f"{experiment.name} answers.parquet"
    answers.to_parquet(path, index=False)
    kept = {k: v for k, v in experiment.metrics.items() if not k.startswith("calibration.")}
    values = {"raw_ece": 0.08, "raw_likelihood": 0.9, "raw_brier": 0.4} | metrics
    values |= {f"{key}_ci95": value / 10 for key, value in values.items()}

    def locate(name: str):
        return path if name.endswith("/answers.parquet") else experiment.file(name)

    changed = kept | {f"calibration.{key}": value for key, value in values.items()}
    return replace(experiment, metrics=changed, file=locate)


def test_calibration_is_paired_by_episode(protocol, tmp_path):
    by_name = {e.name: e for e in protocol.experiments}
    scores = {"ece": 0.02, "likelihood": 0.5, "brier": 0.2}
    maml = with_probabilities(by_name["maml-0"], tmp_path, 1.0, **scores)
    fast = with_probabilities(by_name["maml-fast"], tmp_path, 1.1)  # without calibration
    (result,) = groups.group_protocols([maml, fast], "maml-0")
    section = calibration.build_calibration_section(result, "")
    (table,) = section.results
    first, second = table.rows
    assert first == [
        *("meta_lr=0.001", "8.0\xa0% ± 0.8", "2.0\xa0% ± 0.2", "baseline"),
        *("0.50 ± 0.05", "baseline", "0.200 ± 0.020", "baseline"),
    ]
    raw = "8.0\xa0% ± 0.8"
    assert second[:3] == ["meta_lr=0.01", raw, raw], "as for the other measures"
    assert second[4] == "0.90 ± 0.09", "without calibration, that of the model's own probabilities"
    queries = pd.read_parquet(maml.file("reports/scores/answers.parquet"))
    change = 0.1 * queries.groupby("episode")["likelihood"].mean().to_numpy()
    mean, ci95 = mean_ci95(change)
    assert second[5] == f"+{mean:.3f} ± {ci95:.3f}", "the noise that both have cancels"
    assert second[7] == f"+{mean / 4:.3f} ± {ci95 / 4:.3f}"
    right = [
        (table["after"] == table["label"]).groupby(table["confidence"]).mean()
        for table in (queries, pd.read_parquet(fast.file("reports/scores/answers.parquet")))
    ]
    errors = [np.mean([abs(accuracy[c] - c) for c in (0.6, 0.9)]) for accuracy in right]
    assert float(second[3].partition(" ")[0].replace("−", "-")) == pytest.approx(
        100 * (errors[1] - errors[0]), abs=0.06
    )
    assert section.sentence == (
        "The calibration error is 8.0\xa0% without calibration, and 2.0\xa0% with it. meta_lr=0.001"
        " has the lowest NLL."
    )


def test_calibration_without_pairs(protocol, tmp_path):
    by_name = {e.name: e for e in protocol.experiments}
    maml = with_probabilities(by_name["maml-0"], tmp_path, 1.0)

    def lost(name):
        raise StageError(f"{name} is not in the cache")

    old = with_probabilities(by_name["maml-fast"], tmp_path, 1.0, columns=["brier"])
    for other in (old, replace(old, file=lost)):
        (result,) = groups.group_protocols([maml, other], "maml-0")
        (table,) = calibration.build_calibration_section(result, "").results
        assert [row[3] for row in table.rows if row[0] == "meta_lr=0.01"] == [""]
    none = {k: v for k, v in maml.metrics.items() if not k.startswith("calibration.")}
    (result,) = groups.group_protocols([replace(maml, metrics=none)])
    assert calibration.build_calibration_section(result, "") is None


def test_the_detection_of_unknown_classes_is_paired_by_episode(protocol, tmp_path):
    by_name = {e.name: e for e in protocol.experiments}
    maml, fast = by_name["maml-0"], with_noise(by_name["maml-fast"], tmp_path, 1.0)
    (result,) = groups.group_protocols([maml, fast], "maml-0")
    section = reliability.build_reliability_section(result, "")
    (table,) = section.results
    assert [row[0] for row in table.rows] == ["meta_lr=0.001", "meta_lr=0.01"], "the best first"
    area, other = (e.metrics["unknown.other_classes.auroc"] for e in (maml, fast))
    text, _, interval = table.rows[1][2].partition(" ± ")
    assert (table.rows[0][2], text) == ("baseline", f"−{100 * (area - other):.1f}")
    half_widths = [e.metrics["unknown.other_classes.auroc_ci95"] for e in (maml, fast)]
    assert 0 < float(interval) < 100 * np.hypot(*half_widths), "narrower than without pairs"
    assert table.rows[0][4:] == ["88.5\xa0% ± 1.0", "0.970 ± 0.020"]
    assert section.sentence.startswith("meta_lr=0.001 has the largest AUROC")


def test_detection_on_other_queries_is_not_paired(protocol, tmp_path):
    by_name = {e.name: e for e in protocol.experiments}
    maml, fast = by_name["maml-0"], by_name["maml-fast"]

    def to_baseline(*experiments) -> dict[str, str]:
        (result,) = groups.group_protocols(experiments, "maml-0")
        (table,) = reliability.build_reliability_section(result, "").results
        return {row[0]: row[2] for row in table.rows}

    def lost(name):
        raise StageError(f"{name} is not in the cache")

    assert to_baseline(maml, fast) == {"meta_lr=0.001": "baseline", "meta_lr=0.01": "+0.0 ± 0.0"}
    other = with_noise(fast, tmp_path, 0.0, episode=lambda table: table["episode"] // 2)
    for changed in (other, replace(fast, file=lost)):
        assert to_baseline(maml, changed)["meta_lr=0.01"] == ""
    assert to_baseline(replace(maml, file=lost), fast)["meta_lr=0.01"] == ""


def test_experiments_without_unknown_classes_or_sets(protocol):
    by_name = {e.name: e for e in protocol.experiments}

    def without(experiment, *prefixes):
        kept = {k: v for k, v in experiment.metrics.items() if not k.startswith(prefixes)}
        return replace(experiment, metrics=kept)

    maml, fast = by_name["maml-0"], by_name["maml-fast"]
    both = "unknown.", "sets."
    (old,) = groups.group_protocols([without(maml, *both), without(fast, *both)])
    assert reliability.build_reliability_section(old, "") is None
    (mixed,) = groups.group_protocols([without(maml, *both), without(fast, "unknown.")])
    section = reliability.build_reliability_section(mixed, "")
    (row,) = section.results[0].rows
    assert row[:4] == ["meta_lr=0.01", "", "", ""] and row[5] == "0.970 ± 0.020"
    assert section.sentence.endswith("sets with a promised coverage of 90 % cover 88.5\xa0%.")


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ((0.031, 0.01), "It is ahead of base by 3.1 percentage points (95 % CI 2.1 to 4.1)."),
        ((0.005, 0.01), "is not significant."),
        (None, "a has the largest AUROC for unknown classes, 90.0\xa0%."),
    ],
)
def test_the_best_detection_is_compared_with_the_baseline(difference, expected):
    sentence = sentences.describe_detection("a", 0.9, difference, "base")
    assert sentence.endswith(expected)


def test_the_pareto_front():
    points = [
        cost.CostPoint("", *values) for values in ((1, 0.5), (2, 0.4), (3, 0.9), (3, 0.8), (5, 0.9))
    ]
    assert cost.find_pareto_front(points, True) == [points[0], points[2]]
    assert cost.find_pareto_front(points, False) == [points[0], points[1]]


def test_groups_and_disagreements_by_hand(protocol):
    first, second = closeup.choose_pair(protocol)
    both = closeup.compare_predictions(first, second)
    expected = (first.first.scores - second.first.scores)[both["episode"].unique()]
    np.testing.assert_allclose(both.groupby("episode")["gain"].mean(), expected, atol=1e-12)
    disagreements = closeup.find_disagreements(protocol)
    gains = first.first.scores - second.first.scores
    shown = [
        gains[card.episode]
        for card in disagreements.cards
        if card.rank.startswith("protonet") and card.rank.endswith(" is better")
    ]
    assert sorted(shown, reverse=True) == sorted(gains, reverse=True)[:2], (
        "those in which the first gains most"
    )
    per_group = closeup.compare_groups(first, second)
    assert per_group["episodes"].max() <= 120 and per_group["mean"].is_monotonic_decreasing


def test_a_regression_is_compared_by_its_error(tmp_path):
    repository = Repository(tmp_path / "repo", "regression")
    for name, skill in (("maml", 0.0), ("fomaml", 0.5)):
        for seed in range(3):
            repository.experiment(f"{name}-{seed}", skill, algorithm__name=name, train__seed=seed)
    experiments, _ = compare.gather(repository.path, everything=True)
    (result,) = compare.run(experiments, [], tmp_path / "out", "maml-0")
    assert result.best.name == "fomaml" and result.best.to_baseline.mean < 0
    assert re.match(
        r"fomaml beats maml by 0\.\d+ \(95 % CI 0\.\d+ to 0\.\d+\), 3 seeds",
        sentences.describe_best(result),
    )
    assert "mean squared error" in (tmp_path / "out/comparison.html").read_text()


def test_commits_and_the_workspace_are_revisions_too(tmp_path):
    repository = Repository(tmp_path / "repo", test=40)
    start = repository.head
    commits = []
    for seed in range(2):
        commits.append(
            repository.commit(repository.result(tmp_path / f"r{seed}", 0.05, {"train.seed": seed}))
        )
        repository.git("commit", "-q", "--allow-empty", "-m", "nothing new")
    repository.experiment("after", 0.2, algorithm__name="protonet")
    with RevisionHistory.open(repository.path) as history:
        assert [r.commit for r in history.list_since(start)[:2]] == commits and history.list_since(
            start
        )[2].name == "after"
        assert [r.name for r in history.list_since(commits[1])] == ["after"]
    shutil.copytree(tmp_path / "r1", repository.path, dirs_exist_ok=True)
    experiments, _ = compare.gather(repository.path, ["workspace", "main"])
    assert [e.name for e in experiments] == ["workspace", "main"] and (
        experiments[0].scores == experiments[1].scores
    ).all()
    assert [e.name for e in compare.gather(repository.path)[0]] == ["workspace", "after"]


def test_invalid_arguments_are_rejected(repository, tmp_path):
    for args, message in (
        (
            ["mamal-0"],
            r"there is no experiment or commit 'mamal-0', did you mean maml-0|there is no "
            r"experiment or commit 'mamal-0'",
        ),
        (["main"], r"main: the stage evaluate has not run there"),
        (["workspace"], r"workspace: reports/metrics\.json does not exist; run dvc repro"),
    ):
        with pytest.raises(StageError, match=message):
            compare.gather(repository.path, args)
    experiments, _ = compare.gather(repository.path, ["maml-0", "maml-1"])
    with pytest.raises(
        StageError, match="the baseline protonet-0 is not among the compared experiments"
    ):
        compare.run(experiments, [], tmp_path / "out", "protonet-0")
    assert not (tmp_path / "out").exists()
    with pytest.raises(StageError, match="is not a DVC repository"):
        compare.gather(tmp_path)
    empty = Repository(tmp_path / "empty")
    with pytest.raises(StageError, match=r"nothing to compare .*run dvc repro, or a sweep, first"):
        compare.gather(empty.path)


def test_other_folders_are_not_overwritten(protocol, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.txt").write_text("gold")
    with pytest.raises(
        StageError,
        match="thesis exists and is not a comparison; choose another folder, because its content "
        "would be overwritten",
    ):
        compare.run(protocol.experiments[:2], [], tmp_path / "thesis")
    assert (tmp_path / "thesis/thesis.txt").read_text() == "gold"
    for _ in range(2):
        compare.run(protocol.experiments[:2], [], tmp_path / "new")
    assert (tmp_path / "new" / compare.PAGE).is_file()


def test_experiments_of_one_name_from_two_commits_are_two(tmp_path):
    repository = Repository(tmp_path / "repo", test=40)
    first, base = repository.experiment("nightly", 0.1), repository.head
    repository.git("commit", "-q", "--allow-empty", "-m", "another")
    second = repository.experiment("nightly", 0.2)
    with RevisionHistory.open(repository.path) as history:
        assert history.list_experiments() == [
            Revision(f"nightly@{base[:7]}", first),
            Revision("nightly", second),
        ]
        assert [e.commit for e in history.read(history.find_named([f"nightly@{base[:7]}"]))] == [
            first
        ]


def test_missing_cache_files_are_listed(tmp_path):
    repository = Repository(tmp_path / "repo", test=40)
    repository.experiment("one")
    repository.experiment("two", 0.1)
    with RevisionHistory.open(repository.path) as history:
        first, _ = history.read(history.list_experiments())
        for path in ("reports/scores/episodes.parquet", "reports/scores/curve.csv"):
            first.file(path).unlink()
    lacking = (
        r"one lacks reports/scores/episodes\.parquet and reports/scores/curve\.csv; "
        r"two lacks .*curve\.csv\. "
    )
    with pytest.raises(
        StageError,
        match=lacking
        + "Run dvc repro there, since there is no DVC remote to pull them from, or leave these out",
    ):
        compare.gather(repository.path, everything=True)
    with (repository.path / ".dvc/config").open("a") as config:
        config.write("['remote \"store\"']\n    url = /nowhere\n")
    with pytest.raises(
        StageError,
        match=lacking
        + r"Run dvc pull \(for experiments: dvc exp pull REMOTE NAME\), or leave these out",
    ):
        compare.gather(repository.path, everything=True)


def test_non_finite_scores_are_left_out_with_a_warning(tmp_path):
    repository = Repository(tmp_path / "repo", "regression")
    repository.experiment("good")
    repository.experiment("bad", float("nan"))
    experiments, left = compare.gather(repository.path, everything=True)
    assert [e.name for e in experiments] == ["good"] and left[0].replace(
        "\xa0", " "
    ) == "bad: the score of 60 episodes is not finite"


def test_the_program(repository, tmp_path):
    """As a user runs it, in a checkout of the project with the experiments of this repository."""
    for folder in ("tasks", "episodic"):
        shutil.copytree(
            ROOT / folder, repository.path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    try:
        command = [
            sys.executable,
            "-m",
            "tasks.compare",
            "maml-0",
            "protonet-0",
            "--out",
            str(tmp_path / "out"),
        ]
        ended = subprocess.run(command, cwd=repository.path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert (
            "The checkpoint of protonet beats that of maml" in ended.stdout
            and ended.stdout.strip().endswith("comparison.html")
        )
        ended = subprocess.run(
            [*command, "--baseline", "x"], cwd=repository.path, capture_output=True, text=True
        )
        assert (
            ended.returncode == 1
            and ended.stderr.startswith("error: the baseline x is not among")
            and "Traceback" not in ended.stderr
        )
    finally:
        for folder in ("tasks", "episodic"):
            shutil.rmtree(repository.path / folder)


def test_many_experiments_take_no_more_memory_each(tmp_path):
    """60 experiments of 300 episodes are read one by one and keep only scores and small tables."""
    repository = Repository(tmp_path / "repo", test=300)
    for number in range(60):
        repository.experiment(f"e{number}", 0.002 * number, train__meta_lr=0.001 + 1e-5 * number)
    start = time.perf_counter()
    experiments, _ = compare.gather(repository.path, everything=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    compare.gather(repository.path, everything=True)
    assert len(experiments) == 60 and time.perf_counter() - start < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, (
        "kB more for reading them all a second time"
    )
    (result,) = groups.group_protocols(experiments)
    assert len(result.configurations) == 60 and len(result.pairs) == 190
    assert json.loads(json.dumps(pairwise.build_matrix(result)))["left_out"] == 40


def test_change_of_a_score(protocol, tmp_path):
    """Better or worse only outside the interval of the paired difference, on equal episodes."""
    from tasks.reports.comparison.score_change import ScoreChange, measure_change

    by_name = {e.name: e for e in protocol.experiments}
    fell = measure_change(by_name["maml-0"], by_name["reptile-0"])
    assert fell is not None and fell.worse and not fell.better
    exact = 100 * (by_name["maml-0"].scores.mean() - by_name["reptile-0"].scores.mean())
    assert str(fell).startswith(f"accuracy fell by {exact:.2f} percentage points (95 % CI ")
    rose = measure_change(by_name["reptile-0"], by_name["maml-0"])
    assert rose is not None and rose.better and str(rose) == str(fell).replace("fell", "rose")
    same = measure_change(by_name["maml-0"], by_name["maml-0"])
    assert (
        same is not None
        and not same.worse
        and str(same)
        == "accuracy did not change significantly (95 % CI +0.00 to +0.00 percentage points)"
    )
    other = replace(by_name["maml-0"], episodes="another")
    assert measure_change(by_name["maml-0"], other) is None
    estimate = replace(fell.difference, mean=0.2, low=0.1, high=0.3)
    assert (
        ScoreChange("mse", estimate).worse
        and str(ScoreChange("mse", estimate)) == "squared error rose by 0.20 (95 % CI 0.10 to 0.30)"
    )
    assert ScoreChange("accuracy", estimate).better
