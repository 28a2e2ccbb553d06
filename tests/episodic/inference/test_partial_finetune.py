"""Fine-tuning the last blocks of an image encoder on the support set."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import import_small_encoder
from photographs import draw_photograph, vary_photograph
from PIL import Image
from torch import nn

import episodic
from episodic.core import random_numbers
from episodic.core.config import ConfigError
from episodic.data.augmentation import DRAWS
from episodic.data.sampling import ClassSampler
from episodic.inference import partial_finetune
from episodic.inference.few_shot import FewShotLearner
from episodic.inference.labels import AdaptError
from episodic.inference.partial_finetune import PartialFineTuning
from episodic.preprocessing.base import InputError
from episodic.preprocessing.encoders import encoder as encoders
from episodic.preprocessing.encoders.architectures import LITE0, EncoderError, build_architecture
from episodic.preprocessing.encoders.blocks import divide_network
from episodic.preprocessing.encoders.encoder import (
    ImageEncoder,
    load_encoder,
)
from episodic.preprocessing.encoders.transform import ImageTransform
from episodic.preprocessing.encoders.weights import EncoderDescription

pytestmark = pytest.mark.usefixtures("own_cache")

HEAD, SIZE = "partial_finetune", 64


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """EfficientNet-Lite0 on small images, which is fast."""
    return import_small_encoder(tmp_path_factory.mktemp("encoder") / "small.safetensors", SIZE)


def photographs(per_class: int, seed: int, classes: int = 3) -> tuple[list[Image.Image], list[str]]:
    """Images of a class differ by noise."""
    images, labels = [], []
    for label in range(classes):
        kind = draw_photograph(label, (80, SIZE))
        for i in range(per_class):
            images.append(vary_photograph(kind, [seed, label, i], deviation=60))
            labels.append(f"class {label}")
    return images, labels


SUPPORT, LABELS = photographs(2, 0)
QUERY, _ = photographs(3, 1)


@pytest.fixture(scope="module")
def learner(encoder) -> FewShotLearner:
    return episodic.from_encoder(encoder, HEAD)


@pytest.fixture(scope="module")
def adapted(learner):
    return learner.adapt(SUPPORT, LABELS)


def support_pixels(learner) -> tuple[torch.Tensor, torch.Tensor]:
    pixels = learner.inputs(SUPPORT).view(-1, 3, SIZE, SIZE)
    return pixels, torch.arange(3).repeat_interleave(2)


class Facts(nn.Module):
    """Two facts of an image, brightness and stripes. The second one hardly counts at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = nn.Conv2d(3, 2, (1, 2), bias=False)
        self.mixture = nn.Linear(2, 8)
        generator = torch.Generator().manual_seed(0)
        filters = torch.tensor([[[[0.5, 0.5]]], [[[1.0, -1.0]]]]) / 3
        with torch.no_grad():
            self.facts.weight.copy_(filters.expand(2, 3, 1, 2))
            mixture = torch.randn(8, 2, generator=generator) * torch.tensor([1.0, 0.05])
            self.mixture.weight.copy_(mixture)
            self.mixture.bias.copy_(0.1 * torch.randn(8, generator=generator))

    def forward(self, x):
        return self.mixture(self.facts(x).abs().mean((2, 3)))


