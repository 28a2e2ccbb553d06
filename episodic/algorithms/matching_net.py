"""Matching networks: attention over the support set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Tensor

from episodic import ops
from episodic.core.config import PositiveFloat
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.engine.learner import Algorithm, MetaLearner
from episodic.ops.head import glorot_uniform

__all__ = ["MatchingNet"]


@dataclass(frozen=True)
class MatchingNet(Algorithm):
    """Matching networks: attention over the support set.

        p(y | x) = sum_i a(x, x_i) y_i,     a = softmax_i cos(f(x), g(x_i))     (section 2.1)

    With full-context embeddings (section 2.1.1 and appendix A), g is a bidirectional LSTM over the
    support set, and f is computed by `reads` steps of an LSTM that attends to it.

    Differs from the paper: cosine similarities are multiplied by a fixed scale, because their
    softmax is otherwise nearly uniform. The attention LSTM starts at h_0 = f(x). Batch norm uses
    the statistics of the current batch, also at test time (`train.batch_norm`). As in the paper,
    full-context embeddings depend on the order of the support set.

    Args:
        full_context: Whether to use full-context embeddings.
        reads: Number of steps of the attention LSTM.
        scale: Scale (inverse temperature) of the cosine similarities.

    Source: Oriol Vinyals, Charles Blundell, Timothy Lillicrap, Koray Kavukcuoglu, Daan Wierstra:
    Matching Networks for One Shot Learning, NeurIPS 2016. https://arxiv.org/abs/1606.04080
    """

    full_context: bool = False
    reads: Annotated[int, Ge(1), Le(100)] = 5
    scale: PositiveFloat = 10.0

    any_ways: ClassVar[bool] = True
    masks_padding: ClassVar[bool] = True
    regression: ClassVar[bool] = False

    def count_model_outputs(self, ways: int, classes: int) -> int:
        return 0

    def init(self, theta: Params, model: Model, generator: torch.Generator) -> Params:
        if not self.full_context:
            return theta
        width = model.width
        sizes = {"forward": 2 * width, "backward": 2 * width, "read": 3 * width}
        for name, inputs in sizes.items():
            theta |= {
                f"fce.{name}.weight": glorot_uniform(generator, 4 * width, inputs),
                f"fce.{name}.bias": torch.zeros(4 * width),
            }
        return theta

    def query_outputs(
        self, learner: MetaLearner, theta: Params, episode: Episode, batch_norm: str
    ) -> Tensor:
        support, query = learner.apply_to_both(learner.model.features, theta, episode, batch_norm)
        mask = episode.support_mask
        if self.full_context:
            support = _embed_support(theta, support, mask)
            query = _embed_query(theta, query, support, self.reads, mask)
        one_hot = F.one_hot(episode.support_y, episode.classes).to(query.dtype)
        attention = _attend(self.scale * ops.cosine(query, support), mask)
        return (attention @ one_hot).clamp_min(torch.finfo(query.dtype).tiny).log()


def _attend(similarity: Tensor, mask: Tensor | None) -> Tensor:
    """Compute the softmax over the support set, without padding, of `(tasks, queries, n)`."""
    if mask is not None:
        similarity = similarity.masked_fill(~mask[:, None], -torch.inf)
    return similarity.softmax(-1)


def _lstm_weights(theta: Params, name: str) -> tuple[Tensor, Tensor]:
    return theta[f"fce.{name}.weight"], theta[f"fce.{name}.bias"]


def _embed_support(theta: Params, g: Tensor, mask: Tensor | None = None) -> Tensor:
    """Add the hidden states of a bidirectional LSTM to g `(tasks, n, d)` (appendix A.2)."""
    total = g
    for name, order in (("forward", range(g.shape[1])), ("backward", reversed(range(g.shape[1])))):
        h = c = torch.zeros_like(g[:, :1])
        states: dict[int, Tensor] = {}
        for i in order:
            h, c = ops.lstm(g[:, i : i + 1], h, c, *_lstm_weights(theta, name))
            if mask is not None:  # the backward direction starts at the last example
                h, c = (state * mask[:, i, None, None] for state in (h, c))
            states[i] = h
        total = total + torch.cat([states[i] for i in range(g.shape[1])], 1)
    return total


def _embed_query(
    theta: Params, f: Tensor, g: Tensor, reads: int, mask: Tensor | None = None
) -> Tensor:
    """Run the LSTM that attends to the support set (appendix A.1, equations 3 to 6)."""
    h, c = f, torch.zeros_like(f)
    for _ in range(reads):
        read = _attend(h @ g.mT, mask) @ g
        output, c = ops.lstm(f, torch.cat([h, read], -1), c, *_lstm_weights(theta, "read"))
        h = output + f
    return h
