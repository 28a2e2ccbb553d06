"""Dividing networks into blocks, and encoders with fine-tuned blocks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from episodic.core import checkpoint
from episodic.preprocessing.encoders.architectures import EncoderError, build_architecture
from episodic.preprocessing.encoders.blocks import TunedBlocks, divide_network
from episodic.preprocessing.encoders.encoder import ImageEncoder
from episodic.preprocessing.encoders.transform import ImageTransform
from episodic.preprocessing.encoders.weights import EncoderDescription

PREFIXES = {
    ("efficientnet_lite0", 1): {"head"},
    ("efficientnet_lite0", 2): {"blocks.15", "head"},
    ("torchvision/resnet18", 1): {"layer4.1"},
    ("torchvision/resnet18", 2): {"layer4.0", "layer4.1"},
    ("torchvision/mobilenet_v3_small", 2): {"features.12", "classifier.0"},
    ("timm/tf_efficientnet_lite0", 1): {"conv_head", "bn2"},
    ("timm/vit_tiny_patch16_224", 1): {"blocks.11", "norm"},
    ("timm/convnext_atto", 1): {"stages.3.blocks.1", "head.norm"},
}
"""The modules of the last blocks of a network."""


@pytest.mark.parametrize(("name", "blocks"), PREFIXES)
def test_a_network_is_divided_before_its_last_blocks(name, blocks):
    torch.manual_seed(0)
    network = build_architecture(name).network.eval()
    trunk, tail = divide_network(network, blocks, name)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(tail(trunk(x)), network(x))
    names, prefixes = dict(tail.named_parameters()), PREFIXES[name, blocks]
    assert {p for p in prefixes if any(n.startswith(f"{p}.") for n in names)} == prefixes
    assert all(any(n.startswith(f"{p}.") for p in prefixes) for n in names)
    assert names.keys() | dict(trunk.named_parameters()).keys() == {
        n for n, _ in network.named_parameters()
    }
    assert all(network.get_parameter(n) is parameter for n, parameter in names.items())


class Skipping(nn.Module):
    """A tensor skips all blocks but the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(4))

    def forward(self, x):
        first = x = self.blocks[0](x)
        for block in self.blocks[1:]:
            x = block(x)
        return (x + first).mean((2, 3))


class Branching(Skipping):
    """The order of the blocks depends on the image."""

    def forward(self, x):
        return self.blocks[0](x) if x.mean() > 0 else self.blocks[1](x)


def test_a_network_is_divided_where_a_single_tensor_passes():
    network = Skipping()
    _, tail = divide_network(network, 1, "skipping")
    assert {name.rsplit(".", 1)[0] for name in tail.state_dict()} == {
        "blocks.1",
        "blocks.2",
        "blocks.3",
    }


@pytest.mark.parametrize(
    ("network", "blocks", "message"),
    [
        (Branching(), 1, "x cannot be divided into blocks"),
        (Skipping(), 4, "x consists of 4 blocks, of which 4 cannot be fine-tuned while the others"),
        (nn.Sequential(nn.Linear(3, 3), nn.ReLU()), 1, "x consists of 1 blocks, of which 1 cannot"),
    ],
)
def test_networks_that_cannot_be_divided(network, blocks, message):
    with pytest.raises(EncoderError, match=message):
        divide_network(network, blocks, "x")


class Residual(Skipping):
    """The image itself is added after the last block."""

    def forward(self, x):
        y = x
        for block in self.blocks:
            y = block(y)
        return (x + y).mean((2, 3))


def test_several_tensors_that_pass_everywhere_are_an_error():
    with pytest.raises(EncoderError, match="several tensors pass from one part to the other"):
        divide_network(Residual(), 1, "residual")


TRANSFORM = ImageTransform(16, 16, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def small_encoder() -> ImageEncoder:
    torch.manual_seed(0)
    description = EncoderDescription("small", "small", 3, TRANSFORM, "none", "0" * 64)
    return ImageEncoder(description, Skipping().eval())


def test_an_encoder_with_tuned_blocks_shares_the_other_weights():
    encoder = small_encoder()
    before = {name: p.clone() for name, p in encoder.network.named_parameters()}
    weight = torch.zeros(3, 3, 1, 1)
    tuned = TunedBlocks(encoder.description, {"blocks.3.weight": weight}).apply(encoder)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), np.uint8)
    assert not torch.allclose(tuned.encode(pixels), encoder.encode(pixels), atol=1e-3)
    for name, p in encoder.network.named_parameters():
        assert torch.equal(p, before[name])
        is_tuned = name == "blocks.3.weight"
        assert (tuned.network.get_parameter(name) is p) == (not is_tuned)
    assert torch.equal(tuned.network.get_parameter("blocks.3.weight"), weight)


@pytest.mark.parametrize("weights", [{"other": torch.zeros(1)}, {"blocks.3.bias": torch.zeros(7)}])
def test_tuned_blocks_fit_their_encoder_only(weights):
    encoder = small_encoder()
    with pytest.raises(EncoderError, match="blocks do not fit the encoder small: adapt again"):
        TunedBlocks(encoder.description, weights).apply(encoder)


def test_tuned_blocks_are_files_with_a_digest(tmp_path):
    description = small_encoder().description
    blocks = TunedBlocks(description, {"b": torch.arange(3.0), "a": torch.ones(2, 2)})
    blocks.save(tmp_path / "blocks.safetensors")
    loaded = TunedBlocks.load(tmp_path / "blocks.safetensors", description, blocks.digest)
    assert loaded.describe() == {"parameters": 7, "digest": blocks.digest}
    assert all(torch.equal(loaded.weights[name], blocks.weights[name]) for name in "ab")
    other_encoder = replace(description, digest="1" * 64)
    assert replace(blocks, encoder=other_encoder).digest != blocks.digest
    changed = replace(blocks, weights={**blocks.weights, "b": torch.zeros(3)})
    assert changed.digest != blocks.digest
    changed.save(tmp_path / "blocks.safetensors")
    with pytest.raises(EncoderError, match=r"blocks.safetensors was modified: .* adapt again"):
        TunedBlocks.load(tmp_path / "blocks.safetensors", description, blocks.digest)
    with pytest.raises(checkpoint.CheckpointError, match="does not exist"):
        TunedBlocks.load(tmp_path / "none.safetensors", description, blocks.digest)
