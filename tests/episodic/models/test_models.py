"""Models; a torch.nn.Module as the model gives the same results."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from episodic import ops
from episodic.algorithms import maml
from episodic.core.config import ConfigError
from episodic.core.episode import Episode
from episodic.core.model import HEAD
from episodic.core.objective import Objective
from episodic.core.registry import ALGORITHMS, MODELS
from episodic.engine.learner import MetaLearner
from episodic.engine.outer import meta_gradient
from episodic.engine.plan import Plan
from episodic.models import conv4, module, resnet12
from episodic.training import evaluation

WAYS = 3


class ConvNet(nn.Module):
    """A standard PyTorch implementation of conv4 with two blocks."""

    def __init__(self, channels: int = 4, drop: float = 0.0):
        super().__init__()
        self.conv0, self.norm0 = nn.Conv2d(1, channels, 3, 2, 1), nn.BatchNorm2d(channels)
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, 2, 1), nn.BatchNorm2d(channels)
        self.drop, self.last = nn.Dropout(drop), nn.Linear(channels, 10)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(F.relu(self.norm0(self.conv0(x))))))
        return self.last(self.drop(x.mean((2, 3))))


class WithBuffer(ConvNet):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))


class Broken(ConvNet):
    def __init__(self):
        raise RuntimeError("no\nluck")


class Reserved(ConvNet):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 4)


class Colours(ConvNet):
    def __init__(self):
        super().__init__()
        self.conv0 = nn.Conv2d(3, 4, 3, 2, 1)


class TwoHeads(ConvNet):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 7)

    def forward(self, x):
        x = self.norm1(self.conv1(F.relu(self.norm0(self.conv0(x))))).mean((2, 3))
        return self.second(self.first(x))


class WithSoftmax(ConvNet):
    def forward(self, x):
        return F.log_softmax(super().forward(x), 1)


class Scalar(ConvNet):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))


class TypeInside(ConvNet):
    def __init__(self, channels=4):
        super().__init__(channels + "4")


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.last = nn.LazyLinear(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.hidden(x.flatten(1)))


def config(name: str = "ConvNet", **options) -> module.TorchModule:
    return module.TorchModule(f"{__name__}.{name}", **options)


def episode(tasks: int = 2, size: int = 8) -> Episode:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(tasks, WAYS, 1, 1, size, size, generator=generator).double()

    def draw_examples(n: int):
        noise = torch.randn(tasks, WAYS, n, 1, size, size, generator=generator).double()
        return (images + noise).flatten(1, 2), torch.arange(WAYS).repeat_interleave(n).expand(
            tasks, -1
        )

    return Episode(*draw_examples(2), *draw_examples(3), WAYS, torch.arange(tasks) + 5)


@pytest.mark.parametrize("batch_norm", ["transductive", "inductive"])
def test_custom_module_matches_builtin_gradient(batch_norm):
    theirs = config().build((1, 8, 8), WAYS)
    ours = conv4.Conv4(4, 2).build((1, 8, 8), WAYS)
    theta = {
        name: p.double() + 0.1 for name, p in theirs.init(torch.Generator().manual_seed(1)).items()
    }
    assert theta.keys() == ours.init(torch.Generator()).keys()
    actual, expected = (
        meta_gradient(
            MetaLearner(model, maml.MAML(0.1, 2), Objective("classification"), batch_norm),
            theta,
            episode(),
        )
        for model in (theirs, ours)
    )
    assert abs(actual.loss - expected.loss) < 1e-10
    for name in theta:
        if not (
            name.startswith("conv") and name.endswith("bias")
        ):  # has none in front of a batch norm; here it is left out
            torch.testing.assert_close(
                actual.gradient[name], expected.gradient[name], rtol=0, atol=1e-10
            )
        else:
            assert actual.gradient[name].abs().max() < 1e-10


def test_maml_plus_plus_knows_a_modules_norms():
    model = config().build((1, 8, 8), WAYS)
    assert model.norm_names == ("norm0.weight", "norm0.bias", "norm1.weight", "norm1.bias")
    method = ALGORITHMS["maml_plus_plus"](inner_steps=2)
    meta = MetaLearner(model, method, Objective("classification")).init(0)
    assert (
        meta["norm0.weight"].shape == (3, 4) and "rate.norm0" not in meta and "rate.conv0" in meta
    )
    for other in (conv4.Conv4(4, 2).build((1, 8, 8), 3), small_resnet()):
        theta = other.init(torch.Generator())
        assert set(other.norm_names) == {name for name in theta if "norm" in name}


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_algorithms_accept_a_module(name):
    method = ALGORITHMS[name]()
    outputs = method.count_model_outputs(WAYS, 40)
    model = config().build((1, 8, 8), outputs)
    learner = MetaLearner(model, method, Objective("classification"))
    theta = {key: p.double() for key, p in learner.init(0).items()}
    assert ("head.weight" in theta) == (outputs > 0)
    *_, last = evaluation.adaptation_steps(
        learner, theta, episode(), evaluation.count_inner_steps(learner, 2)
    )
    assert learner.test_variant.query_outputs(last, episode()).shape == (2, 9, WAYS)


def test_module_init_is_seeded_and_leaves_the_global_rng_unchanged():
    before = torch.get_rng_state()
    a, b, c = (
        config().build((1, 8, 8), WAYS).init(torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["conv0.weight"], c["conv0.weight"])


def test_dropout_of_a_module_is_off():
    model = config(arguments={"drop": 0.9}).build((1, 8, 8), WAYS)
    theta = {name: p[None] for name, p in model.init(torch.Generator()).items()}
    x = torch.randn(1, 5, 1, 8, 8)
    assert torch.equal(model(theta, x), model(theta, x))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            module.TorchModule("nowhere.Net"),
            "path is 'nowhere.Net'; it must name a class, as package.module.Class",
        ),
        (
            module.TorchModule("os.path"),
            "path is 'os.path'; it must name a class, as package.module.Class",
        ),
        (module.TorchModule(""), "path is ''; it must name a class, as package.module.Class"),
        (
            module.TorchModule("json.dumps", {"obj": 1}),
            "path is 'json.dumps'; it must be a torch.nn.Module",
        ),
        (
            module.TorchModule(f"{__name__}.ConvNet", {"wings": 2}),
            "arguments is {'wings': 2}; it must match the signature of",
        ),
        (
            module.TorchModule(f"{__name__}.ConvNet", head="conv0"),
            "head is 'conv0'; it must be the name of a torch.nn.Linear",
        ),
        (
            module.TorchModule(f"{__name__}.WithBuffer"),
            "must not have buffers (count), which would be shared between tasks",
        ),
        (
            module.TorchModule(f"{__name__}.Broken"),
            "must name a class, as package.module.Class (RuntimeError: no luck)",
        ),
        (
            module.TorchModule(f"{__name__}.Reserved"),
            "lstm.weight_ih_l0, which are reserved for the head or an algorithm; rename them",
        ),
        (module.TorchModule(f"{__name__}.Colours"), "cannot take examples of shape [1, 8, 8] ("),
        (
            module.TorchModule(f"{__name__}.TwoHeads", head="first"),
            "head is 'first'; it must be the last layer; its inputs have shape [7] per example "
            "instead of [4]",
        ),
        (
            module.TorchModule(f"{__name__}.WithSoftmax"),
            "must return the outputs of its head unchanged; the loss includes the softmax",
        ),
        (
            module.TorchModule(f"{__name__}.Scalar"),
            "must not have scalar parameters (temperature); use shape [1]",
        ),
        (
            module.TorchModule(f"{__name__}.TypeInside"),
            "must name a class, as package.module.Class (TypeError: ",
        ),
        (
            module.TorchModule(f"{__name__}.Lazy"),
            "must not have lazy layers (hidden.weight, hidden.bias)",
        ),
        (
            module.TorchModule("torch.nn.Linear", {"in_features": 64, "out_features": 3}),
            "path is 'torch.nn.Linear'; it must be a module of several layers",
        ),
        (
            module.TorchModule("torch.nn.Flatten"),
            "head is null; it must be the name of a torch.nn.Linear of torch.nn.Flatten",
        ),
    ],
)
def test_unsuitable_modules_are_rejected(wrong, message):
    with pytest.raises(ConfigError) as error:
        wrong.build((1, 8, 8), WAYS)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert __name__ in sys.modules


def plain_resnet12(theta, x):
    """One task with torch's own functions."""

    def layer(x, conv, norm):
        x = F.conv2d(x, theta[f"{conv}.weight"], padding=theta[f"{conv}.weight"].shape[-1] // 2)
        return F.batch_norm(
            x, None, None, theta[f"{norm}.weight"], theta[f"{norm}.bias"], training=True
        )

    for i in range(2):
        shortcut = layer(x, f"block{i}.shortcut", f"block{i}.shortcut_norm")
        for j in range(2):
            x = F.leaky_relu(layer(x, f"block{i}.conv{j}", f"block{i}.norm{j}"), 0.1)
        x = F.max_pool2d(
            F.leaky_relu(layer(x, f"block{i}.conv2", f"block{i}.norm2") + shortcut, 0.1), 2
        )
    return F.linear(x.mean((2, 3)), theta["head.weight"], theta["head.bias"])


def small_resnet(**options) -> resnet12.ResNet12:
    return resnet12.ResNet12((3, 5), **options).build((1, 8, 8), WAYS)


def weights(model) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: p.double() + 0.1 * torch.randn(p.shape, generator=generator)
        for name, p in model.init(generator).items()
    }


