"""The head `partial_finetune`: fine-tuning the last blocks of an image encoder on the support set.

All other heads work on fixed features. This one changes the features, so it needs the images.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from episodic import ops
from episodic.core import random_numbers
from episodic.core.config import PositiveFloat, Section
from episodic.data.augmentation import DRAWS, Augmentation
from episodic.data.sampling import ClassSampler
from episodic.inference.adapted import AdaptedModel
from episodic.inference.few_shot import FewShotLearner
from episodic.inference.labelled_examples import Change
from episodic.inference.labels import AdaptError, index_labels, read_labels
from episodic.preprocessing.encoders.blocks import TunedBlocks, divide_network
from episodic.preprocessing.encoders.encoder import ImageEncoder, single_threaded_workers
from episodic.preprocessing.image import EncodedImagePreprocessor
from episodic.training.config import MAX_INNER_STEPS

__all__ = ["PartialFineTuning", "PartialFineTuningLearner"]

VIEW = Augmentation(crop=(0.35, 1.0), flip=0.5, brightness=0.4, contrast=0.4, saturation=0.4)
"""The random transformation of a view."""

IMAGES_PER_PASS = 5
"""Images per forward and backward pass. They are fixed, since gradients are summed pass by pass."""


@dataclass(frozen=True)
class PartialFineTuning(Section):
    """Fine-tuning of the last blocks of an image encoder on a support set.

    In every step, an augmented view of each support image is a pseudo-query. Adam lowers the
    cross-entropy of the nearest mean classifier:

        w_c = mean of f(x) over the support images of class c
        loss = mean over pseudo-queries (x, y) of -log softmax_c(scale * cos(f(x), w_c))_y

    The frozen part of the encoder computes every view once, before the first step. Batch norm uses
    its running statistics. The result does not depend on the number of threads. Time and memory are
    proportional to the number of support images.

    The defaults were chosen on validation classes of the Grocery Store dataset, with
    EfficientNet-Lite0.

    Differs from the paper: only the last blocks are fine-tuned (paper: all), views are drawn from a
    fixed set (paper: anew in every step), and the learning rate does not depend on the domain
    (paper: selected on validation tasks of the domain).

    Args:
        blocks: Number of fine-tuned blocks, see `divide_network`.
        steps: Number of gradient steps.
        learning_rate: Learning rate of Adam.
        views: Augmented views per support image.
        scale: Inverse temperature of the cosine similarities in the loss.

    Source: Shell Xu Hu, Da Li, Jan Stühmer, Minyoung Kim, Timothy M. Hospedales: Pushing the Limits
    of Simple Pipelines for Few-Shot Learning: External Data and Fine-Tuning Make a Difference, CVPR
    2022. https://arxiv.org/abs/2204.07305
    """

    blocks: Annotated[int, Ge(1), Le(1000)] = 1
    steps: Annotated[int, Ge(0), Le(MAX_INNER_STEPS)] = 10
    learning_rate: PositiveFloat = 3e-4
    views: Annotated[int, Ge(1), Le(1000)] = 4
    scale: PositiveFloat = 10.0

    def tune(self, encoder: ImageEncoder, pixels: Tensor, y: Tensor) -> TunedBlocks:
        """Fine-tune the last blocks.

        Args:
            encoder: The encoder. It is not changed.
            pixels: Cropped support images, uint8 `(n, 3, size, size)`.
            y: Index of the class of each image, int64 `(n,)`.

        Returns:
            The fine-tuned parameters.

        Raises:
            EncoderError: The network of the encoder cannot be divided into blocks.
            AdaptError: The fine-tuning diverged.
        """
        tuned, _ = self.tune_with_losses(encoder, pixels, y)
        return tuned

    def tune_with_losses(
        self, encoder: ImageEncoder, pixels: Tensor, y: Tensor
    ) -> tuple[TunedBlocks, list[float]]:
        """Like `tune`, but also return the loss before each step."""
        description = encoder.description
        divided = divide_network(encoder.network, self.blocks, description.architecture)
        trunk, tail = divided.trunk, copy.deepcopy(divided.tail).requires_grad_()
        parameters = dict(tail.named_parameters())
        optimizer = torch.optim.Adam(parameters.values(), self.learning_rate)
        losses = []
        with single_threaded_workers() as pool:
            support, *views = self._compute_activations(pool, trunk, encoder, pixels)
            for step in range(self.steps):
                queries = views[step % len(views)]
                loss, gradients = self._compute_gradients(
                    pool, tail, list(parameters.values()), support, queries, y
                )
                for parameter, gradient in zip(parameters.values(), gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
                losses.append(loss)
        weights = {name: parameter.detach() for name, parameter in parameters.items()}
        if not all(bool(weight.isfinite().all()) for weight in weights.values()):
            raise AdaptError(
                "the fine-tuning diverged on this support set: use a smaller learning rate, fewer "
                "steps, or another head"
            )
        return TunedBlocks(description, weights), losses

    def _compute_activations(
        self, pool: ThreadPoolExecutor, trunk: nn.Module, encoder: ImageEncoder, pixels: Tensor
    ) -> Tensor:
        """Compute the activations of the images and of their views, `(1 + used views, n, ...)`.

        Views that no step uses are not computed.
        """
        used = min(self.views, self.steps)
        key = random_numbers.key(0, "views of fine-tuning")
        bits = random_numbers.random_bits(key, torch.arange(len(pixels)), self.views * DRAWS)

        def compute(image: Tensor, image_bits: Tensor) -> Tensor:
            x = image[None].float() / 255
            bits = image_bits.view(self.views, DRAWS)[:used]
            views = VIEW(x.expand(used, -1, -1, -1), bits)
            x = encoder.description.transform.normalize(torch.cat([x, views]))
            with torch.no_grad():
                activations: Tensor = trunk(x.contiguous(memory_format=torch.channels_last))
            return activations

        return torch.stack(list(pool.map(compute, pixels, bits)), 1)

    def _compute_gradients(
        self,
        pool: ThreadPoolExecutor,
        tail: nn.Module,
        parameters: Sequence[Tensor],
        support: Tensor,
        queries: Tensor,
        y: Tensor,
    ) -> tuple[float, list[Tensor]]:
        """Compute the loss and its gradient, pass by pass."""
        passes = torch.split(torch.cat([support, queries]), IMAGES_PER_PASS)
        features = list(pool.map(tail, passes))
        joined = torch.cat([part.detach() for part in features]).requires_grad_()
        normalized = nn.functional.normalize(joined, dim=1)
        loss = self._compute_loss(normalized[: len(y)], normalized[len(y) :], y)
        (outer,) = torch.autograd.grad(loss, joined)

        def backpropagate(part: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(part, parameters, gradient, materialize_grads=True)

        gradients = pool.map(backpropagate, features, torch.split(outer, IMAGES_PER_PASS))
        total = list(next(gradients))
        for gradient in gradients:
            for i, value in enumerate(gradient):
                total[i] += value
        return loss.item(), total

    def _compute_loss(self, support: Tensor, queries: Tensor, y: Tensor) -> Tensor:
        means = ops.class_means(support[None], y[None], int(y.max()) + 1)
        logits = self.scale * ops.cosine(queries[None], means)[0]
        return nn.functional.cross_entropy(logits, y)


@dataclass(frozen=True)
class PartialFineTuningLearner(FewShotLearner):
    """A few-shot learner that fine-tunes an image encoder on each support set.

    The head on the fine-tuned features is that of `trained`.

    Args:
        trained: The head and its settings.
        inputs: The preprocessing before the encoder.
        device: Device of the head. The encoder is fine-tuned on the CPU.
        encoded: The preprocessing with the encoder.
        fine_tuning: The settings.
    """

    encoded: EncodedImagePreprocessor
    fine_tuning: PartialFineTuning = PartialFineTuning()

    def adapt(self, support_x: Any, support_y: Any, steps: int | None = None) -> AdaptedModel:
        """Fine-tune the encoder on a support set, and fit the head to the fine-tuned features.

        Args:
            support_x: Images as paths, Pillow images, bytes or arrays.
            support_y: A hashable label per image.
            steps: Number of gradient steps. None: that of `fine_tuning`.

        Raises:
            ConfigError: The number of steps is out of bounds.
            InputError: An image cannot be read.
            EncoderError: The encoder is missing, or cannot be divided into blocks.
            AdaptError: The labels are invalid, or the fine-tuning diverged.
        """
        x = self.inputs(support_x)
        labels = read_labels(support_y, len(x))
        _, y = index_labels(labels)
        settings = self.fine_tuning if steps is None else replace(self.fine_tuning, steps=steps)
        order = y.argsort(stable=True)
        pixels = self.encoded.crops.unflatten(x[order])
        blocks = settings.tune(self.encoded.encoder, pixels, y[order])
        inputs = replace(self.encoded, tuned_blocks=blocks)
        config = self.config | {
            "inputs": self.config["inputs"] | {"tuned_blocks": blocks.describe()},
            "fine_tuning": asdict(settings),
        }
        head = FewShotLearner(replace(self.trained, config=config), inputs, self.device)
        return replace(
            head.adapt(x, labels),
            learner=replace(self, fine_tuning=settings),
            images=x[order],
            history=(Change.describe("adapt", x[order], [labels[i] for i in order], True),),
        )

    @property
    def pool_inputs(self) -> EncodedImagePreprocessor:
        return self.encoded

    def score_episodes(self, sampler: ClassSampler, index: Tensor) -> Tensor:
        """Compute the accuracy of episodes, in each of which the encoder is fine-tuned."""
        _, support, query = sampler.draw_rows(index)
        labels = torch.arange(sampler.ways)
        support_y = labels.repeat_interleave(sampler.shots)
        scores = []
        for i in range(len(index)):
            repeats: int | Tensor = sampler.queries
            if sampler.query_balance is not None:
                repeats = sampler.draw_query_counts(index)[i]
            query_y = labels.repeat_interleave(repeats)
            adapted = self.adapt(sampler.examples[support[i]], support_y)
            predicted = adapted.predict(sampler.examples[query[i]])
            scores.append(float((predicted == query_y.numpy()).mean()))
        return torch.tensor(scores, dtype=torch.float64)
