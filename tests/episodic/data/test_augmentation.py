"""Augmentation: torchvision's transformations, drawn by seed, index and position."""

from __future__ import annotations

import math

import pytest
import torch
from support import NoSynchronization
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from episodic.algorithms import maml, protonet
from episodic.core import random_numbers
from episodic.core.config import ConfigError
from episodic.core.objective import Objective
from episodic.data import augmentation, image_operations, warping
from episodic.data.augmentation import (
    Augmentation,
    AugmentedSampler,
    SupportAugmentation,
    TrainingAugmentation,
)
from episodic.data.sampling import ClassSampler
from episodic.engine.learner import MetaLearner
from episodic.models import conv4
from episodic.training import evaluation, loop
from episodic.training.config import TrainingConfig

EVERYTHING = TrainingAugmentation(
    (0.2, 1.0), 0.5, 0.4, 0.4, 0.4, 0.1, 20.0, 0.2, 10.0, 0.1, 0.02, dihedral=True
)
GREY = Augmentation((0.2, 1.0), 0.5, 0.4, 0.4)
TOLERANCE = 2e-6
"""Far below 1 / 255, the distance of two levels of brightness."""


def draw_bits(n: int, purpose: str = "test") -> torch.Tensor:
    key = random_numbers.key(0, purpose)
    return random_numbers.random_bits(key, torch.arange(n), augmentation.DRAWS)


