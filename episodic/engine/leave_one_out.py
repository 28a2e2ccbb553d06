"""Leave-one-out on the support set: the regularization of a head, chosen per task.

Leaving an example out makes its class the smallest one, which would let every head with a bias
predict another class. The losses of the remaining n_k - 1 examples of its class are therefore
weighted by n_k / (n_k - 1).

The features of a support set enter as their kernel K = X X^T, so the cost does not depend on their
dimension. Everything is computed in float64 and without a graph: the choice is not differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.core import float64
from episodic.core.episode import Episode

__all__ = [
    "MAX_REFITS",
    "Choice",
    "Fit",
    "LeftOutOutputs",
    "choose_regularization",
    "class_weights",
    "feature_variance",
    "refitted_outputs",
    "ridge_outputs",
]

STRENGTHS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.001)
"""Candidates for the regularization, in units of the variance of the support features (the mean
squared distance from their mean). The strongest is first: it wins a tie."""

HALVINGS, DOUBLINGS = 4, 6
"""Candidates for the scale of the logits: from 2^-4 to 2^6 in steps of sqrt(2), in units of
1 / (root mean square of the outputs)."""

SMALLEST = 1e-12
"""Lower bound of divisors, for support sets whose features or outputs are all 0."""

NUMBERS_AT_ONCE = 1 << 17
"""Numbers in the Hessians of the heads that are fitted at once (1 MB, which fits into a cache)."""

MAX_REFITS = 25
"""Examples of a support set that are left out if each takes a fit of its own, in cubic time. They
are spaced evenly over a larger support set, which is ordered by class."""

LeftOutOutputs = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""`outputs(kernel, y, regularization, rows)`: the output `(tasks, m, ways)` for each example of
`rows` `(m,)` of a head that is fitted to all others; kernel `(tasks, n, n)`, one-hot y
`(tasks, n, ways)` and lambda `(tasks, 1)` in float64."""

Fit = Callable[..., tuple[Tensor, Tensor]]
"""`fit(kernel, y, regularization)`: dual coefficients `(tasks, n, ways)` and bias
`(tasks, 1, ways)` of a head; kernel and y as for `LeftOutOutputs`. The regularization `(tasks, n)`
is lambda divided by the weight of the loss of each example."""


class Choice(NamedTuple):
    """Regularization and scale of each task.

    Args:
        regularization: lambda `(tasks, 1)`, the weight of ||W||^2 / 2 against a sum of losses.
        scale: Factor of the logits `(tasks, 1)`.
    """

    regularization: Tensor
    scale: Tensor


def choose_regularization(
    features: Tensor,
    episode: Episode,
    left_out_outputs: LeftOutOutputs,
    default: Choice,
    rescaled: bool = True,
    left_out: int | None = None,
) -> Choice:
    """Choose the regularization, and the scale of the logits, by the leave-one-out cross-entropy.

    As in Platt's method, the target for the probability of the true class is (n + 1) / (n + 2)
    instead of 1. Otherwise, the best scale of a support set without errors would be infinite.

    Args:
        features: Features of the support set `(tasks, n, width)`.
        episode: The tasks.
        left_out_outputs: The leave-one-out outputs of the head.
        default: The result for tasks in which a class has a single example.
        rescaled: Whether the scale is chosen too. Otherwise it is that of `default`.
        left_out: Maximum number of examples that are left out; None: all.

    Returns:
        The choice, with the type and device of `default`.

    Source: John Platt: Probabilistic outputs for support vector machines, 1999, section 2.2.
    """
    ways = episode.classes
    if features.shape[1] < 2 * ways:
        return default
    with torch.no_grad():
        x = float64.to_float64(features)
        y = float64.to_float64(F.one_hot(episode.support_y, ways))
        scale = None if rescaled else default.scale.to(y)
        n = y.shape[1]
        m = n if left_out is None else min(n, left_out)
        rows = torch.arange(m, device=y.device) * n // m
        found = _best_choice(x @ x.mT, y, left_out_outputs, scale, rows)
        is_possible = (y.sum(1) >= 2).all(1, keepdim=True).to(default.scale.device)
    regularization, scale = (
        torch.where(is_possible, value.to(start), start)
        for value, start in zip(found, default, strict=True)
    )
    return Choice(regularization, scale)


def class_weights(y: Tensor) -> Tensor:
    """Weight examples such that all classes have the same total weight.

    Without weights, a strongly regularized head predicts the largest class of a support set.

    Args:
        y: One-hot labels `(tasks, n, ways)`.

    Returns:
        Weights `(tasks, n)` with mean 1; exactly 1 if classes have equal shots.
    """
    n, ways = y.shape[1:]
    return (y @ (n / (ways * y.sum(1)))[..., None])[..., 0]


def feature_variance(kernel: Tensor) -> Tensor:
    """Compute the mean squared distance of features from their mean, `(tasks, 1)`.

    It is at least a millionth of their mean squared norm, and positive.

    Args:
        kernel: Inner products of the features `(tasks, n, n)`.
    """
    norm = kernel.diagonal(dim1=1, dim2=2).mean(1)
    variance = torch.maximum(norm - kernel.mean((1, 2)), 1e-6 * norm)
    return variance.clamp_min(SMALLEST)[:, None]


