"""Weights that are not imported: those with code, damaged ones, and those of another network.

Faults that a file of torch has alone are tested with one, which is read by a process of its own.
The others are tested with safetensors, which need no process, so that they take no second each.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from episodic.core.config import ConfigError
from episodic.preprocessing.encoders import unpickle
from episodic.preprocessing.encoders.architectures import EncoderError
from episodic.preprocessing.encoders.importing import import_weights

RESNET = "torchvision/resnet18"


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    import torchvision

    return torchvision.models.resnet18(weights=None).state_dict()


def check_refusal(source: Path, message: str, architecture: str | None = RESNET) -> None:
    """The weights are refused in one sentence that matches `message`, and nothing is written."""
    out = source.with_name("out.safetensors")
    with pytest.raises(EncoderError, match=message) as error:
        import_weights(source, out, architecture)
    assert "\n" not in str(error.value) and not out.exists()


class Malicious:
    """Unpickling it writes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class MaliciousCommand(Malicious):
    """Unpickling it runs a command of the shell."""

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize(
    ("malicious", "architecture"),
    # Without an architecture: none is needed to say so.
    [(Malicious, RESNET), (MaliciousCommand, None)],
)
def test_code_in_weights_does_not_run(malicious, architecture, weights, tmp_path):
    proof, path = tmp_path / "code-ran", tmp_path / "w.pth"
    torch.save(weights | {"x": malicious(proof)}, path)
    check_refusal(path, "is not read: it contains code, or objects that", architecture)
    assert not proof.exists()


def test_the_reader_imports_nothing_from_the_current_folder(weights, tmp_path, monkeypatch):
    torch.save(weights, tmp_path / "w.pth")
    for name in ("torch", "safetensors", "numpy", "json", "episodic"):
        text = f"open({str(tmp_path / 'code-ran')!r}, 'w').close()"
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    import_weights(Path("w.pth"), Path("out.safetensors"), RESNET)
    assert Path("out.safetensors").exists() and not Path("code-ran").exists()


def test_the_message_of_the_reader_is_that_of_the_import(tmp_path):
    path = tmp_path / "w.pth"
    path.write_bytes(b"hello")
    check_refusal(path, r"w\.pth is not read: it is damaged, or not a file of torch")


def test_files_without_weights_are_refused_by_the_reader(tmp_path, monkeypatch):
    source, out = tmp_path / "w.pth", tmp_path / "converted.safetensors"
    monkeypatch.setattr(sys, "argv", ["unpickle.py", str(source), str(out)])

    def read(content: bytes | dict[str, object]) -> str | int | None:
        """Run the program of the reader on a file, and return what it exits with."""
        if isinstance(content, bytes):
            source.write_bytes(content)
        else:
            torch.save(content, source)
        with pytest.raises(SystemExit) as exited:
            unpickle.main()
        assert not out.exists()
        return exited.value.code

    damaged = "it is damaged, or not a file of torch"
    torch.save({"a": torch.ones(100)}, source)
    for content in (b"hello", b"", source.read_bytes()[:-100]):
        assert read(content) == damaged
    for content in ({"epoch": 3}, {"model": {"epoch": 3}}):
        assert read(content) == "it contains no weights by name"
    torch.save({"epoch": 3, "model": {"module.a": torch.ones(2)}}, source)
    unpickle.main()
    assert {name: t.tolist() for name, t in load_file(out).items()} == {"a": [1, 1]}


def test_faulty_weights_are_refused_in_one_sentence(weights, tmp_path):
    path = tmp_path / "w.safetensors"

    def refuse(content: dict[str, Tensor], message: str) -> None:
        save_file(content, path)
        check_refusal(path, message)

    for number in (float("nan"), float("inf")):
        bias = torch.zeros(64)
        bias[3] = number
        refuse(weights | {"bn1.bias": bias}, r"has a weight that is NaN or infinite, in bn1\.bias:")
    missing = {k: w for k, w in weights.items() if k != "layer1.0.conv1.weight"}
    refuse(missing, r"it lacks weights layer1\.0\.conv1\.weight;")
    refuse(weights | {"more.weight": torch.ones(1)}, r"it has unknown weights more\.weight")
    wrong = weights | {"conv1.weight": torch.ones(64, 1, 7, 7)}
    refuse(wrong, r"conv1\.weight \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)")


def test_names_of_files_and_architectures_are_checked(weights, tmp_path):
    for name, message in (("w.txt", "its name must end in"), ("w.safetensors", "cannot be read")):
        (tmp_path / name).write_bytes(b"hello")
        check_refusal(tmp_path / name, message)
    official = tmp_path / "resnet18-f37072fd.pth"
    torch.save(weights, official)
    check_refusal(official, "its name states f37072fd")
    path, out = tmp_path / "unknown.safetensors", tmp_path / "out.safetensors"
    save_file(weights, path)
    check_refusal(path, r"the architecture of unknown\.safetensors is unknown", None)
    check_refusal(path, "did you mean resnet18", "torchvision/resnet1")
    with pytest.raises(ConfigError, match="resize is 100; it must be between size"):
        import_weights(path, out, RESNET, {"resize": 100})
    assert not out.exists()
