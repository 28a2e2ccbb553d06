"""Import of torchvision's weights, whose file names tell what they are."""

from __future__ import annotations

import pytest
import torch
from photographs import draw_photograph

from episodic.preprocessing.encoders import importing
from episodic.preprocessing.encoders.architectures import (
    BSD,
    UNKNOWN,
    EncoderError,
    find_torchvision_weights,
)
from episodic.preprocessing.encoders.encoder import load_encoder
from episodic.preprocessing.encoders.importing import import_weights
from tests.episodic.preprocessing.encoders.network_features import compute_network_features


def test_weights_of_torchvision_are_imported(tmp_path):
    import torchvision

    network = torchvision.models.resnet18(weights=None).eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "mine.pth")
    out = tmp_path / "mine.safetensors"
    description = import_weights(
        tmp_path / "mine.pth", out, "torchvision/resnet18", {"size": 64, "resize": 70}, "MIT"
    )
    assert (description.name, description.width, description.license) == ("mine", 512, "MIT")
    first = out.read_bytes()
    import_weights(
        tmp_path / "mine.pth", out, "torchvision/resnet18", {"size": 64, "resize": 70}, "MIT"
    )
    assert out.read_bytes() == first, "the same weights give the same file"
    network.fc = torch.nn.Identity()
    pixels = description.transform.crop(draw_photograph(0))[None]
    expected = compute_network_features(network, description.transform, pixels)
    torch.testing.assert_close(load_encoder(out).encode(pixels), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def any_digest(monkeypatch):
    """Random weights pass for official files, whose names state a digest."""
    monkeypatch.setattr(importing, "_check_official_digest", lambda source: None)


SWAG = "https://github.com/facebookresearch/SWAG/blob/main/LICENSE"


def test_every_official_file_of_torchvision_has_its_own_preprocessing():
    import torchvision
    from torchvision.models import get_model_weights, list_models

    entries = {
        entry.url.rsplit("/", 1)[-1]: (f"torchvision/{model}", entry)
        for model in list_models(module=torchvision.models)
        for entry in get_model_weights(model)
    }
    assert len(entries) > 100
    for name, (architecture, entry) in entries.items():
        found, preset = find_torchvision_weights(name), entry.transforms()
        assert found and found.architecture == architecture
        assert [found.transform.size] == preset.crop_size, name
        assert [found.transform.resize] == preset.resize_size, name
        assert found.transform.interpolation == preset.interpolation.value, name
        if architecture not in ("torchvision/googlenet", "torchvision/inception_v3"):
            assert found.transform.mean == tuple(preset.mean), name
            assert found.transform.std == tuple(preset.std), name
        assert found.license == (SWAG if "swag" in name else BSD)
        assert importing.OFFICIAL_NAME.search(name), f"the digest of {name} is not checked"


def test_the_file_name_tells_which_official_weights_they_are(tmp_path, any_digest):
    import torchvision

    weights = torchvision.models.mobilenet_v2(weights=None).state_dict()
    found = []
    for name in ("mobilenet_v2-7ebf99e0.pth", "mobilenet_v2-b0353104.pth", "mine.pth"):
        torch.save(weights, tmp_path / name)
        out = tmp_path / "out.safetensors"
        description = import_weights(tmp_path / name, out, "torchvision/mobilenet_v2")
        found.append((description.transform.resize, description.license))
    assert found == [(232, BSD), (256, BSD), (256, UNKNOWN)]
    description = import_weights(tmp_path / "mobilenet_v2-7ebf99e0.pth", out, license="MIT")
    assert (description.transform.resize, description.license) == (232, "MIT")


@pytest.fixture
def tiny_vision_transformers(monkeypatch):
    """Torchvision's vision transformers, with one block of 24 features."""
    from torchvision.models import vision_transformer

    build = vision_transformer._vision_transformer
    tiny = {"num_layers": 1, "num_heads": 2, "hidden_dim": 24, "mlp_dim": 24}
    monkeypatch.setattr(
        vision_transformer, "_vision_transformer", lambda **options: build(**options | tiny)
    )


@pytest.mark.parametrize(
    ("model", "file", "size"),
    [
        ("vit_b_16", "vit_b_16-c867db91.pth", 224),
        ("vit_b_16", "vit_b_16_swag-9ac1b537.pth", 384),
        ("vit_b_16", "vit_b_16_lc_swag-4e70ced5.pth", 224),
        ("vit_h_14", "vit_h_14_swag-80465313.pth", 518),
        ("vit_h_14", "vit_h_14_lc_swag-c1eb923e.pth", 224),
    ],
)
def test_vision_transformers_are_built_for_the_size_of_their_images(
    model, file, size, tmp_path, any_digest, tiny_vision_transformers
):
    from torchvision.models import get_model

    network = get_model(model, weights=None, image_size=size).eval()
    torch.save(network.state_dict(), tmp_path / file)
    out = tmp_path / "vit.safetensors"
    description = import_weights(tmp_path / file, out)
    assert description.transform.size == size
    assert (description.transform.interpolation == "bicubic") == ("swag" in file)
    network.heads.head = torch.nn.Identity()
    pixels = description.transform.crop(draw_photograph(0))[None]
    expected = compute_network_features(network, description.transform, pixels)
    torch.testing.assert_close(load_encoder(out).encode(pixels), expected, rtol=1e-4, atol=1e-5)
    if size == 384:  # a renamed file is imported with its size, but with no other
        (tmp_path / file).rename(tmp_path / "mine.pth")
        name = f"torchvision/{model}"
        sizes = {"size": 384, "resize": 384, "interpolation": "bicubic"}
        renamed = import_weights(tmp_path / "mine.pth", out, name, sizes)
        assert renamed.digest == description.digest and renamed.license == UNKNOWN
        with pytest.raises(EncoderError, match=r"misshapen weights encoder\.pos_embedding"):
            import_weights(tmp_path / "mine.pth", out, name)
        with pytest.raises(EncoderError, match="takes no images of 100 x 100 pixels"):
            import_weights(tmp_path / "mine.pth", out, name, {"size": 100, "resize": 100})


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("googlenet", "googlenet-1378be20.pth"),
        ("inception_v3", "inception_v3_google-0cc3c7bd.pth"),
    ],
)
def test_inception_networks_equal_the_official_pipeline(model, file, tmp_path, any_digest):
    from torchvision.models import get_model, get_model_weights

    # Torchvision sets transform_input for its official weights.
    network = get_model(model, weights=None, init_weights=False, transform_input=True).eval()
    for module in network.modules():  # the initial weights give features that vanish
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(0.1)
    torch.save(network.state_dict(), tmp_path / file)
    out = tmp_path / "out.safetensors"
    description = import_weights(tmp_path / file, out)
    network.fc = torch.nn.Identity()
    preset = next(iter(get_model_weights(model))).transforms()
    image = draw_photograph(5, (500, 400))
    with torch.inference_mode():
        x = preset(image)[None]
        expected = torch.nn.functional.normalize(network(x), dim=1)
        network.transform_input = False
        other = torch.nn.functional.normalize(network(x), dim=1)
    features = load_encoder(out).encode(description.transform.crop(image)[None])
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert (expected - other).abs().max() > 1e-3, "the comparison shows a missing conversion"
    own = {k: w for k, w in network.state_dict().items() if not k.lower().startswith("aux")}
    torch.save(own, tmp_path / "own.pth")  # as torchvision saves a network without them
    same = import_weights(tmp_path / "own.pth", out, f"torchvision/{model}")
    assert same.digest == description.digest and same.license == UNKNOWN
