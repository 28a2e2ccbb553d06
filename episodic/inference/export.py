"""Export of adapted models and their encoders to ONNX or torch.export (the extra `export`).

    adapted = learner.adapt(support_x, support_y)
    export_onnx(adapted, "model.onnx")      # images (n, C, H, W) -> probabilities (n, classes)
    export_torch(adapted, "model.pt2")

The file contains the adapted model without the inner loop, and the support set if the algorithm or
batch norm uses it.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from episodic.core.errors import UserError
from episodic.core.files import atomic_path
from episodic.inference.adapted import AdaptedModel
from episodic.inference.few_shot import FewShotLearner
from episodic.inference.quantization import (
    QuantizationError,
    list_calibration_examples,
    quantize,
)
from episodic.preprocessing.image import EncodedImagePreprocessor
from episodic.training.unknown import logit_scores

__all__ = ["ExportError", "ExportedModule", "build_module", "export_onnx", "export_torch"]

NOT_ADAPTED = (
    "the inner loop cannot be exported: adapt the model to a task first, and export the adapted"
    " model"
)


TRANSDUCTIVE = (
    "predictions of {name} depend on the other examples of a call (transductive inference), so they"
    " are not a function of one example: export only the encoder, or use an inductive algorithm,"
    " such as simpleshot"
)


class ExportError(UserError, ValueError):
    """The model cannot be exported."""


class ExportedModule(nn.Module):
    """An adapted model as a function of examples.

    It maps `(n, *input)` to probabilities `(n, classes)`, to regression targets `(n, 1)`, or to the
    features `(n, width)` of the first member of an ensemble. With a pretrained image encoder, it
    maps images `(n, 3, size, size)` of float32 from 0 to 1, resized and cropped as the encoder
    expects.

    Args:
        adapted: The adapted model.
        encoder: Whether to compute features instead of predictions.
        unknown: Whether to add the familiarity `(n,)`, and whether an example is of an unknown
            class, bool `(n,)`.
        coverage: Coverage of the prediction sets to add, bool `(n, classes)`. None: none.

    Raises:
        AdaptError: The model cannot detect unknown classes, or has no prediction sets.
        ConfigError: The coverage is out of range.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        encoder: bool = False,
        unknown: bool = False,
        coverage: float | None = None,
    ) -> None:
        super().__init__()
        self.adapted, self.encoder = adapted, encoder
        self.detector = adapted.detector if unknown else None
        self.coverage, self.minimum = coverage, None
        if coverage is not None:
            self.minimum = adapted.prediction_sets.find_minimum(coverage)
        _ = adapted.heads  # computed here, as it cannot be traced
        if adapted.classes_:
            _ = adapted.calibration, adapted.shots
        support_x = adapted.support.support_x
        self.example = support_x[0, :1].repeat(2, *[1] * (support_x.dim() - 2))
        self.image_encoder, self.network = None, None
        if isinstance(adapted.inputs, EncodedImagePreprocessor):
            self.image_encoder = adapted.inputs.encoder
            self.network = self.image_encoder.network  # its weights become part of the file
            size = adapted.inputs.description.transform.size
            self.example = torch.zeros(2, 3, size, size)

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs, in their order."""
        if self.encoder:
            return ["features"]
        names = ["probabilities" if self.adapted.classes_ else "targets"]
        if self.detector is not None:
            names += ["familiarity", "is_unknown"]
        if self.minimum is not None:
            names.append("in_set")
        return names

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute probabilities, targets or features of examples `(n, *input)`.

        Returns:
            The output, or the outputs in the order of `output_names` if there are several.
        """
        if self.image_encoder is not None:
            x = self.image_encoder.compute_features(x)
        if self.encoder:
            return self.adapted.features(x)
        outputs = self.adapted.outputs(x)
        if not self.adapted.classes_:
            return outputs
        logits = self.adapted.calibrate(outputs)
        results = [logits.softmax(-1)]
        if self.detector is not None:
            scores = logit_scores(logits)
            if self.detector.score not in scores:
                scores = self.adapted.distances(x)
            familiarity = scores[self.detector.score]
            results += [familiarity, familiarity < self.detector.threshold]
        if self.minimum is not None:
            results.append(results[0] >= self.minimum)
        return results[0] if len(results) == 1 else tuple(results)

    @property
    def metadata(self) -> dict[str, str]:
        """The classes in the order of the columns, the preprocessing and thresholds, as JSON."""
        entries = _metadata(self.adapted)
        if self.detector is not None:
            entries["unknown"] = json.dumps(self.detector.to_json())
        if self.minimum is not None:
            entries["sets"] = json.dumps({"coverage": self.coverage, "minimum": self.minimum})
        return entries


def build_module(
    adapted: AdaptedModel,
    encoder: bool = False,
    unknown: bool = False,
    coverage: float | None = None,
) -> ExportedModule:
    """Build the module to export, with the arguments of `ExportedModule`.

    Raises:
        ExportError: The model is not adapted, it is a custom `torch.nn.Module`, its algorithm is
            transductive and predictions are to be exported, or outputs are to be added to features.
        AdaptError: The model cannot detect unknown classes, or has no prediction sets.
        ConfigError: The coverage is out of range.
    """
    if isinstance(adapted, FewShotLearner):
        raise ExportError(NOT_ADAPTED)
    if adapted.config["model"]["name"] == "module":
        raise ExportError("the model is a custom torch.nn.Module: export it with torch.onnx.export")
    if adapted.transductive and not encoder:
        name = adapted.config.get("head", adapted.config["algorithm"]["name"])
        raise ExportError(TRANSDUCTIVE.format(name=name))
    if encoder and (unknown or coverage is not None):
        raise ExportError(
            "features have no unknown classes or prediction sets: export the predictions"
        )
    return ExportedModule(adapted, encoder, unknown, coverage).eval()


