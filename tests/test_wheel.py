"""The wheel is self-contained: built, installed into an empty environment, used elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from support import ROOT

import episodic
from tests.episodic.algorithms.test_every_algorithm import sampler, trained
from tests.episodic.inference.test_few_shot import folder_of

UV = ROOT / ".venv/uv/bin/uv"

USE = """
import sys, pathlib, episodic
assert pathlib.Path(episodic.__file__).is_relative_to(sys.prefix), episodic.__file__
images = sorted(pathlib.Path("support").rglob("*.png"))
adapted = episodic.load("run").adapt(images, [path.parent.name for path in images])
print(*adapted.predict(images))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    if not UV.exists():
        pytest.skip("there is no uv to build the wheel with: make setup installs it")
    folder = tmp_path_factory.mktemp("wheel")
    # The build backend comes from uv's cache, or else from the package index.
    command = [UV, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT]
    built = subprocess.run([*command, "--offline"], capture_output=True, text=True)
    if built.returncode:
        built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode and "hatchling" in built.stderr and not os.environ.get("CI"):
        pytest.skip(f"the build backend cannot be had: {built.stderr.splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_module_and_data_file(wheel):
    assert wheel.name == f"episodic_learning-{episodic.__version__}-py3-none-any.whl"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "episodic"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA")))
    assert {name for name in tracked if (ROOT / name).exists()} <= names
    for path in ("ops/native.cpp", "datasets/splits/omniglot.csv", "inference/demo/demo.html"):
        assert f"episodic/{path}" in names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"episodic"}
    extras = re.findall(r"^Provides-Extra: (.+)$", metadata.decode(), re.M)
    assert {"use", "demo", "sklearn", "export"} <= set(extras)
    assert "episodic[" not in metadata.decode().split("\n\n")[0], "extras name the distribution"


def test_an_installed_wheel_adapts_and_predicts(wheel, tmp_path):
    """Other packages come from this environment by a .pth file, since torch takes gigabytes."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin/python"
    install = [UV, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python]
    subprocess.run([*install, wheel], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    work = tmp_path / "work"
    folder_of("protonet", work / "run", theta=trained("protonet").theta)
    for label, first in (("a", -100), ("b", -80)):
        (work / "support" / label).mkdir(parents=True)
        for i in range(3):
            image = sampler("test").examples[first + i, 0].numpy()
            Image.fromarray(255 - image).save(work / "support" / label / f"{i}.png")

    def call(*command: str | Path) -> str:
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        ended = subprocess.run(command, cwd=work, env=clean, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    assert call(python, "-c", USE).split() == ["a"] * 3 + ["b"] * 3
    command = environment / "bin/episodic"
    assert "adapt" in call(command, "--help")
    assert call(command, "--version").strip() == episodic.__version__
    assert "adapted to 2 classes from 6 examples" in call(
        command, "adapt", "run", "support", "-o", "adapted"
    )
    predictions = call(command, "predict", "adapted", "support/a").splitlines()
    assert len(predictions) == 3 and all("  a " in line for line in predictions)