def _best_choice(
    kernel: Tensor,
    y: Tensor,
    left_out_outputs: LeftOutOutputs,
    scale: Tensor | None,
    rows: Tensor,
) -> Choice:
    """Choose among `STRENGTHS` and, if `scale` is None, the candidates for the scale."""
    n, ways = y.shape[1:]
    target = ((y * (n + 1) + (1 - y) / (ways - 1)) / (n + 2))[:, rows]
    unit = feature_variance(kernel)
    powers = torch.arange(-2 * HALVINGS, 2 * DOUBLINGS + 1, dtype=y.dtype, device=y.device)
    losses, candidates = [], []
    for strength in STRENGTHS:
        outputs = left_out_outputs(kernel, y, strength * unit, rows)
        if scale is None:
            deviation = outputs - outputs.mean(2, keepdim=True)
            size = deviation.square().mean((1, 2)).sqrt().clamp_min(SMALLEST)
            scales = 2 ** (powers / 2) / size[:, None]
        else:
            scales = scale
        logs = (scales[..., None, None] * outputs[:, None]).log_softmax(-1)
        losses.append(-(target[:, None] * logs).sum((2, 3)))
        candidates.append(torch.stack([(strength * unit).expand_as(scales), scales]))
    best = torch.cat(losses, 1).argmin(1, keepdim=True)
    return Choice(*torch.cat(candidates, 2).gather(2, best.expand(2, -1, -1)))


def ridge_outputs(
    kernel: Tensor,
    y: Tensor,
    regularization: Tensor,
    rows: Tensor | None = None,
    balanced: bool = False,
) -> Tensor:
    """Compute the leave-one-out outputs of ridge regression in closed form.

        o_i = y_i - (G^-1 y)_i / (G^-1)_ii,     G = K + diag(lambda / weights)

    The weights depend on the class of i, so there is one G per class. Woodbury's identity computes
    what is needed of all of them from A = (K + diag(lambda))^-1. B has the entries of A between
    examples of the same class and is 0 elsewhere, and delta_i is the change of lambda_i by the
    weight of example i when another one of its class is left out:

        (G^-1 y)_i = (M^-1 A y)_i,     (G^-1)_ii = (M^-1 B)_ii,     M = I + B diag(delta)

    M is well-conditioned: its eigenvalues are between 1 - 1 / n_k and 1.

    Args:
        kernel: K `(tasks, n, n)`.
        y: One-hot labels `(tasks, n, ways)`.
        regularization: lambda `(tasks, 1)`.
        rows: The examples that are left out; None: all.
        balanced: Whether the losses are weighted by `class_weights`.

    Returns:
        `(tasks, m, ways)`.

    Source: Carl Rasmussen, Christopher Williams: Gaussian Processes for Machine Learning, 2006,
    equation 5.12.
    """
    if balanced:
        regularization = regularization / class_weights(y)
    regularization = regularization.expand_as(y[..., 0])
    own_weights = torch.sum(y.mT * _weights(y), 1)
    delta = regularization / own_weights - regularization
    inverse, _ = torch.linalg.inv_ex(kernel + torch.diag_embed(regularization))
    within = inverse * (y @ y.mT)
    right = torch.cat([inverse @ y, within], 2)
    left = torch.diag_embed(torch.ones_like(delta)) + within * delta[:, None]
    solution: Tensor = torch.linalg.solve_ex(left, right)[0]
    ways = y.shape[2]
    outputs = y - solution[..., :ways] / solution[..., ways:].diagonal(dim1=1, dim2=2)[..., None]
    return outputs if rows is None else outputs[:, rows]


def refitted_outputs(
    kernel: Tensor,
    y: Tensor,
    regularization: Tensor,
    rows: Tensor | None = None,
    *,
    fit: Fit,
    balanced: bool = False,
) -> Tensor:
    """Compute the leave-one-out outputs of a head by fitting it again without each example.

    Args:
        kernel: K `(tasks, n, n)`.
        y: One-hot labels `(tasks, n, ways)`.
        regularization: lambda `(tasks, 1)`.
        rows: The examples that are left out; None: all.
        fit: Fits the head.
        balanced: Whether the losses are weighted by `class_weights`. `fit` then takes these
            weights, `(tasks, n)`, as a fourth argument.

    Returns:
        `(tasks, m, ways)`.
    """
    tasks, n, ways = y.shape
    if rows is None:
        rows = torch.arange(n, device=y.device)
    others = torch.arange(n - 1, device=y.device).expand(len(rows), -1)
    others = others + (others >= rows[:, None])  # (m, n - 1)
    weights = class_weights(y) if balanced else torch.ones_like(y[..., 0])
    strengths = (regularization / weights)[:, None] / (y[:, rows] @ _weights(y))  # (tasks, m, n)
    task = torch.arange(tasks, device=y.device).repeat_interleave(len(rows))
    left_out = torch.arange(len(rows), device=y.device).repeat(tasks)
    size = max(1, NUMBERS_AT_ONCE // (ways * n * n))
    outputs = []
    for t, i in zip(torch.split(task, size), torch.split(left_out, size), strict=True):
        kept, t_ = others[i], t[:, None]
        problem = [
            kernel[t[:, None, None], kept[:, :, None], kept[:, None]],
            y[t_, kept],
            strengths[t_, i[:, None], kept],
        ]
        if balanced:
            problem.append(weights[t_, kept])
        alpha, bias = fit(*problem)
        to_others = kernel[t_, rows[i][:, None], kept]
        outputs.append(to_others[:, None] @ alpha + bias)
    return torch.cat(outputs).view(tasks, len(rows), ways)


def _weights(y: Tensor) -> Tensor:
    """Weight each example when one of class k is left out: `(tasks, k, n)`."""
    return 1 + y.mT / (y.sum(1)[..., None] - 1).clamp_min(1)