def export_onnx(
    adapted: AdaptedModel,
    path: Path | str,
    encoder: bool = False,
    unknown: bool = False,
    coverage: float | None = None,
    int8: bool = False,
    examples: Tensor | None = None,
) -> None:
    """Write an adapted model as ONNX.

    The input of the file is `x`, `(n, *input)` float32: with a pretrained image encoder, images
    `(n, 3, size, size)` from 0 to 1, since the file contains the encoder. The output is
    `probabilities`, `targets` or `features`, unless others are added. The metadata contains the
    classes, the preprocessing and the thresholds of added outputs.

    Args:
        adapted: The adapted model.
        path: The file to write.
        encoder: Whether to export the features instead of the predictions.
        unknown: Whether to add the outputs `familiarity`, float `(n,)`, and `is_unknown`, bool
            `(n,)`.
        coverage: Coverage of the output `in_set` to add, bool `(n, classes)`. None: no such output.
        int8: Whether convolutions and linear layers compute with 8-bit integers. The file is
            smaller, and predictions differ a little. `unknown` and `coverage` are not available,
            because their thresholds are those of predictions in float32.
        examples: Images on which the ranges of activations are estimated, as
            `EncodedImagePreprocessor.crops` returns them, for a model with an image encoder. None:
            the support set.

    Raises:
        AdaptError: The model cannot detect unknown classes, or has no prediction sets.
        ConfigError: The coverage is out of range.
        ExportError: The model cannot be exported, or packages of the extra are missing.
        QuantizationError: The model cannot be quantized, or onnxruntime is missing.
    """
    if int8 and (unknown or coverage is not None):
        raise QuantizationError(
            "8-bit integers change distances, but the thresholds of unknown classes and prediction"
            " sets hold for float32: export without int8, or without them"
        )
    module = build_module(adapted, encoder, unknown, coverage)
    inputs = list_calibration_examples(adapted, examples) if int8 else None
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ExportError(
            f"ONNX needs two more packages: pip install 'episodic-learning[export]' ({error})"
        ) from error

    def write(draft: Path) -> None:
        program = torch.onnx.export(
            module,
            (module.example,),
            dynamo=True,
            input_names=["x"],
            output_names=module.output_names,
            dynamic_shapes=({0: torch.export.Dim("n")},),
            verbose=False,
        )
        proto = program.model_proto  # type: ignore[union-attr]
        for key, value in module.metadata.items():
            entry = proto.metadata_props.add()
            entry.key, entry.value = key, value
        onnx.save(proto, str(draft))
        if inputs is not None:
            quantize(draft, inputs)

    _write(Path(path), write)


def export_torch(
    adapted: AdaptedModel,
    path: Path | str,
    encoder: bool = False,
    unknown: bool = False,
    coverage: float | None = None,
) -> None:
    """Write an adapted model as a torch.export program.

    Run it by `torch.export.load(path).module()(x)`.

    Args:
        adapted: The adapted model.
        path: The file to write.
        encoder: Whether to export the features instead of the predictions.
        unknown: Whether to add the outputs `familiarity`, float `(n,)`, and `is_unknown`, bool
            `(n,)`.
        coverage: Coverage of the output `in_set` to add, bool `(n, classes)`. None: no such output.

    Raises:
        AdaptError: The model cannot detect unknown classes, or has no prediction sets.
        ConfigError: The coverage is out of range.
        ExportError: The model cannot be exported.
    """
    module = build_module(adapted, encoder, unknown, coverage)

    def write(draft: Path) -> None:
        program = torch.export.export(
            module, (module.example,), dynamic_shapes=({0: torch.export.Dim("n")},)
        )
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files=module.metadata)
        # torch saves the inputs of the trace as a pickle, which may be empty.
        with (
            zipfile.ZipFile(buffer) as source,
            zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive,
        ):
            for entry in source.infolist():
                is_pickle = "/sample_inputs/" in entry.filename
                archive.writestr(entry, b"" if is_pickle else source.read(entry))

    _write(Path(path), write)


def _metadata(adapted: AdaptedModel) -> dict[str, str]:
    """Encode the classes, in the order of the columns, and the preprocessing as JSON."""
    classes = [
        label if isinstance(label, (str, int, float, bool)) else repr(label)
        for label in adapted.classes_
    ]
    inputs = {**adapted.config["inputs"], "input": adapted.config["input"]}
    if isinstance(adapted.inputs, EncodedImagePreprocessor):
        size = adapted.inputs.description.transform.size
        inputs["input"] = [3, size, size]  # the file contains the encoder
    return {"classes": json.dumps(classes), "inputs": json.dumps(inputs)}


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write atomically, suppressing the warnings of torch's exporters."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad(), atomic_path(path) as draft:
            warnings.simplefilter("ignore")
            write(draft)
    finally:
        logger.setLevel(level)