def draw_images(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Random images, a third of them with few levels, so that channels are often equal."""
    images = torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(1))
    images[: n // 3] = (images[: n // 3] * 3).round() / 3
    return images


def sampler(channels: int = 3, size: int = 12, split: str = "train") -> ClassSampler:
    images = draw_images(60, channels, size, size).mul(255).byte()
    return ClassSampler.from_classes(images.split(10), ways=3, shots=2, queries=3, split=split)


ADJUSTMENTS = {
    "brightness": (image_operations.adjust_brightness, functional.adjust_brightness),
    "contrast": (image_operations.adjust_contrast, functional.adjust_contrast),
    "saturation": (image_operations.adjust_saturation, functional.adjust_saturation),
    "hue": (image_operations.adjust_hue, functional.adjust_hue),
}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *((name, (3, 31, 17)) for name in ADJUSTMENTS),
        *((name, (1, 28, 28)) for name in ("brightness", "contrast")),
    ],
)
def test_colours_are_those_of_torchvision(name, shape):
    ours, theirs = ADJUSTMENTS[name]
    images = draw_images(40, *shape)
    values = torch.linspace(-0.5, 0.5, 40) if name == "hue" else torch.linspace(0, 2, 40)
    expected = torch.stack(
        [theirs(image, value) for image, value in zip(images, values.tolist(), strict=True)]
    )
    torch.testing.assert_close(ours(images, values), expected, rtol=0, atol=TOLERANCE)
    assert (expected - images).abs().amax((1, 2, 3)).median() > 0.1, "the images change"


@pytest.mark.parametrize("shape", [(3, 28, 28), (1, 28, 28), (3, 31, 17)], ids=str)
def test_crops_and_flips_are_those_of_torchvision(shape):
    images, bits = draw_images(60, *shape), draw_bits(60)
    boxes = image_operations.draw_crop_boxes(
        bits[:, : image_operations.CROP_DRAWS], *shape[1:], (0.05, 1)
    )
    size = list(shape[1:])
    expected = torch.stack(
        [
            functional.resized_crop(image, top, left, height, width, size, antialias=True)
            for image, top, left, height, width in zip(
                images, *(values.tolist() for values in boxes), strict=True
            )
        ]
    )
    actual = image_operations.resize_crops(images, boxes)
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)
    flipped = torch.arange(60) % 2 == 0
    actual = image_operations.flip_horizontally(images, flipped)
    assert torch.equal(actual[::2], functional.horizontal_flip(images[::2]))
    assert torch.equal(actual[1::2], images[1::2])


def test_the_crop_of_a_whole_image_is_the_image():
    images = draw_images(4, 3, 9, 14)
    whole = image_operations.CropBoxes(
        *(torch.full((4,), value) for value in (0, 0, *images.shape[2:]))
    )
    assert torch.equal(image_operations.resize_crops(images, whole), images)


@pytest.mark.parametrize("size", [(84, 84), (60, 90), (30, 120)], ids=str)
def test_boxes_are_distributed_like_those_of_torchvision(size):
    n, bounds = 20_000, (0.2, 1.0)
    height, width = size
    bits = draw_bits(n)[:, : image_operations.CROP_DRAWS]
    boxes = image_operations.draw_crop_boxes(bits, height, width, bounds)
    assert (boxes.top >= 0).all() and (boxes.top + boxes.height <= height).all()
    assert (boxes.left >= 0).all() and (boxes.left + boxes.width <= width).all()
    official = v2.RandomResizedCrop(size, bounds)
    torch.manual_seed(0)
    drawn = [official.make_params([torch.empty(3, *size)]) for _ in range(4000)]
    for name in boxes._fields:
        actual = getattr(boxes, name).double()
        expected = torch.tensor([draw[name] for draw in drawn]).double()
        error = (expected.var() / len(expected) + actual.var() / n).sqrt()
        assert abs(actual.mean() - expected.mean()) < 4 * error + 1e-9, name
        assert actual.std() == pytest.approx(float(expected.std()), rel=0.06, abs=1e-9), name
    if height == width:
        area = boxes.height * boxes.width / (height * width)
        assert area.min() > 0.19 and area.max() > 0.95
        aspect = (boxes.width / boxes.height).log().abs().max()
        assert aspect == pytest.approx(math.log(4 / 3), abs=0.1)


def test_factors_and_flips_have_the_extent_that_is_set():
    """Grey images of one value show the factor directly."""
    n = 10_000
    images = torch.full((n, 1, 1, 1), 0.5)
    factors = Augmentation(brightness=0.4)(images, draw_bits(n)).flatten() / 0.5
    assert factors.min() >= 0.6 - 1e-6 and factors.max() <= 1.4 + 1e-6
    assert abs(factors.mean() - 1) < 4 * 0.8 / math.sqrt(12 * n)
    assert factors.std() == pytest.approx(0.8 / math.sqrt(12), rel=0.03)
    strong = Augmentation(brightness=1.5)(images, draw_bits(n)).flatten() / 0.5
    assert strong.min() >= 0 and strong.max() > 1.9, "the lower bound is 0, not -0.5"
    pairs = torch.tensor([0.0, 1.0]).expand(n, 1, 1, 2)
    flipped = Augmentation(flip=0.3)(pairs, draw_bits(n))[:, 0, 0, 0].mean()
    assert abs(flipped - 0.3) < 4 * math.sqrt(0.21 / n)
    red = torch.zeros(n, 3, 1, 1)
    red[:, 0] = 1
    shifted = Augmentation(hue=0.1)(red, draw_bits(n))[:, :, 0, 0]
    # From red, a shift s leads towards yellow (green = 6 s) or magenta (blue = -6 s).
    shift = (shifted[:, 1] - shifted[:, 2]) / 6
    assert shift.abs().max() == pytest.approx(0.1, abs=1e-3) and abs(shift.mean()) < 0.003


def test_transformations_are_drawn_independently():
    """Switching one on does not change the draws of another, and they do not correlate."""
    images = draw_images(500, 3, 8, 8)
    bits = draw_bits(500)
    crop, flip = Augmentation(crop=(0.2, 1.0)), Augmentation(flip=0.5)
    both = Augmentation(crop=(0.2, 1.0), flip=0.5)
    assert torch.equal(both(images, bits), flip(crop(images, bits), bits))
    gradient = torch.linspace(0, 1, 8).expand(500, 1, 8, 8)
    out = Augmentation(flip=0.5, brightness=0.4)(gradient, bits)
    flipped = (out[:, 0, 0, 0] > out[:, 0, 0, -1]).double()
    brightness = out[:, 0, 0].amax(1).double()
    correlation = torch.corrcoef(torch.stack([flipped, brightness]))[0, 1]
    assert abs(correlation) < 4 / math.sqrt(500)


def test_an_episode_does_not_depend_on_its_batch():
    augmented = AugmentedSampler(sampler(), EVERYTHING, 0, "train")
    batch = augmented(torch.arange(20))
    for i in (0, 7, 19):
        single = augmented(torch.tensor([i]))
        assert all(
            torch.equal(a, b[i : i + 1]) for a, b in zip(single.tensors, batch.tensors, strict=True)
        )


def test_images_are_augmented_differently_by_seed_split_index_and_position():
    same = sampler()
    index = torch.arange(2)
    whole = torch.rand(1, 3, 12, 12).expand(2, 4, -1, -1, -1)
    outputs = [
        EVERYTHING.augment_set(whole, i, seed, purpose)
        for i, seed, purpose in (
            (index, 0, "train support"),
            (index + 2, 0, "train support"),
            (index, 1, "train support"),
            (index, 0, "train query"),
        )
    ]
    images = torch.cat([output.flatten(0, 1) for output in outputs]).flatten(1)
    assert len(images.unique(dim=0)) == len(images) == 32
    labels = AugmentedSampler(same, EVERYTHING, 0, "train")(index)
    plain = same(index)
    assert torch.equal(labels.support_y, plain.support_y)
    assert torch.equal(labels.query_y, plain.query_y) and torch.equal(labels.noise, plain.noise)
    assert not torch.equal(labels.query_x, plain.query_x)
    assert labels.support_x.min() >= 0 and labels.support_x.max() <= 1


def test_deformations_do_not_change_the_other_transformations():
    """Their numbers are drawn separately, so that earlier runs keep their images."""
    index, x = torch.arange(3), draw_images(12, 3, 9, 9).view(3, 4, 3, 9, 9)
    crop = Augmentation((0.2, 1.0), 0.5, 0.4)
    warped = Augmentation((0.2, 1.0), 0.5, 0.4, rotation=30.0, elastic=0.02)
    bits = random_numbers.random_bits(
        random_numbers.key(7, "augmentation of train support"), index, 4 * augmentation.DRAWS
    ).view(12, augmentation.DRAWS)
    cropped = crop.augment_set(x, index, 7, "train support")
    assert torch.equal(cropped, crop(x.flatten(0, 1), bits).view(x.shape))
    warp_bits = random_numbers.random_bits(
        random_numbers.key(7, "warps of train support"), index, 4 * warping.WARP_DRAWS
    ).view(12, warping.WARP_DRAWS)
    warps = warping.draw_warps(warp_bits, rotation=30.0, elastic=0.02)
    expected = warping.warp_images(cropped.flatten(0, 1), warps).view(x.shape)
    assert torch.equal(warped.augment_set(x, index, 7, "train support"), expected)
    assert not torch.equal(expected, cropped)


def test_an_episode_is_turned_and_mirrored_as_a_whole():
    """All images of an episode are transformed alike, and the eight symmetries are as likely."""
    index = torch.arange(400)
    augmented = AugmentedSampler(sampler(1), TrainingAugmentation(dihedral=True), 0, "train")(index)
    plain = sampler(1)(index)
    symmetries = [
        lambda x, k=k, mirror=mirror: torch.rot90(x.flip(-1) if mirror else x, k, (-2, -1))
        for mirror in (False, True)
        for k in range(4)
    ]
    counts = torch.zeros(8)
    for i in range(len(index)):
        (found,) = [
            number
            for number, symmetry in enumerate(symmetries)
            if torch.equal(symmetry(plain.support_x[i]), augmented.support_x[i])
        ]
        assert torch.equal(symmetries[found](plain.query_x[i]), augmented.query_x[i])
        counts[found] += 1
    assert (counts - 50).abs().max() < 4 * math.sqrt(400 * 7 / 64)
    assert torch.equal(plain.support_y, augmented.support_y)
    again = AugmentedSampler(sampler(1), TrainingAugmentation(dihedral=True), 0, "train")
    assert torch.equal(again(index[5:6]).query_x, augmented.query_x[5:6])


def test_settings_that_are_off_change_nothing():
    assert Augmentation().transforms == {} == SupportAugmentation().transforms
    images = draw_images(6, 1, 8, 8)
    assert Augmentation()(images, draw_bits(6)) is images
    episode = sampler()(torch.arange(3))
    off = SupportAugmentation(flip=0.5)
    assert off.extend_support(episode, torch.arange(3), 0, "test") is episode


class Killed(Exception):
    pass


def test_resumed_training_gives_the_same_bytes(tmp_path):
    learner = MetaLearner(
        conv4.Conv4(4, 2).build((1, 8, 8), 3), maml.MAML(), Objective("classification")
    )
    config = TrainingConfig(
        iterations=8, meta_batch=4, queries=3, validate_every=4, checkpoint_every=3
    )
    validation = sampler(1, 8, "validation")(torch.arange(5))
    path = tmp_path / "state.safetensors"

    def train(augment: Augmentation = GREY, **options) -> loop.TrainingResult:
        augmented = AugmentedSampler(sampler(1, 8), augment, 0, "train")
        return loop.train(learner, augmented, validation, config, **options)

    def kill(iteration, figures):
        if iteration == 5:
            raise Killed

    with pytest.raises(Killed):
        train(checkpoint_path=path, on_progress=kill)
    resumed, whole = train(checkpoint_path=path), train()
    assert resumed.resumed_at == 3
    assert all(torch.equal(resumed.theta[name], p) for name, p in whole.theta.items())
    other = train(Augmentation())
    assert not any(
        torch.equal(p, other.theta[name]) for name, p in whole.theta.items() if "weight" in name
    ), "augmentation has an effect"


def test_copies_extend_the_support_set_within_each_class():
    index = torch.arange(4, 8)
    episode = sampler()(index)
    augment = SupportAugmentation(crop=(0.2, 1.0), flip=0.5, copies=3)
    extended = augment.extend_support(episode, index, 0, "test")
    assert extended.support_y.tolist() == [[label for label in range(3) for _ in range(8)]] * 4
    by_class = extended.support_x.unflatten(1, (3, 4, 2))
    originals = episode.support_x.unflatten(1, (3, 2))
    assert torch.equal(by_class[:, :, 0], originals), "the examples themselves come first"
    assert torch.equal(extended.with_shots(2).support_x, episode.support_x)
    assert len(extended.support_x[0].flatten(1).unique(dim=0)) == 24, "all copies differ"
    assert torch.equal(extended.query_x, episode.query_x)
    # Every copy is a crop of its own example: no pixel is outside the range of that example.
    low, high = (getattr(originals, end)((3, 4, 5)) for end in ("amin", "amax"))
    copies = by_class[:, :, 1:]
    assert (copies.amin((4, 5, 6)) >= low[:, :, None] - 1e-6).all()
    assert (copies.amax((4, 5, 6)) <= high[:, :, None] + 1e-6).all()
    parts = [
        augment.extend_support(sampler()(part), part, 0, "test").support_x
        for part in index.split(1)
    ]
    assert torch.equal(torch.cat(parts), extended.support_x)


def test_models_adapt_to_extended_support_sets():
    index = torch.arange(6)
    episode = sampler()(index)
    augment = SupportAugmentation(flip=1.0, copies=1)
    extended = augment.extend_support(episode, index, 0, "test")
    learner = MetaLearner(
        conv4.Conv4(4, 2).build((3, 12, 12), 0),
        protonet.ProtoNet(),
        Objective("classification"),
        batch_norm="inductive",
    )
    theta = learner.init(0)
    _, loss = evaluation.episode_scores(learner, theta, extended, 0)
    # The flip is certain, so the expected support set can be built by hand.
    images = episode.support_x.unflatten(1, (3, 2))
    by_hand = episode._replace(
        support_x=torch.cat([images, images.flip(-1)], 2).flatten(1, 2),
        support_y=torch.arange(3).repeat_interleave(4).expand(6, -1),
    )
    _, expected = evaluation.episode_scores(learner, theta, by_hand, 0)
    assert loss == pytest.approx(expected, abs=1e-6)
    _, plain = evaluation.episode_scores(learner, theta, episode, 0)
    assert abs(loss - plain).max() > 1e-4


def test_augmentation_does_not_read_values():
    augmented = AugmentedSampler(sampler(), EVERYTHING, 0, "train")
    episode, index = sampler()(torch.arange(3)), torch.arange(3)
    copies = SupportAugmentation((0.2, 1.0), 0.5, copies=2)
    with NoSynchronization():
        augmented(index)
        copies.extend_support(episode, index, 0, "test")
        with pytest.raises(AssertionError, match="_local_scalar_dense reads values"):
            float(index[0])


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"crop": (0.0, 1.0)}, "crop.0 is 0.0; it must be greater than 0"),
        ({"crop": (0.9, 0.2)}, r"crop is \[0.9, 0.2\]; it must be in ascending order"),
        ({"crop": (0.5,)}, r"crop is \[0.5\]; it must have 2 values"),
        ({"crop": 0.5}, "crop is 0.5; it must be a list of values"),
        ({"flip": 1.5}, "flip is 1.5; it must be at most 1"),
        ({"hue": 0.6}, "hue is 0.6; it must be at most 0.5"),
        ({"contrast": -0.1}, "contrast is -0.1; it must be at least 0"),
        ({"rotation": 181.0}, "rotation is 181.0; it must be at most 180"),
        ({"elastic": -0.1}, "elastic is -0.1; it must be at least 0"),
        ({"copies": 2}, "copies is 2; it must be 0 unless a transformation, such as crop, is set"),
    ],
)
def test_bad_settings_are_errors(settings, error):
    with pytest.raises(ConfigError, match=error):
        SupportAugmentation(**settings)


@pytest.mark.parametrize(
    ("augment", "shape", "error"),
    [
        (Augmentation(hue=0.1), (1, 8, 8), "hue is 0.1; it must be 0 for grey images"),
        (Augmentation(saturation=0.1), (1, 8, 8), "saturation is 0.1; it must be 0 for grey"),
        (
            TrainingAugmentation(dihedral=True),
            (3, 8, 9),
            "dihedral is true; it must be false for images that are not square",
        ),
        (TrainingAugmentation(dihedral=True), (7,), "dihedral is true; it must be false for exam"),
        (Augmentation(elastic=0.1), (7,), "elastic is 0.1; it must be 0 for examples that are not"),
        (Augmentation(flip=0.5), (7,), "flip is 0.5; it must be 0 for examples that are not"),
        (
            Augmentation(crop=(0.5, 1.0)),
            (4, 8, 8),
            r"crop is \[0.5, 1.0\]; it must be null for examples that are not images",
        ),
    ],
)
def test_examples_that_cannot_be_transformed_are_errors(augment, shape, error):
    with pytest.raises(ConfigError, match=error):
        augment.augment_set(torch.zeros(1, 2, *shape), torch.arange(1), 0, "train")
