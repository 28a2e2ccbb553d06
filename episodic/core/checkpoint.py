"""Tensors and a JSON description in one safetensors file, without pickle.

safetensors (the extra `checkpoint`) is imported on use.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from episodic.core.errors import UserError
from episodic.core.files import atomic_path

__all__ = ["CheckpointError", "load", "match_tensors", "save"]


class CheckpointError(UserError):
    """The file is not a valid checkpoint of the model."""


def save(path: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write a checkpoint atomically.

    Identical tensors and descriptions produce identical bytes. The description is a single metadata
    entry, because safetensors does not write several entries in a fixed order.

    Args:
        path: The file to write.
        tensors: Tensors by name, on any device.
        description: JSON-serializable values. The order of keys is kept.

    Raises:
        OSError: The file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with atomic_path(path) as draft:
        draft.touch()
        mode = draft.stat().st_mode  # safetensors makes files that only their owner can read
        try:
            save_file(contiguous, draft, metadata={"json": json.dumps(description)})
        except SafetensorError as error:
            raise OSError(None, " ".join(str(error).split()), str(path)) from error
        draft.chmod(mode)


def load(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the description of a checkpoint.

    Raises:
        CheckpointError: The file does not exist or is not a valid checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"the checkpoint {path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads((file.metadata() or {})["json"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a valid checkpoint ({error}); delete it and run again"
        ) from error


def match_tensors(
    tensors: dict[str, Tensor], expected: dict[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Check the names and shapes of tensors and sort them in the order of `expected`.

    Args:
        tensors: Tensors by name.
        expected: Tensors with the expected names and shapes.
        path: File of the tensors, for error messages.

    Raises:
        CheckpointError: Names or shapes differ, or a value is not finite.
    """
    if missing := sorted(expected.keys() - tensors.keys()):
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; it belongs to another model")
    if extra := sorted(tensors.keys() - expected.keys()):
        raise CheckpointError(f"{path} contains {', '.join(extra)}, which the model does not have")
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {list(tensors[name].shape)};"
                f" the model requires {list(tensor.shape)}"
            )
        if not tensors[name].isfinite().all():
            raise CheckpointError(f"{path}: {name} contains values that are not finite")
    return {name: tensors[name] for name in expected}
