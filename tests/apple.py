"""A simulated Apple GPU: a torch device that computes on the CPU with the limits of an Apple GPU.

It raises TypeError for float64 tensors, for multiplications and bitwise operators of int64, and for
operators that mix its tensors with CPU tensors.

`python -m apple FOLDER` runs the stages of FOLDER/params.yaml on the CPU and then on the simulated
device, and adapts the trained model to a test episode. The outputs go to FOLDER/cpu and
FOLDER/apple. Run it in a process of its own, because a torch device cannot be unregistered.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

INTEGERS = ("mul", "bitwise", "__lshift__", "__rshift__", "__and__", "__xor__")
"""Parts of the names of operators that are not to be relied on for int64."""

MOVES = ("_to_copy", "copy_")
"""Operators that may see both devices."""


class Held(torch.Tensor):
    """A tensor on the device; `held`: the same on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Held:
        layout = {
            "strides": held.stride(),
            "storage_offset": held.storage_offset(),
            "dtype": held.dtype,
        }
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, device="apple:0", **layout)
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return call(function, args, kwargs or {})

    def tolist(self) -> Any:
        return self.held.tolist()


class Everywhere(TorchDispatchMode):
    """Tensors are made on the device too."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return call(function, args, kwargs or {})


def call(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    on, name = any(isinstance(x, Held) for x in tensors), function.__name__
    if (
        on
        and not name.startswith(MOVES)
        and (cpu := [x.shape for x in tensors if not isinstance(x, Held) and x.dim()])
    ):
        raise TypeError(f"{name} sees an Apple GPU and a tensor {cpu[0]} on the CPU")
    if on and name.startswith(INTEGERS) and all(x.dtype == torch.int64 for x in tensors):
        raise TypeError(f"{name} of int64 on an Apple GPU")
    if kwargs.get("device") is not None:
        on = torch.device(kwargs["device"]).type == "apple"
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inside = [x.held if isinstance(x, Held) else x for x in tensors]
    found = function(*tree_map(_held, args), **tree_map(_held, kwargs))

    def out(x: Any) -> Any:
        if not (on and isinstance(x, torch.Tensor)):
            return x
        for given, own in zip(tensors, inside, strict=True):
            if own is x:
                return given  # an operator in place
        if x.dtype == torch.float64:
            raise TypeError(f"{name} makes float64 on an Apple GPU")
        return Held(x)

    return tree_map(out, found)


def tensor(data: Any, *, device: Any = None, dtype: torch.dtype | None = None) -> torch.Tensor:
    """torch.tensor, which makes its tensor behind the back of a TorchDispatchMode."""
    return _tensor(data, dtype=dtype).to(device or "cpu")


_tensor = torch.tensor


def _held(x: Any) -> Any:
    return x.held if isinstance(x, Held) else x


def main(folder: Path) -> None:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    from episodic.inference import adapted as adapted_module
    from episodic.inference import few_shot
    from episodic.training import baselines
    from tasks import download, episodes, evaluate, params, prepared, train
    from tasks.runtime import distributed

    _setup_privateuseone_for_python_backend("apple")
    torch.tensor = tensor
    baselines.FINE_TUNING_STEPS = 3  # every operator is slow here
    settings, data = params.parse(params.read_yaml(folder / "params.yaml")), folder / "prepared"
    download.run(settings, folder / "raw", Path(os.environ.get("EPISODIC_MIRROR", "")))
    episodes.run(settings, folder / "raw", data)
    source = prepared.open_folder(data, torch.device("cpu"))
    first = source.build_episodes(source.read_episodes("test")[:1])
    for device in ("cpu", "apple:0"):
        distributed.prepare_device = lambda name, device=device: torch.device(device)
        out = folder / device.removesuffix(":0")
        out.mkdir()
        with Everywhere():
            train.run(settings, data, out / "model", out / "history", out / "run.json")
            evaluate.run(settings, data, out / "model", out / "scores", out / "metrics.json")
            few_shot.choose_device = adapted_module.choose_device = torch.device
            support_x, support_y, query_x, _ = (part[0].numpy() for part in first.tensors)
            few_shot.load(out / "model", device).adapt(support_x, support_y).save(out / "adapted")
            adapted = adapted_module.load_adapted(out / "adapted", device)
            np.save(
                out / "answers.npy",
                adapted.predict_proba(query_x) if adapted.classes_ else adapted.predict(query_x),
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
