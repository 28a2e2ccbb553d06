"""Text features are fitted only to the classes that training uses."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from stages import EVALUATE, TRAIN, prepare_sentences, run_stage, set_param

import episodic
from episodic.data import storage
from episodic.preprocessing.sentences.ngrams import fit_idf
from episodic.preprocessing.text import TextFeatures, refit
from tasks import prepared
from tasks.runtime.files import compute_digest, read_json

SIZE = 512


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sentences of which training uses 6 of 14 classes; trained and evaluated."""
    workspace = tmp_path_factory.mktemp("selected")
    folder = prepare_sentences(workspace, **{"algorithm.name": "protonet"})
    before = compute_digest(folder / "prepared")
    set_param(folder, "train.classes", "6")
    run_stage(folder, "train", *TRAIN)
    run_stage(folder, "evaluate", *EVALUATE)
    assert compute_digest(folder / "prepared") == before
    return folder


def read_sentences(folder, config) -> tuple[list[str], list[str]]:
    """Sentences of the chosen training classes, and of all training classes."""
    source = prepared.open_folder(folder / "prepared", torch.device("cpu"))
    classes = source.read_classes()
    train = classes[classes["split"] == "train"]
    chosen = train[train["class"].isin(config["fitted_classes"])]
    assert len(chosen) == config["classes"] == 6 < len(train)
    return source.read_texts(chosen), source.read_texts(train)


def test_the_weights_are_those_of_the_chosen_sentences(folder):
    config = read_json(folder / "model/config.json")
    meta = read_json(folder / "prepared/meta.json")
    chosen, every = read_sentences(folder, config)
    assert len(chosen) == 6 * 11
    assert config["inputs"]["idf"] == fit_idf(chosen, SIZE)
    assert meta["inputs"]["idf"] == fit_idf(every, SIZE) != config["inputs"]["idf"]


def test_a_word_of_another_class_has_the_weight_of_an_unknown_one(folder):
    """Fitted to all classes, rare words of unused classes would be told from unseen words."""
    config = read_json(folder / "model/config.json")
    chosen, every = read_sentences(folder, config)
    unseen = np.log(1 + len(chosen)) + 1
    other = [text for text in every if text not in chosen]
    counts = TextFeatures(size=SIZE).fit(other)["idf"]
    only_there = (np.array(config["inputs"]["idf"]) == round(unseen, 4)) & (
        np.array(counts) < np.log(1 + len(other)) + 0.99
    )
    assert only_there.any()


def test_the_evaluation_encodes_sentences_as_the_model_in_use(folder):
    """Queries of the stored answers are predicted again from their text."""
    learner = episodic.load(folder / "model")
    source = prepared.open_folder(folder / "prepared", torch.device("cpu"))
    texts, table = source.read_texts(), source.read_episodes("test")
    answers = pd.read_parquet(folder / "scores/answers.parquet")
    x = source.with_inputs(read_json(folder / "model/config.json")["inputs"]).examples
    rows = torch.arange(len(texts))
    torch.testing.assert_close(storage.read_examples(x, rows), learner.inputs(texts))
    assert not torch.equal(storage.read_examples(source.examples, rows), learner.inputs(texts))
    shots = len(table["support"][0]) // len(table["classes"][0])
    for line in table[:5].to_dict("records"):
        labels = [k for k in range(len(line["classes"])) for _ in range(shots)]
        adapted = learner.adapt([texts[row] for row in line["support"]], labels)
        predicted = adapted.predict([texts[row] for row in line["query"]])
        after = answers.loc[answers["episode"] == line["episode"], "after"]
        assert list(predicted) == after.to_list()


def test_without_a_selection_the_prepared_features_are_used(folder, tmp_path):
    source = prepared.open_folder(folder / "prepared", torch.device("cpu"))
    classes = source.read_classes()
    train = classes[classes["split"] == "train"]
    assert source.refit_features(train) is source
    assert source.with_inputs(source.meta["inputs"]) is source
    assert source.refit_features(train[1:]).encodes_texts


def test_only_fitted_features_are_fitted_again():
    sentences = ["play a song", "play some music", "wake me at six", "set an alarm"]
    tokens = TextFeatures("tokens", 64, 8)
    inputs = tokens.fit(sentences)
    again = refit(inputs, tokens.input, sentences[:2])
    assert again == tokens.fit(sentences[:2]) != inputs
    encoder = {"kind": "text", "features": "encoder", "encoder": {"name": "x", "digest": "y"}}
    assert refit(encoder, (8,), sentences) is encoder
    assert json.dumps(inputs) == json.dumps(tokens.fit(sentences)), "not changed in place"
