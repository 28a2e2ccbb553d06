"""Stage `evaluate`: score the trained model and its baselines on the fixed test episodes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from episodic.engine import allocator
from episodic.engine.processes import ProcessGroup
from episodic.ops import backend
from tasks import params, prepared
from tasks.evaluation import (
    baselines,
    calibration,
    diagnostics,
    ratings,
    reliability,
    tables,
    task_space,
)
from tasks.evaluation.baselines import EpisodeBaselines
from tasks.evaluation.evaluation import EvaluationSetup
from tasks.evaluation.results import EpisodeResults, measure_episodes
from tasks.runtime import distributed, stage
from tasks.runtime.files import atomic_folder, write_json

LARGE_WORK = 1 << 20
"""Number of values in all query sets above which several processes are worthwhile."""


@dataclass(frozen=True)
class Measurements:
    """Results that the processes of the stage compute together and the first one writes.

    Attributes:
        results: Scores and outputs of every test episode.
        diagnostics: Entries of metrics.json.
        sizes: Predictions for the test episodes of each size, for classification.
        ratings: Errors of rating prediction, for a dataset of ratings.
        class_embeddings: The test classes in the learned space `(classes, width)`, for
            classification.
    """

    results: EpisodeResults
    diagnostics: dict[str, Any]
    sizes: list[reliability.SizeResults]
    ratings: ratings.RatingResults | None
    class_embeddings: torch.Tensor | None


def run(settings: params.Settings, data: Path, model: Path, scores: Path, metrics: Path) -> None:
    """Write reports/scores and reports/metrics.json, which docs/reference/files.md describes."""
    allocator.keep_freed_memory()
    device = distributed.prepare_device(settings.device)
    source = prepared.open_folder(data, device)
    evaluation = EvaluationSetup.load(settings.evaluate, source, model)
    table = ratings.RatingTable(source) if source.has_recorded_tasks else None
    count = distributed.count_processes(
        settings.processes,
        len(evaluation.chunks),
        is_large=evaluation.query_numbers > LARGE_WORK,
        device=device,
    )
    compiled = settings.evaluate.compiled and device.type == "cpu"
    if compiled:
        backend.prepare_compiled_kernels(device)
    with (
        distributed.start_processes(count, device) as group,
        backend.use_compiled_kernels(compiled),
    ):
        if group.rank == 0:
            stage.emit(
                "plan",
                stage="evaluate",
                episodes_at_once=evaluation.chunk,
                processes=group.size,
                compiled=compiled,
            )
        measurements = _measure(evaluation, table, group)
        if group.rank:
            return
    _write(evaluation, measurements, scores, metrics)


def _measure(
    evaluation: EvaluationSetup, table: ratings.RatingTable | None, group: ProcessGroup
) -> Measurements:
    row_baselines = None
    if table:
        row_baselines = ratings.fit_rating_baselines(table, evaluation.test)
    elif evaluation.source.read_texts():
        row_baselines = baselines.fit_sentence_baselines(evaluation)
    episode_baselines = EpisodeBaselines.prepare(evaluation, row_baselines, group)
    results = measure_episodes(evaluation, episode_baselines, group)
    labels = diagnostics.measure_label_permutations(evaluation, group)
    sizes = reliability.measure_sizes(evaluation, group)
    rated = ratings.measure_ratings(evaluation, table, group) if table else None
    embeddings = task_space.embed_classes(evaluation, group)
    return Measurements(results, labels, sizes, rated, embeddings)


def _write(
    evaluation: EvaluationSetup, measurements: Measurements, scores: Path, metrics: Path
) -> None:
    source, test, results = evaluation.source, evaluation.test, measurements.results
    learner = evaluation.trained.learner
    name = learner.objective.score_name
    episodes = tables.build_episode_table(results, evaluation.step_counts, name)
    compared = tables.build_baseline_table(results, name)
    headline = episodes.query(f"mode == '{learner.batch_norm}' and step == {evaluation.steps}")
    limit = tables.DIVERGED * source.meta.get("targets", {}).get("variance", 1.0)
    entries = tables.compute_headline_metrics(evaluation, episodes, compared, limit)
    entries |= measurements.diagnostics
    predictions = pd.DataFrame()
    with atomic_folder(scores) as folder:
        episodes.to_parquet(folder / "episodes.parquet", index=False)
        tables.build_curve_table(episodes, name, limit).to_csv(folder / "curve.csv", index=False)
        compared.to_parquet(folder / "baselines.parquet", index=False)
        if source.kind == "classification":
            predictions = tables.build_prediction_table(evaluation, results)
            predictions.to_parquet(folder / "answers.parquet", index=False)
            scaling = calibration.read_calibration(evaluation)
            calibrated, bins = calibration.measure_calibration(
                predictions, scaling, source.meta["seed"]
            )
            entries |= calibrated
            bins.to_csv(folder / "reliability.csv", index=False)
            if measurements.sizes:
                entries |= _write_reliability(measurements.sizes, source.meta["seed"], folder)
            classes = tables.build_class_table(evaluation, predictions)
            classes.to_parquet(folder / "classes.parquet", index=False)
        elif measurements.ratings is not None:
            users = measurements.ratings.users
            users.to_parquet(folder / "ratings.parquet", index=False)
            summary = ratings.summarize_users(users)
            summary.to_csv(folder / "ratings.csv", index=False)
            measurements.ratings.lists.to_parquet(folder / "lists.parquet", index=False)
            entries |= ratings.build_rating_entry(summary)
        else:
            fits, support = tables.build_fit_tables(evaluation, headline)
            fits.to_parquet(folder / "fits.parquet", index=False)
            support.to_parquet(folder / "support.parquet", index=False)
        space = task_space.describe_tasks(
            source, test, headline, predictions, measurements.class_embeddings
        )
        for name, table in space.tables.items():
            table.to_parquet(folder / f"{name}.parquet", index=False)
    write_json(metrics, replace_infinite(entries | space.metrics))


def _write_reliability(
    sizes: list[reliability.SizeResults], seed: int, folder: Path
) -> dict[str, Any]:
    """Write the tables of unknown classes and prediction sets, and return their metrics."""
    queries = [reliability.build_open_table(of_size) for of_size in sizes]
    queries[0].to_parquet(folder / "open.parquet", index=False)
    measured = [
        reliability.measure_unknown(table, of_size.fitted, seed)
        for table, of_size in zip(queries, sizes, strict=True)
    ]
    entries = [entry for entry, _ in measured]
    table = reliability.build_size_table(sizes, entries, seed)
    table.to_csv(folder / "sizes.csv", index=False)
    sets = {"sets": reliability.summarize_sets(sizes[0])}
    unknown, detection = measured[0]
    if not unknown:
        return sets
    detection.to_csv(folder / "detection.csv", index=False)
    selective = reliability.build_selective_table(queries[0], unknown["score"], seed)
    selective.to_csv(folder / "selective.csv", index=False)
    return sets | {"unknown": unknown}


def replace_infinite(value: Any) -> Any:
    """Replace numbers that JSON cannot represent, infinity and NaN, by null."""
    if isinstance(value, dict):
        return {key: replace_infinite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    parser = stage.build_parser(
        __doc__,
        data="folder written by the stage episodes",
        model="folder written by the stage train",
        scores="folder to write: tables of scores",
        metrics="file to write: the headline metrics as JSON",
    )
    args = parser.parse_args()
    stage.run(
        lambda: run(
            params.load(args.params, "evaluate"), args.data, args.model, args.scores, args.metrics
        )
    )


if __name__ == "__main__":
    main()
