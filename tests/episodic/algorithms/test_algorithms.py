"""Mathematical properties of each algorithm: golden vectors, closed forms, finite differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from episodic import ops
from episodic.algorithms import (
    anil,
    baseline_plus_plus,
    boil,
    feat,
    finetune,
    imaml,
    logistic,
    maml,
    maml_plus_plus,
    matching_net,
    meta_baseline,
    meta_curvature,
    meta_lstm,
    meta_sgd,
    metaoptnet,
    protonet,
    reptile,
    ridge,
)
from episodic.core.episode import Episode
from episodic.core.model import HEAD, Params
from episodic.core.objective import Objective
from episodic.data.sampling import SinusoidSampler
from episodic.engine.inner import trajectory
from episodic.engine.learner import Algorithm, MetaLearner
from episodic.engine.outer import meta_gradient
from episodic.engine.plan import Plan
from episodic.models import mlp
from episodic.training import evaluation, loop
from episodic.training.state import TrainingState
from tests.episodic.engine.networks import MODELS, NETWORKS, TOLERANCE, error, problem

STEPS = 3
PLANS = {"batched": Plan("batched", 3, 3, ""), "unequal shards": Plan("batched", 2, 1, "")}


@dataclass(frozen=True)
class SteppedLoss(maml_plus_plus.MAMLPlusPlus):
    """MAML++ with the golden vectors' weights."""

    def query_loss_weights(self, progress: float) -> tuple[float, ...]:
        return (0.0, 0.2, 0.3, 0.5)


def classifier(network: str, method: Algorithm, **changes) -> MetaLearner:
    return MetaLearner(MODELS[network], method, Objective("classification"), **changes)


def with_prefix(golden: dict[str, torch.Tensor], prefix: str) -> Params:
    return {
        name.removeprefix(prefix): value
        for name, value in golden.items()
        if name.startswith(prefix)
    }


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("case", "algorithm"),
    [
        ("anil_order2_steps3", anil.ANIL),
        ("boil_order2_steps3", boil.BOIL),
        ("protonet", protonet.ProtoNet),
    ],
)
def test_golden_gradient(network, case, algorithm, plan):
    golden, theta, episode = problem(network)
    settings = () if algorithm is protonet.ProtoNet else (float(golden["inner_lr"]), STEPS)
    result = meta_gradient(classifier(network, algorithm(*settings)), theta, episode, PLANS[plan])
    # For protonet too: ||q||^2, which is left out, cancels in the softmax.
    assert abs(result.loss - golden[f"{case}/loss"]) < TOLERANCE
    assert error(result.gradient, golden, case) < TOLERANCE


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("network", NETWORKS)
def test_meta_sgd_is_golden_in_weights_and_rates(network, plan):
    golden, theta, episode = problem(network)
    meta = theta | {
        meta_sgd.RATE + name: rate
        for name, rate in with_prefix(golden, "meta_sgd_steps3/alpha/").items()
    }
    result = meta_gradient(
        classifier(network, meta_sgd.MetaSGD(0.1, STEPS)), meta, episode, PLANS[plan]
    )
    assert abs(result.loss - golden["meta_sgd_steps3/loss"]) < TOLERANCE
    for name in theta:
        torch.testing.assert_close(
            result.gradient[name], golden[f"meta_sgd_steps3/grad/{name}"], rtol=0, atol=TOLERANCE
        )
        rate = result.gradient[meta_sgd.RATE + name]
        torch.testing.assert_close(
            rate, golden[f"meta_sgd_steps3/grad_alpha/{name}"], rtol=0, atol=TOLERANCE
        )


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("network", NETWORKS)
def test_maml_plus_plus_is_golden_in_weights_and_rates(network, plan):
    golden, theta, episode = problem(network)
    case = "maml_plus_plus_steps3"
    meta = theta | {
        maml_plus_plus.RATE + layer: rate
        for layer, rate in with_prefix(golden, f"{case}/rates/").items()
    }
    method = SteppedLoss(0.1, STEPS, first_order=0, per_step_norm=False)
    result = meta_gradient(classifier(network, method), meta, episode, PLANS[plan])
    assert abs(result.loss - golden[f"{case}/loss"]) < TOLERANCE
    for name in theta:
        torch.testing.assert_close(
            result.gradient[name], golden[f"{case}/grad/{name}"], rtol=0, atol=TOLERANCE
        )
    for layer, gradient in with_prefix(golden, f"{case}/grad_rates/").items():
        torch.testing.assert_close(
            result.gradient[maml_plus_plus.RATE + layer], gradient, rtol=0, atol=TOLERANCE
        )


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("network", NETWORKS)
def test_reptile_is_the_golden_direction(network, plan):
    golden, theta, episode = problem(network)
    method = reptile.Reptile(float(golden["inner_lr"]), STEPS, optimizer="sgd", batch=None)
    result = meta_gradient(classifier(network, method), theta, episode, PLANS[plan])
    for name in theta:
        torch.testing.assert_close(
            result.gradient[name],
            golden[f"reptile_steps3/direction/{name}"],
            rtol=0,
            atol=TOLERANCE,
        )


