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
"""Parts of the names of operators that an Apple GPU does not support for int64."""

MOVES = ("_to_copy", "copy_")
"""Operators that take tensors of both devices."""


class AppleTensor(torch.Tensor):
    """A tensor on the simulated device; `on_cpu` holds its values."""

    on_cpu: torch.Tensor

    @staticmethod
    def __new__(cls, on_cpu: torch.Tensor) -> AppleTensor:
        layout = {
            "strides": on_cpu.stride(),
            "storage_offset": on_cpu.storage_offset(),
            "dtype": on_cpu.dtype,
        }
        wrapper = torch.Tensor._make_wrapper_subclass(cls, on_cpu.shape, device="apple:0", **layout)
        wrapper.on_cpu = on_cpu
        return wrapper

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run_operator(function, args, kwargs or {})

    def tolist(self) -> Any:
        return self.on_cpu.tolist()


class CreateOnDevice(TorchDispatchMode):
    """Creates tensors on the simulated device where `device` says so."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run_operator(function, args, kwargs or {})


def run_operator(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute an operator on the CPU, after the checks of an Apple GPU."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    on, name = any(isinstance(x, AppleTensor) for x in tensors), function.__name__
    if (
        on
        and not name.startswith(MOVES)
        and (cpu := [x.shape for x in tensors if not isinstance(x, AppleTensor) and x.dim()])
    ):
        raise TypeError(f"{name} sees an Apple GPU and a tensor {cpu[0]} on the CPU")
    if on and name.startswith(INTEGERS) and all(x.dtype == torch.int64 for x in tensors):
        raise TypeError(f"{name} of int64 on an Apple GPU")
    if kwargs.get("device") is not None:
        on = torch.device(kwargs["device"]).type == "apple"
        kwargs = {**kwargs, "device": torch.device("cpu")}
    cpu_tensors = [x.on_cpu if isinstance(x, AppleTensor) else x for x in tensors]
    result = function(*tree_map(_to_cpu, args), **tree_map(_to_cpu, kwargs))

    def wrap(x: Any) -> Any:
        if not (on and isinstance(x, torch.Tensor)):
            return x
        for given, cpu_tensor in zip(tensors, cpu_tensors, strict=True):
            if cpu_tensor is x:
                return given  # an operator in place
        if x.dtype == torch.float64:
            raise TypeError(f"{name} makes float64 on an Apple GPU")
        return AppleTensor(x)

    return tree_map(wrap, result)


def create_tensor(
    data: Any, *, device: Any = None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Replacement of torch.tensor, which no TorchDispatchMode sees."""
    return _tensor(data, dtype=dtype).to(device or "cpu")


_tensor = torch.tensor


def _to_cpu(x: Any) -> Any:
    return x.on_cpu if isinstance(x, AppleTensor) else x


def main(folder: Path) -> None:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    from episodic.inference import adapted_folder, few_shot
    from episodic.training import baselines
    from tasks import download, episodes, evaluate, params, prepared, train
    from tasks.runtime import distributed

    _setup_privateuseone_for_python_backend("apple")
    torch.tensor = create_tensor
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
        with CreateOnDevice():
            train.run(settings, data, out / "model", out / "history", out / "run.json")
            evaluate.run(settings, data, out / "model", out / "scores", out / "metrics.json")
            few_shot.choose_device = adapted_folder.choose_device = torch.device
            support_x, support_y, query_x, _ = (tensor[0].numpy() for tensor in first.tensors)
            few_shot.load(out / "model", device).adapt(support_x, support_y).save(out / "adapted")
            adapted = adapted_folder.load_adapted(out / "adapted", device)
            np.save(
                out / "answers.npy",
                adapted.predict_proba(query_x) if adapted.classes_ else adapted.predict(query_x),
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
