"""The service of `episodic serve`: answers, rejected requests, slow clients and its stop."""

from __future__ import annotations

import base64
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import episodic
from episodic.inference.service.app import Service
from episodic.inference.service.guard import Limits
from tests.episodic.algorithms.test_every_algorithm import sampler, trained
from tests.episodic.inference.reliable import reliability, set_reliability
from tests.episodic.inference.test_few_shot import folder_of
from tests.support import ROOT

ADDRESS = "http://127.0.0.1:8766"
PNG = {"Content-Type": "image/png"}


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def drawings() -> list[bytes]:
    """Twelve images of each of two classes."""
    images = 255 - sampler("test").examples[-40:, 0].numpy()
    return [png(images[20 * c + i]) for c in range(2) for i in range(12)]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, drawings) -> Path:
    folder = tmp_path_factory.mktemp("model")
    folder_of("protonet", folder / "run", theta=trained("protonet").theta)
    support = [*drawings[:2], *drawings[12:14]]
    episodic.load(folder / "run").adapt(support, ["a", "a", "b", "b"]).save(folder / "adapted")
    return folder / "adapted"


@pytest.fixture
def service(adapted):
    service = Service(episodic.load_adapted(adapted), "adapted")
    yield service
    service.worker.close()


@pytest.fixture
def client(service):
    return TestClient(service.app, base_url=ADDRESS)


def expected(adapted: Path, drawings: list[bytes]) -> list[list[float]]:
    """The probabilities of each drawing that is asked alone."""
    model = episodic.load_adapted(adapted)
    return [model.predict_proba([drawing])[0].tolist() for drawing in drawings]


def test_concurrent_answers_are_those_of_the_model_to_the_last_bit(
    service, client, adapted, drawings
):
    batches = []
    service.worker.observe_batch = batches.append

    def ask(drawing: bytes) -> dict:
        return client.post("/predict", content=drawing, headers=PNG).json()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, drawings))
    answers = [answer["predictions"][0] for answer in answers]
    probabilities = expected(adapted, drawings)
    assert [list(answer["probabilities"].values()) for answer in answers] == probabilities
    labels = ["ab"[int(row[1] > row[0])] for row in probabilities]
    assert [answer["label"] for answer in answers] == labels and len(set(labels)) == 2
    assert sum(batches) == 24
    text = client.get("/metrics").text
    assert 'episodic_requests_total{path="/predict",status="200"} 24.0' in text
    assert f'episodic_predictions_total{{label="a"}} {labels.count("a")}.0' in text


def test_images_in_json_are_predicted_as_one_call(client, adapted, drawings):
    examples = [base64.b64encode(drawing).decode() for drawing in drawings]
    answer = client.post("/predict", json={"examples": examples}).json()
    rows = [list(p["probabilities"].values()) for p in answer["predictions"]]
    assert rows == episodic.load_adapted(adapted).predict_proba(drawings).tolist()
    assert answer["transductive"] is False


def test_unknown_classes_and_sets(client, adapted, drawings, tmp_path):
    """In JSON, and as parameters of the bytes of an image; as the model predicts."""
    folder = tmp_path / "reliable"
    shutil.copytree(adapted, folder)
    model = episodic.load_adapted(set_reliability(folder, reliability("max_softmax", 0.6, 2, 2)))
    encoded = [base64.b64encode(drawing).decode() for drawing in drawings]
    expected = model.predict_all(drawings, unknown=True)
    assert {"a", "b", "unknown"} == set(expected.labels.tolist()), "some are unknown"
    service = Service(model, "reliable")
    asked = TestClient(service.app, base_url=ADDRESS)
    body = {"examples": encoded, "unknown": True, "coverage": 0.9}
    answer = asked.post("/predict", json=body).json()["predictions"]
    assert answer == expected.to_json(0.9)
    assert asked.post("/predict?coverage=0.9&unknown=true", json={"examples": encoded}).json()[
        "predictions"
    ] == expected.to_json(0.9)
    raw = asked.post("/predict?unknown=true", content=drawings[0], headers=PNG).json()
    alone = model.predict_all(drawings[:1], unknown=True).to_json()
    assert raw["predictions"] == alone and "set" not in alone[0]
    plain = asked.post("/predict", json={"examples": encoded[:1]}).json()["predictions"][0]
    assert plain.keys() == {"label", "probabilities"} and plain["label"] != "unknown"
    told = asked.get("/").json()
    assert (told["unknown"], told["sets"], told["note"]) == (True, True, None)
    for query in ("coverage=0.4", "coverage=high", "unknown=perhaps", "coverag=0.9"):
        found = asked.post(f"/predict?{query}", content=drawings[0], headers=PNG)
        assert found.status_code == 422 and query.split("=")[0] in found.json()["detail"]
    service.worker.close()
    assert (client.get("/").json()["unknown"], client.get("/").json()["sets"]) == (False, False)
    for more, message in (
        ({"unknown": True}, "the model cannot detect unknown classes"),
        ({"coverage": 0.9}, "the model has no prediction sets"),
    ):
        found = client.post("/predict", json={"examples": encoded[:1]} | more)
        assert found.status_code == 422 and message in found.json()["detail"]


