"""WRN-28-10: the network of the paper, differentiated twice, of the published size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from episodic import ops
from episodic.algorithms import maml
from episodic.core.config import ConfigError
from episodic.core.episode import Episode
from episodic.core.objective import Objective
from episodic.engine.learner import MetaLearner
from episodic.engine.outer import meta_gradient
from episodic.engine.plan import Plan
from episodic.models.wide_resnet import WideResNet

WAYS, SIZE = 3, 8


def make_episode(tasks: int = 2) -> Episode:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(tasks, WAYS, 1, 2, SIZE, SIZE, generator=generator).double()

    def draw_examples(n: int):
        noise = torch.randn(tasks, WAYS, n, 2, SIZE, SIZE, generator=generator).double()
        labels = torch.arange(WAYS).repeat_interleave(n).expand(tasks, -1)
        return (images + noise).flatten(1, 2), labels

    return Episode(*draw_examples(2), *draw_examples(3), WAYS, torch.arange(tasks))


class PlainBlock(nn.Module):
    """A block of the paper (figure 1c) in torch's own layers."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norm0, self.norm1 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv0 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        y = F.relu(self.norm0(x))
        inner = self.conv1(F.relu(self.norm1(self.conv0(y))))
        return inner + self.shortcut(y)


class PlainWideResNet(nn.Module):
    """WRN-10-`widen`: one block per group."""

    def __init__(self, channels: int, widen: int):
        super().__init__()
        widths = [16, 16 * widen, 32 * widen, 64 * widen]
        self.conv = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        for group, stride in enumerate((1, 2, 2)):
            block = PlainBlock(widths[group], widths[group + 1], stride)
            self.add_module(f"group{group}", nn.ModuleDict({"block0": block}))
        self.norm, self.head = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], WAYS)

    def forward(self, x):
        x = self.conv(x)
        for group in (self.group0, self.group1, self.group2):
            x = group["block0"](x)
        return self.head(F.relu(self.norm(x)).mean((2, 3)))


def draw_weights(model) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        name: p.double() + 0.1 * torch.randn(p.shape, generator=generator)
        for name, p in model.init(generator).items()
    }


@pytest.fixture
def narrow():
    return WideResNet(depth=10, widen=1).build((2, SIZE, SIZE), WAYS)


def test_the_meta_gradient_is_that_of_torchs_own_layers(narrow):
    theta, episode = draw_weights(narrow), make_episode()
    plain = PlainWideResNet(2, 1).double()
    assert dict(plain.named_parameters()).keys() == theta.keys()
    leaves = {name: p.clone().requires_grad_() for name, p in theta.items()}

    def plain_loss(weights, x, y):
        return F.cross_entropy(torch.func.functional_call(plain, weights, (x,)), y)

    total = torch.zeros(()).double()
    for support_x, support_y, query_x, query_y in zip(*episode.tensors, strict=True):
        fast = leaves
        for _ in range(2):
            loss = plain_loss(fast, support_x, support_y)
            gradient = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
            fast = {name: p - 0.1 * g for (name, p), g in zip(fast.items(), gradient, strict=True)}
        total = total + plain_loss(fast, query_x, query_y) / 2
    expected = torch.autograd.grad(total, list(leaves.values()))
    learner = MetaLearner(narrow, maml.MAML(0.1, 2), Objective("classification"))
    for plan in (Plan("batched", 2, 2, ""), Plan("per_task", 1, 1, "")):
        actual = meta_gradient(learner, theta, episode, plan).gradient
        for name, gradient in zip(leaves, expected, strict=True):
            torch.testing.assert_close(actual[name], gradient, rtol=0, atol=1e-10)
    assert max(g.abs().max() for g in expected) > 1e-3


def test_identity_shortcuts_add_the_input():
    """With zero kernels in every later block, a deeper network equals the shallower one."""
    shallow, deep = (
        WideResNet(depth=depth, widen=1).build((2, SIZE, SIZE), WAYS) for depth in (10, 22)
    )
    theta = draw_weights(shallow)
    deeper = {
        name: theta.get(name, torch.zeros_like(p) if "conv" in name else p)
        for name, p in draw_weights(deep).items()
    }
    x = torch.randn(1, 4, 2, SIZE, SIZE).double()
    outputs = [
        model(weights, x)
        for model, weights in (
            (shallow, {name: p[None] for name, p in theta.items()}),
            (deep, {name: p[None] for name, p in deeper.items()}),
        )
    ]
    torch.testing.assert_close(*outputs)


def test_inductive_statistics_are_those_of_the_support_set(narrow):
    theta = {name: p[None] for name, p in draw_weights(narrow).items()}
    support, query = (torch.randn(1, 5, 2, SIZE, SIZE).double() for _ in range(2))
    with_others = narrow(theta, torch.cat([support, query, query.flip(1)], 1), reference=5)
    alone = narrow(theta, torch.cat([support, query], 1), reference=5)
    torch.testing.assert_close(with_others[:, :10], alone)


def test_it_has_the_size_and_the_layers_of_the_literature():
    spec = WideResNet()
    theta = spec.build((3, 32, 32), 10).init(torch.Generator().manual_seed(0))
    assert sum(p.numel() for p in theta.values()) == 36_479_194, "the paper states 36.5 million"
    convolutions = [name for name in theta if "conv" in name]
    assert len(convolutions) == 25, "28 with the 3 shortcuts, as the paper counts"
    assert spec.build((3, 84, 84), 5).width == 640
    sizes = []
    small = WideResNet(depth=10, widen=1).build((3, 84, 84), 5)
    original = ops.conv2d

    def record(x, weight, bias=None, stride=1):
        y = original(x, weight, bias, stride)
        sizes.append(y.shape[-1])
        return y

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "conv2d", record)
        theta = small.init(torch.Generator())
        small({name: p[None] for name, p in theta.items()}, torch.randn(1, 2, 3, 84, 84))
    assert sorted(set(sizes), reverse=True) == [84, 42, 21]


def test_norm_names_are_those_of_the_parameters(narrow):
    theta = narrow.init(torch.Generator())
    assert sorted(narrow.norm_names) == sorted(name for name in theta if "norm" in name)


@pytest.mark.parametrize("depth", [12, 27, 29])
def test_only_depths_with_whole_blocks_are_accepted(depth):
    with pytest.raises(ConfigError, match=rf"depth is {depth}; it must be 6 n \+ 4"):
        WideResNet(depth=depth)
