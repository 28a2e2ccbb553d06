"""Any torch.nn.Module as a model."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from episodic.core.config import ConfigError
from episodic.core.model import HEAD, ExampleKind, ModelSpec, Params
from episodic.ops.head import apply_head, init_head

__all__ = ["TorchModule"]

RESERVED_PREFIXES = (
    "attention.",
    "cosine.",
    "curvature.",
    "fce.",
    "lstm.",
    "rate.",
    "ridge.",
    "square.",
    "state.",
    "support",
    "svm.",
)
"""Prefixes of the names of parameters and states of algorithms."""


@dataclass(frozen=True)
class TorchModule(ModelSpec):
    """A custom torch.nn.Module as the model.

    It is evaluated in a loop over tasks, which is slower than the built-in models. The class is
    called with `arguments`, and its last layer is replaced by a head with one output per class.
    Batch norm uses the statistics of the current batch, as in all models, and dropout is disabled.

        model: {name: module, module: {path: my_package.Net, arguments: {...}, head: fc}}

    Args:
        path: The class as `package.module.Class`.
        arguments: Keyword arguments of the class.
        head: Name of the last layer, a torch.nn.Linear; None for the last torch.nn.Linear.
    """

    path: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    head: str | None = None

    accepts: ClassVar[frozenset[ExampleKind]] = frozenset(get_args(ExampleKind))

    def build(self, input: tuple[int, ...], outputs: int) -> TorchModuleModel:
        return _build(self, input, outputs)


class Head(nn.Identity):
    """A placeholder for the removed last layer of the module."""


class BatchNorm(nn.Module):
    """Batch norm with the statistics of the current batch or of its first `reference` examples."""

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.reference: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        counted = x[: self.reference]
        mean = counted.mean(axes, keepdim=True)
        r = torch.rsqrt((counted - mean).square().mean(axes, keepdim=True) + self.eps)
        y = (x - mean) * r
        if self.weight is None:
            return y
        shape = [-1 if axis == 1 else 1 for axis in range(x.dim())]
        return y * self.weight.view(shape) + self.bias.view(shape)


@dataclass(frozen=True)
class TorchModuleModel:
    """The model of a `TorchModule`.

    Parameters have the names that they have in the module.

    Args:
        body: The module without its last layer; its outputs are the features.
        make: Creates a new body and returns it with the dimension of its features.
        width: Dimension of the features.
        outputs: Number of outputs; 0 for no head.
    """

    body: nn.Module
    make: Callable[[], tuple[nn.Module, int]]
    width: int
    outputs: int

    @property
    def norm_names(self) -> tuple[str, ...]:
        norms = [
            name
            for name, module in self.body.named_modules()
            if isinstance(module, BatchNorm) and module.weight is not None
        ]
        return tuple(f"{name}.{kind}" for name in norms for kind in ("weight", "bias"))

    @property
    def parts(self) -> list[nn.Module]:
        """The body and all modules in it. Results depend on their code."""
        return list(self.body.modules())

    def init(self, generator: torch.Generator) -> Params:
        # Modules initialize their weights with torch's global generator, which is restored.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
            body, _ = self.make()
        theta = {name: p.detach().clone() for name, p in body.named_parameters()}
        return theta | init_head(generator, self.width, self.outputs)

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        for module in self.body.modules():
            if isinstance(module, BatchNorm):
                module.reference = reference
        names = [name for name, _ in self.body.named_parameters()]
        return torch.stack(
            [
                functional_call(self.body, {name: theta[name][t] for name in names}, (x[t],))
                for t in range(len(x))
            ]
        )

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return apply_head(theta, self.features(theta, x, reference))


def _build(spec: TorchModule, input: tuple[int, ...], outputs: int) -> TorchModuleModel:
    def make() -> tuple[nn.Module, int]:
        module = _create_module(spec).eval()
        name = spec.head or next(
            (
                name
                for name, layer in reversed(list(module.named_modules()))
                if isinstance(layer, nn.Linear)
            ),
            None,
        )
        last = dict(module.named_modules()).get(name) if name is not None else None
        if not isinstance(last, nn.Linear):
            raise ConfigError(
                "head",
                spec.head,
                f"must be the name of a torch.nn.Linear of {spec.path}, its last layer",
            )
        if not name:
            raise ConfigError("path", spec.path, "must be a module of several layers")
        return _without_head(module, name), last.in_features

    with torch.random.fork_rng(devices=[]):
        body, width = make()
    _check_parameters(spec, body)
    model = TorchModuleModel(copy.deepcopy(body), make, width, outputs)
    try:
        with torch.no_grad():
            theta = {name: p[None] for name, p in model.init(torch.Generator()).items()}
            features = model.features(theta, torch.zeros(1, 2, *input))
            ends_with_head = _ends_with(model.body, torch.zeros(2, *input))
    except Exception as error:
        detail = " ".join(str(error).split())
        raise ConfigError(
            "path", spec.path, f"cannot take examples of shape {list(input)} ({detail})"
        ) from error
    if features.shape != (1, 2, width):
        raise ConfigError(
            "head",
            spec.head,
            f"must be the last layer; its inputs have shape {list(features.shape[2:])} per "
            f"example instead of [{width}]",
        )
    if not ends_with_head:
        raise ConfigError(
            "path",
            spec.path,
            "must return the outputs of its head unchanged; the loss includes the softmax",
        )
    return model


def _check_parameters(spec: TorchModule, body: nn.Module) -> None:
    """Raise ConfigError if parameters or buffers do not support a task axis."""
    parameters = dict(body.named_parameters())
    reserved = sorted(
        name for name in parameters if name in HEAD or name.startswith(RESERVED_PREFIXES)
    )
    lazy = [name for name, p in parameters.items() if nn.parameter.is_lazy(p)]
    scalars = [
        name for name, p in parameters.items() if not nn.parameter.is_lazy(p) and not p.dim()
    ]
    buffers = [name for name, _ in body.named_buffers()]
    for names, requirement in (
        (
            reserved,
            "must not have parameters named {}, which are reserved for the head or an algorithm; "
            "rename them",
        ),
        (lazy, "must not have lazy layers ({}); specify their input size"),
        (scalars, "must not have scalar parameters ({}); use shape [1]"),
        (buffers, "must not have buffers ({}), which would be shared between tasks"),
    ):
        if names:
            raise ConfigError("path", spec.path, requirement.format(", ".join(names)))


def _ends_with(body: nn.Module, x: Tensor) -> bool:
    """Return whether the output of the body is the input of its removed head."""
    last = next(module for module in body.modules() if isinstance(module, Head))
    outputs: list[Tensor] = []
    handle = last.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        return body(x) is outputs[-1]
    finally:
        handle.remove()


def _create_module(spec: TorchModule) -> nn.Module:
    package, _, name = spec.path.rpartition(".")
    try:
        create = getattr(importlib.import_module(package), name)
        if not callable(create):
            raise TypeError(f"it is a {type(create).__name__}")
        try:
            inspect.signature(create).bind(**spec.arguments)
        except TypeError as error:
            raise ConfigError(
                "arguments", spec.arguments, f"must match the signature of {spec.path} ({error})"
            ) from error
        module = create(**spec.arguments)
    except ConfigError:
        raise
    except Exception as error:  # user code may raise any exception
        detail = " ".join(str(error).split())
        raise ConfigError(
            "path",
            spec.path,
            f"must name a class, as package.module.Class ({type(error).__name__}: {detail})",
        ) from error
    if not isinstance(module, nn.Module):
        raise ConfigError("path", spec.path, "must be a torch.nn.Module")
    return module


def _without_head(module: nn.Module, head: str) -> nn.Module:
    """Replace the layer named `head` by a placeholder, and batch norm by `BatchNorm`."""
    for name, layer in list(module.named_modules()):
        replacement = (
            Head()
            if name == head
            else BatchNorm(layer)
            if isinstance(layer, nn.modules.batchnorm._BatchNorm)
            else None
        )
        if replacement is not None:
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, replacement)
    return module