def striped_images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of any brightness with weak or strong stripes, which are the two classes."""
    generator = np.random.default_rng(seed)
    y = np.arange(count) * 2 // count
    brightness = generator.uniform(60, 190, (count, 1, 1, 1))
    stripes = np.where(np.arange(16) // 4 % 2, 1, -1) * np.where(y, 40, 10)[:, None, None, None]
    x = brightness + stripes + generator.normal(0, 5, (count, 3, 16, 16))
    return torch.from_numpy(x.clip(0, 255).astype(np.uint8)), torch.from_numpy(y)


def test_fine_tuning_separates_what_the_frozen_features_do_not():
    transform = ImageTransform(16, 16, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    description = EncoderDescription("facts", "facts", 8, transform, "none", "0" * 64)
    frozen = ImageEncoder(description, Facts().eval())
    (x, y), (queries, truth) = striped_images(10, 0), striped_images(200, 1)
    tuned = PartialFineTuning(learning_rate=0.03, steps=100).tune(frozen, x, y).apply(frozen)

    def accuracy(encoder: ImageEncoder) -> float:
        features = encoder.encode(x.numpy())
        means = torch.stack([features[y == label].mean(0) for label in range(2)])
        cosines = encoder.encode(queries.numpy()) @ nn.functional.normalize(means, dim=1).T
        return float((cosines.argmax(1) == truth).double().mean())

    assert accuracy(frozen) < 0.65, "chance: 0.5"
    assert accuracy(tuned) > 0.95


def test_the_loss_falls_and_only_the_last_block_changes(learner):
    encoder = learner.encoded.encoder
    before = copy.deepcopy(encoder.network.state_dict())
    settings = PartialFineTuning(steps=9, views=4)
    tuned, losses = settings.tune_with_losses(encoder, *support_pixels(learner))
    assert losses[8] < 0.7 * losses[0], "on the same views"
    assert tuned.weights.keys() == {"head.conv.weight", "head.conv.bias"}
    for name, value in encoder.network.state_dict().items():
        assert torch.equal(value, before[name]), "the encoder is not changed"
    for name, value in tuned.apply(encoder).network.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in tuned.weights)
    two = replace(settings, blocks=2, steps=1).tune(encoder, *support_pixels(learner))
    assert {name.rsplit(".", 2)[0] for name in two.weights} == {
        "blocks.15.expand",
        "blocks.15.depthwise",
        "blocks.15.project",
        "head",
    }


@pytest.mark.parametrize(
    ("name", "block", "unchanged"),
    [
        ("torchvision/resnet18", "layer4.1.", "layer4.1.bn2.running_mean"),
        ("timm/vit_tiny_patch16_224", ("blocks.11.", "norm."), "blocks.10.attn.qkv.weight"),
    ],
)
def test_other_networks_are_fine_tuned(name, block, unchanged):
    torch.manual_seed(0)
    architecture = build_architecture(name)
    network, transform = architecture.network.eval(), architecture.transform
    description = EncoderDescription("other", name, 8, transform, "none", "0" * 64)
    pixels = torch.from_numpy(np.stack([transform.crop(image) for image in SUPPORT[:4]]))
    encoder, y = ImageEncoder(description, network), torch.tensor([0, 0, 1, 1])
    tuned = PartialFineTuning(steps=1, views=1).tune(encoder, pixels, y)
    before, after = network.state_dict(), tuned.apply(encoder).network.state_dict()
    assert all(parameter.startswith(block) for parameter in tuned.weights)
    assert torch.equal(after[unchanged], before[unchanged])
    changed = [not torch.equal(after[parameter], before[parameter]) for parameter in tuned.weights]
    assert sum(changed) > 0.7 * len(changed), "the bias of keys has no gradient"


def test_the_steps_are_those_of_adam_on_the_whole_batch(learner):
    """Written out without passes and threads."""
    encoder, (pixels, y) = learner.encoded.encoder, support_pixels(learner)
    steps, rate = 3, 1e-3
    settings = PartialFineTuning(steps=steps, views=1, learning_rate=rate)
    tuned, losses = settings.tune_with_losses(encoder, pixels, y)
    trunk, tail = divide_network(encoder.network, 1, "small")
    tail = copy.deepcopy(tail).requires_grad_()
    images = pixels.float() / 255
    key = random_numbers.key(0, "views of fine-tuning")
    bits = random_numbers.random_bits(key, torch.arange(len(images)), DRAWS)
    support, view = (
        trunk(encoder.description.transform.normalize(x)).detach()
        for x in (images, partial_finetune.VIEW(images, bits))
    )
    optimizer = torch.optim.Adam(tail.parameters(), rate)
    for actual in losses:
        features = nn.functional.normalize(tail(support), dim=1)
        means = torch.stack([features[y == label].mean(0) for label in range(3)])
        cosines = nn.functional.cosine_similarity(tail(view)[:, None], means[None], dim=2)
        loss = nn.functional.cross_entropy(10 * cosines, y)
        assert actual == pytest.approx(loss.item(), rel=1e-3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.99 * losses[0]
    start, expected = dict(encoder.network.named_parameters()), dict(tail.named_parameters())
    assert tuned.weights.keys() == expected.keys()
    for name, weight in tuned.weights.items():
        # Where the gradient is 0 up to rounding, the sign of a step is arbitrary.
        assert (weight - expected[name]).abs().mean() < 0.02 * rate
        assert (weight - start[name]).abs().mean() > 0.5 * rate


def test_only_views_that_are_used_pass_through_the_trunk(learner, monkeypatch):
    """And each is the same as if all had passed."""
    encoder, (pixels, y) = learner.encoded.encoder, support_pixels(learner)
    batches = []

    def divide(*arguments):
        divided = divide_network(*arguments)
        divided.trunk.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0]))
        return divided

    monkeypatch.setattr(partial_finetune, "divide_network", divide)
    for steps in (0, 2, 9):
        PartialFineTuning(steps=steps, views=4).tune(encoder, pixels[:1], y[:1])
    none, two, every = batches
    assert (len(none), len(two), len(every)) == (1, 3, 5)
    assert torch.equal(none, every[:1]) and torch.equal(two, every[:3])


def test_results_do_not_depend_on_the_number_of_cores(learner, monkeypatch):
    encoder, support = learner.encoded.encoder, support_pixels(learner)
    settings, threads = PartialFineTuning(steps=3), torch.get_num_threads()
    digest = settings.tune(encoder, *support).digest
    monkeypatch.setattr(encoders, "count_cores", lambda: 3)
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert settings.tune(encoder, *support).digest == digest
    finally:
        torch.set_num_threads(threads)
    assert replace(settings, steps=4).tune(encoder, *support).digest != digest


def test_predictions_depend_on_the_image_alone_and_survive_saving(adapted, encoder, tmp_path):
    probabilities = adapted.predict_proba(QUERY)
    assert np.array_equal(adapted.predict_proba(QUERY[::-1]), probabilities[::-1])
    assert torch.equal(adapted.inputs(QUERY[4:5]), adapted.inputs(QUERY)[4:5])
    adapted.save(tmp_path / "adapted")
    loaded = episodic.load_adapted(tmp_path / "adapted", encoder=encoder)
    assert np.array_equal(loaded.predict_proba(QUERY), probabilities)
    loaded.save(tmp_path / "again")
    files = sorted(path.name for path in (tmp_path / "adapted").iterdir())
    assert files == [
        "config.json",
        "images.safetensors",
        "support.safetensors",
        "tuned_blocks.safetensors",
        "weights.safetensors",
    ]
    for name in files:
        assert (tmp_path / "again" / name).read_bytes() == (
            tmp_path / "adapted" / name
        ).read_bytes()


def test_no_steps_are_the_nearest_mean(learner, encoder):
    adapted = learner.adapt(SUPPORT, LABELS, steps=0)
    nearest = episodic.from_encoder(encoder).adapt(SUPPORT, LABELS)
    outputs = [model.outputs(model.inputs(QUERY)) for model in (adapted, nearest)]
    assert torch.equal(*outputs), "up to the calibration, which the nearest mean has"


@pytest.mark.parametrize("balance", [None, 0.5])
def test_the_evaluation_adapts_in_every_episode(learner, balance):
    images, labels = photographs(5, 2)
    result = learner.evaluate(
        images, labels, ways=2, shots=1, queries=2, episodes=3, seed=5, query_balance=balance
    )
    x, counts = learner.inputs(images), torch.tensor([5, 5, 5])
    sampler = ClassSampler(
        x, counts.cumsum(0) - counts, counts, 5, "test", 2, 1, 2, query_balance=balance
    )
    classes, support, query = sampler.draw_rows(torch.arange(3))
    truth = query // 5 == classes[:, 1:]
    assert bool((truth.sum(1) != 2).any()) == (balance is not None)
    for i in range(3):
        adapted = learner.adapt([images[row] for row in support[i]], [0, 1])
        predicted = adapted.predict([images[row] for row in query[i]])
        assert result.scores[i] == pytest.approx((predicted == truth[i].numpy()).mean())


def test_the_exported_file_contains_the_tuned_blocks(adapted, encoder, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime has no wheel here")
    episodic.export_onnx(adapted, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    transform = load_encoder(encoder).description.transform
    x = np.stack([transform.crop(image) for image in QUERY]).astype(np.float32) / 255
    (probabilities,) = session.run(None, {"x": x})
    np.testing.assert_allclose(probabilities, adapted.predict_proba(QUERY), atol=1e-4)
    nearest = episodic.from_encoder(encoder).adapt(SUPPORT, LABELS)
    assert np.abs(probabilities - nearest.predict_proba(QUERY)).max() > 0.01
    inputs = json.loads(session.get_modelmeta().custom_metadata_map["inputs"])
    assert inputs["tuned_blocks"]["digest"] == adapted.tuned_blocks.digest


def test_it_is_a_classifier_of_scikit_learn(adapted, encoder):
    from episodic.inference.sklearn import FewShotClassifier

    classifier = FewShotClassifier(encoder=encoder, head=HEAD).fit(SUPPORT, LABELS)
    assert np.array_equal(classifier.predict_proba(QUERY), adapted.predict_proba(QUERY))


def test_the_settings_can_be_the_head(encoder, adapted):
    settings = PartialFineTuning(blocks=2, steps=1)
    two_blocks = episodic.from_encoder(encoder, settings).adapt(SUPPORT, LABELS)
    assert two_blocks.config["head"] == HEAD
    assert two_blocks.config["fine_tuning"] == asdict(settings)
    assert two_blocks.tuned_blocks.parameters > 2 * adapted.tuned_blocks.parameters


def test_arrays_are_cropped_like_files(learner, adapted):
    arrays = [np.asarray(image).transpose(2, 0, 1) for image in SUPPORT]
    for x in (arrays, np.stack(arrays), learner.inputs(SUPPORT)):
        assert learner.adapt(x, LABELS).tuned_blocks.digest == adapted.tuned_blocks.digest


def test_invalid_arguments(learner, adapted, encoder, tmp_path):
    features = episodic.from_encoder(encoder).inputs(SUPPORT)
    with pytest.raises(InputError, match="pass images, since the encoder is fine-tuned on them"):
        learner.adapt(features, LABELS)
    with pytest.raises(AdaptError, match="all 6 examples are of the class 'a'"):
        learner.adapt(SUPPORT, ["a"] * 6)
    with pytest.raises(AdaptError, match="there are 6 examples and 2 labels"):
        learner.adapt(SUPPORT, ["a", "b"])
    with pytest.raises(ConfigError, match="steps is -1; it must be at least 0"):
        learner.adapt(SUPPORT, LABELS, steps=-1)
    with pytest.raises(ConfigError, match="blocks is 0; it must be at least 1"):
        PartialFineTuning(blocks=0)
    with pytest.raises(EncoderError, match="consists of 18 blocks, of which 18 cannot be"):
        PartialFineTuning(blocks=18).tune(learner.encoded.encoder, *support_pixels(learner))
    with pytest.raises(AdaptError, match="the fine-tuning diverged on this support set"):
        PartialFineTuning(learning_rate=1e6, steps=50).tune(
            replace(learner.encoded.encoder, network=Overflowing().eval()), *support_pixels(learner)
        )


class Overflowing(Facts):
    """A network whose features overflow after a large step."""

    def forward(self, x):
        return super().forward(x).exp()


def test_adapted_folders_are_verified(adapted, encoder, tmp_path):
    adapted.save(tmp_path / "adapted")
    with pytest.raises(EncoderError, match="is not the encoder small that the model was made with"):
        episodic.load_adapted(tmp_path / "adapted", encoder=LITE0).predict(QUERY)
    (tmp_path / "adapted/tuned_blocks.safetensors").unlink()
    with pytest.raises(episodic.UserError, match=r"tuned_blocks.safetensors does not exist"):
        episodic.load_adapted(tmp_path / "adapted", encoder=encoder)
    replace(adapted.tuned_blocks, weights={}).save(tmp_path / "adapted/tuned_blocks.safetensors")
    with pytest.raises(EncoderError, match=r"tuned_blocks.safetensors was modified: its weights"):
        episodic.load_adapted(tmp_path / "adapted", encoder=encoder)


def test_the_command_line_states_the_cost(encoder, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from episodic.cli import app

    for i, (image, label) in enumerate(zip(SUPPORT, LABELS, strict=True)):
        (tmp_path / "support" / label).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "support" / label / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    arguments = ["--encoder", str(encoder), "--head", HEAD]
    result = runner.invoke(app, ["adapt", "support", "-o", "adapted", *arguments])
    assert result.exit_code == 0, result.output
    first, probabilities, second = result.stdout.splitlines()
    assert first.startswith("adapted: adapted to 3 classes from 6 examples")
    assert probabilities.startswith("adapted: probabilities are not calibrated: ")
    assert second.startswith("adapted: fine-tuned 410,880 parameters of the encoder in ")
    assert second.endswith(" s; the folder has 1.8 MB")
    result = runner.invoke(app, ["info", "adapted"])
    assert "fine-tuned  410,880 parameters of the encoder, digest " in result.stdout
    result = runner.invoke(app, ["predict", "adapted", "support", "--encoder", str(encoder)])
    assert [line.split("  ")[1] for line in result.stdout.splitlines()] == LABELS


def test_the_page_adapts_with_it(learner):
    pytest.importorskip("fastapi", reason="the extra demo is not installed")
    import base64
    import io

    from fastapi.testclient import TestClient

    from episodic.inference.demo import build_app

    def data_url(image: Image.Image) -> str:
        content = io.BytesIO()
        image.save(content, "png")
        return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"

    client = TestClient(build_app(learner, "small"), base_url="http://127.0.0.1")
    classes: dict[str, list[str]] = {label: [] for label in LABELS}
    for image, label in zip(SUPPORT, LABELS, strict=True):
        classes[label].append(data_url(image))
    model = client.post("/adapt", json={"classes": classes}).json()
    answer = client.post(
        "/predict", json={"model": model["model"], "examples": [data_url(i) for i in SUPPORT]}
    ).json()
    assert [prediction["label"] for prediction in answer["predictions"]] == LABELS
