"""Sentences: features, datasets, models, and a trained text model in use."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

import episodic
from episodic.analysis.text_baselines import INVERSE_REGULARIZATION, TfidfClassifiers
from episodic.core.objective import Objective
from episodic.core.registry import ALGORITHMS
from episodic.data import storage
from episodic.data.sampling import ClassSampler
from episodic.datasets import clinc150
from episodic.datasets.base import FetchError, Limits
from episodic.datasets.clinc150 import Clinc150
from episodic.datasets.text_folder import TextFolder
from episodic.engine.learner import MetaLearner
from episodic.engine.outer import meta_gradient
from episodic.models import bag, textcnn
from episodic.preprocessing import base as preprocessing
from episodic.preprocessing.base import InputError
from episodic.preprocessing.sentences.files import parse_table
from episodic.preprocessing.text import TextFeatures
from episodic.training import baselines, evaluation, loop, model_folder
from episodic.training.config import TrainingConfig
from tests.episodic.test_cli import call

NGRAMS, TOKENS = TextFeatures(size=256), TextFeatures("tokens", 96, 8)
OPENINGS = [
    "please",
    "could you",
    "i want you to",
    "now",
    "quickly",
    "would you",
    "i need to",
    "kindly",
]
THINGS = {
    "weather": ["tell me the weather", "say if it will rain", "give a forecast of rain"],
    "music": ["play a song", "put on some music", "play music by bach"],
    "alarm": ["wake me at six", "set an alarm for six", "set my alarm"],
    "bank": ["show my balance", "say what my account holds", "check my account balance"],
    "lights": ["turn on the lights", "switch off the lamp", "dim the lights"],
    "travel": ["book a flight to rome", "find me a plane ticket", "book a ticket to rome"],
    "food": ["order a pizza", "get me dinner", "order food for dinner"],
    "mail": ["read my mail", "send an email to ann", "write a mail"],
}


def corpus() -> dict[str, list[str]]:
    return {
        label: [f"{opening} {thing}" for opening in OPENINGS for thing in things]
        for label, things in THINGS.items()
    }


def csv_of(path: Path, header: str = "text,label") -> Path:
    path.write_text(
        "\n".join(
            [header, *(f"{text},{label}" for label, texts in corpus().items() for text in texts)]
        )
        + "\n"
    )
    return path


def prepared(features: TextFeatures):
    """Encoded sentences, the fitted section `inputs`, first rows and counts of the classes."""
    texts = [text for texts in corpus().values() for text in texts]
    section = features.fit(texts)
    encoder = preprocessing.build({"input": list(features.input), "inputs": section})
    counts = torch.full((len(THINGS),), len(texts) // len(THINGS))
    return encoder.encode(texts), section, counts


def test_ngrams_are_scikit_learns_tf_idf():
    """With a column per n-gram there are no collisions: the same vectors up to their order."""
    texts = [text for texts in corpus().values() for text in texts]
    wide = TextFeatures(size=1 << 20)
    result = preprocessing.build({"input": list(wide.input), "inputs": wide.fit(texts)})(texts[:40])
    expected = (
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
        .fit(texts)
        .transform(texts[:40])
    )
    np.testing.assert_allclose(result @ result.T, (expected @ expected.T).toarray(), atol=1e-4)


def test_stored_rows_are_the_encoded_ones(tmp_path):
    texts = [text for texts in corpus().values() for text in texts]
    for features in (NGRAMS, TOKENS):
        examples, section, _ = prepared(features)
        folder = tmp_path / features.kind
        folder.mkdir()
        storage.save_examples(folder, examples)
        again = storage.load_examples(folder, features.input, torch.device("cpu"))
        rows = torch.tensor([5, 0, 5, 17])
        direct = preprocessing.build(
            {"input": list(features.input), "inputs": json.loads(json.dumps(section))}
        )([texts[i] for i in rows.tolist()])
        assert (again[rows] == examples[rows]).all() and (again[rows] == direct).all()
        assert direct.shape == (4, *features.input)


def test_tokens_are_pieces_of_the_training_words():
    examples, section, _ = prepared(TOKENS)
    encoder = preprocessing.build({"input": [8], "inputs": section})
    known, cut = encoder(["play a song", "play " * 20])
    assert (known > 0).sum() < 8 and (known[(known > 0).sum() :] == 0).all() and (cut > 0).all()
    assert (encoder(["Play a SONG"])[0] == known).all(), "case is ignored"
    assert int(examples.max()) < 96
    with pytest.raises(InputError, match="not tokens"):
        encoder(np.full((1, 8), 500))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("one", "put a single sentence in a list"),
        ([], "x is empty: pass at least one sentence"),
        (["x" * 100_001], "has 100,001 characters"),
        ([3, " "], "example 0 is of type int, not text\nexample 1 is empty"),
    ],
)
def test_inputs_that_are_not_sentences_are_reported(given, message):
    _, section, _ = prepared(NGRAMS)
    with pytest.raises(InputError) as caught:
        preprocessing.build({"input": [256], "inputs": section})(given)
    assert message in str(caught.value)


def test_baselines_by_hand():
    baselines = TfidfClassifiers.fit([text for texts in corpus().values() for text in texts])
    support = ["play a song", "wake me at six", "play some music", "set an alarm for six"]
    by_baseline = baselines.predict(
        support, np.array([0, 1, 0, 1]), ["play music by bach", "set my alarm"]
    )
    assert {name: values.tolist() for name, values in by_baseline.items()} == {
        "tfidf_centroid": [0, 1],
        "tfidf_logistic": [0, 1],
    }
    # scikit-learn's classifier on all words gives the same predictions.
    texts, labels = zip(
        *((text, i) for i, texts in enumerate(corpus().values()) for text in texts[:6]), strict=True
    )
    query = [text for texts in corpus().values() for text in texts[6:]]
    direct = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=1000).fit(
        baselines.vectorizer.transform(texts), labels
    )
    predictions = baselines.predict(texts, np.array(labels), query)["tfidf_logistic"]
    assert (predictions == direct.predict(baselines.vectorizer.transform(query))).mean() > 0.99


# --- Models ---

MODELS = {
    "bag": (bag.BagOfFeatures(8, (6,)), NGRAMS),
    "textcnn": (textcnn.TextCNN(96, 6, 5, (1, 3)), TOKENS),
}


def learner_of(
    name: str, method: str, ways: int = 4, **options
) -> tuple[MetaLearner, ClassSampler]:
    spec, features = MODELS[name]
    examples, _, counts = prepared(features)
    algorithm = ALGORITHMS[method](**options)
    meta_learner = MetaLearner(
        spec.build(features.input, algorithm.count_model_outputs(ways, 8)),
        algorithm,
        Objective("classification"),
    )
    return meta_learner, ClassSampler(
        examples, counts.cumsum(0) - counts, counts, 0, "train", ways, 1, 3
    )


@pytest.mark.parametrize("name", MODELS)
def test_batches_equal_single_tasks_and_gradients_are_correct(name):
    """Compared, in float64, with the mean over single tasks and with finite differences."""
    learner, sampler = learner_of(name, "maml", inner_lr=0.3)
    episode = sampler(torch.arange(3))
    if episode.support_x.is_floating_point():
        episode = episode._replace(
            support_x=episode.support_x.double(), query_x=episode.query_x.double()
        )
    theta = {key: p.double() for key, p in learner.init(0).items()}
    whole = meta_gradient(learner, theta, episode)
    singles = [meta_gradient(learner, theta, episode.slice_tasks(i, i + 1)) for i in range(3)]
    for key, gradient in whole.gradient.items():
        torch.testing.assert_close(
            gradient,
            torch.stack([single.gradient[key] for single in singles]).mean(0),
            atol=1e-12,
            rtol=1e-9,
        )
    generator = torch.Generator().manual_seed(0)
    direction = {
        key: torch.randn(p.shape, generator=generator, dtype=p.dtype) for key, p in theta.items()
    }
    step = 1e-6
    ends = [
        float(
            meta_gradient(
                learner, {k: p + sign * step * direction[k] for k, p in theta.items()}, episode
            ).loss
        )
        for sign in (1, -1)
    ]
    along = sum(float((whole.gradient[key] * direction[key]).sum()) for key in theta)
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(along, rel=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_effect_of_padding_and_order(name):
    spec, features = MODELS[name]
    model = spec.build(features.input, 2)
    theta = {key: p[None] for key, p in model.init(torch.Generator().manual_seed(0)).items()}
    if name == "textcnn":
        x = torch.tensor([[[3, 4, 5, 0, 0, 0, 0, 0], [5, 4, 3, 0, 0, 0, 0, 0], [0] * 8]])
        longer = spec.build((12,), 2)
        result = model.features(theta, x)
        torch.testing.assert_close(
            longer.features(theta, torch.cat([x, torch.zeros(1, 3, 4, dtype=torch.long)], 2)),
            result,
        )
        assert not torch.allclose(result[0, 0], result[0, 1]), (
            "convolution windows are sensitive to word order"
        )
        assert (result[0, 2] == 0).all()
    else:
        x = torch.rand(1, 3, 256)
        assert model.features(theta, x).shape == (1, 3, 6 + 256)
        assert (replace(spec, lexical=False).build(features.input, 2).features(theta, x).shape) == (
            1,
            3,
            6,
        )


@pytest.mark.parametrize(
    ("name", "method"), [("bag", "protonet"), ("bag", "maml"), ("textcnn", "protonet")]
)
def test_text_models_learn(name, method):
    """On the training classes, accuracy improves and is far above chance."""
    learner, sampler = learner_of(name, method, **({"inner_lr": 1.0} if method == "maml" else {}))
    test = sampler(torch.arange(1000, 1060))
    config = TrainingConfig(
        iterations=60, meta_batch=4, queries=3, meta_lr=0.01, validate_every=1000
    )
    after = loop.train(learner, sampler, sampler(torch.arange(2000, 2005)), config).theta
    steps = evaluation.count_inner_steps(learner, None)
    before, now = (
        evaluation.episode_scores(learner, theta, test, steps)[0].mean()
        for theta in (learner.init(0), after)
    )
    assert now > max(before + 0.05, 0.6), (before, now)  # chance: 0.25


@pytest.mark.parametrize("name", MODELS)
def test_the_baseline_from_random_weights_learns_its_support_set(name):
    learner, sampler = learner_of(name, "maml")
    episode = sampler(torch.arange(4))
    again = episode._replace(query_x=episode.support_x, query_y=episode.support_y)
    assert baselines.random_init_scores(learner, 0, again, 0.4).mean() > 0.9
    rates = baselines.FINE_TUNING_RATES + baselines.HIGHER_RATES
    assert baselines.choose_fine_tuning_rate(learner, 0, again) in rates


# --- datasets -------------------------------------------------------------------------------------


def test_user_provided_sentences_from_a_csv_and_from_folders(tmp_path):
    table_of = csv_of(tmp_path / "intents.csv")
    for label, texts in corpus().items():
        (tmp_path / "folders" / label).mkdir(parents=True)
        (tmp_path / "folders" / label / "a.txt").write_text("\n".join(texts[:10]) + "\n\n")
        (tmp_path / "folders" / label / "b.txt").write_text("\n".join(texts[10:]))
    result = []
    for source in (table_of, tmp_path / "folders"):
        raw = tmp_path / f"raw {source.name}"
        raw.mkdir()
        config = TextFolder(NGRAMS)
        assert config.limits(0, source).examples == 24
        config.fetch(raw, source=source)
        result.append(config.prepare(raw, 0))
    assert (
        result[0].texts == result[1].texts
        and result[0].classes == sorted(THINGS)
        and result[0].splits == result[1].splits
    )
    assert (
        result[0].protocol == "intents.csv, classes split at random"
        and result[0].inputs == result[1].inputs
    )
    seen = [
        t
        for t, s in zip(result[0].texts, np.repeat(result[0].splits, result[0].counts), strict=True)
        if s == "train"
    ]
    assert result[0].inputs == NGRAMS.fit(seen), (
        "nothing is learned from validation and test classes"
    )


def test_a_csv_may_define_the_split(tmp_path):
    split_of = dict(zip(sorted(THINGS), ["train"] * 4 + ["val"] * 2 + ["test"] * 2, strict=True))
    rows = "\n".join(
        f"{text},{label},{split_of[label]}" for label, texts in corpus().items() for text in texts
    )
    (tmp_path / "a.csv").write_text(f"text,label,split\n{rows}\n")
    assert TextFolder(NGRAMS).limits(0, tmp_path / "a.csv").classes == {
        "train": 4,
        "validation": 2,
        "test": 2,
    }
    (tmp_path / "a.csv").write_text(
        f"text,label,split\n{rows}\nmore,music,train\nmore,music,tset\n"
    )
    with pytest.raises(FetchError, match="label music has the split 'train' and 'tset'"):
        TextFolder().limits(0, tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "has no column text and label"),
        ("text,label\n", "has no rows"),
        ("text,label\nhello,\n,x\n", "line 2: label is empty"),
        ("text,label\nhello\n", "line 2: label is empty"),
        ('text,label\n"open,x\n', "label is empty"),
    ],
)
def test_an_unusable_csv_is_reported(content, message):
    with pytest.raises(InputError) as caught:
        parse_table(content, "a.csv")
    assert message in str(caught.value)
    assert parse_table("\ufefftext,label\nhello,x\n", "a.csv") == [
        {"text": "hello", "label": "x"}
    ], "a byte-order mark is accepted"


def test_unusable_sentences_are_rejected(tmp_path):
    (tmp_path / "latin.csv").write_bytes("text,label\nä,x\n".encode("latin-1"))
    for source, message in (
        (tmp_path / "none.csv", "must be a CSV with the columns"),
        (tmp_path / "latin.csv", "not text in UTF-8"),
        (tmp_path, "has no folders"),
    ):
        with pytest.raises(FetchError, match=message):
            TextFolder().limits(0, source)


def test_clinc150_of_the_mirror(tmp_path):
    """All intents, domains kept apart, sentences of no intent; another file is rejected."""
    mirror = os.environ.get("EPISODIC_MIRROR")
    if not mirror or not (Path(mirror) / "clinc150").is_dir():
        pytest.skip(
            "CLINC150 is not available: set EPISODIC_MIRROR to a folder that contains "
            "clinc150/data_full.json"
        )
    config = Clinc150(TextFeatures(size=1024))
    config.fetch(tmp_path, mirror=Path(mirror))
    result = config.prepare(tmp_path, 0)
    assert (
        len(result.texts) == 22_500
        and len(result.outside) == 1_200
        and set(result.counts.tolist()) == {150}
        and len(result.classes) == 150
    )
    by_domain = {}
    for group, split in zip(result.groups, result.splits, strict=True):
        by_domain.setdefault(group, set()).add(split)
    assert len(by_domain) == 10 and all(len(parts) == 1 for parts in by_domain.values())
    limits = config.limits(0)
    assert (
        {s: result.splits.count(s) for s in limits.classes}
        == limits.classes
        == {"train": 75, "validation": 30, "test": 45}
    )
    assert (
        limits.groups
        == Limits.from_members(150, zip(result.splits, result.groups, strict=True)).groups
    )
    assert result.splits != config.prepare(tmp_path, 1).splits
    (tmp_path / "other/clinc150").mkdir(parents=True)
    for name in clinc150.FILES:
        (tmp_path / "other/clinc150" / name).write_text("{}")
    with pytest.raises(FetchError, match=r"is not CLINC150's data_full.json \(its SHA-256 is not"):
        config.fetch(tmp_path, mirror=tmp_path / "other")


# --- in use ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A trained text model, and a CSV of three labels to adapt to."""
    folder = tmp_path_factory.mktemp("text")
    learner, sampler = learner_of("bag", "protonet")
    theta = loop.train(
        learner,
        sampler,
        sampler(torch.arange(5)),
        TrainingConfig(iterations=30, meta_batch=4, queries=3),
    ).theta
    _, section, _ = prepared(NGRAMS)
    config = {
        "algorithm": {"name": "protonet"},
        "model": {"name": "bag", "embedding": 8, "hidden": [6]},
        "batch_norm": "transductive",
        "input": [256],
        "inputs": section,
        "kind": "classification",
        "ways": 4,
        "shots": 1,
        "classes": 8,
        "dataset": "text_folder",
        "iteration": 30,
        "iterations": 30,
        "validation": 0.5,
    }
    model_folder.save(folder / "run", [theta], config)
    rows = [
        f"{text},{label}" for label in ("music", "alarm", "food") for text in corpus()[label][:4]
    ]
    (folder / "intents.csv").write_text("\n".join(["text,label", *rows]))
    (folder / "new.txt").write_text(
        "could you play music by bach\n\nset my alarm\norder food for dinner\n"
    )
    return folder


