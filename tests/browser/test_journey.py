"""A run from the form, its pages, its report and a comparison, in a real browser and server.

The console shows no error, and no request goes to another host.
EPISODIC_SCREENSHOTS names a folder for screenshots.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from history import Repository
from support import copy_checkout, git

from tasks import compare, preset
from tests.browser.pages import CHROMIUM, needs_chromium

pytestmark = needs_chromium

PREFECTS_OWN = ("/favicon.ico", "/undefined.svg")
"""Images that Prefect's pages ask its server for and that it does not have."""


EVIL = "evil.example"
"""A host name that its owner has made resolve to this machine."""


class Site:
    """A server, its checkout, the browser's errors and its requests to other hosts."""

    def __init__(self, root: Path, address: str):
        self.root, self.address = root, address
        self.complaints: list[str] = []
        self.foreign: list[str] = []

    def watch(self, page: Any) -> Any:
        page.on(
            "console",
            lambda m: (
                self.complaints.append(f"{m.text} {m.location.get('url', '')}")
                if m.type == "error"
                else None
            ),
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

        def record(request: Any) -> None:
            if not request.url.startswith(
                (self.address, "data:", "blob:", "file:", self.address.replace("http", "ws"))
            ):
                self.foreign.append(request.url)

        page.on("request", record)
        return page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = copy_checkout(tmp_path_factory.mktemp("site") / "a checkout")
    preset.apply_preset("tiny", root / "params.yaml")
    git(root, "commit", "--quiet", "--all", "--message=tiny")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PREFECT_", "DVC_", "PYTHONPATH"))
    }
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",  # the default is 10 seconds
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "flows.ui", "--port", str(port)],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert server.stdout is not None and server.stdout.readline().startswith("Prefect's UI: ")
    try:
        yield Site(root, f"http://127.0.0.1:{port}")
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.communicate(timeout=60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", f"--host-resolver-rules=MAP {EVIL} 127.0.0.1"],
        )


@pytest.fixture
def page(site: Site, browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 1400}, color_scheme="light")
    context.set_default_timeout(60_000)
    yield site.watch(context.new_page())
    context.close()


def save_screenshot(page: Any, name: str) -> None:
    folder = os.environ.get("EPISODIC_SCREENSHOTS")
    if folder:
        page.wait_for_timeout(700)  # pages fade in
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def run_from_form(site: Site, page: Any, algorithm: str, shots: int) -> None:
    page.goto(
        f"{site.address}/deployments/deployment/{wait_for_deployment(site, page, 'train')}/run"
    )
    button = find_field(page, "algorithm").locator(".p-select-button__control")
    button.focus()
    button.press("ArrowDown")
    page.locator(".p-select-option__text").get_by_text(algorithm, exact=True).click()
    find_field(page, "shots").locator("input").fill(str(shots))
    save_screenshot(page, f"form-{algorithm}")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(re.compile("tab=Runs"))


