"""An adapted model, or its encoder, as a file for other runtimes: ONNX or torch.export (the extra `export`).

    adapted = learner.adapt(support_x, support_y)
    export.onnx(adapted, "model.onnx")              # pictures (n, C, H, W) -> probabilities (n, classes)
    export.torch_program(adapted, "model.pt2")

What is exported is the adapted model: the inner loop and its gradients have happened, and are in no file. Where batch norm or a metric
compares with the support set, that is part of the file.
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
from episodic.inference.few_shot import Adapted, FewShotLearner

NOT_ADAPTED = "the inner loop is not exported, nor what only exists in it: adapt the model to a task first, and export that"


class ExportError(UserError, ValueError):
    """What cannot be exported, and why."""


class Exported(nn.Module):
    """The adapted model as one function of examples `(n, *input)`: probabilities, targets, or features of the first member."""

    def __init__(self, adapted: Adapted, encoder: bool):
        super().__init__()
        self.adapted, self.encoder = adapted, encoder
        self.heads = adapted.heads()
        self.example = adapted.support.support_x[0, :1].repeat(
            2, *[1] * (adapted.support.support_x.dim() - 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.encoder:
            return self.adapted.features(x)
        outputs = self.adapted.outputs(x, self.heads)
        return outputs.softmax(-1) if self.adapted.classes_ else outputs


def module(adapted: Adapted, encoder: bool = False) -> Exported:
    """What is written; ExportError where that cannot be."""
    if isinstance(adapted, FewShotLearner):
        raise ExportError(NOT_ADAPTED)
    if adapted.config["model"]["name"] == "module":
        raise ExportError(
            "a network of your own is exported by its own code: torch.onnx.export takes it as it is"
        )
    return Exported(adapted, encoder).eval()


def onnx(adapted: Adapted, path: Path | str, encoder: bool = False) -> None:
    """Writes an ONNX file: `x` `(n, *input)` float32 -> `probabilities`, `targets` or `features`; its metadata holds the classes."""
    made = module(adapted, encoder)
    try:
        import onnx as format
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ExportError(
            f"ONNX needs two more packages: pip install 'episodic-learning[export]' ({error})"
        ) from error
    name = "features" if encoder else "probabilities" if adapted.classes_ else "targets"

    def write(draft: Path) -> None:
        program = torch.onnx.export(
            made,
            (made.example,),
            dynamo=True,
            input_names=["x"],
            output_names=[name],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            verbose=False,
        )
        proto = program.model_proto  # type: ignore[union-attr]
        for key, value in described(adapted).items():
            entry = proto.metadata_props.add()
            entry.key, entry.value = key, value
        format.save(proto, str(draft))

    _write(Path(path), write)


def torch_program(adapted: Adapted, path: Path | str, encoder: bool = False) -> None:
    """Writes a program of torch.export; `torch.export.load(path).module()(x)` runs it."""
    made = module(adapted, encoder)

    def write(draft: Path) -> None:
        program = torch.export.export(
            made, (made.example,), dynamic_shapes=({0: torch.export.Dim("n")},)
        )
        saved = io.BytesIO()
        torch.export.save(program, saved, extra_files=described(adapted))
        # torch adds the inputs of the trace as a pickle, which nobody needs, and takes an empty one in its place.
        with (
            zipfile.ZipFile(saved) as archive,
            zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as written,
        ):
            for part in archive.infolist():
                written.writestr(
                    part, b"" if "/sample_inputs/" in part.filename else archive.read(part)
                )

    _write(Path(path), write)


def described(adapted: Adapted) -> dict[str, str]:
    """What goes into the file beside the network: the classes in the order of the columns, and how files become examples."""
    return {
        "classes": json.dumps(
            [
                label if isinstance(label, (str, int, float, bool)) else repr(label)
                for label in adapted.classes_
            ]
        ),
        "inputs": json.dumps({**adapted.config["inputs"], "input": adapted.config["input"]}),
    }


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad(), atomic_path(path) as draft:
            warnings.simplefilter("ignore")
            write(draft)
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
