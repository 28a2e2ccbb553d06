"""Operators for models, on tensors with a leading task axis.

Examples x are `(tasks, n, ...)`, parameters `(tasks, *shape)`.
"""

from episodic.ops.operators import (
    channels_last,
    class_means,
    conv2d,
    cosine,
    embedding,
    linear,
    lstm,
    max_pool2d,
    norm,
    norm_relu,
)

__all__ = [
    "channels_last",
    "class_means",
    "conv2d",
    "cosine",
    "embedding",
    "linear",
    "lstm",
    "max_pool2d",
    "norm",
    "norm_relu",
]
