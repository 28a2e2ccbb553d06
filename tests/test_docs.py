"""docs/tutorials/add-a-method.md, docs/guide/your-own-model.md and docs/guide/using-a-model.md, followed literally."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image
from support import ROOT, checkout

from episodic.core.objective import Objective
from episodic.core.registry import ALGORITHMS
from episodic.data.sampling import SinusoidSampler
from episodic.engine.learner import MetaLearner
from episodic.engine.outer import meta_gradient
from episodic.models import mlp
from tasks import preset
from tests.episodic.algorithms.test_every_algorithm import sampler, trained
from tests.episodic.datasets.test_image_folder import drawn
from tests.episodic.inference.test_few_shot import folder_of


def blocks(name: str) -> list[str]:
    return re.findall(r"```\w*\n(.*?)```", (ROOT / "docs" / name).read_text(), re.S)


def run(folder, *command: str) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def repro(root) -> str:
    run(root, "python", "-m", "tasks.params", "--quiet")
    run(root, "dvc", "repro", "--quiet")
    return json.loads((root / "models/run/config.json").read_text())


def change(path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


def test_a_method_is_added_as_the_page_says(tmp_path):
    root = checkout(tmp_path / "checkout")
    code, _, section, _, cell = blocks("tutorials/add-a-method.md")
    (root / "episodic/algorithms/sign_maml.py").write_text(code)
    preset.apply("tiny", root / "params.yaml")
    change(root / "params.yaml", "\ntrain:\n", f"\n{section}\ntrain:\n")
    change(root / "params.yaml", "  name: maml ", "  name: sign_maml ")
    subprocess.run(["dvc", "init", "--quiet", "--force"], cwd=root, check=True) if not (
        root / ".dvc"
    ).is_dir() else None
    assert repro(root)["algorithm"] == {"name": "sign_maml", "inner_lr": 0.01, "inner_steps": 1}
    assert "sign_maml" in (root / "reports/report.html").read_text()
    (root / "benchmarks/methods/methods/5w1s/sign_maml.yaml").write_text(cell)
    program = "from benchmarks.methods import cell; from tasks import params; print(params.parse(cell.parameters('5w1s', 'sign_maml')).algorithm)"
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert "inner_lr=0.02" in answer.stdout
    # The page's commands, on data and for a budget of seconds.
    change(root / "benchmarks/methods/dvc.yaml", "methods [anil", "methods [sign_maml, anil")
    tiny = "dataset: {glyphs: {alphabets: 6}}\nepisodes: {validation: 10, test: 20}\nmodel: {conv4: {filters: 8}}\n"
    (root / "benchmarks/methods/base.yaml").write_text(tiny + "train: {validate_every: 3}\n")
    change(
        root / "benchmarks/methods/methods/5w1s/sign_maml.yaml",
        "iterations: 6000, meta_batch: 16",
        "iterations: 6, meta_batch: 2",
    )
    for old in (root / "benchmarks/methods/cells").iterdir():
        shutil.rmtree(old)
    (root / "benchmarks/methods/dvc.lock").unlink()
    for command in re.findall(
        r"`(dvc repro cell@[^`]*)`", (ROOT / "docs/tutorials/add-a-method.md").read_text()
    )[0].split(" && "):
        run(root / "table", *command.split())
    assert "| `sign_maml` |" in (root / "benchmarks/methods/results/results.md").read_text()


def test_a_method_of_another_package_is_registered_from_outside(tmp_path, monkeypatch):
    """And it is what the page's last paragraph says of it: without the sign, first-order MAML."""
    code = blocks("tutorials/add-a-method.md")[0]
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
        learner = MetaLearner(
            mlp.MLP((20,)).build((1,), 1), method, Objective("regression")
        )
        gradients[name] = meta_gradient(learner, learner.init(0), episode).gradient
    for name, g in gradients["fomaml"].items():
        torch.testing.assert_close(gradients["unsigned"][name], g)
    assert any(
        not torch.allclose(gradients["sign_maml"][name], g)
        for name, g in gradients["fomaml"].items()
    )


def test_a_network_of_ones_own_goes_through_the_pipeline(tmp_path):
    root = checkout(tmp_path / "checkout")
    code, section = blocks("guide/your-own-model.md")
    (root / "my_models.py").write_text(code)
    preset.apply("tiny", root / "params.yaml")
    text = (root / "params.yaml").read_text()
    text = text.replace("  name: conv4 ", "  name: module ")
    for key in ("path", "arguments", "head"):
        value = re.search(rf"    {key}: (.*)", section)[1]
        text = re.sub(
            rf"(  module:.*?\n    {key}: )[^#]*",
            lambda found, value=value: f"{found[1]}{value} ",
            text,
            count=1,
            flags=re.S,
        )
    (root / "params.yaml").write_text(text)
    config = repro(root)
    assert config["model"] == {
        "name": "module",
        "path": "my_models.Net",
        "arguments": {"channels": 16},
        "head": "head",
    }


def test_a_model_is_used_as_the_page_says(tmp_path):
    """The page's commands and programs on a trained model and pictures of five classes, and those of its table."""
    text = (ROOT / "docs/guide/using-a-model.md").read_text()
    commands, python, sklearn, train = blocks("guide/using-a-model.md")
    folder_of("protonet", tmp_path / "models/run", theta=trained("protonet").theta)
    images = sampler("test").images[-100:, 0].numpy()
    for c in range(5):
        for i in range(10):
            path = tmp_path / ("support" if i < 5 else "query") / f"class {c}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 - images[20 * c + i]).save(path)
    for i, path in enumerate(sorted((tmp_path / "query").rglob("*.png"))):
        shutil.copy(path, tmp_path / "query" / f"{i}.png")
    table = [
        command.replace("\\|", "|")
        for command in re.findall(r"`(episodic (?!demo|--|info)[^`]*|ls [^`]*)`", text)
    ]
    assert len(table) >= 4
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/episodic").write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -m episodic \"$@\"\n"
    )
    (tmp_path / "bin/episodic").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    programs = [
        "pictures = sorted(map(str, pathlib.Path('support').rglob('*.png')))",
        "labels = [p.split('/')[1] for p in pictures]",
    ]
    programs = ["import pathlib", *programs, "others = pictures[::3]", python, sklearn]
    for command in [
        *commands.strip().splitlines(),
        *table,
        "episodic info models/run",
        f"'{sys.executable}' -c \"$PROGRAM\"",
    ]:
        answer = subprocess.run(
            ["sh", "-c", command],
            cwd=tmp_path,
            env=environment | {"PROGRAM": "\n".join(programs)},
            capture_output=True,
            text=True,
        )
        assert answer.returncode == 0 and answer.stdout, f"{command}: {answer.stderr}"
    root = checkout(tmp_path / "checkout")
    source = drawn(tmp_path / "own pictures", [f"class {i}" for i in range(25)], 10)
    first, second = train.strip().splitlines()
    assert second == "make run"
    run(
        root,
        *first.replace("python", sys.executable, 1)
        .replace("/path/to/pictures", "SOURCE")
        .replace("SOURCE", "own")
        .split()[:-1],
        str(source),
    )
    assert f"source: {source}" in (root / "params.yaml").read_text()