def test_a_text_model_by_two_commands(workspace):
    assert "adapted to 3 classes from 12 examples" in call(
        workspace, "adapt", "run", "intents.csv", "-o", "adapted"
    )
    message = call(workspace, "predict", "adapted", "new.txt").splitlines()
    assert [line.split("  ")[0] for line in message] == [
        "could you play music by bach",
        "set my alarm",
        "order food for dinner",
    ]
    assert [line.split()[-3] for line in message] == ["music", "alarm", "food"]
    result = call(workspace, "predict", "adapted", "-", "--json", stdin="play a song\n\n")
    assert json.loads(result)["text"] == "play a song" and json.loads(result)["label"] == "music"
    assert "adapted to 3 classes" in call(
        workspace,
        "adapt",
        "run",
        "-",
        "-o",
        "adapted",
        stdin=(workspace / "intents.csv").read_text(),
    )
    assert "text, 256" in call(workspace, "info", "run")
    assert "on 10 3-way 1-shot episodes" in call(
        workspace,
        "evaluate",
        "run",
        "intents.csv",
        "--ways",
        "3",
        "--queries",
        "3",
        "--episodes",
        "10",
    )
    assert "has no column text and label" in call(
        workspace, "adapt", "run", "new.txt", "-o", "x", code=1
    )
    assert "none.txt cannot be read" in call(workspace, "predict", "adapted", "none.txt", code=1)