def test_reptile_with_an_outer_rate_of_0_is_the_identity_and_with_1_the_mean_of_the_tasks():
    _, theta, episode = problem("mlp")
    learner = classifier("mlp", reptile.Reptile(0.01, STEPS, batch=2))
    gradient = meta_gradient(learner, theta, episode).gradient
    *_, last = trajectory(learner.algorithm.inner_loop(learner, theta, episode, 1.0), STEPS)
    state = TrainingState({name: p.clone() for name, p in theta.items()}, {}, {}, {}, {})
    loop._step_sgd(state, gradient, 0.0)
    assert all(torch.equal(state.theta[name], theta[name]) for name in theta)
    loop._step_sgd(state, gradient, 1.0)
    for name in theta:
        torch.testing.assert_close(state.theta[name], last.after[name].mean(0), rtol=0, atol=1e-12)


def test_reptile_adam_is_torch_adam():
    """One task, mini-batches, against torch.optim.Adam with beta1 = 0."""
    _, theta, episode = problem("mlp")
    single = episode.slice_tasks(0, 1)
    learner = classifier("mlp", reptile.Reptile(0.01, 5, batch=4))
    *_, last = trajectory(learner.algorithm.inner_loop(learner, theta, single, 1.0), 5)
    fast = {name: p.clone()[None].requires_grad_() for name, p in theta.items()}
    optimizer = torch.optim.Adam(fast.values(), lr=0.01, betas=(0.0, 0.999))
    for step in range(5):
        x, y, _ = single.support_batch(step, 4)
        optimizer.zero_grad()
        learner.objective.loss(learner.model(fast, x), y).sum().backward()
        optimizer.step()
    for name in theta:
        torch.testing.assert_close(last.after[name], fast[name], rtol=0, atol=1e-12)


def test_mini_batches_take_the_classes_in_turn_and_every_example_equally_often():
    episode = problem("mlp")[2]._replace(ways=3)  # 2 shots
    seen = []
    for step in range(3):
        x, y, _ = episode.support_batch(step, 4)
        assert x.shape[1] == y.shape[1] == 4
        assert len(set(y[0].tolist())) == 3
        seen += [
            next(i for i in range(6) if torch.equal(episode.support_x[0, i], example))
            for example in x[0]
        ]
    assert sorted(seen) == sorted([*range(6)] * 2)


def same_gradient(
    network: str, method: Algorithm, meta: Callable[[MetaLearner, Params], Params], **changes
) -> None:
    """The method's gradient of the model's parameters is MAML's."""
    _, theta, episode = problem(network)
    learner = classifier(network, method, **changes)
    expected = meta_gradient(classifier(network, maml.MAML(0.1, STEPS), **changes), theta, episode)
    result = meta_gradient(learner, meta(learner, theta), episode)
    assert abs(result.loss - expected.loss) < TOLERANCE
    for name in theta:
        torch.testing.assert_close(
            result.gradient[name].flatten(),
            expected.gradient[name].flatten(),
            rtol=0,
            atol=TOLERANCE,
        )


def started(learner: MetaLearner, theta: Params) -> Params:
    """The initial meta-parameters with these model parameters."""
    return {
        name: p.double()
        for name, p in learner.algorithm.init(theta, learner.model, torch.Generator()).items()
    }


