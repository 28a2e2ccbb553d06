"""The same meta-gradient, computed with other libraries.

Each function takes a workload, parameters and an episode. It returns a function without arguments
that computes one meta-gradient, keyed by parameter name. All peers use the same model, Conv4.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.workloads import Workload
from episodic.core.episode import Episode
from episodic.core.model import Params

MetaGradient = Callable[[], Params]


def apply_conv4(workload: Workload, theta: Params, x: Tensor) -> Tensor:
    """Apply Conv4 to one task with torch's functions."""
    config = workload.model
    for i in range(config.blocks):
        x = F.conv2d(
            x, theta[f"conv{i}.weight"], None, 2 if config.downsample == "stride" else 1, 1
        )
        x = F.relu(
            F.batch_norm(
                x, None, None, theta[f"norm{i}.weight"], theta[f"norm{i}.bias"], training=True
            )
        )
        if config.downsample == "max_pool":
            x = F.max_pool2d(x, 2)
    x = x.flatten(1) if config.readout == "flatten" else x.mean((2, 3))
    return F.linear(x, theta["head.weight"], theta["head.bias"])


def drop_unused_biases(theta: Params) -> Params:
    """Drop biases before a batch norm, which have no gradient."""
    return {
        name: p
        for name, p in theta.items()
        if not (name.startswith("conv") and name.endswith("bias"))
    }


def eager(workload: Workload, theta: Params, episode: Episode) -> MetaGradient:
    """MAML as in the code of the papers: a sequential loop over tasks with autograd."""

    def run() -> Params:
        meta = {name: p.detach().requires_grad_() for name, p in drop_unused_biases(theta).items()}
        for support_x, support_y, query_x, query_y in zip(*episode.tensors, strict=True):
            fast = meta
            for _ in range(workload.steps):
                loss = F.cross_entropy(apply_conv4(workload, fast, support_x), support_y)
                gradient = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
                fast = {
                    name: p - workload.inner_lr * g
                    for (name, p), g in zip(fast.items(), gradient, strict=True)
                }
            (
                F.cross_entropy(apply_conv4(workload, fast, query_x), query_y) / episode.tasks
            ).backward()
        return {name: p.grad for name, p in meta.items() if p.grad is not None}

    return run


def vmapped(workload: Workload, theta: Params, episode: Episode) -> MetaGradient:
    """torch.func: grad of vmap over tasks.

    Batch norm is implemented explicitly, because torch's has a wrong second derivative under vmap.
    """
    from torch.func import grad, vmap

    config = workload.model

    def forward(theta: Params, x: Tensor) -> Tensor:
        for i in range(config.blocks):
            x = F.conv2d(
                x, theta[f"conv{i}.weight"], None, 2 if config.downsample == "stride" else 1, 1
            )
            centred = x - x.mean((0, 2, 3), keepdim=True)
            x = centred * torch.rsqrt(centred.square().mean((0, 2, 3), keepdim=True) + 1e-5)
            x = F.relu(
                x * theta[f"norm{i}.weight"][:, None, None] + theta[f"norm{i}.bias"][:, None, None]
            )
            if config.downsample == "max_pool":
                x = F.max_pool2d(x, 2)
        x = x.flatten(1) if config.readout == "flatten" else x.mean((2, 3))
        return F.linear(x, theta["head.weight"], theta["head.bias"])

    def task_loss(
        theta: Params, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor
    ) -> Tensor:
        for _ in range(workload.steps):
            gradient = grad(lambda t: F.cross_entropy(forward(t, support_x), support_y))(theta)
            theta = {name: theta[name] - workload.inner_lr * gradient[name] for name in theta}
        return F.cross_entropy(forward(theta, query_x), query_y)

    whole = grad(
        lambda theta: vmap(task_loss, in_dims=(None, 0, 0, 0, 0))(theta, *episode.tensors).mean()
    )
    return lambda: whole(drop_unused_biases(theta))


