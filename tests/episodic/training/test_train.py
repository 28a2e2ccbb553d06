"""Meta-training learns, is deterministic, and resumes to the same bytes."""

from __future__ import annotations

import gc
import json
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import needs_compiler

from episodic.algorithms import fomaml, maml
from episodic.core import checkpoint
from episodic.core.objective import Objective
from episodic.data.sampling import ClassSampler, SinusoidSampler
from episodic.engine import cuda_graph, plan
from episodic.engine.learner import MetaLearner
from episodic.models import conv4, mlp
from episodic.training import baselines, evaluation, loop
from episodic.training.config import TrainingConfig
from episodic.training.state import TrainingState

CONFIG = TrainingConfig(
    iterations=45, meta_batch=4, queries=5, validate_every=15, checkpoint_every=10, meta_lr=0.01
)


def sines(split: str) -> SinusoidSampler:
    return SinusoidSampler((0.1, 5.0), (0.0, math.pi), (-5.0, 5.0), 0, split, shots=5, queries=5)


def meta_learner(method=maml.MAML, inner_lr: float = 0.01) -> MetaLearner:
    network = mlp.MLP((20, 20)).build((1,), 1)
    return MetaLearner(network, method(inner_lr, 1), Objective("regression"))


def run(config: TrainingConfig = CONFIG, method=maml.MAML, **options) -> loop.TrainingResult:
    return loop.train(
        meta_learner(method),
        sines("train"),
        sines("validation")(torch.arange(20)),
        config,
        **options,
    )


def equal(a: loop.TrainingResult, b: loop.TrainingResult) -> bool:
    weights = all(torch.equal(a.theta[name], b.theta[name]) for name in a.theta)
    # As text: the order of a row's columns is part of the bytes.
    return (
        weights
        and json.dumps(vars(a.history)) == json.dumps(vars(b.history))
        and a.score == b.score
    )


class Killed(Exception):
    pass


@pytest.mark.parametrize("kill_at", [4, 23, 40])
def test_a_killed_training_ends_with_the_same_bytes(tmp_path, kill_at):
    path = tmp_path / "state.safetensors"
    iterations = []

    def killer(iteration, figures):
        if iteration == kill_at:
            raise Killed

    with pytest.raises(Killed):
        run(checkpoint_path=path, on_progress=killer)
    result = run(
        checkpoint_path=path, on_progress=lambda iteration, figures: iterations.append(iteration)
    )
    # At kill_at the callback comes after the checkpoint of that very iteration.
    last = kill_at // 10 * 10
    assert result.resumed_at == last
    assert iterations == list(range(last + 1, 46)), "the remaining iterations ran"
    assert equal(result, run())


def test_training_is_deterministic_and_seed_changes_result():
    assert equal(run(), run())
    assert not equal(run(), run(replace(CONFIG, seed=1)))


