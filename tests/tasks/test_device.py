"""`device: mps` on a simulated Apple GPU: training and evaluation agree with the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import warm
from stages import ENVIRONMENT, set_param
from support import ROOT

from episodic.core.config import ConfigError
from episodic.core.device import choose_device
from tasks import preset
from tasks.runtime import distributed
from tasks.runtime.files import read_json
from tasks.runtime.stage import StageError

CASES = {
    "maml": {},
    "metaoptnet": {"algorithm.name": "metaoptnet"},  # solves in float64
    "resnet12": {
        "model.name": "resnet12",
        "resnet12.channels": "[4, 4, 4, 4]",
        "algorithm.name": "protonet",
    },  # DropBlock's bits
    "sinusoid": {
        "algorithm.name": "reptile",
        "reptile.batch": "3",
    },  # waves in float64; batches of the support set
    "clinc150": {
        "clinc150.size": "256",
        "bag.embedding": "4",
        "episodes.ways": "3",
    },  # sentences of no class
}
PRESETS = {"sinusoid": "sinusoid", "clinc150": "clinc150"}


def settings(folder, case: str) -> None:
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    preset.apply_preset(PRESETS.get(case, "tiny"), folder / "params.yaml")
    short = {"train.iterations": "6", "train.validate_every": "3", "train.meta_batch": "3"}
    short |= {"episodes.validation": "6", "episodes.test": "8"}
    for key, value in (short | CASES[case]).items():
        set_param(folder, key, value)


@pytest.mark.parametrize("case", CASES)
def test_stages_agree_with_the_cpu_without_float64(tmp_path, case):
    mirror = os.environ.get("EPISODIC_MIRROR", "")
    if case == "clinc150" and not (Path(mirror) / "clinc150").is_dir():
        pytest.skip(
            "the real CLINC150 is not available: set EPISODIC_MIRROR to a folder that contains "
            "clinc150/data_full.json"
        )
    settings(tmp_path, case)
    result = warm.run(["-m", "apple", str(tmp_path)], ROOT / "tests", ENVIRONMENT)
    assert result.returncode == 0, result.stderr[-3000:]
    assert read_json(tmp_path / "apple/run.json")["device"] == "apple"
    loss = [
        pd.read_csv(tmp_path / folder / "history/train.csv")["loss"] for folder in ("cpu", "apple")
    ]
    np.testing.assert_allclose(*loss, rtol=1e-4)
    cpu, apple = (read_json(tmp_path / folder / "metrics.json") for folder in ("cpu", "apple"))
    assert (
        apple["loss"] == pytest.approx(cpu["loss"], rel=1e-3)
        and apple["baselines"].keys() == cpu["baselines"].keys()
    )
    predictions = [np.load(tmp_path / folder / "answers.npy") for folder in ("cpu", "apple")]
    np.testing.assert_allclose(*predictions, atol=1e-3)


def test_apple_gpu_must_be_requested_and_available(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto").type == "cpu" and choose_device("mps").type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(
        ConfigError,
        match="device is 'mps'; it needs an Apple GPU that torch can use, and this machine has "
        "none; set device to auto or cpu",
    ):
        choose_device("mps")


def test_processes_cannot_share_an_apple_gpu(monkeypatch):
    assert distributed.count_processes(None, 8, is_large=True, device=torch.device("mps")) == 1
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(StageError, match="torchrun's processes cannot share an Apple GPU"):
        distributed.count_processes(None, 8, is_large=True, device=torch.device("mps"))
