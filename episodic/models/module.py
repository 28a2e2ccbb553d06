"""A torch.nn.Module of your own as base learner, in a loop over tasks: slower than the models here, and exact.

`model: {name: module, module: {path: my_package.Net, arguments: {...}, head: fc}}`. The class is called with `arguments`; its layer
`head`, a torch.nn.Linear, is made anew with an output a class. Batch norm takes the statistics of the batch in hand, as everywhere
here, and dropout is off.
"""

from __future__ import annotations

import copy
import importlib
import inspect
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from episodic.core.config import ConfigError
from episodic.core.model import HEAD, ExampleKind, ModelSpec, Params
from episodic.ops.head import classify, head

__all__ = ["TorchModule"]

RESERVED = (
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
"""What methods begin the names of their own parameters and states with."""


@dataclass(frozen=True)
class TorchModule(ModelSpec):
    """A torch.nn.Module of your own.

    Args:
        path: The class, as `package.module.Class`.
        arguments: Keyword arguments of the class.
        head: Name of its last layer, a torch.nn.Linear; None for the last one there is.
    """

    path: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    head: str | None = None

    accepts: ClassVar[frozenset[ExampleKind]] = frozenset(get_args(ExampleKind))

    def build(self, input: tuple[int, ...], outputs: int) -> ModuleNetwork:
        return _build(self, input, outputs)


class Head(nn.Identity):
    """Where the network's own head was."""


class BatchNorm(nn.Module):
    """Batch norm by the statistics of the batch in hand, or of its first `reference` examples."""

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
class ModuleNetwork:
    """body: the module without its head, which answers features; parameters have the names that the module gives them."""

    body: nn.Module
    make: Any
    width: int
    outputs: int

    @property
    def norm_names(self) -> tuple[str, ...]:
        found = [
            name
            for name, part in self.body.named_modules()
            if isinstance(part, BatchNorm) and part.weight is not None
        ]
        return tuple(f"{name}.{part}" for name in found for part in ("weight", "bias"))

    @property
    def parts(self) -> list[nn.Module]:
        """The network and all that it is made of, whose code the result depends on."""
        return list(self.body.modules())

    def init(self, generator: torch.Generator) -> Params:
        # Modules draw their weights from torch's global state: it is set, and put back.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
            drawn, _ = self.make()
        return {name: p.detach().clone() for name, p in drawn.named_parameters()} | head(
            generator, self.width, self.outputs
        )

    def features(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        for part in self.body.modules():
            if isinstance(part, BatchNorm):
                part.reference = reference
        own = [name for name, _ in self.body.named_parameters()]
        return torch.stack(
            [
                functional_call(self.body, {name: theta[name][t] for name in own}, (x[t],))
                for t in range(len(x))
            ]
        )

    def __call__(self, theta: Params, x: Tensor, reference: int | None = None) -> Tensor:
        return classify(theta, self.features(theta, x, reference))


def _build(spec: TorchModule, input: tuple[int, ...], outputs: int) -> ModuleNetwork:
    def make() -> tuple[nn.Module, int]:
        whole = _made(spec).eval()
        name = spec.head or next(
            (n for n, part in reversed(list(whole.named_modules())) if isinstance(part, nn.Linear)),
            None,
        )
        last = dict(whole.named_modules()).get(name) if name is not None else None
        if not isinstance(last, nn.Linear):
            raise ConfigError(
                "head",
                spec.head,
                f"must be the name of a torch.nn.Linear of {spec.path}, its last layer",
            )
        if not name:
            raise ConfigError("path", spec.path, "must be a network, not a single layer")
        return _without(whole, name), last.in_features

    with torch.random.fork_rng(devices=[]):
        body, width = make()
    taken = sorted(
        name for name, _ in body.named_parameters() if name in HEAD or name.startswith(RESERVED)
    )
    if taken:
        said = f"has parameters named {', '.join(taken)}, which the head or a method calls its own: rename them"
        raise ConfigError("path", spec.path, said)
    if lazy := [name for name, p in body.named_parameters() if nn.parameter.is_lazy(p)]:
        raise ConfigError(
            "path",
            spec.path,
            f"has layers without a shape of their own ({', '.join(lazy)}): say what they take in",
        )
    scalars = [name for name, p in body.named_parameters() if p.dim() == 0]
    if scalars:
        raise ConfigError(
            "path",
            spec.path,
            f"has parameters without an axis ({', '.join(scalars)}): give them the shape [1]",
        )
    buffers = [name for name, _ in body.named_buffers()]
    if buffers:
        raise ConfigError(
            "path",
            spec.path,
            f"has buffers ({', '.join(buffers)}), which tasks would share and might change",
        )
    model = ModuleNetwork(copy.deepcopy(body), make, width, outputs)
    try:
        with torch.no_grad():
            theta = {name: p[None] for name, p in model.init(torch.Generator()).items()}
            found = model.features(theta, torch.zeros(1, 2, *input))
            untouched = _ends_with(model.body, torch.zeros(2, *input))
    except Exception as error:
        raise ConfigError(
            "path",
            spec.path,
            f"cannot take examples of shape {list(input)} ({' '.join(str(error).split())})",
        ) from error
    if found.shape != (1, 2, width):
        said = f"must be the last layer: before it an example is {list(found.shape[2:])}, and it takes {width} numbers"
        raise ConfigError("head", spec.head, said)
    if not untouched:
        raise ConfigError(
            "path",
            spec.path,
            "must return what its head answers, with nothing after it: a softmax is part of the loss",
        )
    return model


def _ends_with(body: nn.Module, x: Tensor) -> bool:
    """Whether `body` returns what its head was given as it is."""
    last = next(part for part in body.modules() if isinstance(part, Head))
    given: list[Tensor] = []
    handle = last.register_forward_hook(lambda part, inputs, output: given.append(output))
    try:
        return body(x) is given[-1]
    finally:
        handle.remove()


def _made(spec: TorchModule) -> nn.Module:
    module, _, name = spec.path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
        if not callable(found):
            raise TypeError(f"it is a {type(found).__name__}")
        try:
            inspect.signature(found).bind(**spec.arguments)
        except TypeError as error:
            raise ConfigError(
                "arguments", spec.arguments, f"must be what {spec.path} takes ({error})"
            ) from error
        made = found(**spec.arguments)
    except ConfigError:
        raise
    except Exception as error:  # the user's code runs here, and may raise anything
        said = f"must be a class as package.module.Class ({type(error).__name__}: {' '.join(str(error).split())})"
        raise ConfigError("path", spec.path, said) from error
    if not isinstance(made, nn.Module):
        raise ConfigError("path", spec.path, "must be a torch.nn.Module")
    return made


def _without(module: nn.Module, head: str) -> nn.Module:
    """The head, at the dotted name `head`, becomes the identity, and batch norm that of the batch in hand."""
    for name, part in list(module.named_modules()):
        new = (
            Head()
            if name == head
            else BatchNorm(part)
            if isinstance(part, nn.modules.batchnorm._BatchNorm)
            else None
        )
        if new is not None:
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, new)
    return module
