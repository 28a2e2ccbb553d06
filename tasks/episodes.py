"""Stage `episodes`: raw data -> prepared examples and the fixed validation and test episodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from episodic.core import random_numbers
from episodic.core.blocks import iterate_blocks, save_images
from episodic.core.config import require
from episodic.data import sampling, storage
from episodic.data.unknown_queries import draw_unknown_rows
from episodic.data.varied_sampling import VariedClassSampler
from episodic.datasets.base import Images, PreparedData, Sinusoids, Tasks, Texts
from episodic.preprocessing.images.reading import array_to_image
from tasks import params
from tasks.prepared import FORMAT, add_offsets, name_episodes
from tasks.runtime import stage
from tasks.runtime.files import atomic_folder, compute_digest, write_json

THUMBNAIL = 64
"""Height and width of the images that reports show, in pixels."""

AUTOMATIC_SHOTS = (1, 5)
"""Shots of the further sizes of fixed episodes that are not chosen by the user."""


def run(settings: params.Settings, raw: Path, out: Path) -> None:
    """Write the folder data/prepared, which docs/reference/files.md describes.

    Args:
        settings: Settings with the sections `dataset` and `episodes`.
        raw: The folder that the stage `download` wrote.
        out: The folder to write.
    """
    dataset = settings.dataset
    write(settings, dataset.config.prepare(raw, dataset.seed), out)


def write(settings: params.Settings, data: PreparedData, out: Path) -> None:
    """Write the examples of a dataset and the fixed episodes.

    Args:
        settings: Settings with the sections `dataset` and `episodes`.
        data: The dataset.
        out: The folder to write.
    """
    dataset = settings.dataset
    with atomic_folder(out) as folder:
        if isinstance(data, Sinusoids):
            details = _write_sinusoids(data, settings.episodes, folder)
        elif isinstance(data, Tasks):
            details = _write_tasks(data, settings.episodes, folder)
        else:
            details = _write_classes(data, settings.episodes, folder)
        meta = {
            "format": FORMAT,
            "dataset": dataset.name,
            "kind": data.kind,
            "protocol": data.protocol,
            "inputs": data.inputs,
            "license": dataset.config.license,
            **details,
        }
        episodes = settings.episodes
        meta |= {"ways": episodes.ways_bounds[1], "shots": episodes.shots_bounds[1]}
        meta |= {"queries": episodes.queries, "seed": episodes.seed}
        if episodes.is_varied:
            meta["varied"] = {
                "ways": episodes.ways_bounds,
                "shots": episodes.shots_bounds,
                "unbalanced": episodes.unbalanced,
            }
        write_json(folder / "meta.json", meta | {"data_digest": compute_digest(folder)})


def _fixed_splits(episodes: params.Episodes) -> Iterator[tuple[str, int]]:
    """Yield the splits with fixed episodes, and the number of these."""
    yield "validation", episodes.validation
    yield "test", episodes.test


def _write_classes(data: Images | Texts, episodes: params.Episodes, folder: Path) -> dict[str, Any]:
    """Write the examples, the class table and the fixed episodes."""
    storage.save_examples(folder, _encode(data))
    details: dict[str, Any] = {"input": list(data.input)}
    if isinstance(data, Images) and data.is_encoded:
        save_thumbnails(folder / storage.THUMBNAILS, data.images, data.inverted)
    if isinstance(data, Texts):
        texts = pd.DataFrame({"text": data.texts + data.outside})
        texts.to_parquet(folder / "texts.parquet", index=False)
        if data.outside:
            details["outside"] = len(data.outside)
    table = pd.DataFrame(
        {
            "class": data.classes,
            "group": data.groups,
            "split": data.splits,
            "count": data.counts.astype(np.int64),
        }
    )
    table.to_parquet(folder / "classes.parquet", index=False)
    other_sizes = _choose_other_sizes(table, episodes)
    for size in (None, *other_sizes):
        _write_class_episodes(table, episodes, folder, size)
    details["other_sizes"] = other_sizes
    if episodes.within_group:
        within = _describe_groups(table, episodes.ways_bounds[1])
        details["protocol"] = f"{data.protocol}, each episode within {within}"
    if episodes.query_balance is not None:
        details["query_balance"] = episodes.query_balance
    return details | {"classes": table["split"].value_counts().sort_index().to_dict()}


def _choose_other_sizes(table: pd.DataFrame, episodes: params.Episodes) -> list[tuple[int, int]]:
    """Return the further sizes of fixed episodes; by default 1 and 5 shots, where possible."""
    if episodes.other_sizes is not None:
        return list(episodes.other_sizes)
    if episodes.is_varied:
        return []
    smallest = table.loc[table["split"] != "train", "count"].min()
    ways, shots = episodes.ways_bounds[1], episodes.shots_bounds[1]
    return [
        (ways, other)
        for other in AUTOMATIC_SHOTS
        if other != shots and other + episodes.queries <= smallest
    ]


def _write_class_episodes(
    table: pd.DataFrame, episodes: params.Episodes, folder: Path, size: tuple[int, int] | None
) -> None:
    """Draw the fixed episodes of each split from the class table, and write their rows.

    Args:
        table: The class table.
        episodes: The settings.
        folder: The folder to write to.
        size: Ways and shots, one of the further sizes; None for those of the settings.
    """
    ways, shots = size or (episodes.ways_bounds[1], episodes.shots_bounds[1])
    for split, count in _fixed_splits(episodes):
        classes_of_split = add_offsets(table)[table["split"] == split]
        groups = None
        if episodes.within_group:
            names = classes_of_split["group"].to_list()
            groups = sampling.ClassGroups.from_names(names, ways)
        sampler = sampling.ClassSampler(
            torch.empty(0),
            torch.tensor(classes_of_split["offset"].to_numpy()),
            torch.tensor(classes_of_split["count"].to_numpy()),
            episodes.seed,
            name_episodes(split, size),
            ways,
            shots,
            episodes.queries,
            groups=groups,
            query_balance=episodes.query_balance,
        )
        index = torch.arange(count)
        rows_of_split = classes_of_split.index.to_numpy()
        columns: dict[str, Any] = {"episode": np.arange(count)}
        if episodes.is_varied and size is None:
            varied = VariedClassSampler(
                sampler, episodes.ways_bounds, episodes.shots_bounds, episodes.unbalanced
            )
            positions, support, query, shots_of_class = varied.draw_rows(index)
            columns["shots"] = [counts.numpy() for counts in shots_of_class]
        else:
            positions, support, query = map(list, sampler.draw_rows(index))
        columns |= {
            "classes": [rows_of_split[of_episode.numpy()] for of_episode in positions],
            "support": [rows.numpy() for rows in support],
            "query": [rows.numpy() for rows in query],
        }
        if episodes.query_balance is not None:
            columns["query_counts"] = list(sampler.draw_query_counts(index).numpy())
        unknown = round(ways * episodes.queries * episodes.open / (1 - episodes.open))
        if unknown and ways < len(classes_of_split):
            padded = pad_sequence(positions, batch_first=True, padding_value=len(classes_of_split))
            rows = draw_unknown_rows(
                padded, sampler.offsets, sampler.counts, unknown, episodes.seed, sampler.split
            )
            columns["unknown"] = list(rows.numpy())
        elif unknown:
            stage.emit("no queries of unknown classes", stage="episodes", split=split, classes=ways)
        path = folder / f"{name_episodes(split, size)}.parquet"
        pd.DataFrame(columns).to_parquet(path, index=False)


def _encode(data: Images | Texts) -> Any:
    """Return the examples, with a progress bar while a pretrained encoder computes them."""
    if not data.is_encoded:
        return data.encode()
    what, total = (
        ("sentences", len(data.texts) + len(data.outside))
        if isinstance(data, Texts)
        else ("images", len(data.images))
    )
    with stage.ProgressReporter("episodes", what, total) as progress:
        return data.encode(lambda what, done, total: progress.update(done, total))


def save_thumbnails(path: Path, images: NDArray[np.uint8], inverted: bool = False) -> None:
    """Write small versions of images for the reports, uint8 `(N, 3, S, S)`, dark on light."""
    side = min(THUMBNAIL, *images.shape[2:])

    def shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        image = array_to_image(255 - pixels if inverted else pixels).resize((side, side))
        return np.asarray(image).transpose(2, 0, 1)

    blocks = (np.stack([shrink(p) for p in block]) for block in iterate_blocks(images))
    save_images(path, (len(images), 3, side, side), blocks)


def _describe_groups(table: pd.DataFrame, ways: int) -> str:
    """Return how many groups of test classes are large enough: `one of 8 groups (of 10)`."""
    sizes = table[table["split"] == "test"].groupby("group").size()
    return f"one of {(sizes >= ways).sum()} groups (of {len(sizes)})"


def _write_sinusoids(data: Sinusoids, episodes: params.Episodes, folder: Path) -> dict[str, Any]:
    """Write the parameters and the inputs of each fixed episode."""
    for split, count in _fixed_splits(episodes):
        sampler = sampling.SinusoidSampler(
            data.amplitude,
            data.phase,
            data.x,
            seed=episodes.seed,
            split=split,
            shots=episodes.shots_bounds[1],
            queries=episodes.queries,
        )
        amplitude, phase, x = (t.numpy() for t in sampler.draw_waves(torch.arange(count)))
        columns: dict[str, Any] = {
            "episode": np.arange(count),
            "amplitude": amplitude[:, 0],
            "phase": phase[:, 0],
            "support_x": list(x[:, : episodes.shots_bounds[1]]),
            "query_x": list(x[:, episodes.shots_bounds[1] :]),
        }
        pd.DataFrame(columns).to_parquet(folder / f"{split}.parquet", index=False)
    family = {"amplitude": list(data.amplitude), "phase": list(data.phase), "x": list(data.x)}
    return {"input": [1], "classes": {}, "family": family}


def _write_tasks(data: Tasks, episodes: params.Episodes, folder: Path) -> dict[str, Any]:
    """Write the examples, the targets, the task table and the row ranges of each fixed episode.

    Validation and test use each task once. Its first examples are the support set, those that
    follow the query set.
    """
    storage.save_examples(folder, data.examples)
    np.save(folder / "targets.npy", data.targets)
    pd.DataFrame({"text": data.texts}).to_parquet(folder / "texts.parquet", index=False)
    table = pd.DataFrame({"task": data.names, "split": data.splits, "count": data.counts})
    table.to_parquet(folder / "tasks.parquet", index=False)
    table = add_offsets(table)
    smallest = table["count"].min()
    require(
        episodes.shots_bounds[1] < smallest,
        "episodes.shots",
        episodes.shots_bounds[1],
        f"must be below {smallest}, the examples of the smallest task",
    )
    longest = 0
    for split, count in _fixed_splits(episodes):
        tasks = table[table["split"] == split]
        key = random_numbers.key(episodes.seed, split)
        bits = random_numbers.random_bits(key, torch.zeros(1, dtype=torch.int64), len(tasks))
        order = random_numbers.sample_distinct(bits, len(tasks), len(tasks))[0].numpy()
        tasks = tasks.iloc[order][:count].reset_index(drop=True)
        query = (tasks["count"] - episodes.shots_bounds[1]).clip(upper=episodes.queries)
        columns = {
            "episode": np.arange(len(tasks)),
            "task": tasks["task"],
            "offset": tasks["offset"],
            "support": episodes.shots_bounds[1],
            "skipped": 0,
            "query": query,
        }
        pd.DataFrame(columns).to_parquet(folder / f"{split}.parquet", index=False)
        longest = max(longest, int(query.max()))
    is_train = np.repeat(table["split"] == "train", table["count"])
    known = data.targets[is_train].astype(np.float64)
    return {
        "input": list(data.input),
        "classes": {},
        "tasks": table["split"].value_counts().sort_index().to_dict(),
        "longest": longest,
        "targets": {
            "mean": round(float(known.mean()), 6),
            "variance": round(float(known.var()), 6),
        },
    }


def main() -> None:
    args = stage.build_parser(
        __doc__, raw="folder written by the stage download", out="folder to write"
    ).parse_args()
    stage.run(lambda: run(params.load(args.params, "dataset", "episodes"), args.raw, args.out))


if __name__ == "__main__":
    main()
