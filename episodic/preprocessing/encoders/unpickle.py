"""Convert the tensors of a torch file to safetensors, in a process of its own.

    python -P unpickle.py FILE.pth OUT.safetensors

Torch's `weights_only` reader creates tensors and plain containers only. A file with anything else
is refused, and its code does not run. Neither does a `torch.py` next to it: with -P, modules are
not searched for in the current folder, nor in that of this program, which imports only libraries.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["find_tensors", "main"]

CONTAINERS = ("state_dict", "model", "model_state", "teacher", "net", "weights")
"""Keys under which training programs store the weights."""

REFUSAL = re.compile(
    "unsupported (global|class)|unrecognized function|can only (create|build)|torchscript",
    re.IGNORECASE,
)
"""Torch's messages about a file with other objects than tensors and plain containers."""


def find_tensors(content: Any) -> dict[str, Tensor]:
    """Return the weights in the content of a torch file.

    Raises:
        ValueError: It contains no weights by name.
    """
    if isinstance(content, Mapping):
        tensors = dict(_list_tensors(content))
        if tensors:
            return tensors
        for key in CONTAINERS:
            if key in content:
                return find_tensors(content[key])
    raise ValueError("it contains no weights by name")


def _list_tensors(content: Mapping[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        if isinstance(value, Tensor):
            # Training on several devices adds a prefix.
            yield str(key).removeprefix("module."), value


def main() -> None:
    """Convert the file that the command line names, or exit with the reason."""
    source, out = map(Path, sys.argv[1:])
    from safetensors.torch import save_file

    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises errors of many types
        if REFUSAL.search(str(error)):
            sys.exit("it contains code, or objects that could run code")
        sys.exit("it is damaged, or not a file of torch")
    try:
        tensors = find_tensors(content)
    except ValueError as error:
        sys.exit(str(error))
    save_file({name: t.detach().clone().contiguous() for name, t in tensors.items()}, out)


if __name__ == "__main__":
    main()
