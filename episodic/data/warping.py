"""Affine and elastic deformations of batches of images, with separate parameters per image."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.core.random_numbers import uniform

__all__ = ["WARP_DRAWS", "Warps", "draw_warps", "warp_images"]

CONTROL_POINTS = 5
"""Control points of an elastic deformation, per axis."""

WARP_DRAWS = 6 + 2 * CONTROL_POINTS**2
"""Random numbers per deformation."""


class Warps(NamedTuple):
    """Deformations, one per image.

    A point is stretched, sheared horizontally and rotated about the centre of the image, then
    moved. The elastic displacement is added to the position that each output pixel is read from.

    Attributes:
        angle: Rotation, in radians, clockwise, `(n,)`.
        stretch: Factors of the width and of the height, `(n, 2)`.
        shear: Angle of the shear, in radians, `(n,)`.
        shift: Translation to the right and down, as a fraction of width and height, `(n, 2)`.
        displacement: Displacement of the control points along both axes, likewise a fraction,
            `(n, 2, CONTROL_POINTS, CONTROL_POINTS)`.
    """

    angle: Tensor
    stretch: Tensor
    shear: Tensor
    shift: Tensor
    displacement: Tensor


def draw_warps(
    bits: Tensor,
    rotation: float = 0.0,
    scale: float = 0.0,
    shear: float = 0.0,
    translation: float = 0.0,
    elastic: float = 0.0,
) -> Warps:
    """Draw deformations uniformly between the bounds, except for the scale.

    Args:
        bits: Random bits, int64 `(n, WARP_DRAWS)`.
        rotation: Maximum angle of the rotation, in degrees.
        scale: Maximum relative change of width and of height. Both factors are drawn log-uniformly
            from 1 / (1 + scale) to 1 + scale.
        shear: Maximum angle of the shear, in degrees.
        translation: Maximum translation, as a fraction of width and height.
        elastic: Maximum displacement of a control point along each axis, as a fraction of width and
            height.
    """
    signed = uniform(bits, -1, 1)
    return Warps(
        signed[:, 0] * math.radians(rotation),
        (signed[:, 1:3] * math.log1p(scale)).exp(),
        signed[:, 3] * math.radians(shear),
        signed[:, 4:6] * translation,
        torch.unflatten(signed[:, 6:], 1, (2, CONTROL_POINTS, CONTROL_POINTS)) * elastic,
    )


def warp_images(images: Tensor, warps: Warps) -> Tensor:
    """Deform images, with bilinear interpolation. Pixels from outside an image are 0.

    Without the elastic displacement, this is `affine` of torchvision's `transforms.v2`, which
    stretches both axes alike.

    Args:
        images: `(n, C, H, W)`.
        warps: One deformation per image.

    Source of elastic deformations: Simard, Steinkraus, Platt: Best Practices for Convolutional
    Neural Networks Applied to Visual Document Analysis, 2003, section 2; here smoothed by bicubic
    interpolation between control points instead of a Gaussian.
    """
    height, width = images.shape[2:]
    extent = images.new_tensor([width, height])
    angle, stretch, shear, shift, displacement = (value.to(images) for value in warps)
    # The affine map from output to input positions, in pixels from the centre:
    # diag(1 / stretch) @ [[1, tan(shear)], [0, 1]] @ rotation(-angle).
    cos, sin, tangent = angle.cos(), angle.sin(), shear.tan()
    rows = (cos - tangent * sin, sin + tangent * cos, -sin, cos)
    matrix = torch.unflatten(torch.stack(rows, 1), 1, (2, 2)) / stretch[:, :, None]
    x, y = (
        torch.arange(size, device=images.device).to(images) - (size - 1) / 2
        for size in (width, height)
    )
    output = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)  # (H, W, 2)
    moved = output - (shift * extent)[:, None, None]  # (n, H, W, 2)
    position = torch.einsum("nij,nhwj->nhwi", matrix, moved)
    smooth = F.interpolate(displacement, (height, width), mode="bicubic", align_corners=True)
    position = position + smooth.permute(0, 2, 3, 1) * extent
    return F.grid_sample(images, position * 2 / extent, align_corners=False)
