"""From an archive of the official layout to scores, through the stages."""

from __future__ import annotations

import dataclasses

import pytest
from support import ROOT

from episodic.datasets.dtd import DTD
from episodic.datasets.sources import photographs
from episodic.datasets.sources.class_table import ClassRow, read_class_table
from tasks import params
from tasks.download import run as download
from tasks.episodes import run as episodes
from tasks.evaluate import run as evaluate
from tasks.runtime.files import read_json
from tasks.runtime.stage import StageError
from tasks.train import run as train
from tests.episodic.datasets.official_archives import digest, pack, write_dtd

CHANGES = {
    "dataset": {"name": "dtd", "dtd": {"size": 16}},
    "episodes": {"queries": 1},
    "algorithm": {"name": "protonet"},
    "train": {"queries": 1},
}


@pytest.fixture
def classes(monkeypatch) -> list[ClassRow]:
    small = [c._replace(examples=2) for c in read_class_table("dtd")]
    monkeypatch.setattr(photographs, "read_class_table", lambda name: small)
    return small


@pytest.fixture
def settings(classes) -> params.Settings:
    values = params.default_params()
    params.merge_into(values, params.read_yaml(ROOT / "conf/presets/tiny.yaml"))
    params.merge_into(values, CHANGES)
    return params.parse(values)


def test_from_archive_to_scores(settings, classes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the resume checkpoint lies here
    (files,) = write_dtd(classes).values()
    path = pack(tmp_path / "mirror/dtd/dtd-r1.0.1.tar.gz", files)
    accepted = dataclasses.replace(DTD.archives[0], digest=digest(path, 32))
    monkeypatch.setattr(DTD, "archives", (accepted,))
    download(settings, tmp_path / "raw", tmp_path / "mirror")
    prepared, model, scores = (tmp_path / name for name in ("prepared", "model", "scores"))
    episodes(settings, tmp_path / "raw", prepared)
    meta = read_json(prepared / "meta.json")
    assert meta["classes"] == {"train": 33, "validation": 7, "test": 7}
    assert (meta["protocol"], meta["input"]) == ("Meta-Dataset split", [3, 16, 16])
    assert "Describable Textures Dataset" in meta["license"]
    train(settings, prepared, model, tmp_path / "history", tmp_path / "run.json")
    evaluate(settings, prepared, model, scores, tmp_path / "metrics.json")
    # A class is one shade of red and green. Chance is 0.2, with a standard error of 0.04.
    assert read_json(tmp_path / "metrics.json")["accuracy"] > 0.5


def test_settings_that_do_not_fit_the_archive_are_an_error():
    """Before anything is downloaded, from the numbers of the published classes."""

    def parse(dataset: str, **episodes) -> None:
        values = params.default_params()
        params.merge_into(values, {"dataset": {"name": dataset}, "episodes": episodes})
        params.parse(values)

    with pytest.raises(StageError, match="must be at most 3, the number of validation classes of"):
        parse("eurosat")
    with pytest.raises(StageError, match=r"the examples per class of fungi \("):
        parse("fungi", shots=10)
    parse("eurosat", ways=3)
    parse("fungi", shots=1)
