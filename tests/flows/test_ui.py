"""Prefect's UI: access, deployments, the form, and the artifacts of a run."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from flows.ui import __main__ as ui
from flows.ui import results
from flows.ui.curve import LearningCurve, draw_curve
from tasks import params
from tasks.runtime.files import ROOT
from tasks.runtime.stage import StageError
from tests.flows.toy import wait_for, wait_until_gone


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_loopback_needs_no_password(host, monkeypatch):
    monkeypatch.delenv(ui.CREDENTIALS, raising=False)
    ui.check_access(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.7", "::"])  # noqa: S104
def test_non_loopback_addresses_require_a_password_and_origins(host, monkeypatch):
    for name in (ui.CREDENTIALS, ui.ORIGINS):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        StageError,
        match=f"can be reached from other machines; set {ui.CREDENTIALS} and {ui.ORIGINS} first",
    ):
        ui.check_access(host)
    monkeypatch.setenv(ui.CREDENTIALS, "admin:secret")
    with pytest.raises(StageError, match=f"set {ui.ORIGINS} first"):
        ui.check_access(host)
    monkeypatch.setenv(ui.ORIGINS, "*")
    with pytest.raises(StageError, match="must be the URL at which browsers reach this server"):
        ui.check_access(host)
    monkeypatch.setenv(ui.ORIGINS, "http://host:4200")
    ui.check_access(host)
    monkeypatch.setenv(ui.CREDENTIALS, "secret")
    with pytest.raises(StageError, match="is not NAME:PASSWORD; set it to"):
        ui.check_access(host)
    with pytest.raises(StageError, match="--host nowhere is not an IP address"):
        ui.check_access("nowhere")


@pytest.mark.parametrize("number", ["0", "99999", "-1", "x"])
def test_an_invalid_port_is_an_error(number, capsys):
    with pytest.raises(SystemExit) as ended:
        ui.main(["--port", number])
    assert (
        ended.value.code == 2
        and "must be an integer between 1 and 65535" in capsys.readouterr().err
    )


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_ui_serves_the_deployments_and_ends_with_ctrl_c(port, tmp_path):
    """The port can be chosen; the form has choices and descriptions; no process is left behind."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")
    } | {"PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "flows.ui", "--port", str(port)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    run = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **streams)
    try:
        assert (
            run.stdout is not None
            and run.stdout.readline() == f"Prefect's UI: http://127.0.0.1:{port} (Ctrl-C to stop)\n"
        )

        def served() -> dict[str, dict]:
            return {
                d["name"]: d
                for d in httpx.post(
                    f"http://127.0.0.1:{port}/api/deployments/filter", json={}
                ).json()
            }

        wait_for(
            lambda: (
                {"train", "sweep", "compare"} <= set(served())
                and served()["train"]["status"] == "READY"
            ),
            "deployments",
            90,
        )
        train = served()["train"]
        assert (
            train["schedules"][0]["schedule"]["cron"] == "0 2 * * *"
            and train["concurrency_options"]["collision_strategy"] == "ENQUEUE"
        )
        form = train["parameter_openapi_schema"]["properties"]
        assert {"maml", "anil", "protonet"} < set(
            form["algorithm"]["enum"]
        ) and "omniglot_fast" in form["preset"]["enum"]
        assert form["ways"]["type"] == "integer" and form["ways"]["description"].startswith(
            "Classes per episode"
        )
        preflight = {"Origin": "http://elsewhere.example", "Access-Control-Request-Method": "POST"}
        response = httpx.options(
            f"http://127.0.0.1:{port}/api/deployments/filter", headers=preflight
        )
        assert response.headers.get("access-control-allow-origin") not in (
            "*",
            "http://elsewhere.example",
        ), "pages of other sites are rejected"
        pages = httpx.get(f"http://127.0.0.1:{port}/", follow_redirects=True).text
        assert (
            "<html" in pages and str(port) in httpx.get(f"http://127.0.0.1:{port}/ui-settings").text
        )
        second = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert second.returncode == 1 and second.stderr.startswith(
            f"error: cannot listen on 127.0.0.1:{port} ("
        )
        family = psutil.Process(run.pid).children(recursive=True)
    finally:
        os.killpg(run.pid, signal.SIGINT)
        run.communicate(timeout=60)
    assert run.returncode == 0
    wait_until_gone(family)


def test_fields_of_the_form_become_settings(tmp_path):
    from flows.experiments.points import apply_changes
    from flows.experiments.worktree import write_params
    from flows.train import UNCHANGED, default_name, preset_changes

    assert preset_changes(UNCHANGED) == {}
    changes = preset_changes("omniglot_fast")
    write_params(ROOT / "params.yaml", tmp_path / "params.yaml", changes)
    raw = params.read_yaml(ROOT / "params.yaml")
    assert params.read_yaml(tmp_path / "params.yaml") == apply_changes(raw, changes), (
        "the file has the settings of the preset"
    )
    assert (tmp_path / "params.yaml").read_text().count("\n") == (
        ROOT / "params.yaml"
    ).read_text().count("\n"), "the layout is preserved"
    assert (
        changes["dataset.name"] == "omniglot"
        and changes["train.iterations"] == 4000
        and changes["train.plan.mode"] == "auto"
    )
    assert params.parse(apply_changes(params.default_params(), changes)).train.iterations == 4000
    assert (
        default_name(
            "omniglot_fast", {"algorithm.name": "anil", "episodes.ways": 5, "episodes.shots": 5}
        )
        == "omniglot_fast-anil-ways5-shots5"
    )
    assert default_name(UNCHANGED, {}) == "unchanged"
    assert "dataset.source" not in preset_changes("own_photos"), "the configured path stays"
    settings = {"dataset.source": "photos of 2026/my photos", "algorithm.name": "tim"}
    assert default_name("own_photos", settings) == "own_photos-my-photos-tim"


def test_the_form_takes_no_whole_section_and_keys_of_an_earlier_version():
    from flows.train import read_overrides

    raw, warnings = params.default_params(), []
    overrides = {"train.iterations": 3, "model.module.arguments": {"width": 8}}
    assert read_overrides(raw, overrides, warnings.append) == overrides and not warnings
    assert read_overrides(raw, {"train.hard": 0.5}, warnings.append) == {
        "train.hard_episode_fraction": 0.5
    }
    assert warnings == [
        "overrides: train.hard has been renamed to train.hard_episode_fraction; use the new name"
    ]
    with pytest.raises(
        StageError,
        match=r"^overrides: train is a section; set one of its keys, such as train\.iterations$",
    ):
        read_overrides(raw, {"train": {"iterations": 3}}, warnings.append)


def test_images_are_embedded_in_the_summary(tmp_path):
    (tmp_path / "a.svg").write_text("<svg/>")
    (tmp_path / "summary.md").write_text("# T\n\n![a chart](a.svg)\n![gone](b.svg)\n")
    summary = results.inline_images(tmp_path / "summary.md")
    assert (
        f"![a chart](data:image/svg+xml;base64,{base64.b64encode(b'<svg/>').decode()})" in summary
        and "![gone](b.svg)" in summary
    )


def test_the_learning_curve_is_drawn_from_progress(monkeypatch):
    published = []
    curve = LearningCurve("x")
    monkeypatch.setattr(curve, "publish", lambda: published.append(len(curve.points)))
    for done in range(1, 1001):
        event = {"done": done, "loss": 2 / done, "accuracy": 1 - 1 / (done + 1)}
        curve.add(
            event | ({"validation_accuracy": 0.5 + done // 100 / 30} if done >= 100 else {}),
            done == 1000,
        )
    assert published[-1] == len(curve.points) <= 401 and len(published) == 1, (
        "only at the end, since less than 15 seconds have passed"
    )
    drawn = draw_curve(curve.points)
    assert drawn.startswith("<svg") and "validation" in drawn and "training" in drawn
    assert draw_curve([{"iteration": i, "loss": 1 / i} for i in (1, 2, 3)]).startswith("<svg"), (
        "a regression, before its first validation"
    )
    regression = [{"iteration": i, "loss": 1 / i, "validation_mse": 1.2 / i} for i in (1, 2, 3)]
    assert "validation" in draw_curve(regression)
    start = time.monotonic()
    monkeypatch.setattr("flows.ui.curve.time.monotonic", lambda: start + 100)
    curve.add({"done": 1001, "loss": 0.1, "accuracy": 0.9}, False)
    assert len(published) == 2
