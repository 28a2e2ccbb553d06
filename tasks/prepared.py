"""`data/prepared` as objects: what the stages after `episodes` read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from episodic.core import float64
from episodic.core.episode import Episode
from episodic.data import sampling, storage
from tasks.params import Settings
from tasks.runtime.files import read_json
from tasks.runtime.stage import StageError

FORMAT = 2


@dataclass(frozen=True)
class Prepared:
    """folder: where it lies; meta: `meta.json`; device: where episodes are wanted."""

    folder: Path
    meta: dict[str, Any]
    device: torch.device

    @property
    def drawn_on(self) -> torch.device:
        """Where episodes are made, in 64-bit arithmetic, before they are moved to the device."""
        return float64.supporting_device(self.device)

    @property
    def kind(self) -> str:
        return self.meta["kind"]

    @property
    def given(self) -> bool:
        """Whether tasks are given ones, of unequal sizes, and not made of classes or a formula."""
        return "tasks" in self.meta

    def classes(self) -> pd.DataFrame:
        """The class table, with the first row of each class's images as `offset`."""
        table = pd.read_parquet(self.folder / "classes.parquet")
        return table.assign(offset=table["count"].cumsum() - table["count"])

    def examples(self) -> storage.Rows:
        """The examples of all classes, row by row."""
        return storage.load(self.folder, self.meta["input"], self.drawn_on)

    def targets(self) -> torch.Tensor:
        """The targets of given tasks, row by row."""
        return torch.from_numpy(np.load(self.folder / "targets.npy")).to(self.drawn_on)

    def tasks(self, split: str) -> pd.DataFrame:
        """The given tasks of a split, with the first row of each one's examples as `offset`."""
        table = pd.read_parquet(self.folder / "tasks.parquet")
        table = table.assign(offset=table["count"].cumsum() - table["count"])
        return table[table["split"] == split].reset_index(drop=True)

    def texts(self) -> list[str]:
        """What people read of the examples, where they are sentences; else nothing."""
        path = self.folder / "texts.parquet"
        return pd.read_parquet(path)["text"].to_list() if path.exists() else []

    def training(self, params: Settings, labels: sampling.Labels = "episode") -> sampling.Sampler:
        """The training episodes, made as they are asked for; labels: see `sampling.ClassSampler`."""
        made = self._sampler(params, labels)
        return made if self.drawn_on == self.device else lambda index: made(index).to(self.device)

    def _sampler(self, params: Settings, labels: sampling.Labels) -> sampling.Sampler:
        config = params.train
        ways, shots = config.ways or params.episodes.ways, config.shots or params.episodes.shots
        if self.given:
            table = self.tasks("train")
            offsets, counts = (
                torch.tensor(table[column].to_numpy(), device=self.drawn_on)
                for column in ("offset", "count")
            )
            return sampling.TaskSampler(
                self.examples(),
                self.targets(),
                offsets,
                counts,
                config.seed,
                "train",
                shots,
                config.queries,
                config.vary_shots,
            )
        if self.kind == "regression":
            family = {key: tuple(value) for key, value in self.meta["family"].items()}
            return sampling.SinusoidSampler(
                **family,
                seed=config.seed,
                split="train",
                shots=shots,
                queries=config.queries,
                device=self.drawn_on,
            )
        from tasks.runtime import class_selection  # only the stage train depends on it

        classes, examples = class_selection.chosen(self.classes(), config), self.examples()
        offsets, counts = (
            torch.tensor(classes[column].to_numpy(), device=self.drawn_on)
            for column in ("offset", "count")
        )
        groups = (
            sampling.Groups.of(classes["group"].to_list(), ways, self.drawn_on)
            if config.within_group
            else None
        )
        hard = (
            class_selection.hard_episodes(
                config.hard_episode_fraction, examples, offsets, counts, ways
            )
            if config.hard_episode_fraction
            else None
        )
        return sampling.ClassSampler(
            examples,
            offsets,
            counts,
            config.seed,
            "train",
            ways,
            shots,
            config.queries,
            labels,
            groups,
            hard,
        )

    def table(self, split: str) -> pd.DataFrame:
        """The fixed episodes of a split, one row each."""
        return pd.read_parquet(self.folder / f"{split}.parquet")

    def fixed(self, table: pd.DataFrame, examples: storage.Rows | None = None) -> Episode:
        """Rows of `table` as one Episode on the device."""

        def column(name: str) -> torch.Tensor:
            return torch.tensor(np.stack(table[name].to_list()), device=self.drawn_on)

        if self.given:
            offset, support, skipped, query = (
                column(name) for name in ("offset", "support", "skipped", "query")
            )
            runs = sampling.Runs(offset, support), sampling.Runs(offset + support + skipped, query)
            x = self.examples() if examples is None else examples
            return sampling.task_episode(
                x, self.targets(), *runs, self.meta["shots"], self.meta["longest"]
            ).to(self.device)
        if self.kind == "regression":
            waves = column("amplitude")[:, None], column("phase")[:, None]
            return sampling.wave_episode(*waves, column("support_x"), column("query_x")).to(
                self.device
            )
        rows = self.examples() if examples is None else examples
        return sampling.labelled_episode(
            rows, column("support"), column("query"), self.meta["ways"]
        ).to(self.device)


def read(folder: Path, device: torch.device) -> Prepared:
    meta = read_json(folder / "meta.json")
    if meta.get("format") != FORMAT:
        raise StageError(
            f"{folder / 'meta.json'} has format {meta.get('format')!r}, not {FORMAT}: run the stage episodes again"
        )
    return Prepared(folder, meta, device)
