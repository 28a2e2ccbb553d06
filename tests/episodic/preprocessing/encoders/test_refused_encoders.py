"""Encoder files that are not used: modified ones, and files of something else."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file

from episodic.preprocessing.encoders.architectures import LITE0, EncoderError
from episodic.preprocessing.encoders.encoder import describe_encoder, find_encoder, load_encoder
from tests.episodic.test_cli import call

pytestmark = pytest.mark.usefixtures("own_cache")


def test_modified_and_foreign_encoders_are_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    shutil.copy(find_encoder(LITE0), path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(EncoderError, match="was modified"):
        load_encoder(path)
    for command in (("encoder", "info", path), ("demo", "--encoder", path, "--no-browser")):
        error = call(tmp_path, *map(str, command), code=1)
        assert error.startswith(f"error: {path} was modified") and error.count("\n") == 1
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(EncoderError, match="does not describe an image encoder"):
        describe_encoder(path)
    with pytest.raises(EncoderError, match="there is no encoder 'resnet'"):
        describe_encoder("resnet")
    with pytest.raises(EncoderError, match="convert it with `episodic encoder import"):
        (tmp_path / "weights.pth").write_bytes(b"")
        describe_encoder(tmp_path / "weights.pth")
