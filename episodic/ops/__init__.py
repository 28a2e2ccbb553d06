"""What a model may call. Every tensor carries a leading task axis: x is `(tasks, n, ...)`, a parameter `(tasks, *shape)`."""

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