@pytest.mark.parametrize("batch_norm", ["transductive", "inductive"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "algorithm",
    [meta_sgd.MetaSGD, meta_curvature.MetaCurvature],
    ids=["constant rates", "identities"],
)
def test_at_its_start_it_is_maml(algorithm, network, batch_norm):
    same_gradient(network, algorithm(0.1, STEPS), started, batch_norm=batch_norm)


@pytest.mark.parametrize("network", NETWORKS)
def test_maml_plus_plus_with_all_extensions_off_is_maml(network):
    config = maml_plus_plus.MAMLPlusPlus(
        0.1, STEPS, multi_step_loss=0, first_order=0, per_step_norm=False, learned_rates=False
    )
    same_gradient(network, config, started)


def test_maml_plus_plus_loss_weights_shift_to_the_last_step():
    method = maml_plus_plus.MAMLPlusPlus(0.1, 5, multi_step_loss=0.2)
    assert method.query_loss_weights(0.0) == pytest.approx((0, 0.2, 0.2, 0.2, 0.2, 0.2))
    assert method.query_loss_weights(0.1) == pytest.approx((0, 0.1, 0.1, 0.1, 0.1, 0.6))
    assert method.query_loss_weights(0.1999999) == pytest.approx(
        (0, *[0.03 / 5] * 4, 1 - 4 * 0.03 / 5)
    ), "never less than 3 % of the first weight"
    assert method.query_loss_weights(0.2) is None


def test_maml_plus_plus_is_first_order_until_its_time():
    _, theta, episode = problem("conv_strided")
    method = maml_plus_plus.MAMLPlusPlus(0.1, STEPS, first_order=0.5)
    learner = classifier("conv_strided", method)
    assert not method.inner_loop(learner, started(learner, theta), episode, 0.49).second_order
    assert method.inner_loop(learner, started(learner, theta), episode, 0.5).second_order


def test_maml_plus_plus_norms_of_each_step_are_used_and_learned():
    """Finite differences: scales and shifts of theta_0 ... theta_K have separate gradients."""
    _, theta, episode = problem("conv_strided")
    method = maml_plus_plus.MAMLPlusPlus(0.1, STEPS, first_order=0, multi_step_loss=1.0)
    learner = classifier("conv_strided", method)
    meta = started(learner, theta)
    assert meta["norm0.weight"].shape == (STEPS + 1, 4)
    check_gradient(learner, meta, episode)
    gradient = meta_gradient(learner, meta, episode).gradient
    assert (gradient["norm0.weight"].abs().sum(1) > 1e-6).all()


def check_gradient(learner: MetaLearner, meta: Params, episode: Episode) -> None:
    gradient = meta_gradient(learner, meta, episode).gradient
    check_by_finite_differences(
        lambda m: float(meta_gradient(learner, m, episode).loss), meta, gradient
    )


def perturbed(learner: MetaLearner, theta: Params, size: float) -> Params:
    """The initial meta-parameters, with the weights of the LSTM perturbed at random."""
    generator = torch.Generator().manual_seed(5)
    meta = started(learner, theta)
    return {
        n: p + size * n.startswith("lstm") * torch.randn(p.shape, generator=generator).double()
        for n, p in meta.items()
    }


def check_by_finite_differences(
    loss: Callable[[Params], float], meta: Params, gradient: Params, names=None, h: float = 1e-6
) -> None:
    """Along a random direction for each parameter separately, so errors cannot cancel."""
    generator = torch.Generator().manual_seed(0)
    for name in names or meta:
        direction = torch.randn(meta[name].shape, generator=generator, dtype=torch.float64)
        there, back = (loss(meta | {name: meta[name] + sign * h * direction}) for sign in (1, -1))
        expected = float((gradient[name] * direction).sum())
        assert (there - back) / (2 * h) == pytest.approx(expected, rel=2e-5, abs=1e-8), name


@pytest.mark.parametrize("network", NETWORKS)
def test_meta_curvature_by_finite_differences(network):
    _, theta, episode = problem(network)
    learner = classifier(network, meta_curvature.MetaCurvature(0.1, 2))
    generator = torch.Generator().manual_seed(1)
    meta = {
        name: p + 0.1 * torch.randn(p.shape, generator=generator).double()
        for name, p in started(learner, theta).items()
    }
    check_gradient(learner, meta, episode)


def test_meta_curvature_multiplies_along_each_axis():
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(2, 4, 3, 3, 3, generator=generator)
    matrices = {
        f"w.{axis}": torch.randn(2, n, n, generator=generator)
        for axis, n in (("outputs", 4), ("inputs", 3), ("positions", 9))
    }
    expected = torch.einsum(
        "tab,tcd,tef,tbdf->tace",
        matrices["w.outputs"],
        matrices["w.inputs"],
        matrices["w.positions"],
        g.flatten(3),
    )
    torch.testing.assert_close(meta_curvature._transform(g, matrices, "w").flatten(3), expected)


class Quadratic:
    """Predicts theta x, so the mean squared error is quadratic in theta with a known minimum."""

    width = outputs = 1

    def init(self, generator):
        raise AssertionError

    def features(self, theta, x, reference=None):
        return x

    def __call__(self, theta, x, reference=None):
        return x @ theta["w"].mT


def quadratic_episode(dims: int = 4) -> Episode:
    generator = torch.Generator().manual_seed(3)
    x, query = (
        torch.randn(3, 6, dims, generator=generator).double(),
        torch.randn(3, 5, dims, generator=generator).double(),
    )
    truth = torch.randn(3, dims, 1, generator=generator).double()
    return Episode(x, x @ truth + 0.1, query, query @ truth)


@pytest.mark.parametrize("damping", [0.0, 10.0])
def test_imaml_is_the_exact_implicit_gradient_of_a_quadratic(damping):
    strength, episode = 2.0, quadratic_episode()
    theta = {"w": torch.tensor([[0.3, -0.2, 0.5, 1.0]], dtype=torch.float64)}
    method = imaml.IMAML(0.1, 3000, regularization=strength, cg_steps=10, damping=damping)
    result = meta_gradient(
        MetaLearner(Quadratic(), method, Objective("regression")), theta, episode
    )  # type: ignore[arg-type]
    gradients = []
    for x, y, query_x, query_y in zip(*episode.tensors, strict=True):
        hessian = 2 / len(x) * x.mT @ x
        system = hessian + strength * torch.eye(4, dtype=torch.float64)
        best = torch.linalg.solve(system, 2 / len(x) * x.mT @ y + strength * theta["w"].mT)
        outer = 2 / len(query_x) * query_x.mT @ (query_x @ best - query_y)
        gradients.append(torch.linalg.solve(torch.eye(4) + hessian / (strength + damping), outer))
    torch.testing.assert_close(
        result.gradient["w"], torch.stack(gradients).mean(0).mT, rtol=0, atol=TOLERANCE
    )


def test_few_steps_of_the_conjugate_gradient_are_not_enough():
    """Shows that the test above can fail."""
    episode = quadratic_episode()
    theta = {"w": torch.tensor([[0.3, -0.2, 0.5, 1.0]], dtype=torch.float64)}
    few, many = (
        meta_gradient(
            MetaLearner(
                Quadratic(),
                imaml.IMAML(0.1, 3000, 2.0, steps),
                Objective("regression"),
            ),
            theta,
            episode,  # type: ignore[arg-type]
        ).gradient["w"]
        for steps in (1, 10)
    )
    assert (few - many).abs().max() > 1e-4


@pytest.mark.parametrize("network", NETWORKS)
def test_ridge_is_the_regularized_least_squares_of_numpy(network):
    _, theta, episode = problem(network)
    learner = classifier(network, ridge.RidgeRegression(0.7))
    meta = started(learner, theta) | {
        "ridge.scale": torch.tensor([1.7], dtype=torch.float64),
        "ridge.shift": torch.tensor([0.2], dtype=torch.float64),
    }
    wide = {name: p.expand(3, *p.shape) for name, p in meta.items()}
    result = learner.query_outputs(wide, episode)
    for t in range(3):
        features = [
            learner.model.features(wide, x)[t].numpy() for x in (episode.support_x, episode.query_x)
        ]
        support, query = (np.concatenate([f, np.ones((len(f), 1))], 1) for f in features)
        y = np.eye(3)[episode.support_y[t].numpy()]
        w = np.linalg.solve(
            support.T @ support + float(meta["ridge.log_lambda"].exp()) * np.eye(support.shape[1]),
            support.T @ y,
        )
        np.testing.assert_allclose(result[t].numpy(), 1.7 * query @ w + 0.2, atol=TOLERANCE)


GRADIENT_FREE = {
    "feat": feat.FEAT(temperature=4.0),
    "logistic": logistic.LogisticRegression(0.3),
    "meta_baseline": meta_baseline.MetaBaseline(),
    "ridge": ridge.RidgeRegression(),
    "metaoptnet": metaoptnet.MetaOptNet(),
    "matching_net": matching_net.MatchingNet(),
    "matching_net in full context": matching_net.MatchingNet(full_context=True, reads=2),
}


@pytest.mark.parametrize("network", ["mlp", "conv_strided"])
@pytest.mark.parametrize("name", GRADIENT_FREE)
def test_closed_forms_by_finite_differences(name, network):
    _, theta, episode = problem(network)
    learner = classifier(network, GRADIENT_FREE[name])
    meta = started(learner, theta)
    check_gradient(learner, meta, episode)


def support_vectors(
    n: int = 10, ways: int = 5, tasks: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(ways).repeat_interleave(n // ways)
    x = torch.randn(tasks, n, 7, generator=generator).double() + 2 * F.one_hot(y, 7)
    return x @ x.mT, F.one_hot(y, ways).double().expand(tasks, -1, -1)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("c", [0.1, 1.0])
def test_the_support_vector_machine_meets_its_optimality_conditions(c, scale):
    kernel, y = support_vectors()
    kernel = kernel * scale
    alpha = metaoptnet.crammer_singer(kernel, y, c)
    slack = c * y - alpha
    assert slack.min() > -1e-9 and alpha.sum(2).abs().max() < 1e-9
    slope = kernel @ alpha + alpha - y
    # The free entries of a row have the same slope, and it is smaller where a bound is active.
    free = slack > 1e-6
    assert free.any(2).all()
    level = (slope * free).sum(2) / free.sum(2)
    assert ((slope - level[..., None]) * free).abs().max() < 1e-6
    assert ((slope - level[..., None]) * ~free).max() < 1e-6


def test_the_support_vector_machine_is_differentiated_at_its_minimum():
    kernel, y = support_vectors(6, 3, 1)
    factor = torch.linalg.cholesky(kernel + torch.eye(6)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f: metaoptnet.crammer_singer(f @ f.mT, y, 0.1), [factor], atol=1e-6
    )


def test_matching_net_is_its_formula():
    _, theta, episode = problem("mlp")
    learner = classifier("mlp", matching_net.MatchingNet(scale=4.0))
    wide = {name: p.expand(3, *p.shape) for name, p in theta.items()}
    p = learner.query_outputs(wide, episode).exp()
    support, query = (
        learner.model.features(wide, x).numpy() for x in (episode.support_x, episode.query_x)
    )
    for t in range(3):
        cos = (
            query[t]
            @ support[t].T
            / np.outer(np.linalg.norm(query[t], axis=1), np.linalg.norm(support[t], axis=1))
        )
        attention = np.exp(4 * cos) / np.exp(4 * cos).sum(1, keepdims=True)
        np.testing.assert_allclose(
            p[t].numpy(), attention @ np.eye(3)[episode.support_y[t]], atol=TOLERANCE
        )
    torch.testing.assert_close(p.sum(-1), torch.ones_like(p[..., 0]))


def test_nil_predicts_by_cosine_and_does_not_adapt():
    _, theta, episode = problem("mlp")
    learner = classifier("mlp", anil.ANIL(0.1, 1, "nil"))
    assert evaluation.curve_steps(learner, 10) == [0]
    wide = {name: p.expand(3, *p.shape) for name, p in theta.items()}
    support, query = (learner.model.features(wide, x) for x in (episode.support_x, episode.query_x))
    expected = torch.stack(
        [
            F.cosine_similarity(query[:, :, None], support[:, None, 2 * k : 2 * k + 2], dim=-1).sum(
                -1
            )
            for k in range(3)
        ],
        -1,
    )
    torch.testing.assert_close(learner.test_variant.query_outputs(wide, episode), expected)


def test_only_adapted_parameters_change():
    _, theta, episode = problem("conv_strided")
    for algorithm, stays in (
        (anil.ANIL, lambda name: name not in HEAD),
        (boil.BOIL, lambda name: name in HEAD),
    ):
        learner = classifier("conv_strided", algorithm(0.1, 2))
        *_, last = evaluation.adaptation_steps(learner, theta, episode, 2)
        for name, p in theta.items():
            without_gradient = name.startswith("conv") and name.endswith(
                "bias"
            )  # in front of a batch norm
            assert torch.equal(last[name], p.expand(3, *p.shape)) == (
                stays(name) or without_gradient
            ), name


def sigmoid(x: float) -> float:
    return 1 / (1 + np.exp(-x))


def scalar_preprocessed(x: float) -> list[float]:
    return [np.log(abs(x)) / 10, np.sign(x)] if abs(x) >= np.exp(-10) else [-1.0, np.exp(10) * x]


def test_meta_lstm_is_a_loop_over_coordinates_written_out():
    """Two updates of one task, coordinate by coordinate, in scalars."""
    _, theta, episode = problem("mlp")
    single, hidden = episode.slice_tasks(0, 1), 3
    method = meta_lstm.MetaLSTM(0.1, 2, hidden=hidden)
    learner = classifier("mlp", method)
    meta = perturbed(learner, theta, 0.3)
    lstm = {
        name.removeprefix("lstm."): p.numpy()
        for name, p in meta.items()
        if name.startswith("lstm.")
    }
    cells = {name: p.numpy().copy() for name, p in theta.items()}
    states = {
        name: [([0.0] * hidden, [0.0] * hidden, 0.0, 0.0) for _ in range(p.numel())]
        for name, p in theta.items()
    }
    for _ in range(2):
        leaves = {name: torch.from_numpy(p)[None].requires_grad_() for name, p in cells.items()}
        total = learner.support_loss(leaves, single).sum()
        gradients, loss = (
            dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True)),
            total.item(),
        )
        for name, cell in cells.items():
            flat, g = cell.reshape(-1).copy(), gradients[name].numpy().reshape(-1)
            for k in range(flat.size):
                h, c, f, i = states[name][k]
                seen = np.array([*scalar_preprocessed(g[k]), *scalar_preprocessed(loss), *h])
                gates = lstm["first.weight"] @ seen + lstm["first.bias"]
                c = [
                    sigmoid(gates[hidden + j]) * c[j]
                    + sigmoid(gates[j]) * np.tanh(gates[2 * hidden + j])
                    for j in range(hidden)
                ]
                h = [sigmoid(gates[3 * hidden + j]) * np.tanh(c[j]) for j in range(hidden)]
                f, i = (
                    sigmoid(
                        float(
                            lstm[f"{n}.weight"][0] @ np.array([*h, flat[k], before])
                            + lstm[f"{n}.bias"][0]
                        )
                    )
                    for n, before in (("forget", f), ("input", i))
                )
                flat[k] = f * flat[k] - i * g[k]
                states[name][k] = (h, c, f, i)
            cells[name] = flat.reshape(cell.shape)
    *_, last = evaluation.adaptation_steps(learner, meta, single, 2)
    for name, cell in cells.items():
        np.testing.assert_allclose(last[name][0].detach().numpy(), cell, atol=TOLERANCE)


def test_meta_lstm_gradient_by_finite_differences():
    """With losses and inner gradients held at what they were, as the method takes them."""
    _, theta, episode = problem("conv_strided")
    method = meta_lstm.MetaLSTM(0.1, 3, batch=4, hidden=4)
    learner = classifier("conv_strided", method)
    meta = perturbed(learner, theta, 0.2)
    seen: list[tuple[Params, torch.Tensor]] = []

    def held(m: Params) -> float:
        inner = method.inner_loop(learner, m, episode, 1.0)
        state = inner.theta
        for step, (gradient, loss) in enumerate(seen):
            state = inner.update(state, gradient, step, loss)
        return float(
            learner.objective.loss(learner.query_outputs(state, episode), episode.query_y).mean()
        )

    inner = method.inner_loop(learner, meta, episode, 1.0)
    recording = inner._replace(
        update=lambda theta, g, step, loss: (
            seen.append((g, loss.detach())),
            inner.update(theta, g, step, loss),
        )[1]
    )
    list(trajectory(recording, 3))
    check_by_finite_differences(held, meta, meta_gradient(learner, meta, episode).gradient)


def test_preprocessing_keeps_sign_and_size_apart():
    x = torch.tensor([1.0, -1e-3, 1e-6, 0.0]).double()
    result = meta_lstm.preprocess(x)
    np.testing.assert_allclose(
        result.numpy(), [scalar_preprocessed(float(v)) for v in x], atol=1e-12
    )


def test_a_new_head_is_logistic_regression_on_features_that_stay():
    _, theta, episode = problem("conv_strided")
    learner = classifier("conv_strided", finetune.FineTuning(0.5))
    *_, last = evaluation.adaptation_steps(learner, theta, episode, 7)
    for t in range(3):
        features = learner.model.features(
            {n: p[None] for n, p in theta.items()}, episode.support_x[t : t + 1]
        )[0]
        layer = torch.nn.Linear(features.shape[1], 3).double()
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
        for _ in range(7):
            optimizer.zero_grad()
            F.cross_entropy(layer(features), episode.support_y[t]).backward()
            optimizer.step()
        torch.testing.assert_close(last[HEAD[0]][t], layer.weight.detach(), rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(last[HEAD[1]][t], layer.bias.detach(), rtol=0, atol=TOLERANCE)


def test_baseline_plus_plus_starts_at_the_class_means():
    _, theta, episode = problem("mlp")
    learner = classifier("mlp", baseline_plus_plus.BaselinePlusPlus(scale=3.0))
    first, *_ = evaluation.adaptation_steps(learner, theta, episode, 1)
    wide = {name: p.expand(3, *p.shape) for name, p in theta.items()}
    means = ops.class_means(learner.model.features(wide, episode.support_x), episode.support_y, 3)
    torch.testing.assert_close(first[HEAD[0]], means)
    outputs = learner.test_variant.query_outputs(first, episode)
    torch.testing.assert_close(
        outputs,
        3
        * F.cosine_similarity(
            learner.model.features(wide, episode.query_x)[:, :, None], means[:, None], dim=-1
        ),
    )


def test_full_context_is_a_bidirectional_lstm():
    """Appendix A.2 in numpy: each support example plus the states of both directions there."""
    _, theta, episode = problem("mlp")
    learner = classifier("mlp", matching_net.MatchingNet(full_context=True))
    generator = torch.Generator().manual_seed(5)
    meta = {
        n: p + 0.3 * n.startswith("fce") * torch.randn(p.shape, generator=generator).double()
        for n, p in started(learner, theta).items()
    }
    wide = {name: p.expand(3, *p.shape) for name, p in meta.items()}
    g = learner.model.features(wide, episode.support_x)
    result = matching_net._embed_support(wide, g)
    for t in range(3):
        support = g[t].numpy()
        expected = support.copy()
        for name, order in (
            ("forward", range(len(support))),
            ("backward", range(len(support) - 1, -1, -1)),
        ):
            weight, bias = (meta[f"fce.{name}.{kind}"].numpy() for kind in ("weight", "bias"))
            h = c = np.zeros(support.shape[1])
            for i in order:
                gates = np.split(weight @ np.concatenate([support[i], h]) + bias, 4)
                c = sigmoid(gates[1]) * c + sigmoid(gates[0]) * np.tanh(gates[2])
                h = sigmoid(gates[3]) * np.tanh(c)
                expected[i] += h
        np.testing.assert_allclose(result[t].numpy(), expected, atol=TOLERANCE)


def test_full_context_reads_before_each_step():
    """The LSTM of appendix A.1 in numpy, which attends to the support set in its first step too."""
    _, theta, episode = problem("mlp")
    learner = classifier("mlp", matching_net.MatchingNet(full_context=True, reads=2))
    generator = torch.Generator().manual_seed(4)
    meta = {
        n: p + 0.3 * n.startswith("fce") * torch.randn(p.shape, generator=generator).double()
        for n, p in started(learner, theta).items()
    }
    wide = {name: p.expand(3, *p.shape) for name, p in meta.items()}
    g, f = (learner.model.features(wide, x) for x in (episode.support_x, episode.query_x))
    result = matching_net._embed_query(wide, f, g, 2)
    weight, bias = (meta[f"fce.read.{kind}"].numpy() for kind in ("weight", "bias"))
    for t in range(3):
        support = g[t].numpy()
        for i, query in enumerate(f[t].numpy()):
            h, c = query, np.zeros_like(query)
            for _ in range(2):
                attention = np.exp(support @ h - (support @ h).max())
                read = attention / attention.sum() @ support
                gates = np.split(weight @ np.concatenate([query, h, read]) + bias, 4)
                c = sigmoid(gates[1]) * c + sigmoid(gates[0]) * np.tanh(gates[2])
                h = sigmoid(gates[3]) * np.tanh(c) + query
            np.testing.assert_allclose(result[t, i].numpy(), h, atol=TOLERANCE)
    assert not torch.equal(
        matching_net._embed_query(wide, f, g, 1), matching_net._embed_query(wide, f, 2 * g, 1)
    )


def test_conjugate_gradient_solves_each_task_and_stops_where_a_system_is_not_positive():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(3, 5, 5, generator=generator).double()
    a = a @ a.mT + torch.eye(5)
    a[2] = torch.diag(torch.tensor([1.0, -2.0, 3.0, -0.5, 1.0]))
    b = torch.ones(3, 5).double()

    def times(u: Params) -> Params:
        return {"w": (a @ u["w"][..., None])[..., 0]}

    few, many = (imaml.conjugate_gradient(times, {"w": b}, steps)["w"] for steps in (5, 50))
    torch.testing.assert_close(few[:2], torch.linalg.solve(a[:2], b[:2]))
    torch.testing.assert_close(many[:2], few[:2])
    assert torch.equal(many[2], few[2]) and many.isfinite().all(), "kept, not driven away"


@pytest.mark.parametrize("algorithm", [reptile.Reptile, meta_lstm.MetaLSTM])
def test_mini_batches_of_a_regression_are_not_stratified(algorithm):
    """Mini-batches of a regression keep the order of the examples, whatever the targets."""
    episode = SinusoidSampler((0.1, 5.0), (0.0, 3.0), (-5.0, 5.0), 0, "train", 10, 5)(
        torch.arange(4)
    )
    assert torch.equal(episode.support_batch(1, 4)[0], episode.support_x[:, 4:8]) and torch.equal(
        episode.support_batch(2, 4)[1][:, 2:], episode.support_y[:, :2]
    )
    method = algorithm(inner_lr=0.01, inner_steps=3, batch=4)
    learner = MetaLearner(mlp.MLP((8,)).build((1,), 1), method, Objective("regression"))
    assert meta_gradient(learner, learner.init(0), episode).loss.isfinite()


def test_nil_is_for_classes():
    assert not anil.ANIL(test="nil").regression and anil.ANIL().regression


@pytest.mark.parametrize(
    ("method", "default", "explicit"),
    [
        (maml.MAML(0.1, 1), 3, 7),
        (maml.MAML(0.1, 5), 5, 7),
        (reptile.Reptile(inner_steps=5, test_steps=40), 40, 7),
        (finetune.FineTuning(inner_steps=25), 25, 7),
        (protonet.ProtoNet(), 0, 0),
    ],
    ids=["maml, 1 step", "maml, 5 steps", "reptile", "finetune", "protonet"],
)
def test_test_steps_default_to_those_of_the_algorithm(method, default, explicit):
    learner = classifier("mlp", method)
    assert (
        evaluation.count_inner_steps(learner, None),
        evaluation.count_inner_steps(learner, 7),
    ) == (default, explicit)
    assert evaluation.curve_steps(learner, default)[-1] == (
        max(default, evaluation.CURVE_STEPS) if default else 0
    )
