"""Tasks of unequal size: padding does not change the results of a task."""

from __future__ import annotations

import pytest
import torch

from episodic.core.config import ConfigError
from episodic.core.episode import Episode
from episodic.core.objective import Objective
from episodic.core.registry import ALGORITHMS
from episodic.data.sampling import TaskSampler
from episodic.engine.learner import MetaLearner
from episodic.engine.outer import meta_gradient
from episodic.engine.plan import Plan
from episodic.models import conv4, embeddings, mlp
from episodic.training import evaluation

TOLERANCE = 1e-12
CONFIGS = {
    "imaml": {"inner_lr": 0.05, "inner_steps": 4},
    "meta_lstm": {"inner_steps": 3, "batch": 2, "inner_lr": 0.1, "hidden": 3},
    "reptile": {"inner_lr": 0.02, "inner_steps": 3, "batch": 2},
    "maml_plus_plus": {"inner_steps": 2, "inner_lr": 0.05},
}
REGRESSION = sorted(
    name for name, module in ALGORITHMS.items() if module(**CONFIGS.get(name, {})).regression
)
SIZES = [(1, 4), (2, 1), (5, 3), (3, 6)]
"""Support and query examples of each task."""
PLANS = {
    "at once": Plan("batched", 4, 4, ""),
    "unequal shards": Plan("batched", 3, 2, ""),
    "per task": Plan("per_task", 1, 1, ""),
}


def method(name: str):
    module = ALGORITHMS[name]
    return module(
        **({"inner_lr": 0.1} if hasattr(module, "inner_lr") else {}) | CONFIGS.get(name, {})
    )


def learner(name: str, model: str) -> MetaLearner:
    built = {
        "mlp": lambda: mlp.MLP((6, 5)).build((3,), 1),
        "embeddings": lambda: embeddings.Embeddings(
            tokens=12, embedding=4, hidden=(5,), start=0.5
        ).build((2, 3), 1),
    }
    return MetaLearner(built[model](), method(name), Objective("regression"))


