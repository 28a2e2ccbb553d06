"""Stage `evaluate`: the trained model on the fixed test episodes, beside what puts it in proportion -> scores and metrics."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from episodic.core import float64
from episodic.core.model import Params
from episodic.engine import allocator
from episodic.engine.learner import BATCH_NORM, MetaLearner
from episodic.engine.processes import Group
from episodic.ops import backend
from episodic.training import evaluation, model_folder
from episodic.training.baselines import choose_fine_tuning_rate
from tasks import params, prepared
from tasks.evaluation import baselines, diagnostics, ratings, tables, task_space
from tasks.prepared import Prepared
from tasks.runtime import distributed, stage
from tasks.runtime.files import atomic_folder, write_json

RATE_EPISODES = 20
"""Validation episodes on which the rate of the baseline `random_init` is chosen."""

LARGE_NETWORK, TUNED = 1_000_000, 100
"""Of a network with more parameters than this, the baseline `random_init`, a training for each episode, sees so many test episodes."""

LARGE = 1 << 20
"""Numbers in the query sets of all test episodes from which more processes pay."""


def run(settings: params.Params, data: Path, model: Path, scores: Path, metrics: Path) -> None:
    """Writes the files described in docs/files.md, sections reports/scores and reports/metrics.json."""
    allocator.keep_freed()
    device = distributed.prepare_device(settings.device)
    source = prepared.read(data, device)
    found = model_folder.load(model, device)
    meta_learner, members, config = found.learner, found.members, found.config
    test, steps = (
        source.table("test"),
        evaluation.count_inner_steps(meta_learner, settings.evaluate.steps),
    )
    points = evaluation.curve_steps(meta_learner, steps)
    first = source.fixed(test[:1])
    meta_learner.at_test.accept(first)
    if source.kind == "classification":
        config = config | {
            "ways": source.meta["ways"]
        }  # of what is tested; a method may have been trained at others
    chunk, numbers = (
        settings.evaluate.chunk or evaluation.episodes_per_chunk(first),
        first.query_x.numel() * len(test),
    )
    sizes = [min(chunk, len(test) - start) for start in range(0, len(test), chunk)]
    known = ratings.Known(source) if source.given else None
    count = distributed.suited(settings.processes, len(sizes), large=numbers > LARGE, device=device)
    compiled = settings.evaluate.compiled and device.type == "cpu"
    if compiled:
        backend.prepare(device)
    with distributed.group(count, device) as group, backend.compiled(compiled):
        if group.rank == 0:
            stage.emit(
                "plan",
                stage="evaluate",
                episodes_at_once=chunk,
                processes=group.size,
                compiled=compiled,
            )
        curve, simpler = _scores(
            meta_learner,
            model_folder.build_baseline_learner(config),
            members,
            source,
            test,
            points,
            sizes,
            group,
            known,
        )
        labels = diagnostics.label_spread(meta_learner, members, source, test, steps, chunk, group)
        others = {"labels": labels} if labels else {}
        others |= diagnostics.rejection(
            meta_learner, members, source, test, curve, points.index(steps), steps, chunk, group
        )
        rated = (
            ratings.table(meta_learner, members, known, test, steps, chunk, group)
            if known
            else None
        )
        means = task_space.centroids(meta_learner, members[0], source, test, group)
        if group.rank:
            return
    _write(
        source,
        meta_learner,
        members,
        config,
        test,
        curve,
        points,
        steps,
        simpler,
        others,
        rated,
        means,
        scores,
        metrics,
    )


def _scores(
    meta_learner: MetaLearner,
    plain: MetaLearner,
    members: list[Params],
    source: Prepared,
    test: pd.DataFrame,
    points: list[int],
    sizes: list[int],
    group: Group,
    known: ratings.Known | None,
) -> tuple[evaluation.AdaptationCurve, dict[str, np.ndarray]]:
    """Every test episode after `points` inner steps, and its baselines; `sizes` episodes at once, the group's processes share."""
    examples = source.examples() if source.kind == "classification" or source.given else None
    read = (
        ratings.readers(known, test)
        if known
        else baselines.sentences(source, test)
        if source.texts()
        else None
    )
    tuned = TUNED if sum(p.numel() for p in members[0].values()) > LARGE_NETWORK else len(test)
    seed, starts = source.meta["seed"], [sum(sizes[:i]) for i in range(len(sizes))]
    rate = choose_fine_tuning_rate(
        plain, seed, source.fixed(source.table("validation")[:RATE_EPISODES], examples), group
    )
    layout: dict[str, torch.Size] = {}
    with stage.bar("evaluate", "episodes", len(test)) if group.rank == 0 else nullcontext() as bar:

        def one(i: int) -> torch.Tensor:
            episode = source.fixed(test[starts[i] : starts[i] + sizes[i]], examples)
            curve = evaluation.adaptation_curve(meta_learner, members, episode, points)
            parts = {
                f"{part} {mode}": value
                for part in ("score", "loss")
                for mode, value in getattr(curve, part).items()
            }
            parts |= {"outputs": curve.outputs.transpose(0, 1)}
            parts |= {
                f"baseline {name}": s
                for name, s in baselines.scores(
                    plain, episode, seed, rate, starts[i], source.meta["inputs"], read, tuned
                ).items()
            }
            layout.update({name: value.shape[1:] for name, value in parts.items()})
            if bar:
                bar.update(min(len(test), bar.done + episode.tasks * group.size))
            return torch.cat(
                [float64.double(value).reshape(len(value), -1) for value in parts.values()], 1
            )

        rows = group.rows(one, sizes)
    columns = rows.split([shape.numel() for shape in layout.values()], 1)
    found = {
        name: part.unflatten(1, shape) if shape else part[:, 0]
        for (name, shape), part in zip(layout.items(), columns, strict=True)
    }
    score, loss = (
        {mode: found[f"{part} {mode}"] for mode in BATCH_NORM} for part in ("score", "loss")
    )
    outputs = found["outputs"].to(torch.get_default_dtype()).transpose(0, 1)
    simpler = {
        name.removeprefix("baseline "): s.cpu().numpy()
        for name, s in found.items()
        if name.startswith("baseline ")
    }
    simpler["random_init"] = simpler["random_init"][:tuned]
    return evaluation.AdaptationCurve(score, loss, outputs), simpler


