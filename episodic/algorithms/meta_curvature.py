"""Meta-Curvature: MAML with a learned transformation of the inner gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.engine.gradient_descent import GradientDescent
from episodic.engine.inner import InnerLoop, expand
from episodic.engine.learner import MetaLearner

__all__ = ["MetaCurvature"]

CURVATURE = "curvature."
"""Prefix of the names of the matrices: `curvature.PARAMETER.AXIS` with the axis `outputs`, `inputs`
or `positions`."""


@dataclass(frozen=True)
class MetaCurvature(GradientDescent):
    """MAML with a learned linear transformation of the inner gradient.

        theta_i = theta - inner_lr * MC(grad L_i(theta; support_i))
        MC(G) = G x_1 M_o x_2 M_i x_3 M_f                            (equation 7)

    x_k multiplies along an axis: outputs, inputs, kernel positions. The matrices are learned. They
    are initialized as identities, with which the algorithm equals MAML.

    Differs from the paper: vectors (biases, scales) have only M_o, a full matrix (authors' code: a
    diagonal one). Validation and test take at least 3 inner steps. The authors' code reports each
    number of steps from 1 to 10.

    Args:
        inner_lr: Learning rate of the inner loop.
        inner_steps: Number of inner steps in training.

    Source: Eunbyung Park, Junier Oliva: Meta-Curvature, NeurIPS 2019.
    https://arxiv.org/abs/1902.03356
    """

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        return theta | {
            f"{CURVATURE}{name}.{axis}": torch.eye(size)
            for name, p in theta.items()
            for axis, size in _axis_sizes(p.shape).items()
        }

    def inner_loop(
        self, learner: MetaLearner, meta: Params, episode: Episode, progress: float
    ) -> InnerLoop:
        theta = {name: p for name, p in meta.items() if not name.startswith(CURVATURE)}
        matrices = expand(
            {name: p for name, p in meta.items() if name.startswith(CURVATURE)}, episode.tasks
        )

        def update(theta: Params, gradient: Params, step: int, loss: Tensor) -> Params:
            return {
                name: theta[name] - self.inner_lr * _transform(g, matrices, CURVATURE + name)
                for name, g in gradient.items()
            }

        return super().inner_loop(learner, theta, episode, progress)._replace(update=update)


def _axis_sizes(shape: torch.Size) -> dict[str, int]:
    sizes = {"outputs": shape[0]}
    if len(shape) > 1:
        sizes["inputs"] = shape[1]
    if len(shape) > 2:
        sizes["positions"] = shape[2:].numel()
    return sizes


def _transform(g: Tensor, matrices: Params, name: str) -> Tensor:
    """Transform a gradient `(tasks, out[, in[, *kernel]])`."""
    shape = g.shape
    g = (
        (matrices[f"{name}.outputs"] @ g.flatten(2)).view(shape)
        if g.dim() > 2
        else (matrices[f"{name}.outputs"] @ g[..., None])[..., 0]
    )
    if g.dim() > 2:
        g = torch.einsum("tij,toj...->toi...", matrices[f"{name}.inputs"], g)
    if g.dim() > 3:
        g = (g.flatten(3) @ matrices[f"{name}.positions"].mT[:, None]).view(shape)
    return g
