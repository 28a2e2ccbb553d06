"""Logistic regression as the head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.core import float64
from episodic.core.config import PositiveFloat, require
from episodic.core.episode import Episode
from episodic.core.model import HEAD, Params
from episodic.engine.inner import InnerLoop, expand
from episodic.engine.learner import Algorithm, MetaLearner
from episodic.engine.leave_one_out import (
    MAX_REFITS,
    Choice,
    choose_regularization,
    feature_variance,
    refitted_outputs,
)

__all__ = ["LogisticRegression"]

ITERATIONS = 40
"""Maximum number of Newton steps."""

TOLERANCE = 1e-9
"""Largest residual |y - p - lambda alpha| of a solution to which only the last step is added."""

MAX_RESIDUAL = 1e-3
"""Largest residual of a solution that is accepted."""

HALVINGS = 5
"""Number of times that a Newton step may be halved."""

MIN_PROBABILITY = 1e-12
"""Lower bound of the probabilities in the Hessian."""

DEFAULT_STRENGTH = 0.003
"""Regularization without a choice, in units of the variance of the support features."""


@dataclass(frozen=True)
class LogisticRegression(Algorithm):
    """Multinomial logistic regression as the head.

        min_{W, b}  sum_i cross_entropy(W f(x_i) + b, y_i) + lambda / 2 ||W||^2

    lambda is 1 / C of scikit-learn's LogisticRegression, and the solution is the same. It is
    computed in float64 for all tasks at once by Newton's method on the kernel X X^T of the support
    features. In training, it is differentiated by the implicit function theorem.

    Without a value, lambda is chosen per task by the leave-one-out cross-entropy of the support
    set, if every class has two or more examples; of more than 25 examples, 25 are left out.
    Otherwise, lambda is 0.003 times the variance of the support features. The choice takes seven
    fits per example that is left out, so set a value in training.

    Differs from the paper: the problem has all classes of the task (paper: one problem for two
    classes), a bias, and is solved to convergence (paper: 5 Newton steps). lambda is not learned.

    Args:
        regularization: lambda; None to choose it per task.

    Source: Luca Bertinetto, Joao Henriques, Philip Torr, Andrea Vedaldi: Meta-learning with
    differentiable closed-form solvers, ICLR 2019 (LR-D2). https://arxiv.org/abs/1805.08136
    """

    regularization: PositiveFloat | None = None

    any_ways: ClassVar[bool] = True
    regression: ClassVar[bool] = False

    def count_model_outputs(self, ways: int, classes: int) -> int:
        return 0

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        theta = expand(meta, episode.tasks)
        support = learner.model.features(theta, episode.support_x)
        x = float64.to_float64(support)
        y = float64.to_float64(F.one_hot(episode.support_y, episode.classes))
        kernel = x @ x.mT
        regularization = self._choose(x, kernel.detach(), episode).expand_as(x[..., 0])
        alpha, bias = fit_logistic(kernel, y, regularization)
        head = ((alpha.mT @ x).to(support), bias[:, 0].to(support))
        return InnerLoop(theta | dict(zip(HEAD, head, strict=True)))

    def choose_regularization(self, learner: MetaLearner, meta: Params, episode: Episode) -> Tensor:
        """Return lambda of each task `(tasks, 1)`, which the inner loop uses.

        Args:
            learner: The meta-learner.
            meta: Meta-parameters without a task axis.
            episode: The tasks.
        """
        theta = expand(meta, episode.tasks)
        x = float64.to_float64(learner.model.features(theta, episode.support_x).detach())
        return self._choose(x, x @ x.mT, episode)

    def _choose(self, x: Tensor, kernel: Tensor, episode: Episode) -> Tensor:
        if self.regularization is not None:
            return torch.full_like(kernel[:, :1, 0], self.regularization)
        default = DEFAULT_STRENGTH * feature_variance(kernel)
        choice = choose_regularization(
            x,
            episode,
            partial(refitted_outputs, fit=fit_logistic),
            Choice(default, torch.ones_like(default)),
            rescaled=False,
            left_out=MAX_REFITS,
        )
        return choice.regularization


def fit_logistic(kernel: Tensor, y: Tensor, regularization: Tensor) -> tuple[Tensor, Tensor]:
    """Fit logistic regressions, differentiable with respect to the kernel.

    At the solution, alpha = (y - p) / lambda, where p are the probabilities, and the weights are
    X^T alpha. The sum of alpha over the examples is 0, because the bias is not regularized, and so
    is its sum over the classes.

    Args:
        kernel: K = X X^T, float64 `(tasks, n, n)`.
        y: One-hot labels, float64 `(tasks, n, ways)`.
        regularization: lambda of each example, float64 `(tasks, n)`: lambda divided by the weight
            of its loss.

    Returns:
        alpha `(tasks, n, ways)` and the bias `(tasks, 1, ways)`, whose sum over classes is 0.

    Raises:
        ConfigError: Newton's method does not converge. On a GPU, this is not checked, because
            reading the residual would synchronize.
    """
    c, y = 1 / regularization[:, None], y.mT  # from here on `(tasks, ways, n)`, one row per class
    tasks, ways, _ = y.shape
    is_readable = kernel.device.type == "cpu"

    def newton_step(p: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Solve (K + diag(1 / (c p_k))) step_k + bias_k + nu = residual_k / (c p_k) for each class.

        nu `(tasks, n)` makes the sum of the steps over the classes 0, and the bias their sum over
        the examples. With the diagonal matrix W of c p_k, the inverse is
        W^(1/2) (I + W^(1/2) K W^(1/2))^-1 W^(1/2), which is accurate for small probabilities
        (Rasmussen, Williams: Gaussian Processes for Machine Learning, 2006, section 3.4.3).
        """
        weight = c * p.clamp_min(MIN_PROBABILITY)
        root = weight.sqrt()
        roots = root[..., None] * root[..., None, :]
        matrix = roots * kernel.detach()[:, None]
        matrix.diagonal(dim1=2, dim2=3).add_(1)
        # Unlike cholesky_inverse, triangular solves do not read values.
        factor, _ = torch.linalg.cholesky_ex(matrix)
        identity = torch.eye(p.shape[2]).to(p).expand_as(factor)
        inverse_factor = torch.linalg.solve_triangular(factor, identity, upper=False)
        inverse = roots * (inverse_factor.mT @ inverse_factor)
        free = (inverse @ (residual / weight)[..., None])[..., 0]
        rows = inverse.sum(-1)
        right = torch.cat([free.sum(1)[..., None], rows.mT], -1)
        nu, nu_of_bias = torch.linalg.solve_ex(inverse.sum(1), right)[0].split([1, ways], -1)
        schur = torch.diag_embed(rows.sum(-1)) - rows @ nu_of_bias
        # Without the mean, the sum of the bias over the classes would be arbitrary.
        schur = schur + rows.sum(-1).mean(-1)[:, None, None]
        bias, _ = torch.linalg.solve_ex(schur, free.sum(-1, keepdim=True) - rows @ nu)
        nu = (nu - nu_of_bias @ bias).mT
        return free - (inverse @ nu[..., None])[..., 0] - bias * rows, bias

    def objective(alpha: Tensor, bias: Tensor, outputs: Tensor) -> Tensor:
        """Compute the objective divided by lambda."""
        losses = c[:, 0] * (outputs.logsumexp(-2) - (y * outputs).sum(-2))
        return losses.sum(-1) + ((outputs - bias) * alpha).sum((-1, -2)) / 2

    def largest_residual(alpha: Tensor, p: Tensor) -> Tensor:
        return (y - p - alpha / c).abs().amax((1, 2))

    with torch.no_grad():
        alpha = outputs = torch.zeros_like(y)
        bias = y.new_zeros(tasks, ways, 1)
        sizes = 2.0 ** -torch.arange(HALVINGS + 1, dtype=y.dtype, device=y.device)
        for _ in range(ITERATIONS):
            p = outputs.softmax(1)
            is_solved = largest_residual(alpha, p) <= TOLERANCE
            if is_readable and bool(is_solved.all()):
                break
            step, bias_step = newton_step(p, c * (y - p) - alpha)
            output_step = step @ kernel + bias_step
            candidates = [
                start + sizes.view(-1, 1, 1, 1) * change
                for start, change in (
                    (alpha, step),
                    (bias, bias_step),
                    (outputs, output_step),
                )
            ]
            # Solved problems do not change, so the result does not depend on the other tasks.
            size = sizes[objective(*candidates).argmin(0)].where(~is_solved, 0)[:, None, None]
            alpha, bias = alpha + size * step, bias + size * bias_step
            outputs = outputs + size * output_step
    # One more Newton step leaves the solution unchanged and has its derivative.
    p = (alpha @ kernel + bias).softmax(1)
    if is_readable:
        residual = float(largest_residual(alpha, p.detach()).max())
        require(
            residual <= MAX_RESIDUAL or not bool(kernel.isfinite().all()),
            "regularization",
            float(regularization.min()),
            "must be larger, because logistic regression does not converge on a support set "
            f"(residual {residual:.1g})",
        )
    step, bias_step = newton_step(p.detach(), c * (y - p) - alpha)
    return (alpha + step).mT, (bias + bias_step).mT
