"""Dataclasses of the sections of params.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen

from episodic.core.config import Section, Seed, require
from episodic.core.episode_size import Bounds, EpisodeSize, check_sizes, size_bounds
from episodic.core.files import holds_data

if TYPE_CHECKING:
    from episodic.training.config import EvaluationConfig, TrainingConfig

USER_DATA = "data/own"
"""The default of dataset.source. The folder exists in every checkout, since DVC requires it."""

Count = Annotated[int, Ge(1), Le(10_000)]
EpisodeCount = Annotated[int, Ge(2), Le(1_000_000)]
"""At least two, since a confidence interval needs a variance."""


@dataclass(frozen=True)
class General(Section):
    """The top-level keys outside sections.

    Attributes:
        device: Device of training and evaluation.
        processes: Number of processes that share the work; None to choose from the workload.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    processes: Annotated[int, Ge(1), Le(1024)] | None = None


@dataclass(frozen=True)
class Episodes(Section):
    """The fixed validation and test episodes, the section `episodes`.

    Attributes:
        seed: Seed of the episodes.
        ways: Classes per episode, or bounds between which the number is drawn.
        shots: Support examples per class, or bounds.
        unbalanced: Whether the classes of an episode differ in shots, within the bounds.
        queries: Query examples per class.
        validation: Number of validation episodes.
        test: Number of test episodes.
        within_group: Whether all classes of an episode are from the same group.
        query_balance: Concentration of the Dirichlet distribution of the queries of an episode over
            its classes. None: equally many queries per class.
        open: Share of queries of classes that are not in the episode (open set). They are added to
            the queries of its classes, to measure how well they are detected. 0: none.
        other_sizes: Further numbers of ways and shots, `(ways, shots)`, on which the reliability of
            predictions is measured. None: 1 and 5 shots, if there are enough examples.
    """

    seed: Seed = 0
    ways: EpisodeSize = 5
    shots: EpisodeSize = 1
    unbalanced: bool = False
    queries: Count = 5
    validation: EpisodeCount = 200
    test: EpisodeCount = 500
    within_group: bool = False
    query_balance: Annotated[float, Gt(0), Le(1e6)] | None = None
    open: Annotated[float, Ge(0), Le(0.9)] = 0.5
    other_sizes: tuple[tuple[Count, Count], ...] | None = None

    def __post_init__(self) -> None:
        if self.other_sizes is not None:
            sizes = tuple(map(tuple, self.other_sizes))
            object.__setattr__(self, "other_sizes", sizes)
        super().__post_init__()
        check_sizes(self.ways, self.shots, self.unbalanced)
        require(
            self.query_balance is None or not self.is_varied,
            "query_balance",
            self.query_balance,
            "must be null if ways or shots has bounds",
        )
        for i, (ways, shots) in enumerate(self.other_sizes or ()):
            key = f"other_sizes.{i}"
            require(ways >= 2, key, [ways, shots], "must have at least 2 ways")
            require(
                (ways, shots) != (self.ways, self.shots)
                and (ways, shots) not in (self.other_sizes or ())[:i],
                key,
                [ways, shots],
                "must differ from [ways, shots] and from the other sizes",
            )

    @property
    def is_varied(self) -> bool:
        """Whether episodes differ in the number of classes or of support examples."""
        return isinstance(self.ways, tuple) or isinstance(self.shots, tuple)

    @property
    def ways_bounds(self) -> Bounds:
        """Classes of the smallest and of the largest episode."""
        return size_bounds(self.ways, self.ways)

    @property
    def shots_bounds(self) -> Bounds:
        """Smallest and largest number of support examples per class."""
        return size_bounds(self.shots, self.shots)


@dataclass(frozen=True)
class Report(Section):
    """The report, the section `report`.

    Attributes:
        title: Title of the report; None for one built from dataset, ways and shots.
    """

    title: str | None = None


@dataclass(frozen=True)
class DatasetKeys(Section):
    """The keys of the section `dataset` that all datasets share.

    Attributes:
        seed: Seed of the split.
        source: Path of the user's data.
    """

    seed: Seed = 0
    source: Annotated[str, MinLen(1)] = USER_DATA


@dataclass(frozen=True)
class Choice:
    """A section that selects a registry entry by name and has one subsection per entry.

    Attributes:
        name: The name of the entry.
        config: The entry, built from its subsection.
    """

    name: str
    config: Any


@dataclass(frozen=True)
class DatasetChoice(Choice):
    """The section `dataset`.

    Attributes:
        seed: Seed of the split.
        source: Path of the user's data.
    """

    seed: int = 0
    source: str = USER_DATA

    @property
    def user_data(self) -> Path | None:
        """The user's data; None if dataset.source has its default and the folder is empty."""
        is_set = self.source != USER_DATA or holds_data(Path(USER_DATA))
        return Path(self.source) if is_set else None


@dataclass(frozen=True)
class Settings:
    """The configuration of a run.

    Attributes:
        raw: params.yaml as plain values.
        device: See `General`.
        processes: See `General`.
        dataset: The dataset; None, like every section, if it was not requested.
        episodes: The fixed episodes.
        model: The model.
        algorithm: The algorithm.
        train: Settings of training.
        evaluate: Settings of evaluation.
        report: Settings of the report.
    """

    raw: dict[str, Any] = field(repr=False)
    device: str = "auto"
    processes: int | None = None
    dataset: DatasetChoice = None  # type: ignore[assignment]
    episodes: Episodes = None  # type: ignore[assignment]
    model: Choice = None  # type: ignore[assignment]
    algorithm: Choice = None  # type: ignore[assignment]
    train: TrainingConfig = None  # type: ignore[assignment]
    evaluate: EvaluationConfig = None  # type: ignore[assignment]
    report: Report = None  # type: ignore[assignment]
