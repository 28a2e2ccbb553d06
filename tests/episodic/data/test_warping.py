"""Deformations: torchvision's affine maps, bounds of what is drawn, elastic displacements."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode, functional

from episodic.core import random_numbers
from episodic.data.warping import CONTROL_POINTS, WARP_DRAWS, Warps, draw_warps, warp_images

BOUNDS = {"rotation": 40, "scale": 0.3, "shear": 25, "translation": 0.2, "elastic": 0.05}


def draw_bits(n: int) -> torch.Tensor:
    key = random_numbers.key(0, "test of warps")
    return random_numbers.random_bits(key, torch.arange(n), WARP_DRAWS)


def make_identity(n: int) -> Warps:
    return draw_warps(draw_bits(n))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 31, 17)], ids=str)
@pytest.mark.parametrize("kept", [*list(BOUNDS)[:4], "all"])
def test_affine_maps_are_those_of_torchvision(shape, kept):
    n, (height, width) = 30, shape[1:]
    images = torch.rand(n, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    bounds = {name: b if kept in (name, "all") else 0.0 for name, b in BOUNDS.items()}
    warps = draw_warps(draw_bits(n), **bounds | {"elastic": 0.0})
    # torchvision stretches both axes alike and takes whole pixels of translation.
    pixels = (warps.shift * torch.tensor([width, height])).round()
    warps = warps._replace(
        stretch=warps.stretch[:, :1].expand(-1, 2),
        shift=pixels / torch.tensor([width, height]),
    )
    expected = torch.stack(
        [
            functional.affine(
                image,
                math.degrees(warps.angle[i]),
                pixels[i].int().tolist(),
                float(warps.stretch[i, 0]),
                [math.degrees(warps.shear[i]), 0.0],
                InterpolationMode.BILINEAR,
            )
            for i, image in enumerate(images)
        ]
    )
    # torchvision computes positions in float32; an error of a pixel would be near 0.3.
    torch.testing.assert_close(warp_images(images, warps), expected, rtol=0, atol=1e-4)
    assert (expected - images).abs().mean() > 0.03, "the images change"


def test_each_axis_is_stretched_by_its_own_factor():
    images = torch.zeros(1, 1, 21, 21)
    images[..., 8:13, 8:13] = 1  # a square of five pixels in the centre
    warps = make_identity(1)._replace(stretch=torch.tensor([[3.0, 1.0]]))
    wide = warp_images(images, warps)[0, 0]
    assert wide.sum(1)[10] == pytest.approx(15, abs=0.01), "three times as wide"
    assert wide.sum(0)[10] == pytest.approx(5, abs=0.01), "as high as before"


def test_without_bounds_nothing_changes():
    images = torch.rand(5, 2, 9, 14, dtype=torch.float64)
    torch.testing.assert_close(warp_images(images, make_identity(5)), images)


def test_drawn_values_fill_their_bounds_symmetrically():
    n = 20_000
    warps = draw_warps(draw_bits(n), **BOUNDS)
    for values, bound in (
        (warps.angle, math.radians(40)),
        (warps.stretch.log(), math.log(1.3)),
        (warps.shear, math.radians(25)),
        (warps.shift, 0.2),
        (warps.displacement, 0.05),
    ):
        assert 0.99 * bound < values.max() <= bound and -bound <= values.min() < -0.99 * bound
        assert abs(values.mean()) < 4 * bound / math.sqrt(3 * n)
        assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.03), "uniform"
    columns = torch.cat([v.flatten(1) if v.dim() > 1 else v[:, None] for v in warps], 1)
    correlations = torch.corrcoef(columns.T) - torch.eye(WARP_DRAWS)
    assert correlations.abs().max() < 5 / math.sqrt(n), "drawn independently"


def test_elastic_displacements_move_smoothly_and_as_far_as_the_control_points():
    """The image is its own coordinates, so that a value is the position that was read."""
    size = 41
    axis = torch.linspace(0, 1, size, dtype=torch.float64)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    coordinates = torch.stack([x, y])[None].expand(6, -1, -1, -1)
    warps = draw_warps(draw_bits(6), elastic=0.03)
    moved = (warp_images(coordinates, warps) - coordinates) * (size - 1) / size
    inner = moved[..., 4:-4, 4:-4]  # beyond the border, images are 0
    step = (size - 1) // (CONTROL_POINTS - 1)
    at_points = moved[..., step:-step:step, step:-step:step]
    torch.testing.assert_close(at_points, warps.displacement[..., 1:-1, 1:-1], atol=2e-4, rtol=0)
    assert inner.abs().max() < 0.03 * 1.5, "bicubic interpolation overshoots a little"
    assert inner.diff(dim=-1).abs().max() < 0.03 * 3 / step, "no jumps"
    assert inner.std() > 0.005
