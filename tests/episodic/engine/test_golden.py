"""Meta-gradients compared with golden vectors, and mutants that must differ from them.

The vectors are float64, computed with JAX and checked against plain loops.
"""

from __future__ import annotations

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from support import needs_compiler
from torch.func import grad, vmap

from episodic import ops
from episodic.algorithms.fomaml import FOMAML
from episodic.algorithms.maml import MAML
from episodic.core.model import Params
from episodic.core.objective import Objective
from episodic.engine.learner import MetaLearner
from episodic.engine.outer import meta_gradient
from episodic.engine.plan import Plan
from episodic.models import mlp
from episodic.ops import backend, convolution, native, normalization
from tests.episodic.engine.networks import MODELS, NETWORKS, TOLERANCE, error, problem

CASES = {
    "maml_order2_steps1": (1, True),
    "maml_order2_steps3": (3, True),
    "maml_order1_steps3": (3, False),
}


def learner(network: str, case: str, golden: dict[str, torch.Tensor], **changes) -> MetaLearner:
    steps, second_order = CASES[case]
    return MetaLearner(
        MODELS[network],
        (MAML if second_order else FOMAML)(float(golden["inner_lr"]), steps),
        Objective("classification"),
        **changes,
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("network", NETWORKS)
def test_meta_gradient_is_the_golden_one(network, case):
    golden, theta, episode = problem(network)
    result = meta_gradient(learner(network, case, golden), theta, episode)
    assert result.gradient.keys() == theta.keys()
    assert abs(result.loss - golden[f"{case}/loss"]) < TOLERANCE
    assert error(result.gradient, golden, case) < TOLERANCE


@pytest.mark.parametrize("batch_norm", ["transductive", "inductive"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_batch_of_tasks_equals_one_task_after_the_other(network, case, batch_norm):
    golden, theta, episode = problem(network)
    method = learner(network, case, golden, batch_norm=batch_norm)
    whole = meta_gradient(method, theta, episode)
    parts = [
        meta_gradient(method, theta, episode.slice_tasks(t, t + 1)) for t in range(episode.tasks)
    ]
    for name in theta:
        mean = torch.stack([single.gradient[name] for single in parts]).mean(0)
        torch.testing.assert_close(whole.gradient[name], mean, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(
        whole.loss, torch.stack([single.loss for single in parts]).mean(), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("batch_norm", ["transductive", "inductive"])
@pytest.mark.parametrize("network", ["conv_strided", "conv_pooled"])
def test_meta_gradient_agrees_with_finite_differences(network, batch_norm):
    golden, theta, episode = problem(network)
    method = learner(network, "maml_order2_steps3", golden, batch_norm=batch_norm)
    gradient = meta_gradient(method, theta, episode).gradient
    generator = torch.Generator().manual_seed(0)
    direction = {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in theta.items()
    }

    def loss(h: float) -> float:
        return meta_gradient(
            method, {n: p + h * direction[n] for n, p in theta.items()}, episode
        ).loss.item()

    h = 1e-6  # small enough that no ReLU or maximum switches
    slope = (loss(h) - loss(-h)) / (2 * h)
    expected = sum((gradient[n] * direction[n]).sum().item() for n in theta)
    assert slope == pytest.approx(expected, rel=1e-5)


PLANS = {
    "per task": Plan("per_task", 1, 1, ""),
    "batched": Plan("batched", 3, 3, ""),
    "query sets one by one": Plan("batched", 3, 1, ""),
    "unequal shards": Plan("batched", 2, 2, ""),
}


@pytest.mark.parametrize("columns", ["never", "always"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_plan_gives_the_golden_gradient(network, case, plan, columns, monkeypatch):
    for limit in ("MAX_POSITIONS", "MAX_POSITIONS_TO_W"):
        monkeypatch.setattr(convolution, limit, 0 if columns == "never" else 10**9)
    golden, theta, episode = problem(network)
    result = meta_gradient(learner(network, case, golden), theta, episode, PLANS[plan])
    assert error(result.gradient, golden, case) < TOLERANCE
    assert abs(result.loss - golden[f"{case}/loss"]) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("network", ["conv_strided", "conv_pooled"])
def test_sums_block_by_block_give_the_golden_gradient(network, case, monkeypatch):
    monkeypatch.setattr(normalization, "MIN_BLOCKED", 0)
    monkeypatch.setattr(
        normalization, "BLOCK", 600
    )  # several examples a block, the last block smaller
    golden, theta, episode = problem(network)
    assert (
        error(meta_gradient(learner(network, case, golden), theta, episode).gradient, golden, case)
        < TOLERANCE
    )


@pytest.mark.parametrize("case", CASES)
def test_max_pooling_without_scatter_gives_the_golden_gradient(case, monkeypatch):
    monkeypatch.setattr(normalization, "_can_scatter", lambda x: False)
    golden, theta, episode = problem("conv_pooled")
    assert (
        error(
            meta_gradient(learner("conv_pooled", case, golden), theta, episode).gradient,
            golden,
            case,
        )
        < TOLERANCE
    )


@needs_compiler
@pytest.mark.parametrize(
    "plan",
    [Plan("compiled", 3, 3, ""), Plan("compiled", 2, 1, "")],
    ids=["whole", "unequal shards"],
)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_compiled_plan_gives_the_golden_gradient(network, case, plan, monkeypatch):
    calls, call = [], native._call
    monkeypatch.setattr(
        native, "_call", lambda name, *rest: (calls.append(name), call(name, *rest))[1]
    )
    golden, theta, episode = problem(network)
    result = meta_gradient(learner(network, case, golden), theta, episode, plan)
    assert error(result.gradient, golden, case) < TOLERANCE
    assert abs(result.loss - golden[f"{case}/loss"]) < TOLERANCE
    convolutions = {"convolve", "to_kernels", "norm_forward", "norm_gradient"} | (
        {"norm_second"} if CASES[case][1] else set()
    )
    assert set(calls) >= convolutions if network.startswith("conv") else not calls


@needs_compiler
@pytest.mark.parametrize("network", ["conv_strided", "conv_pooled"])
def test_the_gpu_compiled_function_gives_the_golden_gradient(network, monkeypatch):
    """Compiled by torch.compile, on a CPU."""
    monkeypatch.setattr(backend, "uses_native_kernels", lambda x, compiled: False)
    golden, theta, episode = problem(network)
    case = "maml_order2_steps3"
    calls = torch._dynamo.utils.counters["frames"]["ok"]
    result = meta_gradient(
        learner(network, case, golden), theta, episode, Plan("compiled", 3, 3, "")
    )
    assert error(result.gradient, golden, case) < TOLERANCE
    assert torch._dynamo.utils.counters["frames"]["ok"] > calls, "torch.compile compiled something"


def test_inductive_statistics_do_not_see_the_query_set():
    golden, theta, episode = problem("conv_strided")
    method = learner("conv_strided", "maml_order2_steps1", golden, batch_norm="inductive")
    expanded = {name: p.expand(episode.tasks, *p.shape) for name, p in theta.items()}
    together = method.query_outputs(expanded, episode)
    first_query = method.query_outputs(
        expanded, episode._replace(query_x=episode.query_x[:, :1], query_y=episode.query_y[:, :1])
    )
    torch.testing.assert_close(together[:, :1], first_query, rtol=0, atol=1e-12)
    transductive = method.query_outputs(expanded, episode, "transductive")
    assert (transductive - together).abs().max() > 1e-3


# Mutants: engines that are wrong in ways seen in the field. They must differ from the vectors.


def test_mutant_without_the_second_order_term_fails():
    golden, theta, episode = problem("conv_strided")
    mutant = MetaLearner(
        MODELS["conv_strided"],
        FOMAML(float(golden["inner_lr"]), 3),
        Objective("classification"),
    )
    assert (
        error(meta_gradient(mutant, theta, episode).gradient, golden, "maml_order2_steps3") > 1e-4
    )


def test_mutant_with_torch_batch_norm_under_vmap_fails():
    golden, theta, episode = problem("conv_strided")

    def model(theta: Params, x: torch.Tensor) -> torch.Tensor:
        for i in range(2):
            x = F.conv2d(x, theta[f"conv{i}.weight"], theta[f"conv{i}.bias"], 2, 1)
            x = F.batch_norm(
                x, None, None, theta[f"norm{i}.weight"], theta[f"norm{i}.bias"], training=True
            ).relu()
        return F.linear(x.flatten(1), theta["head.weight"], theta["head.bias"])

    def loss(theta: Params, support_x, support_y, query_x, query_y) -> torch.Tensor:
        for _ in range(3):
            gradient = grad(lambda t: F.cross_entropy(model(t, support_x), support_y))(theta)
            theta = {name: theta[name] - golden["inner_lr"] * gradient[name] for name in theta}
        return F.cross_entropy(model(theta, query_x), query_y)

    looped = [
        grad(loss)(theta, *(tensor[t] for tensor in episode.tensors)) for t in range(episode.tasks)
    ]
    right = {name: torch.stack([g[name] for g in looped]).mean(0) for name in theta}
    assert error(right, golden, "maml_order2_steps3") < TOLERANCE  # the error is in vmap
    mutant = grad(lambda t: vmap(loss, in_dims=(None, 0, 0, 0, 0))(t, *episode.tensors).mean())(
        theta
    )
    assert error(mutant, golden, "maml_order2_steps3") > 1e-4


@pytest.mark.parametrize(
    ("module", "broken"),
    [(convolution, "_convolve"), (convolution, "_gradient_to_w"), (normalization, "_sum_products")],
)
def test_mutant_operators_fail(module, broken, monkeypatch):
    golden, theta, episode = problem("conv_strided")
    original = getattr(module, broken)
    monkeypatch.setattr(module, broken, lambda *args: original(*args) * 1.001)
    result = meta_gradient(learner("conv_strided", "maml_order2_steps1", golden), theta, episode)
    assert error(result.gradient, golden, "maml_order2_steps1") > 1e-6


def test_mlp_matches_a_manual_computation():
    model = mlp.MLP((5, 4)).build((1, 2, 2), 3)
    theta = model.init(torch.Generator().manual_seed(0))
    x = torch.randn(2, 7, 1, 2, 2)
    outputs = model({name: p.expand(2, *p.shape) for name, p in theta.items()}, x)
    hidden = x.flatten(2)
    for layer in ("hidden0", "hidden1"):
        hidden = F.relu(F.linear(hidden, theta[f"{layer}.weight"], theta[f"{layer}.bias"]))
    torch.testing.assert_close(outputs, F.linear(hidden, theta["head.weight"], theta["head.bias"]))


@pytest.mark.parametrize(("tasks_share", "stride"), [(True, 1), (True, 2), (False, 1), (False, 2)])
def test_convolution_has_two_correct_derivatives(tasks_share, stride):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 2, 2, 5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(
        1 if tasks_share else 2,
        3,
        2,
        3,
        3,
        generator=generator,
        dtype=torch.float64,
        requires_grad=True,
    )
    bias = torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True)

    def convolution(x, weight, bias):
        return ops.conv2d(x, weight.expand(2, -1, -1, -1, -1), bias, stride)

    assert torch.autograd.gradcheck(convolution, (x, weight, bias))
    assert torch.autograd.gradgradcheck(convolution, (x, weight, bias))


def test_norm_relu_has_two_correct_derivatives():
    generator = torch.Generator().manual_seed(2)
    x, scale, shift = (
        torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True)
        for s in ((2, 3, 2, 2, 2), (2, 2), (2, 2))
    )
    assert torch.autograd.gradcheck(ops.norm_relu, (x, scale, shift))
    assert torch.autograd.gradgradcheck(ops.norm_relu, (x, scale, shift))
    same = ops.norm_relu(x, scale, shift, reference=x.shape[1])
    torch.testing.assert_close(ops.norm_relu(x, scale, shift), same, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scatters", [True, False])
def test_norm_relu_with_max_pooling_and_its_two_derivatives_are_correct(scatters, monkeypatch):
    monkeypatch.setattr(normalization, "_can_scatter", lambda x: scatters)
    generator = torch.Generator().manual_seed(3)
    x, scale, shift = (
        torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True)
        for s in ((2, 2, 2, 5, 4), (2, 2), (2, 2))
    )
    assert (scale < 0).any() and (scale > 0).any()
    torch.testing.assert_close(
        ops.norm_relu(x, scale, shift, pool=True), ops.max_pool2d(ops.norm_relu(x, scale, shift))
    )
    assert torch.autograd.gradcheck(lambda *a: ops.norm_relu(*a, pool=True), (x, scale, shift))
    assert torch.autograd.gradgradcheck(lambda *a: ops.norm_relu(*a, pool=True), (x, scale, shift))
