"""Import of timm's weights, whose `config.json` tells what they are."""

from __future__ import annotations

import json

import pytest
import torch
from photographs import draw_photograph
from safetensors.torch import save_file

from episodic.preprocessing.encoders.architectures import UNKNOWN, EncoderError
from episodic.preprocessing.encoders.encoder import load_encoder
from episodic.preprocessing.encoders.importing import import_weights
from episodic.preprocessing.encoders.transform import ImageTransform
from tests.episodic.preprocessing.encoders.network_features import compute_network_features


def test_weights_of_timm_are_imported(tmp_path):
    """Its folders have a `config.json`, which states the architecture."""
    import timm

    vit = timm.create_model("vit_tiny_patch16_224", num_classes=7)
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 7}
    (tmp_path / "config.json").write_text(json.dumps(config))
    description = import_weights(tmp_path / "model.safetensors", tmp_path / "vit.safetensors")
    assert (description.architecture, description.width) == ("timm/vit_tiny_patch16_224", 192)
    assert description.license == UNKNOWN, "not that of timm's weights"
    assert load_encoder(tmp_path / "vit.safetensors").description == description


def test_position_embeddings_are_interpolated_for_the_size(tmp_path):
    """As timm does: DINOv2 is used at 224 pixels, and was trained at 518."""
    import timm

    name = "vit_tiny_patch16_224"
    published = timm.create_model(name, num_classes=0).state_dict()
    save_file(published, tmp_path / "model.safetensors")
    out = tmp_path / "small.safetensors"
    description = import_weights(
        tmp_path / "model.safetensors", out, f"timm/{name}", {"size": 96, "resize": 96}
    )
    network = timm.create_model(name, num_classes=0, img_size=96).eval()
    filtered = timm.models.vision_transformer.checkpoint_filter_fn(published, network)
    network.load_state_dict(filtered)
    pixels = description.transform.crop(draw_photograph(0))[None]
    expected = compute_network_features(network, description.transform, pixels)
    torch.testing.assert_close(load_encoder(out).encode(pixels), expected, rtol=1e-4, atol=1e-5)


def test_the_config_of_timm_states_preprocessing_and_licence(tmp_path):
    import timm

    folder, out = tmp_path / "hub", tmp_path / "vit.safetensors"
    folder.mkdir()
    name = "vit_tiny_patch16_224"
    vit = timm.create_model(name, num_classes=7, img_size=96)
    save_file(vit.state_dict(), folder / "model.safetensors")
    stated = {
        "input_size": [3, 96, 96],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "crop_pct": 0.8,
        "interpolation": "bilinear",
        "license": "cc-by-nc-4.0",
    }

    def write_config(**values: object) -> None:
        content = {"architecture": name, "num_classes": 7} | values
        (folder / "config.json").write_text(json.dumps(content))

    write_config(pretrained_cfg=stated)
    description = import_weights(folder, out)
    expected = ImageTransform(96, 120, "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (description.architecture, description.transform) == (f"timm/{name}", expected)
    assert description.license == "cc-by-nc-4.0"
    neighbour = import_weights(folder / "model.safetensors", out, f"timm/{name}", {"resize": 100})
    assert (neighbour.transform.resize, neighbour.transform.mean) == (100, (0.1, 0.2, 0.3))
    vit.reset_classifier(0)
    pixels = expected.crop(draw_photograph(0))[None]
    features = compute_network_features(vit.eval(), expected, pixels)
    import_weights(folder, out)
    encoded = load_encoder(out).encode(pixels)
    torch.testing.assert_close(encoded, features, rtol=1e-4, atol=1e-5)

    write_config(pretrained_cfg={**stated, "license": None})
    assert import_weights(folder, out).license == UNKNOWN, "not that of other weights"
    out.unlink()
    faults: tuple[dict[str, object], ...] = (
        {"mean": "grey"},
        {"std": [1, 0, 1]},
        {"crop_pct": 2},
        {"input_size": 96},
        {"input_size": [3, 96, 128]},
        {"crop_mode": "border"},
    )
    for fault in faults:
        write_config(pretrained_cfg=stated | fault)
        with pytest.raises(EncoderError, match="the preprocessing that timm's config states"):
            import_weights(folder, out)
    write_config(pretrained_cfg=stated, model_args={"img_size": 96, "qkv_bias": False})
    with pytest.raises(EncoderError, match=r"with other model_args \(qkv_bias\)"):
        import_weights(folder, out)
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"has no model\.safetensors or pytorch_model\.bin"):
        import_weights(folder, out)
    assert not out.exists()