def wait_for_deployment(site: Site, page: Any, name: str, timeout: float = 60.0) -> str:
    """The id of a deployment, once it is ready."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        for known in page.request.post(f"{site.address}/api/deployments/filter", data={}).json():
            if known["name"] == name and known["status"] == "READY":
                return known["id"]
        time.sleep(0.5)
    raise AssertionError(f"no deployment {name} in {timeout:.0f} s")


def find_field(page: Any, name: str) -> Any:
    """A parameter of the run form."""
    label = page.locator(".schema-form-property__label", has_text=re.compile(rf"^{name} "))
    return page.locator(".schema-form-property", has=label).first


def wait_for_run(site: Site, page: Any, name: str, timeout: float = 150.0) -> dict[str, Any]:
    """The flow run whose experiment is `name`, once it has ended."""
    end = time.monotonic() + timeout
    ended = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}}
    while time.monotonic() < end:
        runs = page.request.post(f"{site.address}/api/flow_runs/filter", data=ended).json()
        done = [run for run in runs if name in (run["state"]["message"] or "")]
        if done:
            return done[0]
        time.sleep(0.5)
    raise AssertionError(
        f"no run of {name} ended in {timeout:.0f} s: "
        f"{[(run['name'], run['state']) for run in runs]}"
    )


def test_from_the_form_to_the_comparison(site: Site, page: Any):
    before = git(site.root, "status", "--porcelain")
    run_from_form(site, page, "anil", 5)
    run = wait_for_run(site, page, "anil-shots5")
    assert run["state_type"] == "COMPLETED" and "5 stages ran" in run["state"]["message"]
    page.goto(f"{site.address}/runs/flow-run/{run['id']}")
    page.get_by_text("Completed").first.wait_for()
    save_screenshot(page, "run")
    page.get_by_text("Artifacts", exact=True).first.click()
    page.get_by_text("anil-shots5-report").first.wait_for()
    artifacts = {
        a["key"]: a
        for a in page.request.post(f"{site.address}/api/artifacts/filter", data={}).json()
    }
    page.goto(f"{site.address}/artifacts/artifact/{artifacts['anil-shots5-report']['id']}")
    page.get_by_role("heading", name="Baselines").wait_for()
    drawn = page.locator("img[src^='data:image/svg+xml']")
    assert drawn.count() >= 3 and drawn.first.evaluate("image => image.naturalWidth") > 100
    save_screenshot(page, "artifact")
    page.goto(f"{site.address}/artifacts/artifact/{artifacts['anil-shots5-result']['id']}")
    page.get_by_text("chance", exact=True).first.wait_for()
    page.goto(f"{site.address}/artifacts/artifact/{artifacts['anil-shots5-report']['id']}")
    page.goto(page.get_by_role("link", name="Full report").get_attribute("href"))
    page.get_by_role("heading", name="Baselines").wait_for()
    assert page.url == f"{site.address}/reports/experiments/anil-shots5/report.html"
    save_screenshot(page, "report")
    assert git(site.root, "status", "--porcelain") == before, "the checkout is unchanged"

    run_from_form(site, page, "protonet", 5)
    wait_for_run(site, page, "protonet-shots5")
    compare_id = wait_for_deployment(site, page, "compare")
    url = f"{site.address}/api/deployments/{compare_id}/create_flow_run"
    page.request.post(url, data={})
    wait_for_run(site, page, "5-way 5-shot")
    page.goto(f"{site.address}/reports/comparison/comparison.html")
    page.locator("html[data-rendered=yes]").wait_for()
    rows = page.locator("table.sortable tbody tr")
    order = [text.split("\n")[0] for text in rows.all_inner_texts()]
    page.locator("table.sortable thead button", has_text="training").click()
    page.locator("th[aria-sort=ascending]").wait_for()
    seconds = [
        float(cell.get_attribute("data-key"))
        for cell in page.locator("table.sortable tbody tr td:nth-last-child(2)").all()
    ]
    assert seconds == sorted(seconds) and len(order) == 2
    page.locator("input[type=search]").fill("protonet")
    assert [row.is_visible() for row in rows.all()].count(True) == 1
    assert page.locator("output").inner_text() == "1 of 2"
    page.locator("input[type=search]").fill("seeds>1")
    assert [row.is_visible() for row in rows.all()].count(True) == 0
    page.locator("input[type=search]").fill("")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="Dark theme").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
    save_screenshot(page, "comparison-dark")
    page.get_by_role("button", name="Light theme").click()
    save_screenshot(page, "comparison")
    assert site.foreign == []
    assert [message for message in site.complaints if not message.endswith(PREFECTS_OWN)] == []


ATTACK = """
async ([api, deployment]) => {
  const text = {"Content-Type": "text/plain"}, json = {"Content-Type": "application/json"};
  const run = `${api}/deployments/${deployment}/create_flow_run`;
  const pause = `${api}/deployments/${deployment}/pause_deployment`;
  const read = async (url, options) => {
    try {
      const response = await fetch(url, options);
      return response.type === "opaque" ? "opaque" : response.status;
    } catch { return "failed"; }
  };
  const connect = (url) => new Promise((resolve) => {
    const socket = new WebSocket(url.replace("http", "ws"));
    socket.onopen = () => resolve("open");
    socket.onerror = () => resolve("failed");
  });
  const submit = (url) => new Promise((resolve) => {
    const frame = Object.assign(document.createElement("iframe"), {name: "target"});
    document.body.append(frame);
    const form = Object.assign(document.createElement("form"),
      {action: url, method: "post", enctype: "text/plain", target: "target"});
    const content = {name: '{"parameters": {}, "tags": ["', value: '"]}'};
    form.append(Object.assign(document.createElement("input"), content));
    document.body.append(form);
    frame.onload = () => resolve("sent");
    form.submit();
  });
  return {
    read: await read(`${api}/admin/version`),
    filter: await read(`${api}/deployments/filter`, {method: "POST", headers: json, body: "{}"}),
    run: await read(run, {method: "POST", headers: json, body: "{}"}),
    blind: await read(run, {method: "POST", mode: "no-cors", headers: text, body: "{}"}),
    pause: await read(pause, {method: "POST", mode: "no-cors"}),
    socket: await connect(`${api}/events/out`),
    form: await submit(run),
  };
}
"""
"""What the page of another site would do: read, start a run, pause a schedule, connect."""


@pytest.fixture
def other_site() -> Iterator[int]:
    """The port of a server on this machine, with an empty page, that is another origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<body>a page")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def test_pages_of_other_sites_neither_read_nor_start_anything(
    site: Site, page: Any, browser: Any, other_site: int
):
    deployment = wait_for_deployment(site, page, "train")

    def state() -> tuple[Any, ...]:
        runs = page.request.post(f"{site.address}/api/flow_runs/count", data={}).json()
        known = page.request.get(f"{site.address}/api/deployments/{deployment}").json()
        return runs, known["paused"], known["schedules"][0]["active"]

    before = state()
    port = site.address.rpartition(":")[2]
    foreign = browser.new_page()
    blocked = {"read": "failed", "filter": "failed", "run": "failed", "socket": "failed"}
    sent = {"blind": "opaque", "pause": "opaque", "form": "sent"}
    for origin in (f"http://127.0.0.1:{other_site}", f"http://{EVIL}:{other_site}"):
        foreign.goto(origin)
        assert foreign.evaluate(ATTACK, [f"{site.address}/api", deployment]) == blocked | sent
        foreign.goto(origin)
        foreign.set_content(f"<iframe src='{site.address}/runs'></iframe>")
        assert foreign.frame_locator("iframe").locator("#app").count() == 0

    # The other site's name now resolves to this server: no origin is foreign to the page.
    response = foreign.goto(f"http://{EVIL}:{port}")
    assert response.status == 421 and "is not a name of this server" in foreign.content()
    rebound = dict.fromkeys(["read", "filter", "run", "blind", "pause"], 421)
    attack = foreign.evaluate(ATTACK, [f"http://{EVIL}:{port}/api", deployment])
    assert attack == rebound | {"socket": "failed", "form": "sent"}
    assert foreign.goto(f"http://{EVIL}:{port}/reports/report.html").status == 421
    foreign.close()
    assert state() == before

    page.goto(site.address)
    page.get_by_text("Deployments").first.wait_for()
    own = page.evaluate(ATTACK.replace("await submit(run)", "0"), [f"{site.address}/api", "none"])
    assert (own["read"], own["filter"], own["socket"]) == (200, 200, "open"), "its own page"


