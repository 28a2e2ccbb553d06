"""The folder data/prepared, which the stage `episodes` writes and all later stages read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from episodic.core import float64, random_numbers
from episodic.core.episode import Episode
from episodic.core.episode_size import size_bounds, stack_lists
from episodic.data import augmentation, sampling, storage
from episodic.data.stored_episodes import Episodes, StoredEpisodes
from episodic.data.unknown_queries import OTHER_CLASS, OUT_OF_SCOPE, OpenQueries
from episodic.data.varied_sampling import VariedClassSampler, build_varied_episode
from tasks.params import Settings
from tasks.runtime.files import read_json
from tasks.runtime.stage import StageError

FORMAT = 2

MAX_NUMBERS_IN_MEMORY = 1 << 26
"""Number of values in the examples of fixed episodes up to which all of them are kept in memory."""


@dataclass(frozen=True)
class PreparedFolder:
    """Examples, class table and fixed episodes.

    Attributes:
        folder: The folder.
        meta: The content of `meta.json`.
        device: Device of the episodes.
        size: Ways and shots of the fixed episodes, if these are of one of the further sizes.
        encodes_texts: Whether `meta` describes other text features than those in the folder.
            Examples are then encoded from their texts.
    """

    folder: Path
    meta: dict[str, Any]
    device: torch.device
    size: tuple[int, int] | None = None
    encodes_texts: bool = False

    @property
    def sampling_device(self) -> torch.device:
        """Device that draws episodes, in 64-bit arithmetic, before they are moved to `device`."""
        return float64.supporting_device(self.device)

    @property
    def kind(self) -> str:
        """`classification` or `regression`."""
        return self.meta["kind"]

    @property
    def has_recorded_tasks(self) -> bool:
        """Whether tasks are recorded ones of different sizes, such as the ratings of users."""
        return "tasks" in self.meta

    @property
    def is_varied(self) -> bool:
        """Whether fixed episodes differ in the number of classes or of support examples."""
        return "varied" in self.meta

    @property
    def other_sizes(self) -> list[tuple[int, int]]:
        """Ways and shots of the further sizes of fixed episodes."""
        return [(ways, shots) for ways, shots in self.meta.get("other_sizes", [])]

    def at_size(self, size: tuple[int, int]) -> PreparedFolder:
        """Return the folder with the fixed episodes of one of `other_sizes`."""
        ways, shots = size
        meta = {key: value for key, value in self.meta.items() if key != "varied"}
        return replace(self, meta=meta | {"ways": ways, "shots": shots}, size=size)

    def read_classes(self) -> pd.DataFrame:
        """Read the class table, with the first row of the examples of each class as `offset`."""
        return add_offsets(pd.read_parquet(self.folder / "classes.parquet"))

    @cached_property
    def examples(self) -> storage.Examples:
        """The examples of all classes or tasks, by row."""
        if self.encodes_texts:
            from episodic.preprocessing import base as preprocessing

            encoder: Any = preprocessing.build(self.meta)
            examples: storage.SparseRows | torch.Tensor = encoder.encode(self.read_texts())
            return examples.to(self.sampling_device)
        return storage.load_examples(self.folder, self.meta["input"], self.sampling_device)

    def with_inputs(self, inputs: dict[str, Any]) -> PreparedFolder:
        """Return the folder with texts encoded as a model does; other examples stay as they are.

        Args:
            inputs: The section `inputs` of the model's config.json. Its text features may be fitted
                to other sentences than those in the folder.
        """
        own = self.meta["inputs"]
        if inputs == own or {inputs["kind"], own["kind"]} != {"text"}:
            return self
        return replace(self, meta=self.meta | {"inputs": inputs}, encodes_texts=True)

    def refit_features(self, classes: pd.DataFrame) -> PreparedFolder:
        """Fit text features to the sentences of some training classes.

        Other features are not fitted. They stay as they are, and so do text features if `classes`
        are all training classes.

        Args:
            classes: Rows of `read_classes`.
        """
        inputs = self.meta["inputs"]
        training = (self.read_classes()["split"] == "train").sum()
        if inputs["kind"] != "text" or len(classes) == training:
            return self
        from episodic.preprocessing.text import refit

        return self.with_inputs(refit(inputs, tuple(self.meta["input"]), self.read_texts(classes)))

    @cached_property
    def targets(self) -> torch.Tensor:
        """The targets of recorded tasks, by row."""
        targets = torch.from_numpy(np.load(self.folder / "targets.npy"))
        return targets.to(self.sampling_device)

    def read_tasks(self, split: str) -> pd.DataFrame:
        """Read the recorded tasks of a split, with the first row of each as `offset`."""
        table = add_offsets(pd.read_parquet(self.folder / "tasks.parquet"))
        return table[table["split"] == split].reset_index(drop=True)

    def read_texts(self, classes: pd.DataFrame | None = None) -> list[str]:
        """Read the text of each example; empty if examples have no text.

        Args:
            classes: Rows of `read_classes`; None for the texts of all examples.
        """
        path = self.folder / "texts.parquet"
        texts = pd.read_parquet(path)["text"].to_list() if path.exists() else []
        if classes is None or not texts:
            return texts
        rows = zip(classes["offset"], classes["count"], strict=True)
        return [text for first, count in rows for text in texts[first : first + count]]

    def training_sampler(
        self, params: Settings, labels: sampling.LabelScope = "episode"
    ) -> sampling.Sampler:
        """Make the sampler of training episodes on `device`.

        Args:
            params: Settings with the sections `train` and `episodes`.
            labels: See `episodic.data.sampling.ClassSampler`.
        """
        sampler = self._sampler(params, labels)
        if params.train.augmentation.transforms:
            sampler = augmentation.AugmentedSampler(
                sampler, params.train.augmentation, params.train.seed, "train"
            )
        if self.sampling_device == self.device:
            return sampler
        return lambda index: sampler(index).to(self.device)

    def _sampler(self, params: Settings, labels: sampling.LabelScope) -> sampling.Sampler:
        config = params.train
        ways_bounds = size_bounds(config.ways, params.episodes.ways)
        shots_bounds = size_bounds(config.shots, params.episodes.shots)
        ways, shots = ways_bounds[1], shots_bounds[1]
        if self.has_recorded_tasks:
            return sampling.TaskSampler(
                self.examples,
                self.targets,
                *self._row_tensors(self.read_tasks("train")),
                seed=config.seed,
                split="train",
                shots=shots,
                queries=config.queries,
                vary_shots=config.vary_shots,
            )
        if self.kind == "regression":
            family = {key: tuple(value) for key, value in self.meta["family"].items()}
            return sampling.SinusoidSampler(
                **family,
                seed=config.seed,
                split="train",
                shots=shots,
                queries=config.queries,
                device=self.sampling_device,
            )
        from tasks.runtime import class_selection  # only the stage train depends on it

        classes = class_selection.select_classes(self.read_classes(), config)
        offsets, counts = self._row_tensors(classes)
        groups = hard_episodes = None
        if config.within_group:
            names = classes["group"].to_list()
            groups = sampling.ClassGroups.from_names(names, ways, self.sampling_device)
        if config.hard_episode_fraction:
            hard_episodes = class_selection.find_hard_episodes(
                config.hard_episode_fraction, self.examples, offsets, counts, ways
            )
        sampler = sampling.ClassSampler(
            self.examples,
            offsets,
            counts,
            seed=config.seed,
            split="train",
            ways=ways,
            shots=shots,
            queries=config.queries,
            labels=labels,
            groups=groups,
            hard_episodes=hard_episodes,
        )
        if (ways, shots) == (ways_bounds[0], shots_bounds[0]):
            return sampler
        return VariedClassSampler(sampler, ways_bounds, shots_bounds, config.unbalanced)

    def _row_tensors(self, table: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the columns `offset` and `count` as tensors."""
        offsets, counts = (
            torch.tensor(table[column].to_numpy(), device=self.sampling_device)
            for column in ("offset", "count")
        )
        return offsets, counts

    def read_episodes(self, split: str) -> pd.DataFrame:
        """Read the table of the fixed episodes of a split, one row per episode."""
        return pd.read_parquet(self.folder / f"{name_episodes(split, self.size)}.parquet")

    def load_episodes(self, split: str) -> Episodes:
        """Load the fixed episodes of a split on `device`.

        Those with more than `MAX_NUMBERS_IN_MEMORY` values are built when they are needed.
        """
        table = self.read_episodes(split)
        first = self.build_episodes(table[:1])
        if len(table) * (first.support_x.numel() + first.query_x.numel()) > MAX_NUMBERS_IN_MEMORY:
            return StoredEpisodes(len(table), lambda i, j: self.build_episodes(table[i:j]))
        return self.build_episodes(table)

    def read_unknown_rows(self, table: pd.DataFrame) -> torch.Tensor | None:
        """Return the rows of queries of unknown classes `(episodes, m)`; None if there are none.

        Args:
            table: Rows of `read_episodes`.
        """
        if "unknown" not in table:
            return None
        return torch.tensor(np.stack(table["unknown"].to_list()), device=self.sampling_device)

    def open_queries(self, split: str, out_of_scope: bool = False) -> OpenQueries | None:
        """Return the queries of unknown classes of the fixed episodes; None if there are none.

        Args:
            split: `validation` or `test`.
            out_of_scope: Whether to add as many examples that belong to no class, if the dataset
                has such examples.
        """
        table = self.read_episodes(split)
        rows = self.read_unknown_rows(table)
        parts = [] if rows is None else [(OTHER_CLASS, rows)]
        outside = self.meta.get("outside", 0) if out_of_scope else 0
        if outside:
            key = random_numbers.key(self.meta["seed"], "outside")
            queries = int(self.count_queries(table).sum(1).max())
            bits = random_numbers.random_bits(key, torch.arange(len(table)), queries)
            first = len(self.examples) - outside
            drawn = first + random_numbers.integers_below(bits, outside)
            parts.append((OUT_OF_SCOPE, drawn.to(self.sampling_device)))
        if not parts:
            return None
        of_episode = torch.cat([rows for _, rows in parts], 1)
        labels = torch.cat([torch.full(rows.shape[1:], label) for label, rows in parts])

        def read(first: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
            x = storage.read_examples(self.examples, of_episode[first:end])
            return x.to(self.device), labels

        return read

    def build_episodes(self, table: pd.DataFrame) -> Episode:
        """Build fixed episodes on `device`.

        Args:
            table: Rows of `read_episodes`.
        """

        def column(name: str) -> torch.Tensor:
            return torch.tensor(np.stack(table[name].to_list()), device=self.sampling_device)

        if self.kind == "regression" and not self.has_recorded_tasks:
            waves = column("amplitude")[:, None], column("phase")[:, None]
            episode = sampling.build_sinusoid_episode(
                *waves, column("support_x"), column("query_x")
            )
            return episode.to(self.device)
        if self.has_recorded_tasks:
            offset, shots = column("offset"), column("support")
            support = sampling.RowRanges(offset, shots)
            query = sampling.RowRanges(offset + shots + column("skipped"), column("query"))
            episode = sampling.build_task_episode(
                self.examples,
                self.targets,
                support,
                query,
                self.meta["shots"],
                self.meta["longest"],
            )
            return episode.to(self.device)
        if self.is_varied:
            return self._build_varied_episodes(table).to(self.device)
        query_counts = column("query_counts") if "query_counts" in table else None
        episode = sampling.build_class_episode(
            self.examples, column("support"), column("query"), self.meta["ways"], query_counts
        )
        return episode.to(self.device)

    def _build_varied_episodes(self, table: pd.DataFrame) -> Episode:
        """Build fixed episodes of different sizes, padded to the largest possible size."""

        def column(name: str, width: int, mode: Literal["edge", "constant"]) -> torch.Tensor:
            rows = [np.pad(row, (0, width - len(row)), mode) for row in table[name]]
            return torch.tensor(np.stack(rows), device=self.sampling_device)

        ways, shots, queries = (self.meta[key] for key in ("ways", "shots", "queries"))
        fewest, most = self.meta["varied"]["ways"]
        return build_varied_episode(
            self.examples,
            column("support", ways * shots, "edge"),
            column("query", ways * queries, "edge"),
            column("shots", ways, "constant"),
            varied_ways=fewest < most,
        )

    def count_queries(self, table: pd.DataFrame) -> np.ndarray:
        """Return the queries of each class of fixed classification episodes `(episodes, ways)`.

        Classes that an episode does not have, if episodes differ in size, have 0 queries.

        Args:
            table: Rows of `read_episodes`.
        """
        if "query_counts" in table:
            return np.stack(table["query_counts"].to_list())
        is_class = stack_lists(table["classes"]) >= 0
        counts: np.ndarray = np.where(is_class, self.meta["queries"], 0)
        return counts

    def count_shots(self, table: pd.DataFrame) -> torch.Tensor | None:
        """Return the shots of each class of fixed classification episodes `(episodes, ways)`.

        Classes that an episode does not have, have 0 shots. None: all have equally many.

        Args:
            table: Rows of `read_episodes`.
        """
        if not self.is_varied:
            return None
        ways = self.meta["ways"]
        rows = [np.pad(row, (0, ways - len(row))) for row in table["shots"]]
        return torch.tensor(np.stack(rows))


def name_episodes(split: str, size: tuple[int, int] | None) -> str:
    """Return the name of the fixed episodes of a split, and of their file.

    Args:
        split: `validation` or `test`.
        size: Ways and shots, one of the further sizes; None for the main one.
    """
    return split if size is None else f"{split}-{size[0]}way-{size[1]}shot"


def add_offsets(table: pd.DataFrame) -> pd.DataFrame:
    """Add the first row of each class or task as `offset`."""
    return table.assign(offset=table["count"].cumsum() - table["count"])


def open_folder(folder: Path, device: torch.device) -> PreparedFolder:
    """Open a folder that the stage `episodes` wrote.

    Args:
        folder: The folder.
        device: Device of the episodes.

    Raises:
        StageError: The folder has a different format.
    """
    meta = read_json(folder / "meta.json")
    if meta.get("format") != FORMAT:
        raise StageError(
            f"{folder / 'meta.json'} has format {meta.get('format')!r}, not {FORMAT}: run the "
            "stage episodes again"
        )
    return PreparedFolder(folder, meta, device)