def test_resnet12_is_the_network_of_the_paper_and_differentiated_twice():
    model, e = small_resnet(drop=0.0), episode()
    theta = weights(model)
    learner = MetaLearner(model, maml.MAML(0.1, 2), Objective("classification"))
    result = meta_gradient(learner, theta, e, Plan("batched", 2, 2, ""))
    leaves = {name: p.clone().requires_grad_() for name, p in theta.items()}
    total = torch.zeros(()).double()
    for support_x, support_y, query_x, query_y in zip(*e.tensors, strict=True):
        fast = leaves
        for _ in range(2):
            loss = F.cross_entropy(plain_resnet12(fast, support_x), support_y)
            gradient = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
            fast = {name: p - 0.1 * g for (name, p), g in zip(fast.items(), gradient, strict=True)}
        total = total + F.cross_entropy(plain_resnet12(fast, query_x), query_y) / 2
    expected = torch.autograd.grad(total, list(leaves.values()))
    for name, g in zip(leaves, expected, strict=True):
        torch.testing.assert_close(result.gradient[name], g, rtol=0, atol=1e-10)


def test_resnet12_has_the_fields_width_and_size():
    model = resnet12.ResNet12().build((3, 84, 84), 5)
    theta = model.init(torch.Generator().manual_seed(0))
    assert model.width == 640
    body = sum(p.numel() for name, p in theta.items() if not name.startswith("head"))
    assert 12.3e6 < body < 12.5e6, "MetaOptNet's has 12.4 million parameters"
    with pytest.raises(ConfigError, match="must be fewer for images of 8 x 8 pixels"):
        resnet12.ResNet12().build((1, 8, 8), 5)