def test_forms_run_no_code_and_read_no_other_files(site: Site, page: Any, tmp_path: Path):
    outside = tmp_path / "outside.yaml"
    outside.write_text("seeds: [0]")
    code = {"path": "os.system", "arguments": {"command": f"touch '{tmp_path}/made'"}}
    module = {f"model.module.{key}": value for key, value in code.items()}
    parameters = {
        "train": {"overrides": {"model.name": "module"} | module, "source": "../.."},
        "sweep": {"file": str(outside)},
        "compare": {"out": str(tmp_path / "comparison")},
    }

    def submit(deployment: str, values: dict[str, Any]) -> int:
        known = wait_for_deployment(site, page, deployment)
        url = f"{site.address}/api/deployments/{known}/create_flow_run"
        return page.request.post(url, data={"parameters": values}).status

    assert [submit(*form) for form in parameters.items()] == [201, 201, 201]
    refusals = [
        "model.module.path is 'os.system'; it names code to run, so set it in params.yaml of",
        f"file is {str(outside)!r}; in the form, it must be a file of the checkout, such as",
        f"out is '{tmp_path}/comparison'; in the form, it must be a folder in reports, such as",
    ]
    train, *_ = [wait_for_run(site, page, refusal)["state"] for refusal in refusals]
    keys = [line.split(" is ")[0] for line in train["message"].splitlines()]
    assert keys == ["model.module.path", "model.module.arguments", "dataset.source"]
    assert train["type"] == "FAILED"
    assert list(tmp_path.iterdir()) == [outside]
    assert submit("train", {"preset": "../../presets/x"}) == 409, "not one of the choices"


