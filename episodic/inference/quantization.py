"""ONNX files with 8-bit integers, by the quantizer of onnxruntime (the extra `export`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from episodic.core.errors import UserError
from episodic.inference.adapted import AdaptedModel
from episodic.preprocessing.image import EncodedImagePreprocessor

__all__ = ["QuantizationError", "list_calibration_examples", "quantize"]

OPERATORS = ("Conv", "Gemm")
"""Operators whose weights and inputs are quantized. The head stays in float32: it is small, and
differences of similar distances would be lost."""

BATCH = 8
MAX_EXAMPLES = 128
"""Examples from which the ranges of activations are estimated."""


class QuantizationError(UserError, ValueError):
    """The model cannot be quantized."""


def list_calibration_examples(adapted: AdaptedModel, examples: Tensor | None) -> Tensor:
    """Return examples in the form of the input of the ONNX file.

    Args:
        adapted: The adapted model.
        examples: Images as `EncodedImagePreprocessor.crops` returns them, for a model with an image
            encoder; None: the support set.

    Returns:
        `(n, *input)` float32.

    Raises:
        QuantizationError: The model keeps only the features of its support set.
    """
    if not isinstance(adapted.inputs, EncodedImagePreprocessor):
        return adapted.support.support_x[0].cpu()
    pixels = adapted.images if examples is None else examples
    if pixels is None:
        raise QuantizationError(
            "int8 needs some images, since the model keeps only the features of its support set:"
            " add --examples FOLDER"
        )
    return adapted.inputs.crops.unflatten(pixels).float() / 255


def quantize(path: Path, examples: Tensor) -> None:
    """Replace an ONNX file by one with 8-bit integers in its convolutions and linear layers.

    Weights have a scale per output channel. Activations have the range that they have on examples.

    Args:
        path: The file.
        examples: Inputs of the file `(n, *input)`.

    Raises:
        QuantizationError: onnxruntime is missing, or there is nothing to quantize.
    """
    try:
        import onnx
        import onnxruntime
        from onnxruntime import quantization
    except ModuleNotFoundError as error:
        raise QuantizationError(
            f"int8 needs onnxruntime: pip install 'episodic-learning[export]' ({error})"
        ) from error

    # Weights that the graph reshapes are folded into constants, the only ones that are quantized.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    if not any(node.op_type in OPERATORS for node in onnx.load(str(path)).graph.node):
        raise QuantizationError(
            "the model has no convolution and no linear layer to quantize: export it without int8"
        )

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(torch.split(examples[:MAX_EXAMPLES], BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"x": batch.numpy()}

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises to preprocess the file, which torch has done
    try:
        quantization.quantize_static(
            str(path),
            str(path),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    finally:
        logger.setLevel(level)