def test_dropblock_drops_squares_at_its_rate_only_in_training():
    model = resnet12.ResNet12((2, 2), drop=0.2, block=3).build((1, 64, 64), WAYS)
    noise = torch.arange(4)
    x = torch.ones(4, 8, 2, 20, 20)
    assert torch.equal(model._drop_blocks(x, 1), x), "without noise nothing is dropped"
    kept = model.with_noise(noise)._drop_blocks(x, 1) > 0
    assert 0.1 < 1 - kept.float().mean() < 0.25, (
        "squares may overlap, so slightly less than 20 % is dropped"
    )
    dropped = (~kept).float().flatten(0, 2)[:, None]
    # Every dropped position lies in a 3x3 square of dropped ones.
    squares = -F.max_pool2d(-dropped, 3, 1)
    assert torch.equal(F.max_pool2d(F.pad(squares, (2,) * 4), 3, 1), dropped)
    torch.testing.assert_close(
        model.with_noise(noise)._drop_blocks(x, 1).mean((1, 2, 3, 4)), torch.ones(4)
    )


def test_dropblock_is_a_function_of_the_episode_not_of_the_batch():
    model = small_resnet(drop=0.3, block=1)
    learner = MetaLearner(model, maml.MAML(0.1, 1), Objective("classification"))
    theta, e = weights(model), episode(3)
    whole, again = (
        meta_gradient(learner, theta, e, plan).gradient
        for plan in (Plan("batched", 3, 3, ""), Plan("batched", 2, 1, ""))
    )
    quiet = meta_gradient(learner, theta, e._replace(noise=None)).gradient
    for name in theta:
        torch.testing.assert_close(whole[name], again[name], rtol=0, atol=1e-10)
    assert any((whole[name] - quiet[name]).abs().max() > 1e-6 for name in theta)


def test_one_by_one_convolutions_are_matrix_products():
    x, w = torch.randn(2, 3, 4, 5, 5).double(), torch.randn(2, 6, 4, 1, 1).double()
    torch.testing.assert_close(ops.conv2d(x, w), torch.einsum("tnihw,toi->tnohw", x, w[..., 0, 0]))


def test_every_model_describes_itself():
    for name in MODELS:
        if name != "module":
            input = {"bag": (12,), "textcnn": (12,), "embeddings": (2, 12)}.get(name, (1, 32, 32))
            model = MODELS[name]().build(input, 4)
            theta = {key: p[None] for key, p in model.init(torch.Generator()).items()}
            x = (
                torch.randint(0, 99, (1, 6, *input))
                if name in ("embeddings", "textcnn")
                else torch.randn(1, 6, *input)
            )
            assert (
                model.features(theta, x).shape == (1, 6, model.width)
                and model(theta, x).shape == (1, 6, 4)
                and model.outputs == 4
            )
            bare = MODELS[name]().build(input, 0)
            assert not set(HEAD) & bare.init(torch.Generator()).keys()
