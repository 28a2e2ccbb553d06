"""A trained model in scikit-learn pipelines, cross-validation and searches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler

import episodic
from episodic.inference.sklearn import FewShotClassifier
from tests.episodic.algorithms.test_every_algorithm import sampler, trained
from tests.episodic.inference.reliable import reliability, set_reliability
from tests.episodic.inference.test_few_shot import folder_of


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return folder_of(
        "protonet", tmp_path_factory.mktemp("model") / "run", theta=trained("protonet").theta
    )


@pytest.fixture(scope="module")
def data():
    """Five classes of twenty images each, float `(100, 1, 28, 28)`, and labels of text."""
    x = sampler("test").examples[-100:].float().numpy() / 255
    return x, np.repeat(list("abcde"), 20)


def test_classifier_equals_the_adapted_model(model, data):
    x, y = data
    support = np.arange(0, 100, 4)
    classifier = FewShotClassifier(str(model)).fit(x[support], y[support])
    expected = episodic.load(model).adapt(x[support], y[support])
    assert (classifier.predict(x) == expected.predict(x)).all() and (
        classifier.predict_proba(x) == expected.predict_proba(x)
    ).all()
    assert (
        classifier.classes_.tolist() == list("abcde")
        and classifier.score(x, y) == (expected.predict(x) == y).mean() > 0.5
    )
    with pytest.raises(NotFittedError):
        FewShotClassifier(str(model)).predict(x)
    assert (
        clone(classifier).get_params()
        == classifier.get_params()
        == {
            "model": str(model),
            "steps": None,
            "device": "cpu",
            "encoder": None,
            "head": None,
            "unknown": False,
        }
    )


def test_partial_fit_is_fit_on_the_examples_of_all_calls(model, data):
    """With a class that comes later; the labels are numbers, so their type is kept."""
    x, y = data
    batches = np.arange(0, 60, 6), np.arange(3, 60, 12), np.arange(61, 100, 7)
    classifier = FewShotClassifier(model)
    for batch in batches:
        assert classifier.partial_fit(x[batch], batch // 20) is classifier
    rows = np.concatenate(batches)
    expected = FewShotClassifier(model).fit(x[rows], rows // 20)
    assert classifier.classes_.tolist() == expected.classes_.tolist() == [0, 1, 2, 3, 4]
    assert (classifier.predict_proba(x) == expected.predict_proba(x)).all()
    assert len(classifier.fit(x[batches[0]], y[batches[0]]).classes_) == 3


def test_in_a_pipeline_under_cross_validation_and_in_a_search(model, data):
    x, y = data
    rows = x.reshape(100, -1)
    scores = cross_val_score(
        make_pipeline(MinMaxScaler(), FewShotClassifier(model)), rows, y, cv=StratifiedKFold(4)
    )
    assert scores.shape == (4,) and scores.mean() > 0.5
    halved = make_pipeline(
        FunctionTransformer(lambda x: x / 2), FewShotClassifier(episodic.load(model))
    )
    assert cross_val_score(halved, rows, y, cv=2).mean() > 0.4
    search = GridSearchCV(FewShotClassifier(model), {"steps": [None, 0]}, cv=2).fit(x, y)
    assert search.best_score_ > 0.5


def test_paths_and_images_in_lists_arrays_and_tables(model, data, tmp_path):
    x, y = data
    some = np.arange(0, 100, 10)
    paths = []
    for i in some:
        Image.fromarray(255 - np.rint(x[i, 0] * 255).astype(np.uint8)).save(
            path := tmp_path / f"{i}.png"
        )
        paths.append(str(path))
    expected = FewShotClassifier(model).fit(x[some], y[some]).predict_proba(x)
    for given in (
        paths,
        np.array(paths),
        np.array(paths)[:, None],
        pd.Series(paths),
        [Image.open(p) for p in paths],
    ):
        np.testing.assert_allclose(
            FewShotClassifier(model).fit(given, y[some]).predict_proba(x), expected, atol=1e-6
        )
    numbers = FewShotClassifier(model).fit(torch.from_numpy(x[some]), some // 20)
    assert numbers.classes_.dtype.kind == "i" and numbers.predict(x[:3]).dtype.kind == "i"


def test_unknown_classes_and_sets(data, tmp_path):
    """`unknown` is a parameter, as `predict` has a fixed signature."""
    x, y = data
    support = np.arange(0, 100, 4)
    folder = folder_of("protonet", tmp_path / "run", theta=trained("protonet").theta)
    set_reliability(folder, reliability("max_softmax", 0.4, shots=5))
    expected = episodic.load(folder).adapt(x[support], y[support])
    classifier = FewShotClassifier(str(folder), unknown=True)
    assert clone(classifier).get_params()["unknown"] is True
    classifier = clone(classifier).fit(x[support], y[support])
    labels = classifier.predict(x)
    np.testing.assert_array_equal(labels, expected.predict(x, unknown=True))
    assert 0 < (labels == "unknown").sum() < len(x)
    assert classifier.predict_set(x) == expected.predict_set(x, 0.9)
    assert classifier.predict_set(x, 0.7) == expected.predict_set(x, 0.7)
    plain = classifier.set_params(unknown=False).predict(x)
    np.testing.assert_array_equal(plain, expected.predict(x))
    with pytest.raises(NotFittedError):
        FewShotClassifier(str(folder)).predict_set(x)
