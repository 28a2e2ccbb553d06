"""The demo service: its responses, rejected requests, and that it writes no file.

tests/browser tests its page.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import episodic
from episodic.inference import demo
from tests.episodic.algorithms.test_every_algorithm import sampler, trained
from tests.episodic.inference.reliable import reliability, set_reliability
from tests.episodic.inference.test_few_shot import folder_of
from tests.support import ROOT

ADDRESS = "http://127.0.0.1:8765"


def data_url(pixels: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(255 - pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return folder_of(
        "protonet", tmp_path_factory.mktemp("model") / "run", theta=trained("protonet").theta
    )


@pytest.fixture
def client(model):
    return TestClient(demo.build_app(episodic.load(model), "models/run"), base_url=ADDRESS)


@pytest.fixture(scope="module")
def drawings() -> dict[str, list[str]]:
    """Six images per class of four classes."""
    images = sampler("test").examples[-80:, 0].numpy()
    return {
        name: [data_url(images[20 * c + i]) for i in range(6)]
        for c, name in enumerate(["a", "<b>", "c d", "ä"])
    }


def test_demo_predictions_equal_those_of_the_model(client, model, drawings):
    support = {name: images[:2] for name, images in drawings.items()}
    adaptation = client.post("/adapt", json={"classes": support}).json()
    assert adaptation["classes"] == sorted(support) and adaptation["examples"] == 8
    asked = [p for images in drawings.values() for p in images[2:]]
    answer = client.post("/predict", json={"model": adaptation["model"], "examples": asked}).json()
    predictions = answer["predictions"]
    assert answer["transductive"] is False

    def files(images: list[str]) -> list[bytes]:
        return [base64.b64decode(p.split(",")[1]) for p in images]

    labels = [name for name, images in support.items() for _ in images]
    adapted = episodic.load(model).adapt(
        files([p for images in support.values() for p in images]), labels
    )
    expected = adapted.predict_proba(files(asked))
    np.testing.assert_allclose(
        [[a["probabilities"][c] for c in adaptation["classes"]] for a in predictions],
        expected,
        atol=1e-6,
    )
    assert [a["label"] for a in predictions] == adapted.predict(files(asked)).tolist()
    bare = client.post(
        "/predict", json={"model": adaptation["model"], "examples": [asked[0].split(",")[1]]}
    )
    assert bare.json()["predictions"][0]["probabilities"] == pytest.approx(
        predictions[0]["probabilities"], abs=1e-5
    ), "plain base64 is accepted too"


def test_unknown_classes_and_sets(client, model, drawings, tmp_path):
    """Only where they are asked for; a model that cannot say so is one sentence."""
    folder = folder_of("protonet", tmp_path / "run", theta=trained("protonet").theta)
    set_reliability(folder, reliability("max_softmax", 0.45, 4, 2))
    learner = episodic.load(folder)
    able = TestClient(demo.build_app(learner, "run"), base_url=ADDRESS)
    support = {name: images[:2] for name, images in drawings.items()}
    key, unable = (c.post("/adapt", json={"classes": support}).json() for c in (able, client))
    assert (key["unknown"], unable["unknown"]) == (True, False)
    asked = [p for images in drawings.values() for p in images[2:]]
    request = {"model": key["model"], "examples": asked}
    plain = able.post("/predict", json=request).json()["predictions"]
    full = able.post("/predict", json=request | {"unknown": True, "coverage": 0.8})
    labels = [name for name, images in support.items() for _ in images]
    adapted = learner.adapt(
        [base64.b64decode(p.split(",")[1]) for images in support.values() for p in images], labels
    )
    expected = adapted.predict_all([base64.b64decode(p.split(",")[1]) for p in asked], unknown=True)
    assert 0 < expected.is_unknown.sum() < len(asked)
    predictions = full.json()["predictions"]
    assert [p["label"] for p in predictions] == expected.labels.tolist()
    assert [p["set"] for p in predictions] == expected.find_sets(0.8)
    found = [p["familiarity"] for p in predictions]
    np.testing.assert_allclose(found, expected.familiarity, atol=1e-6)
    assert {tuple(p) for p in plain} == {("label", "probabilities")}
    assert "unknown" not in {p["label"] for p in plain}
    request = {"model": unable["model"], "examples": asked[:1]}
    for options in ({"unknown": True}, {"coverage": 0.9}):
        refused = client.post("/predict", json=request | options)
        assert refused.status_code == 422
        assert "an earlier version trained it" in refused.json()["detail"]
    assert able.post("/predict", json=request | {"coverage": 90}).status_code == 422
    named = able.post("/adapt", json={"classes": {"unknown": asked[:1], "a": asked[-1:]}}).json()
    assert named["unknown"] is False


def test_invalid_requests_are_rejected(client, drawings):
    good = {name: images[:1] for name, images in drawings.items()}
    key = client.post("/adapt", json={"classes": good}).json()["model"]
    image = drawings["a"][0]
    for path, content, status, message in (
        ("/adapt", {"classes": {"a": [image]}}, 422, "at least 2"),
        ("/adapt", {"classes": good | {"": [image]}}, 422, "at least 1 character"),
        ("/adapt", {"classes": good | {"a": []}}, 422, "at least 1 item"),
        (
            "/adapt",
            {"classes": {"a": [image] * 150, "b": [image] * 150}},
            422,
            "at most 200 are accepted",
        ),
        (
            "/adapt",
            {"classes": good | {"a": ["data:text/html;base64,AAAA"]}},
            422,
            "is not an image",
        ),
        (
            "/adapt",
            {"classes": good | {"a": ["data:image/png;base64,!!!"]}},
            422,
            "is not valid base64",
        ),
        (
            "/adapt",
            {"classes": {"b": [image], "a": [image, "data:image/png;base64,AAAA"]}},
            422,
            "example 2 of a: the image cannot be read as an image",
        ),
        ("/predict", {"model": "other", "examples": [image]}, 404, "adapt again"),
        ("/predict", {"model": key, "examples": []}, 422, "at least 1 item"),
        ("/predict", {"model": key, "examples": ["x" * (7 << 20)]}, 422, "at most"),
        (
            "/predict",
            {"model": key, "examples": ["x" * (33 << 20)]},
            413,
            "at most 32 MB are accepted",
        ),
    ):
        response = client.post(path, json=content)
        assert response.status_code == status and message in response.text, (
            path,
            response.text[:300],
        )
    streamed = client.post("/adapt", content=iter([b" " * (1 << 20)] * 33))
    assert streamed.status_code == 413, "without a length, the limit holds while it is read"
    assert (
        client.post(
            "/adapt", json={"classes": good}, headers={"Origin": "http://evil.example"}
        ).status_code
        == 403
    )
    assert (
        client.post("/adapt", json={"classes": good}, headers={"Host": "evil.example"}).status_code
        == 400
    )
    assert (
        client.post("/adapt", json={"classes": good}, headers={"Origin": ADDRESS}).status_code
        == 200
    )


def test_fixed_ways_are_enforced(tmp_path, drawings):
    client = TestClient(
        demo.build_app(episodic.load(folder_of("maml", tmp_path / "run")), "run"), base_url=ADDRESS
    )
    response = client.post(
        "/adapt", json={"classes": {name: images[:1] for name, images in drawings.items()}}
    )
    assert (
        response.status_code == 422
        and "maml was trained for 5 classes per task" in response.json()["detail"]
    )
    facts = json.loads(re.search(r"const MODEL = (.*);", client.get("/").text)[1])
    assert facts["anyWays"] is False and facts["ways"] == 5


def test_the_oldest_models_are_forgotten(client, drawings):
    support = {"classes": {name: images[:1] for name, images in drawings.items()}}
    keys = [client.post("/adapt", json=support).json()["model"] for _ in range(demo.MAX_MODELS + 1)]
    status = [
        client.post("/predict", json={"model": key, "examples": drawings["a"][:1]}).status_code
        for key in (keys[0], keys[1], keys[-1])
    ]
    assert status == [404, 200, 200] and len(set(keys)) == len(keys)


def test_suggestions_are_those_of_the_model(client, model, drawings):
    """Before and after adaptation; copies and labelled examples are left out."""
    support = {name: images[:2] for name, images in drawings.items()}
    pool = [p for images in drawings.values() for p in [*images[1:], images[2]]]
    files = [base64.b64decode(p.split(",")[1]) for p in pool]
    learner = episodic.load(model)

    def ask(key: str | None) -> list[dict]:
        answer = client.post("/suggest", json={"model": key, "examples": pool, "n": 4})
        return answer.json()["suggestions"]

    before = learner.suggest(files, 4)
    assert [s["index"] for s in ask(None)] == before.indices.tolist()
    assert [set(s) for s in ask(None)] == [{"index", "represents"}] * 4
    key = client.post("/adapt", json={"classes": support}).json()["model"]
    labels = [name for name, images in support.items() for _ in images]
    given = [base64.b64decode(p.split(",")[1]) for images in support.values() for p in images]
    expected = learner.adapt(given, labels).suggest(files, 4)
    after = ask(key)
    assert [s["index"] for s in after] == expected.indices.tolist()
    assert [[s["label"], s["runner_up"]] for s in after] == expected.labels.tolist()
    assert not {i for i in range(24) if i % 6 == 0} & {s["index"] for s in after}, "are labelled"
    unknown = client.post("/suggest", json={"model": "x", "examples": pool})
    assert unknown.status_code == 404 and "adapt again" in unknown.json()["detail"]
    assert client.post("/suggest", json={"examples": []}).status_code == 422


def test_the_page_runs_only_its_own_script(client):
    page = client.get("/")
    policy = page.headers["Content-Security-Policy"]
    script = re.search(r"<script>(.*)</script>", page.text, re.S)[1]
    import hashlib

    assert (
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    )
    assert "default-src 'none'" in policy and "http" not in re.sub(r"connect-src[^;]*", "", policy)
    assert not re.search(r"(src|href)=\"(?!/docs|data:,)", page.text), "nothing is fetched"
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/adapt", "/predict", "/suggest"}
    docs = client.get("/docs").text
    assert (
        "cdn" not in docs
        and client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200
    )


def test_as_a_program(model, tmp_path):
    """It prints its address, responds, reports a port in use, stops at Ctrl-C, writes no file."""
    import urllib.request

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "episodic", "demo", str(model), "--no-browser", "--port"]
    process = subprocess.Popen(
        [*command, "0"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=20) as response:  # noqa: S310
            assert "Few-shot demo" in response.read().decode()
        taken = subprocess.run(
            [*command, address.rsplit(":", 1)[1]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert (
            taken.returncode == 1
            and taken.stderr.startswith("error: port ")
            and "choose another" in taken.stderr
        )
    finally:
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    assert process.returncode in (0, 130) and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
