"""Stage `episodes`: raw data -> prepared arrays, the class table, and the fixed validation and test episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from episodic.core import random_numbers
from episodic.core.config import require
from episodic.data import sampling, storage
from episodic.datasets.base import Images, Sinusoids, Tasks, Texts
from tasks import params
from tasks.prepared import FORMAT
from tasks.runtime import stage
from tasks.runtime.files import atomic_folder, digest, write_json


def run(settings: params.Settings, raw: Path, out: Path) -> None:
    """Write the folder described in docs/reference/files.md, section data/prepared."""
    chosen = settings.dataset
    data = chosen.config.prepare(raw, chosen.seed)
    with atomic_folder(out) as folder:
        make: Any = {Sinusoids: _sinusoids, Tasks: _tasks}.get(type(data), _classes)
        meta = {
            "format": FORMAT,
            "dataset": chosen.name,
            "kind": data.kind,
            "protocol": data.protocol,
        }
        meta |= {"inputs": data.inputs, "license": chosen.config.license}
        meta |= make(data, settings, folder)
        meta |= {
            key: getattr(settings.episodes, key) for key in ("ways", "shots", "queries", "seed")
        }
        write_json(folder / "meta.json", meta | {"data_digest": digest(folder)})


def _classes(data: Images | Texts, settings: params.Settings, folder: Path) -> dict[str, Any]:
    storage.save_examples(folder, _examples(data))
    outside = {}
    if isinstance(data, Texts):
        pd.DataFrame({"text": data.texts + data.outside}).to_parquet(
            folder / "texts.parquet", index=False
        )
        outside = {"outside": len(data.outside)} if data.outside else {}
    table = pd.DataFrame(
        {
            "class": data.classes,
            "group": data.groups,
            "split": data.splits,
            "count": data.counts.astype(np.int64),
        }
    )
    table.to_parquet(folder / "classes.parquet", index=False)
    offset, episodes = (table["count"].cumsum() - table["count"]).to_numpy(), settings.episodes
    for split, count in (("validation", episodes.validation), ("test", episodes.test)):
        rows = np.flatnonzero(table["split"] == split)
        groups = (
            sampling.ClassGroups.from_names(table["group"].to_numpy()[rows].tolist(), episodes.ways)
            if episodes.within_group
            else None
        )
        sampler = sampling.ClassSampler(
            torch.empty(0),
            torch.tensor(offset[rows]),
            torch.tensor(table["count"].to_numpy()[rows]),
            episodes.seed,
            split,
            episodes.ways,
            episodes.shots,
            episodes.queries,
            groups=groups,
        )
        classes, support, query = (part.numpy() for part in sampler.draw_rows(torch.arange(count)))
        columns: dict[str, Any] = {
            "episode": np.arange(count),
            "classes": list(rows[classes]),
            "support": list(support),
            "query": list(query),
        }
        pd.DataFrame(columns).to_parquet(folder / f"{split}.parquet", index=False)
    within = (
        {"protocol": f"{data.protocol}, each episode within {_groups(table, episodes.ways)}"}
        if episodes.within_group
        else {}
    )
    return (
        within
        | outside
        | {
            "input": list(data.input),
            "classes": table["split"].value_counts().sort_index().to_dict(),
        }
    )


def _examples(data: Images | Texts) -> Any:
    if not isinstance(data, Texts) or data.features.kind != "encoder":
        return data.examples
    with stage.ProgressReporter(
        "episodes", "sentences", len(data.texts) + len(data.outside)
    ) as progress:
        return data.encode(lambda what, done, total: progress.update(done, total))


def _groups(table: pd.DataFrame, ways: int) -> str:
    """`one of 8 groups (of 10)`: how many groups of test classes are large enough."""
    sizes = table[table["split"] == "test"].groupby("group").size()
    return f"one of {(sizes >= ways).sum()} groups (of {len(sizes)})"


def _sinusoids(data: Sinusoids, settings: params.Settings, folder: Path) -> dict[str, Any]:
    family, episodes = (
        {"amplitude": data.amplitude, "phase": data.phase, "x": data.x},
        settings.episodes,
    )
    for split, count in (("validation", episodes.validation), ("test", episodes.test)):
        sampler = sampling.SinusoidSampler(
            data.amplitude,
            data.phase,
            data.x,
            seed=episodes.seed,
            split=split,
            shots=episodes.shots,
            queries=episodes.queries,
        )
        amplitude, phase, x = (part.numpy() for part in sampler.draw_waves(torch.arange(count)))
        columns: dict[str, Any] = {
            "episode": np.arange(count),
            "amplitude": amplitude[:, 0],
            "phase": phase[:, 0],
        }
        columns |= {
            "support_x": list(x[:, : episodes.shots]),
            "query_x": list(x[:, episodes.shots :]),
        }
        pd.DataFrame(columns).to_parquet(folder / f"{split}.parquet", index=False)
    return {
        "input": [1],
        "classes": {},
        "family": {key: list(value) for key, value in family.items()},
    }


def _tasks(data: Tasks, settings: params.Settings, folder: Path) -> dict[str, Any]:
    """Of validation and test, each task once: its first examples as support set, and those that follow as query set."""
    storage.save_examples(folder, data.examples)
    np.save(folder / "targets.npy", data.targets)
    pd.DataFrame({"text": data.texts}).to_parquet(folder / "texts.parquet", index=False)
    table = pd.DataFrame({"task": data.names, "split": data.splits, "count": data.counts})
    table.to_parquet(folder / "tasks.parquet", index=False)
    table["offset"], episodes = table["count"].cumsum() - table["count"], settings.episodes
    require(
        episodes.shots < table["count"].min(),
        "episodes.shots",
        episodes.shots,
        f"must be below {table['count'].min()}, the examples of the smallest task",
    )
    longest = 0
    for split, count in (("validation", episodes.validation), ("test", episodes.test)):
        rows = table[table["split"] == split].reset_index(drop=True)
        bits = random_numbers.random_bits(
            random_numbers.key(episodes.seed, split), torch.zeros(1, dtype=torch.int64), len(rows)
        )
        rows = rows.iloc[random_numbers.sample_distinct(bits, len(rows), len(rows))[0].numpy()][
            :count
        ].reset_index(drop=True)
        query = (rows["count"] - episodes.shots).clip(upper=episodes.queries)
        fixed = {
            "episode": np.arange(len(rows)),
            "task": rows["task"],
            "offset": rows["offset"],
            "support": episodes.shots,
        }
        pd.DataFrame(fixed | {"skipped": 0, "query": query}).to_parquet(
            folder / f"{split}.parquet", index=False
        )
        longest = max(longest, int(query.max()))
    tasks = table["split"].value_counts().sort_index().to_dict()
    known = data.targets[np.repeat(table["split"] == "train", table["count"])].astype(np.float64)
    targets = {"mean": round(float(known.mean()), 6), "variance": round(float(known.var()), 6)}
    return {
        "input": list(data.input),
        "classes": {},
        "tasks": tasks,
        "longest": longest,
        "targets": targets,
    }


def main() -> None:
    args = stage.parser(
        __doc__, raw="folder written by the stage download", out="folder to write"
    ).parse_args()
    stage.run(lambda: run(params.load(args.params, "dataset", "episodes"), args.raw, args.out))


if __name__ == "__main__":
    main()
