"""Tensors and a JSON description in one safetensors file; no pickle.

safetensors (the `checkpoint` extra) is imported where it is used. The description is one metadata entry of JSON, since several
entries would be written in varying order; its keys come back in the order that they had.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from episodic.core.errors import UserError
from episodic.core.files import atomic_path


class CheckpointError(UserError):
    """The file cannot be trusted; the message is one sentence."""


def save(path: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Writes beside and renames; the same tensors and description give the same bytes."""
    from safetensors.torch import save_file

    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with atomic_path(path) as draft:
        save_file(contiguous, draft, metadata={"json": json.dumps(description)})


def load(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description; CheckpointError if it is not such a file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads((file.metadata() or {})["json"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of this project ({error}); delete it and run again"
        ) from error


def matching(
    tensors: dict[str, Tensor], expected: dict[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """The tensors in the order of `expected`, if names and shapes agree and every number is finite."""
    if missing := sorted(expected.keys() - tensors.keys()):
        raise CheckpointError(f"{path} lacks {', '.join(missing)}; it belongs to another model")
    if extra := sorted(tensors.keys() - expected.keys()):
        raise CheckpointError(f"{path} holds {', '.join(extra)}, which the model does not have")
    for name, tensor in expected.items():
        if tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name} has shape {list(tensors[name].shape)}, the model wants {list(tensor.shape)}"
            )
        if not tensors[name].isfinite().all():
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite")
    return {name: tensors[name] for name in expected}