class Conv4Module(nn.Module):
    """Conv4 as a module, for libraries that require modules."""

    def __init__(self, workload: Workload, theta: Params):
        super().__init__()
        self.workload, self.names = workload, list(drop_unused_biases(theta))
        for name, p in drop_unused_biases(theta).items():
            self.register_parameter(name.replace(".", "_"), nn.Parameter(p.clone()))

    def forward(self, x: Tensor) -> Tensor:
        return apply_conv4(
            self.workload, {name: getattr(self, name.replace(".", "_")) for name in self.names}, x
        )


def _module_gradient(model: Conv4Module) -> Params:
    gradient = {name: getattr(model, name.replace(".", "_")).grad for name in model.names}
    model.zero_grad()
    return gradient


def higher_library(workload: Workload, theta: Params, episode: Episode) -> MetaGradient:
    """higher 0.2: a differentiable copy of the module and its optimizer for each task."""
    import higher

    model = Conv4Module(workload, theta)
    optimizer = torch.optim.SGD(model.parameters(), lr=workload.inner_lr)

    def run() -> Params:
        for support_x, support_y, query_x, query_y in zip(*episode.tensors, strict=True):
            with higher.innerloop_ctx(model, optimizer, copy_initial_weights=False) as (
                fast,
                inner,
            ):
                for _ in range(workload.steps):
                    inner.step(F.cross_entropy(fast(support_x), support_y))
                (F.cross_entropy(fast(query_x), query_y) / episode.tasks).backward()
        return _module_gradient(model)

    return run


def learn2learn_library(workload: Workload, theta: Params, episode: Episode) -> MetaGradient:
    """learn2learn: clone, adapt, backward for each task."""
    import learn2learn

    model = Conv4Module(workload, theta)
    maml = learn2learn.algorithms.MAML(model, lr=workload.inner_lr, first_order=False)

    def run() -> Params:
        for support_x, support_y, query_x, query_y in zip(*episode.tensors, strict=True):
            fast = maml.clone()
            for _ in range(workload.steps):
                fast.adapt(F.cross_entropy(fast(support_x), support_y))
            (F.cross_entropy(fast(query_x), query_y) / episode.tasks).backward()
        return _module_gradient(model)

    return run


def jax_library(workload: Workload, theta: Params, episode: Episode) -> MetaGradient:
    """JAX: jit of grad of vmap over tasks."""
    import jax
    import jax.numpy as jnp

    config = workload.model

    def forward(theta: Any, x: Any) -> Any:
        stride = 2 if config.downsample == "stride" else 1
        for i in range(config.blocks):
            w = theta[f"conv{i}.weight"]
            x = jax.lax.conv_general_dilated(
                x, w, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NCHW", "OIHW", "NCHW")
            )
            mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
            x = (x - mean) * jax.lax.rsqrt(variance + 1e-5)
            x = jax.nn.relu(
                x * theta[f"norm{i}.weight"][:, None, None] + theta[f"norm{i}.bias"][:, None, None]
            )
            if config.downsample == "max_pool":
                x = jax.lax.reduce_window(
                    x, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID"
                )
        x = x.reshape(len(x), -1) if config.readout == "flatten" else x.mean((2, 3))
        return x @ theta["head.weight"].T + theta["head.bias"]

    def loss(theta: Any, x: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(forward(theta, x)), y[:, None], 1).mean()

    def task_loss(theta: Any, support_x: Any, support_y: Any, query_x: Any, query_y: Any) -> Any:
        for _ in range(workload.steps):
            gradient = jax.grad(loss)(theta, support_x, support_y)
            theta = {name: theta[name] - workload.inner_lr * gradient[name] for name in theta}
        return loss(theta, query_x, query_y)

    arrays = [jnp.asarray(tensor.numpy()) for tensor in episode.tensors]
    meta = {name: jnp.asarray(p.numpy()) for name, p in drop_unused_biases(theta).items()}
    whole = jax.jit(
        jax.grad(
            lambda theta: jax.vmap(task_loss, in_axes=(None, 0, 0, 0, 0))(theta, *arrays).mean()
        )
    )

    def run() -> Params:
        result = jax.block_until_ready(whole(meta))
        return {name: torch.tensor(g.__array__()) for name, g in result.items()}

    return run


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