def test_invalid_requests_get_one_sentence(client, drawings):
    bomb = png(np.zeros((8000, 8000), np.uint8))
    assert len(bomb) < 100_000
    for content, headers, status, words in (
        (b"{", {"Content-Type": "application/json"}, 422, "Invalid JSON"),
        (b'{"examples": []}', {"Content-Type": "application/json"}, 422, "at least 1 item"),
        (b'{"examples": ["!"]}', {"Content-Type": "application/json"}, 422, "base64"),
        (b'{"examples": [], "x": 1}', {"Content-Type": "application/json"}, 422, "and 1 more"),
        (b"hello", PNG, 422, "cannot be read as an image"),
        (b"", PNG, 422, "cannot be read as an image"),
        (bomb, PNG, 422, "more than 50 million pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", PNG, 422, "convert it to PNG"),
        (b"hello", {"Content-Type": "text/plain"}, 415, "content type"),
        (b" " * (33 << 20), PNG, 413, "at most 32 MB"),
        (drawings[0], {**PNG, "Host": "evil.example"}, 400, "not served here"),
        (drawings[0], {**PNG, "Origin": "http://evil.example"}, 403, "are rejected"),
    ):
        response = client.post("/predict", content=content, headers=headers)
        assert response.status_code == status and words in response.json()["detail"], response.text
    assert client.get("/predict").json() == {"detail": "wrong method: see /docs"}


def test_random_requests_are_never_a_failure_of_the_service(client, drawings):
    """Neither a status of 500 nor an answer that is not JSON."""
    stream = random.Random(0)
    good = json.dumps({"examples": [base64.b64encode(drawings[0]).decode()]}).encode()
    values = [None, 1e400, -1, "x", [], {}, [[]], [1], ["\ud800"], ["data:,"], "9" * 5000]
    for _ in range(300):
        kind = stream.randrange(4)
        body = bytearray(stream.choice([good, drawings[0]]))
        if kind == 0:
            body = body[: stream.randrange(len(body))]
        elif kind == 1:
            for _ in range(stream.randrange(1, 9)):
                body[stream.randrange(len(body))] = stream.randrange(256)
        elif kind == 2:
            body = bytearray(json.dumps({"examples": stream.choice(values)}).encode())
        else:
            body = bytearray(stream.randbytes(stream.randrange(200)))
        types = ["application/json", "image/png", "text/plain", "", "image/"]
        response = client.post(
            "/predict", content=bytes(body), headers={"Content-Type": stream.choice(types)}
        )
        assert response.status_code in (200, 415, 422), (response.status_code, bytes(body))
        assert response.status_code == 200 or set(response.json()) == {"detail"}
    assert client.post("/predict", content=drawings[0], headers=PNG).status_code == 200


def test_a_full_queue_asks_to_try_again(adapted, drawings):
    service = Service(episodic.load_adapted(adapted), "adapted", max_waiting=1)
    is_computing, is_free = threading.Event(), threading.Event()

    def wait(examples: int) -> None:
        is_computing.set()
        assert is_free.wait(30)

    service.worker.observe_batch = wait
    client = TestClient(service.app, base_url=ADDRESS)
    with ThreadPoolExecutor(2) as pool:

        def ask() -> int:
            return client.post("/predict", content=drawings[0], headers=PNG).status_code

        first = pool.submit(ask)
        assert is_computing.wait(30)
        second = pool.submit(ask)
        while service.worker.count_waiting() < 1:
            time.sleep(0.01)
        refused = client.post("/predict", content=drawings[0], headers=PNG)
        assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
        is_free.set()
        assert (first.result(), second.result()) == (200, 200)
    service.worker.close()


def test_the_token_is_required_except_by_probes(adapted, drawings):
    service = Service(episodic.load_adapted(adapted), "adapted", token="secret")  # noqa: S106
    client = TestClient(service.app, base_url=ADDRESS)
    for path in ("/", "/metrics", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer other"}).status_code == 401
        assert client.get(path, headers={"Authorization": "Bearer secret"}).status_code == 200
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    service.drain()
    response = client.get("/ready")
    assert response.status_code == 503 and response.headers["Connection"] == "close"
    assert client.get("/health").status_code == 200
    service.worker.close()


def test_bodies_of_all_requests_are_bounded(adapted):
    limits = Limits(request_bytes=1 << 20, buffered_bytes=1000)
    service = Service(episodic.load_adapted(adapted), "adapted", limits=limits)
    client = TestClient(service.app, base_url=ADDRESS)
    for _ in range(2):  # what was buffered is released
        assert client.post("/predict", content=b" " * 1001, headers=PNG).status_code == 503
        assert client.post("/predict", content=b" " * 1000, headers=PNG).status_code == 422
    service.worker.close()


def test_a_stop_finishes_what_was_taken(adapted, drawings, tmp_path):
    """Under load, SIGTERM loses no answer; slow clients do not delay it."""
    command = [sys.executable, "-m", "episodic", "serve", str(adapted), "--port", "0"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wrong, answered = [], []
    probabilities = expected(adapted, drawings)
    try:
        address = re.search(r"http://\S+", process.stdout.readline())[0]
        port = int(address.rsplit(":", 1)[1])
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        slow[0].sendall(b"GET /health HT")
        slow[1].sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")

        def ask(client: int) -> None:
            for i in range(client, 100_000):
                request = urllib.request.Request(  # noqa: S310
                    f"{address}/predict", drawings[i % 24], PNG
                )
                try:
                    with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
                        row = json.load(response)["predictions"][0]["probabilities"]
                except urllib.error.URLError as error:
                    if not isinstance(error.reason, ConnectionRefusedError | ConnectionResetError):
                        wrong.append(error)
                    return
                except ConnectionResetError:  # not accepted before the stop
                    return
                answered.append(i)
                if list(row.values()) != probabilities[i % 24]:
                    wrong.append(i)

        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(ask, i) for i in range(4)]
            while len(answered) < 40:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            for client in clients:
                client.result()
        slow[0].close()
        slow[1].close()
    finally:
        process.terminate()
        _, error = process.communicate(timeout=40)
    assert process.returncode == 0 and wrong == [] and error == ""
    assert list(tmp_path.iterdir()) == []