def test_a_text_model_from_python_and_onnx(workspace, tmp_path):
    model = episodic.load(workspace / "run")
    texts = [text for label in ("mail", "bank") for text in corpus()[label][:3]]
    adapted = model.adapt(texts, ["mail"] * 3 + ["bank"] * 3)
    assert adapted.predict(["kindly read my mail", "now check my account balance"]).tolist() == [
        "mail",
        "bank",
    ]
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime has no wheel for this Python")
    from episodic.inference import export

    export.export_onnx(adapted, tmp_path / "model.onnx")
    (probabilities,) = runtime.InferenceSession(str(tmp_path / "model.onnx")).run(
        None, {"x": model.inputs(texts).numpy()}
    )
    np.testing.assert_allclose(probabilities, adapted.predict_proba(texts), atol=1e-5)


def test_a_text_model_in_the_demo(workspace):
    from fastapi.testclient import TestClient

    from episodic.inference import demo

    client = TestClient(
        demo.build_app(episodic.load(workspace / "run"), "run"), base_url="http://127.0.0.1:1"
    )
    assert '"kind": "text"' in client.get("/").text
    support = {label: corpus()[label][:2] for label in ("music", "alarm")}
    key = client.post("/adapt", json={"classes": support}).json()["model"]
    predictions = client.post(
        "/predict", json={"model": key, "examples": ["play music by bach", "set my alarm"]}
    ).json()["predictions"]
    assert [prediction["label"] for prediction in predictions] == ["music", "alarm"]
    refused = client.post("/predict", json={"model": key, "examples": [" "]})
    assert refused.status_code == 422 and "example 0 is empty" in refused.json()["detail"]