def test_checkpoint_bytes_are_the_same_every_time(tmp_path):
    for name in ("a", "b"):
        run(checkpoint_path=tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("method", [maml.MAML, fomaml.FOMAML])
def test_meta_training_reduces_the_error_after_one_step(method):
    """After 300 iterations the error after one step is well below that of two baselines.

    The baselines are the untrained network and the prediction 0.
    """
    config = TrainingConfig(
        iterations=300, meta_batch=10, queries=10, validate_every=150, meta_lr=0.005
    )
    result = run(config, method)
    test = sines("test")(torch.arange(300))
    learner = meta_learner(method)
    trained, _ = evaluation.episode_scores(learner, result.theta, test, 1, 100)
    untrained, _ = evaluation.episode_scores(learner, learner.init(0), test, 1, 100)
    zero = baselines.constant_prediction_errors(test, torch.zeros(())).numpy()
    margin = 1.96 * np.sqrt(trained.var() / 300 + zero.var() / 300)
    assert trained.mean() + margin < min(untrained.mean(), zero.mean())


def validated_again(theta, chunk: int | None = None) -> float:
    learner = meta_learner()
    return evaluation.episode_scores(
        learner,
        theta,
        sines("validation")(torch.arange(20)),
        learner.test_variant.algorithm.inner_steps,
        chunk,
    )[0].mean()


@pytest.mark.parametrize("ensemble", [2, 5])
def test_the_best_checkpoints_are_kept_the_best_first_and_resumed(ensemble, tmp_path):
    config, path = (
        replace(CONFIG, ensemble=ensemble, validate_every=9),
        tmp_path / "state.safetensors",
    )

    def killer(iteration, figures):
        if iteration == 33:
            raise Killed

    with pytest.raises(Killed):
        run(config, checkpoint_path=path, on_progress=killer)
    result = run(config, checkpoint_path=path)
    validated = sorted(row["mse"] for row in result.history.validation)
    assert len(validated) == 5 and len(result.members) == ensemble
    scores = [validated_again(member) for member in result.members]
    np.testing.assert_allclose(scores, validated[:ensemble], rtol=1e-5)
    assert all(torch.equal(result.members[0][name], p) for name, p in result.theta.items())
    whole = run(config)
    assert equal(result, whole)
    for a, b in zip(result.members, whole.members, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_best_checkpoint_is_the_best_validation(tmp_path):
    result = run(replace(CONFIG, meta_lr=0.1))  # a rate at which validation gets worse again
    rows = result.history.validation
    scores = [row["mse"] for row in rows]
    assert (
        result.score == min(scores)
        and result.iteration == rows[scores.index(min(scores))]["iteration"]
    )
    assert [row["best"] for row in rows] == [
        int(score < min(scores[:i], default=math.inf)) for i, score in enumerate(scores)
    ]
    assert validated_again(result.theta, chunk=25) == result.score


def test_ties_keep_the_later_checkpoint_but_exhaust_patience(monkeypatch):
    monkeypatch.setattr(
        evaluation, "episode_scores", lambda *args, **kwargs: (np.full(20, 0.5), np.ones(20))
    )
    result = run(replace(CONFIG, validate_every=9, ensemble=2, patience=3))
    assert [row["best"] for row in result.history.validation] == [1, 1, 1, 1]
    assert result.iteration == result.iterations == 36
    state = TrainingState.initial(meta_learner(), replace(CONFIG, ensemble=2), torch.device("cpu"))
    positions = [
        state.insert_checkpoint(score, Objective("classification"))
        for score in (0.5, 0.7, 0.7, 0.6, 0.1)
    ]
    assert positions == [0, 0, 0, 2, 2] and state.best_scores == [0.7, 0.7]


def test_a_validation_whose_loss_is_not_finite_is_never_the_best(monkeypatch):
    """Accuracy is finite even if the outputs are not."""
    monkeypatch.setattr(
        evaluation,
        "episode_scores",
        lambda *args, **kwargs: (np.full(20, 0.2), np.full(20, math.nan)),
    )
    with pytest.raises(loop.DivergedError, match="no validation had a finite loss"):
        run()


def test_algorithms_get_the_progress_of_training():
    """Algorithms get the progress of training, the fraction done before each iteration."""
    progresses: list[float] = []

    class Told(maml.MAML):
        def inner_loop(self, learner, meta, episode, progress):
            progresses.append(progress)
            return super().inner_loop(learner, meta, episode, progress)

    learner = replace(meta_learner(), algorithm=Told(0.01, 1))
    config = replace(CONFIG, iterations=20, validate_every=100)
    loop.train(
        learner,
        sines("train"),
        sines("validation")(torch.arange(20)),
        config,
        plan=plan.Plan("batched", 4, 4, ""),
    )
    assert progresses[:20] == [i / 20 for i in range(20)] and set(progresses[20:]) == {1.0}, (
        "and in validation as at the end"
    )


def test_patience_stops_early():
    result = run(replace(CONFIG, meta_lr=3.0, iterations=500, validate_every=5, patience=2))
    assert result.iterations < 500
    assert [row["best"] for row in result.history.validation][-2:] == [0, 0]


def test_schedule_and_clip():
    cosine = TrainingConfig(iterations=100, meta_lr=0.5)
    assert (
        cosine.rate(0) == 0.5 and cosine.rate(50) == pytest.approx(0.25) and cosine.rate(99) < 0.001
    )
    assert replace(cosine, schedule="constant").rate(99) == 0.5
    assert not equal(run(), run(replace(CONFIG, gradient_clip=0.01)))
    assert equal(run(), run(replace(CONFIG, gradient_clip=1e9)))


def test_divergence_names_the_iteration_and_keeps_the_last_good_state(tmp_path):
    path = tmp_path / "state.safetensors"

    class Poisoned:
        def __call__(self, index):
            episode = sines("train")(index)
            bad = (index == 4 * 26)[:, None, None]  # the 27th iteration's first task
            return episode._replace(query_y=torch.where(bad, torch.nan, episode.query_y))

    with pytest.raises(
        loop.DivergedError,
        match=r"iteration 27: .*lower inner_lr or train.meta_lr.*last valid state is .*state",
    ):
        loop.train(
            meta_learner(),
            Poisoned(),
            sines("validation")(torch.arange(20)),
            CONFIG,
            checkpoint_path=path,
        )
    tensors, description = checkpoint.load(path)
    assert description["iteration"] == 20
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    run(checkpoint_path=path)
    other = MetaLearner(
        mlp.MLP((20, 20, 20)).build((1,), 1),
        maml.MAML(),
        Objective("regression"),
    )
    with pytest.raises(checkpoint.CheckpointError, match="belongs to another model"):
        loop.train(
            other,
            sines("train"),
            sines("validation")(torch.arange(20)),
            replace(CONFIG, iterations=90),
            checkpoint_path=path,
        )


def test_files_that_are_no_checkpoint_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(checkpoint.CheckpointError, match=r"the checkpoint \S+ does not exist"):
        checkpoint.load(path)
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(checkpoint.CheckpointError, match="is not a valid checkpoint"):
        checkpoint.load(path)
    expected = {"a": torch.zeros(2)}
    for tensors, message in (
        ({}, "lacks a"),
        ({"a": torch.zeros(2), "b": torch.zeros(1)}, "contains b, which the model does not have"),
        ({"a": torch.zeros(3)}, r"a has shape \[3\]"),
        ({"a": torch.tensor([0.0, torch.nan])}, "not finite"),
    ):
        with pytest.raises(checkpoint.CheckpointError, match=message):
            checkpoint.match_tensors(tensors, expected, path)


def test_the_body_of_a_cuda_graph_is_the_iteration(monkeypatch):
    """Training with iteration and rate in tensors equals training with Python numbers."""
    rates = torch.tensor([CONFIG.rate(i) for i in range(CONFIG.iterations)], dtype=torch.float64)
    seen = []

    def from_tensors(learner, sampler, state, config, device, plan, group):
        run_eager = original(learner, sampler, state, config, device, plan, group)
        number = torch.full((), state.iteration, dtype=torch.int64)

        def update(tasks, rate):
            assert torch.equal(tasks, torch.arange(state.iteration * 4, state.iteration * 4 + 4))
            assert float(rate) == config.rate(state.iteration)
            seen.append(state.iteration)
            return run_eager()

        return lambda: cuda_graph.run_iteration(update, number, rates, config.meta_batch)

    original = loop.build_iteration
    monkeypatch.setattr(loop, "build_iteration", from_tensors)
    result = run()
    monkeypatch.undo()
    assert seen == list(range(45)) and equal(result, run())


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device to capture a graph on"
)
def test_training_by_cuda_graph_is_training_without(monkeypatch):
    def on_gpu():
        sampler = replace(sines("train"), device="cuda")
        validation = replace(sines("validation"), device="cuda")(torch.arange(20))
        return loop.train(meta_learner(), sampler, validation, CONFIG)

    captured = on_gpu()
    monkeypatch.setattr(
        cuda_graph,
        "iteration",
        lambda update, state, first, rates, meta_batch: eagerly(update, first, rates, meta_batch),
    )
    uncaptured = on_gpu()
    for name, p in uncaptured.theta.items():
        torch.testing.assert_close(captured.theta[name], p, rtol=1e-5, atol=1e-6)


def eagerly(update, first, rates, meta_batch):
    number = torch.full((), first, dtype=torch.int64, device=rates.device)
    return lambda: cuda_graph.run_iteration(update, number, rates, meta_batch)


def glyph_like(split: str) -> ClassSampler:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8 * 6, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ClassSampler(images, torch.arange(8) * 6, torch.full((8,), 6), 0, split, 3, 1, 2)


@pytest.mark.parametrize(
    "mode", ["batched", "per_task", pytest.param("compiled", marks=needs_compiler)]
)
def test_resuming_gives_the_same_bytes_in_each_plan(mode, tmp_path):
    learner = MetaLearner(
        conv4.Conv4(4, 2).build((1, 8, 8), 3),
        maml.MAML(),
        Objective("classification"),
    )
    chosen = plan.PlanConfig(mode) if mode == "per_task" else plan.PlanConfig(mode, shard=2)
    config = TrainingConfig(
        iterations=12, meta_batch=4, queries=2, validate_every=6, checkpoint_every=5, plan=chosen
    )
    validation = glyph_like("validation")(torch.arange(5))

    def killer(iteration, figures):
        if iteration == 8:
            raise Killed

    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        loop.train(
            learner,
            glyph_like("train"),
            validation,
            config,
            checkpoint_path=path,
            on_progress=killer,
        )
    resumed = loop.train(learner, glyph_like("train"), validation, config, checkpoint_path=path)
    assert resumed.resumed_at == 5
    assert equal(resumed, loop.train(learner, glyph_like("train"), validation, config))


def test_cuda_graph_inputs_live_as_long_as_the_graph(monkeypatch):
    """A CUDA graph does not hold its inputs, so the replay must. A stub replaces CUDA."""

    class Stub:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        wait_stream = replay = __init__

    for name in ("Stream", "CUDAGraph", "graph", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Stub)
    seen = []

    def update(tasks, rate):
        seen.append(weakref.ref(tasks))
        return rate.clone()

    rates = torch.ones(5)
    reads = [weakref.ref(rates), weakref.ref(update)]
    full = torch.full
    monkeypatch.setattr(
        torch,
        "full",
        lambda *a, **k: (tensor := full(*a, **k), reads.append(weakref.ref(tensor)))[0],
    )  # the number
    captured = cuda_graph.capture_iteration(update, [], 0, rates, 4)
    del rates, update
    gc.collect()
    assert len(reads) == 3 and all(read() is not None for read in reads), "held by the replay"
    assert len(seen) == cuda_graph.WARM_UP_CALLS + 1 and torch.equal(captured(), torch.ones(()))
    del captured
    gc.collect()
    assert all(read() is None for read in reads), "and by nothing else"
