"""Fixed trials through `adapt` and `predict`: by hand, with certain answers, one by one."""

from __future__ import annotations

from pathlib import Path

import lake_runs
import numpy as np
import pytest

import episodic
from episodic.datasets.sources.one_shot_runs import Trial, read_runs
from episodic.inference.adapted import AdaptedModel
from episodic.inference.fixed_trials import answer_trials
from episodic.inference.labels import AdaptError
from tests.episodic.inference.test_few_shot import folder_of


def make_trials(folder: Path, monkeypatch, **options) -> list[Trial]:
    files = lake_runs.draw_files(3, **options)
    lake_runs.accept(monkeypatch, files)
    return read_runs(lake_runs.write_archive(folder / "runs.zip", files))


@pytest.fixture
def model(tmp_path) -> episodic.FewShotLearner:
    return episodic.load(folder_of("protonet", tmp_path / "model"))


def test_the_drawings_themselves_are_recognized(model, tmp_path, monkeypatch):
    trials = make_trials(tmp_path, monkeypatch, same_writer=True)
    answers = answer_trials(model, trials)
    assert answers.names == ("run01", "run02", "run03")
    assert [list(p) for p in answers.predicted] == [trial.query_y for trial in trials]
    assert answers.error == (0.0, 0.0)


def test_answers_and_errors_are_those_of_adapt_and_predict(model, tmp_path, monkeypatch):
    trials = make_trials(tmp_path, monkeypatch)
    answers = answer_trials(model, trials)
    for trial, predicted, error in zip(trials, answers.predicted, answers.errors, strict=True):
        # Any order of the support set, each query on its own.
        adapted = model.adapt(trial.support_x[::-1], trial.support_y[::-1])
        expected = [str(adapted.predict([png])[0]) for png in trial.query_x]
        assert list(predicted) == expected
        wrong = sum(a != b for a, b in zip(expected, trial.query_y, strict=True))
        assert error == wrong / 20
    mean, half = answers.error
    assert 0.05 < mean < 0.95 and mean == pytest.approx(answers.errors.mean())
    students_t = 4.302653  # 2 degrees of freedom
    assert half == pytest.approx(students_t * np.std(answers.errors, ddof=1) / np.sqrt(3))


def test_transductive_models_see_one_query_at_a_time(tmp_path, monkeypatch):
    model = episodic.load(folder_of("bd_cspn", tmp_path / "model"))
    trials = make_trials(tmp_path, monkeypatch)
    sizes, predict = [], AdaptedModel.predict

    def record(self, x):
        sizes.append(len(x))
        return predict(self, x)

    monkeypatch.setattr(AdaptedModel, "predict", record)
    answers = answer_trials(model, trials[:1])
    assert sizes == [1] * 20 and len(answers.predicted[0]) == 20


def test_a_model_of_five_ways_cannot_answer(tmp_path, monkeypatch):
    model = episodic.load(folder_of("maml", tmp_path / "model"))
    with pytest.raises(AdaptError, match="the support set has 20 classes: maml was trained for 5"):
        answer_trials(model, make_trials(tmp_path, monkeypatch))
