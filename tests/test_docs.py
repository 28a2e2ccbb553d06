"""The documentation, followed literally: its code runs and its commands exist."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from support import ROOT, copy_checkout
from typer.testing import CliRunner

from episodic.cli import app
from episodic.core.objective import Objective
from episodic.core.registry import ALGORITHMS
from episodic.data.sampling import SinusoidSampler
from episodic.engine.learner import MetaLearner
from episodic.engine.outer import meta_gradient
from episodic.models import mlp
from flows.experiments import points
from tasks import preset
from tests.episodic.algorithms.test_every_algorithm import sampler, trained
from tests.episodic.datasets.test_image_folder import drawn
from tests.episodic.inference.reliable import reliability, set_reliability
from tests.episodic.inference.test_few_shot import folder_of

PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def page_text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code_blocks(name: str) -> list[str]:
    return re.findall(r"```[^\n`]*\n(.*?)```", page_text(name), re.S)


def run(folder: Path, *command: str) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def replace_once(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_exist(page):
    text = page.read_text(encoding="utf-8")
    for module in set(re.findall(r"python -m ([\w.]+)", text)):
        assert importlib.util.find_spec(module), module
    for script in set(re.findall(r"python ([\w/]+\.py)", text)):
        assert (ROOT / script).is_file(), script
    makefile = page_text("Makefile")
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    named = set(re.findall(r"tasks\.preset (\w+)", text))
    assert named <= {"default", *preset.list_presets()}
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    commands |= {group.name for group in app.registered_groups}
    assert set(re.findall(r"(?:^|`)episodic ([a-z]+)\b", text, re.M)) <= commands
    for test in set(re.findall(r"tests/[\w/]+(?:\.py)?", text)):
        assert (ROOT / test).exists(), test


def test_included_files_exist():
    # In a block of Python a formatter would read the marker as an expression.
    included = [
        name
        for page in (ROOT / "docs").rglob("*.md")
        for name in re.findall(r'^``` \{ \.python \}\n--8<-- "(.+)"$', page.read_text(), re.M)
    ]
    assert included and all((ROOT / "docs" / name).is_file() for name in included)


def test_an_algorithm_a_model_and_a_dataset_are_added_as_the_pages_say(tmp_path):
    """All pages in one checkout: the algorithm trains the model on the dataset."""
    root = copy_checkout(tmp_path / "checkout")
    params = root / "params.yaml"
    code, _, section, _, _, cell, _ = code_blocks("docs/tutorials/add-an-algorithm.md")
    (root / "episodic/algorithms/sign_maml.py").write_text(code)
    network, settings = code_blocks("docs/guide/your-own-model.md")
    (root / "my_models.py").write_text(network)
    preset.apply_preset("tiny", params)
    dataset, dataset_section, _, _ = code_blocks("docs/tutorials/add-a-dataset.md")
    (root / "episodic/datasets/stripes.py").write_text(dataset)
    replace_once(params, "\nepisodes:", f"\n{dataset_section}\nepisodes:")
    replace_once(params, "  name: glyphs ", "  name: stripes ")
    replace_once(params, "\ntrain:\n", f"\n{section}\ntrain:\n")
    replace_once(params, "  name: maml ", "  name: sign_maml ")
    replace_once(params, "  name: conv4 ", "  name: module ")
    for key, value in yaml.safe_load(settings)["model"]["module"].items():
        text, count = re.subn(
            rf"(\n  module:.*?\n    {key}: )[^#\n]*",
            lambda match, value=value: f"{match[1]}{json.dumps(value)} ",
            params.read_text(),
            count=1,
            flags=re.S,
        )
        assert count == 1, key
        params.write_text(text)
    run(root, "python", "-m", "tasks.params", "--quiet")
    run(root, "dvc", "repro", "--quiet")
    config = json.loads((root / "models/run/config.json").read_text())
    assert config["dataset"] == "stripes"
    assert config["algorithm"] == {"name": "sign_maml", "inner_lr": 0.01, "inner_steps": 1}
    assert config["model"] == {
        "name": "module",
        "path": "my_models.Net",
        "arguments": {"channels": 16},
        "head": "head",
    }
    assert "sign_maml" in (root / "reports/report.html").read_text()
    add_a_row_to_the_benchmark(root, cell)


def add_a_row_to_the_benchmark(root: Path, cell: str) -> None:
    """The commands of the page, on small data and with a budget of seconds."""
    benchmark = root / "benchmarks/methods"
    recipe = benchmark / "methods/5w1s/sign_maml.yaml"
    recipe.write_text(cell)
    dvc_yaml = benchmark / "dvc.yaml"
    first = "setting: [5w1s]\n      method: ["
    replace_once(dvc_yaml, f"{first}anil", f"{first}sign_maml, anil")
    (benchmark / "base.yaml").write_text(
        "dataset: {glyphs: {alphabets: 6}}\nepisodes: {validation: 10, test: 20}\n"
        "model: {conv4: {filters: 8}}\ntrain: {validate_every: 3}\n"
    )
    replace_once(recipe, "iterations: 6000, meta_batch: 16", "iterations: 6, meta_batch: 2")
    for old in (benchmark / "cells").iterdir():
        shutil.rmtree(old)
    (benchmark / "dvc.lock").unlink()
    text = page_text("docs/tutorials/add-an-algorithm.md")
    (commands,) = re.findall(r"`(dvc repro cell@[^`]*)`", text)
    for command in commands.split(" && "):
        run(benchmark, *command.split())
    assert "| `sign_maml` |" in (benchmark / "results/results.md").read_text()
    trained_with = (benchmark / "trained/sign_maml-5w1s/params.json").read_text()
    assert json.loads(trained_with)["algorithm"]["sign_maml"]["inner_lr"] == 0.02


def test_the_dataset_of_the_page_is_valid(tmp_path, monkeypatch):
    """Equal bytes, limits that agree with the prepared data, three splits."""
    (tmp_path / "stripes.py").write_text(code_blocks("docs/tutorials/add-a-dataset.md")[0])
    monkeypatch.syspath_prepend(tmp_path)
    dataset = importlib.import_module("stripes").Stripes(classes=50)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        dataset.fetch(tmp_path / name)
    first, second = ((tmp_path / name / "images.npy").read_bytes() for name in ("a", "b"))
    assert first == second
    prepared = dataset.prepare(tmp_path / "a", seed=3)
    assert dataset.limits(3).classes == {
        split: prepared.splits.count(split) for split in ("train", "validation", "test")
    }
    assert sorted(dataset.limits(3).classes.values()) == [10, 10, 30]
    assert len(prepared.images) == int(prepared.counts.sum()) == 1000
    assert prepared.splits != dataset.prepare(tmp_path / "a", seed=4).splits


def test_a_method_of_another_package_is_registered_from_outside(tmp_path, monkeypatch):
    """Without the sign, it is first-order MAML, as the last paragraph of the page states."""
    code = code_blocks("docs/tutorials/add-an-algorithm.md")[0]
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package/__init__.py").touch()
    (tmp_path / "my_package/sign_maml.py").write_text(code)
    (tmp_path / "my_package/unsigned.py").write_text(code.replace("g.sign()", "g"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ALGORITHMS, "_modules", dict(ALGORITHMS._modules))
    episode = SinusoidSampler((0.1, 5.0), (0.0, 3.14), (-5.0, 5.0), 0, "train", 5, 5)(
        torch.arange(4)
    )
    gradients = {}
    for name in ("sign_maml", "unsigned", "fomaml"):
        if name != "fomaml":
            ALGORITHMS.add(name, f"my_package.{name}")
        method = ALGORITHMS[name](inner_lr=0.05, inner_steps=3)
        learner = MetaLearner(mlp.MLP((20,)).build((1,), 1), method, Objective("regression"))
        gradients[name] = meta_gradient(learner, learner.init(0), episode).gradient
    for name, g in gradients["fomaml"].items():
        torch.testing.assert_close(gradients["unsigned"][name], g)
    assert any(
        not torch.allclose(gradients["sign_maml"][name], g)
        for name, g in gradients["fomaml"].items()
    )


@pytest.fixture(scope="module")
def toy_model(tmp_path_factory) -> Path:
    """A folder with a trained model, and images of five classes as support and query sets."""
    folder = tmp_path_factory.mktemp("model")
    folder_of("protonet", folder / "models/run", theta=trained("protonet").theta)
    set_reliability(folder / "models/run", reliability())
    images = sampler("test").examples[-100:, 0].numpy()
    for c in range(5):
        for i in range(10):
            path = folder / ("support" if i < 5 else "query") / f"class {c}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 - images[20 * c + i]).save(path)
    for i in range(3):
        path = folder / "more/fox" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[-1 - i]).save(path)
    for i, path in enumerate(sorted((folder / "query").rglob("*.png"))):
        shutil.copy(path, folder / "query" / f"{i}.png")
    return folder


SETUP = """
import pathlib
images = sorted(map(str, pathlib.Path('support').rglob('*.png')))
labels = [path.split('/')[1] for path in images]
queries = images[::3]
"""


def test_a_model_is_used_as_the_pages_say(toy_model, monkeypatch):
    """The commands and programs of README and of the guide, on a model and images."""
    monkeypatch.chdir(toy_model)
    guide = page_text("docs/guide/using-a-model.md")
    commands, python, sklearn, _ = code_blocks("docs/guide/using-a-model.md")
    in_text = re.findall(r"`(episodic (?!demo|--|info)[^`]*|ls [^`]*)`", guide)
    assert len(in_text) >= 4
    readme = next(block for block in code_blocks("README.md") if "episodic adapt" in block)
    lines = [line.split("  #")[0].rstrip() for line in (readme + commands).splitlines()]
    lines = [line for line in lines if "episodic demo" not in line]  # serves until it is stopped
    runner = CliRunner()
    for command in [*dict.fromkeys(lines), *in_text, "episodic info models/run"]:
        producer, _, consumer = command.replace("\\|", "|").rpartition("|")
        piped = None
        if producer:
            piped = subprocess.run(
                ["sh", "-c", producer], capture_output=True, text=True, check=True
            ).stdout
        program, *arguments = consumer.split()
        assert program == "episodic"
        ended = runner.invoke(app, arguments, input=piped)
        assert ended.exit_code == 0 and ended.stdout, f"{command}: {ended.output}"
    load = next(block for block in code_blocks("README.md") if "episodic.load" in block)
    exec(compile("\n".join([SETUP, python, sklearn, load]), "the pages", "exec"), {})  # noqa: S102


def test_own_data_is_named_as_the_pages_say(tmp_path, monkeypatch):
    """`tasks.preset ... --source` as typed, on images and on the CSV file of the page."""
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "data/own/.gitignore", "data/encoder/.gitignore"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    images = drawn(tmp_path / "own images", [f"class {i}" for i in range(25)], 10)
    sentences = code_blocks("docs/tutorials/your-own-sentences.md")[0]
    assert next(csv.reader(io.StringIO(sentences))) == ["text", "label"]
    (tmp_path / "intents.csv").write_text(
        "text,label\n" + "".join(f"{i} {j},label {i}\n" for i in range(25) for j in range(10))
    )
    commands = {
        "docs/guide/using-a-model.md": images,
        "docs/tutorials/your-own-images.md": images,
        "docs/tutorials/your-own-sentences.md": tmp_path / "intents.csv",
    }
    for page, source in commands.items():
        (command, then) = re.findall(
            r"^(python -m tasks\.preset .*--source .*)\n(.*)$", page_text(page), re.M
        )[0]
        assert then == "make run"
        *args, _ = command.split()[3:]
        arguments = [*args, str(source), "--params", str(tmp_path / "params.yaml")]
        monkeypatch.setattr(sys, "argv", ["tasks.preset", *arguments])
        preset.main()
        assert f"source: {source}" in (tmp_path / "params.yaml").read_text()


@pytest.mark.parametrize(
    "page", ["docs/guide/sweeps.md", "docs/tutorials/compare-two-algorithms.md"]
)
def test_sweep_files_are_valid(page, tmp_path):
    blocks = [block for block in code_blocks(page) if re.match(r"(base|grid|points):", block)]
    assert blocks
    raw = yaml.safe_load(page_text("params.yaml"))
    for block in blocks:
        (tmp_path / "sweep.yaml").write_text(block)
        assert len(points.read_points(tmp_path / "sweep.yaml", raw)) >= 6


def test_the_loop_around_the_engine_runs():
    program = code_blocks("docs/guide/library.md")[-1]
    scope: dict = {}
    exec(compile(program, "docs/guide/library.md", "exec"), scope)  # noqa: S102
    assert float(scope["loss"]) > 0 and scope["gradient"].keys() == scope["learner"].init(0).keys()