def tasks(model: str) -> list[Episode]:
    """One task each, of SIZES."""
    generator = torch.Generator().manual_seed(4)

    def draw_examples(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (1, n, 3) if model == "mlp" else (1, n, 2, 3)
        x = (
            torch.randn(shape, generator=generator).double()
            if model == "mlp"
            else torch.randint(0, 12, shape, generator=generator)
        )
        return x, torch.randn(1, n, 1, generator=generator).double()

    return [Episode(*draw_examples(support), *draw_examples(query)) for support, query in SIZES]


def together(episodes: list[Episode]) -> Episode:
    """All of them as one batch, with padding that would change the results if it were used."""
    most = [max(size) for size in zip(*SIZES, strict=True)]

    def padded(tensor: torch.Tensor, n: int) -> torch.Tensor:
        return torch.cat(
            [tensor, tensor.new_full((1, n - tensor.shape[1], *tensor.shape[2:]), 7)], 1
        )

    fields = zip(*(episode.tensors for episode in episodes), strict=True)
    tensors = [
        torch.cat([padded(t, most[i // 2]) for t in field]) for i, field in enumerate(fields)
    ]
    support, query = (torch.tensor(sizes) for sizes in zip(*SIZES, strict=True))
    return Episode(*tensors, support_size=support, query_size=query)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("plan", PLANS.values(), ids=list(PLANS))
@pytest.mark.parametrize("model", ["mlp", "embeddings"])
@pytest.mark.parametrize("name", REGRESSION)
def test_padded_tasks_match_single_task_gradients(name, model, plan):
    meta_learner, episodes = learner(name, model), tasks(model)
    meta = {key: p.double() for key, p in meta_learner.init(0).items()}
    singles = [
        meta_gradient(meta_learner, meta, episode, Plan("per_task", 1, 1, ""))
        for episode in episodes
    ]
    batched = meta_gradient(meta_learner, meta, together(episodes), plan)
    assert batched.loss.item() == pytest.approx(
        torch.stack([a.loss for a in singles]).mean().item(), abs=TOLERANCE
    )
    assert batched.score.item() == pytest.approx(
        torch.stack([a.score for a in singles]).mean().item(), abs=TOLERANCE
    )
    largest = 0.0
    for key in meta:
        expected = torch.stack([a.gradient[key] for a in singles]).mean(0)
        torch.testing.assert_close(batched.gradient[key], expected, rtol=0, atol=TOLERANCE)
        largest = max(largest, float(expected.abs().max()))
    assert largest > 1e-3, "there is something to compare"


@pytest.mark.parametrize("name", REGRESSION)
def test_padded_tasks_are_scored_like_single_tasks(name):
    meta_learner, episodes = learner(name, "embeddings"), tasks("embeddings")
    meta = {key: p.double() for key, p in meta_learner.init(0).items()}
    score, loss = evaluation.episode_scores(meta_learner, meta, together(episodes), 2, chunk=3)
    singles = [evaluation.episode_scores(meta_learner, meta, episode, 2) for episode in episodes]
    assert score == pytest.approx(
        [s[0] for s, _ in singles], abs=TOLERANCE
    ) and loss == pytest.approx([x[0] for _, x in singles], abs=TOLERANCE)
    curve = evaluation.adaptation_curve(meta_learner, [meta], together(episodes), [0, 2])
    assert curve.score["transductive"][:, 1].numpy() == pytest.approx(score, abs=TOLERANCE)


def test_padding_changes_results_if_sizes_are_omitted():
    """Shows that the tests above can fail."""
    meta_learner, episodes = learner("maml", "mlp"), tasks("mlp")
    meta = {key: p.double() for key, p in meta_learner.init(0).items()}
    padded = together(episodes)
    right, wrong = (
        meta_gradient(meta_learner, meta, e).loss.item()
        for e in (padded, padded._replace(support_size=None, query_size=None))
    )
    assert abs(right - wrong) > 0.1


def test_batch_norm_is_refused_unless_tasks_are_computed_alone():
    meta_learner = MetaLearner(
        conv4.Conv4(4, 2).build((1, 8, 8), 1), method("maml"), Objective("regression")
    )
    meta = {key: p.double() for key, p in meta_learner.init(0).items()}
    size = torch.tensor([1, 2])
    x, y = torch.rand(2, 2, 1, 8, 8), torch.zeros(2, 2, 1)
    padded = Episode(x, y, x, y, support_size=size, query_size=size)
    for plan in (PLANS["at once"], PLANS["per task"]):
        with pytest.raises(ConfigError, match="without batch norm"):
            meta_gradient(meta_learner, meta, padded, plan)
    singles = [
        meta_gradient(
            meta_learner, meta, Episode(*(tensor[i : i + 1, : i + 1] for tensor in (x, y, x, y)))
        )
        for i in range(2)
    ]
    automatic = meta_gradient(meta_learner, meta, padded)
    for key in meta:
        expected = (singles[0].gradient[key] + singles[1].gradient[key]) / 2
        torch.testing.assert_close(automatic.gradient[key], expected, rtol=0, atol=TOLERANCE)


def test_fewer_shots_are_the_first_ones():
    padded = together(tasks("mlp"))
    fewer = padded.with_shots(2)
    assert torch.equal(
        fewer.support_x, padded.support_x[:, :2]
    ) and fewer.support_size.tolist() == [1, 2, 2, 2]
    assert torch.equal(fewer.query_x, padded.query_x)
    y = torch.arange(3).repeat_interleave(4)[None]
    classes = Episode(
        torch.arange(12.0)[None, :, None], y, torch.zeros(1, 3, 1), torch.arange(3)[None], ways=3
    )
    assert classes.with_shots(2).support_x[0, :, 0].tolist() == [
        0,
        1,
        4,
        5,
        8,
        9,
    ] and classes.with_shots(2).support_y.tolist() == [[0, 0, 1, 1, 2, 2]]


def test_melu_adapts_only_the_decision_layers():
    meta_learner, episode = learner("melu", "embeddings"), together(tasks("embeddings"))
    meta = {key: p.double() for key, p in meta_learner.init(0).items()}
    *_, theta = evaluation.adaptation_steps(meta_learner, meta, episode, 2)
    for key, p in theta.items():
        assert torch.equal(p, meta[key].expand_as(p)) == (key == "embedding.weight"), key
    moving = learner("maml", "embeddings")
    assert not torch.allclose(
        meta_gradient(meta_learner, meta, episode).loss, meta_gradient(moving, meta, episode).loss
    )


def test_melu_is_maml_where_there_are_no_embeddings():
    melu, maml = (learner(name, "mlp") for name in ("melu", "maml"))
    meta = {key: p.double() for key, p in melu.init(0).items()}
    actual, expected = (
        meta_gradient(meta_learner, meta, together(tasks("mlp"))) for meta_learner in (melu, maml)
    )
    assert all(torch.equal(actual.gradient[key], expected.gradient[key]) for key in meta)


COUNTS = torch.tensor([8, 5, 30, 6])


def sampler(**changes) -> TaskSampler:
    rows = torch.arange(int(COUNTS.sum()))
    options = {"seed": 0, "split": "train", "shots": 4, "queries": 10} | changes
    return TaskSampler(rows[:, None], rows.float(), COUNTS.cumsum(0) - COUNTS, COUNTS, **options)


@pytest.mark.parametrize("vary", [False, True])
def test_the_support_comes_first_and_no_query_before_it(vary):
    episode = sampler(vary_shots=vary)(torch.arange(400))
    starts = (COUNTS.cumsum(0) - COUNTS).tolist()
    supports, windows = set(), set()
    for i in range(400):
        k, m = int(episode.support_size[i]), int(episode.query_size[i])
        support, query = episode.support_x[i, :k, 0].tolist(), episode.query_x[i, :m, 0].tolist()
        task = starts.index(support[0])
        assert support == list(range(starts[task], starts[task] + k)), (
            "the first examples of a task, in their order"
        )
        assert (
            query == list(range(query[0], query[0] + m))
            and support[-1] < query[0]
            and query[-1] < starts[task] + COUNTS[task]
        )
        assert m == min(10, COUNTS[task] - k)
        assert episode.query_y[i, :m, 0].tolist() == query
        supports.add(k)
        windows.add((task, query[0] - support[-1]))
    assert supports == ({1, 2, 3, 4} if vary else {4})
    assert len([w for w in windows if w[0] == 2]) > 10, "queries of a large task begin anywhere"


def test_an_episode_does_not_depend_on_its_batch():
    ragged_sampler = sampler(vary_shots=True)
    batch = ragged_sampler(torch.arange(20))
    for i in (0, 7, 19):
        single = ragged_sampler(torch.tensor([i]))
        assert all(
            torch.equal(a, b[i : i + 1]) for a, b in zip(single.tensors, batch.tensors, strict=True)
        )
        assert single.noise == batch.noise[i] and single.support_size == batch.support_size[i]
    assert not torch.equal(
        ragged_sampler(torch.tensor([3])).support_x,
        sampler(vary_shots=True, seed=1)(torch.tensor([3])).support_x,
    )


def test_too_many_shots_are_an_error():
    with pytest.raises(
        ConfigError,
        match="shots is 5; it must be at most 4, one fewer than the smallest train task has",
    ):
        sampler(shots=5)