def test_the_filter_takes_numbers_as_they_are_shown(browser: Any, tmp_path: Path):
    repository = Repository(tmp_path / "repo", test=100)
    for name, skill, seconds in (
        ("maml", 0.0, 60.0),
        ("protonet", 0.3, 150.0),
        ("reptile", -0.2, 90.0),
    ):
        repository.experiment(name, skill, seconds, algorithm__name=name)
    (protocol,) = compare.run(
        compare.gather(repository.path, everything=True)[0], [], tmp_path / "out", "maml"
    )
    best, middle, last = (100 * c.score.mean for c in protocol.configurations)
    assert [c.name for c in protocol.configurations] == ["protonet", "maml", "reptile"]
    page = browser.new_page()
    page.goto((tmp_path / "out" / compare.PAGE).as_uri())

    def shown(query: str) -> str:
        page.locator("input[type=search]").fill(query)
        rows = page.locator("table.sortable tbody tr:visible th").all_inner_texts()
        return " ".join(row.split("\n")[0] for row in rows)

    for query, names in {
        f"accuracy>{(best + middle) / 2:.1f}": "protonet",
        f"accuracy > {(middle + last) / 2:.1f} %": "protonet maml",
        f"accuracy={middle:.1f}%": "maml",
        "vs baseline>2": "protonet",
        "vs baseline<-2": "reptile",
        "corrected p<0.05": "protonet reptile",
        "corrected p<=1": "protonet reptile",
        "training<100": "maml reptile",
        "training<100s reptile": "reptile",
        "memory<1": "",
        "memory<=1gb": "protonet maml reptile",
        "configuration=maml": "maml",
        "REPTILE": "reptile",
        "nosuch>1": "",
        "": "protonet maml reptile",
    }.items():
        assert shown(query) == names, query
    page.close()


def test_dvc_sees_the_same(site: Site):
    """Figures and curves of the experiments, by DVC's own commands, which editors use too."""

    def dvc(*args: str) -> Any:
        ended = subprocess.run(
            [sys.executable, "-m", "dvc", *args, "--json"],
            cwd=site.root,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    shown = {
        e["name"]: e["revs"][0]["data"]
        for base in dvc("exp", "show")
        for e in base.get("experiments") or []
    }
    assert set(shown) == {"anil-shots5", "protonet-shots5"}
    for data in shown.values():
        assert 0.1 < data["metrics"]["reports/metrics.json"]["data"]["accuracy"] <= 1
    changes = dvc("metrics", "diff", *shown)["reports/metrics.json"]["accuracy"]
    assert [changes["old"], changes["new"]] == [
        d["metrics"]["reports/metrics.json"]["data"]["accuracy"] for d in shown.values()
    ]
    plots = dvc("plots", "diff", *shown)
    assert plots.get("errors", []) == [] and set(plots["data"]) == {
        "learning curve",
        "adaptation curve",
    }
    assert {tuple(plot["revisions"]) for plot in plots["data"]["learning curve"]} == {tuple(shown)}