def _write(
    source: Prepared,
    meta_learner: MetaLearner,
    members: list[Params],
    config: dict[str, Any],
    test: pd.DataFrame,
    curve: evaluation.AdaptationCurve,
    points: list[int],
    steps: int,
    simpler: dict[str, np.ndarray],
    others: dict[str, Any],
    rated: ratings.Rated | None,
    means: torch.Tensor | None,
    scores: Path,
    metrics: Path,
) -> None:
    name = meta_learner.objective.score_name
    episodes = tables.episode_table(curve, points, name)
    compared = pd.concat(
        [
            pd.DataFrame({"method": method, "episode": np.arange(len(score)), name: score})
            for method, score in simpler.items()
        ]
    )
    headline = episodes.query(f"mode == '{meta_learner.batch_norm}' and step == {steps}")
    answers = pd.DataFrame()
    limit = tables.DIVERGED * source.meta.get("targets", {}).get("variance", 1.0)
    with atomic_folder(scores) as folder:
        episodes.to_parquet(folder / "episodes.parquet", index=False)
        tables.curve_table(episodes, name, limit).to_csv(folder / "curve.csv", index=False)
        compared.to_parquet(folder / "baselines.parquet", index=False)
        if source.kind == "classification":
            answers = tables.answers(
                source, test, curve.outputs[0], curve.outputs[points.index(steps)]
            )
            answers.to_parquet(folder / "answers.parquet", index=False)
            tables.class_table(source, test, answers).to_parquet(
                folder / "classes.parquet", index=False
            )
        elif rated is not None:
            rated.users.to_parquet(folder / "ratings.parquet", index=False)
            summary = ratings.summary(rated.users)
            summary.to_csv(folder / "ratings.csv", index=False)
            rated.lists.to_parquet(folder / "lists.parquet", index=False)
            others |= ratings.figures(summary)
        else:
            fits, support = tables.fits(meta_learner, members, source, test, headline)
            fits.to_parquet(folder / "fits.parquet", index=False)
            support.to_parquet(folder / "support.parquet", index=False)
        found = task_space.described(source, test, headline, answers, means)
        for part, table in found.tables.items():
            table.to_parquet(folder / f"{part}.parquet", index=False)
    figures = (
        tables.metrics(episodes, compared, name, meta_learner.batch_norm, steps, config, limit)
        | others
        | found.metrics
    )
    write_json(metrics, _finite(figures))


def _finite(value: Any) -> Any:
    """JSON knows no infinity: null in its place."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    parser = stage.parser(
        __doc__,
        data="folder written by the stage episodes",
        model="folder written by the stage train",
        scores="folder to write: tables of scores",
        metrics="file to write: the headline figures as JSON",
    )
    args = parser.parse_args()
    stage.run(
        lambda: run(
            params.load(args.params, "evaluate"), args.data, args.model, args.scores, args.metrics
        )
    )


if __name__ == "__main__":
    main()
