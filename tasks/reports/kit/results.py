"""Everything that the earlier stages left, read and checked once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tasks.reports.kit import pictures
from tasks.reports.kit.pictures import Examples
from tasks.runtime.files import read_json
from tasks.runtime.stage import StageError

FORMAT = 2
"""Of data/prepared and models/run; named here so that a change of the stages' code alone is no reason to report again."""


@dataclass(frozen=True)
class Results:
    """The files of docs/files.md; what one kind does not have is empty.

    score: `accuracy` or `mse`, the column that holds the figure; mode, steps: of the headline; metrics: dotted key -> number
    """

    kind: str
    score: str
    mode: str
    steps: int
    meta: dict[str, Any]
    config: dict[str, Any]
    metrics: dict[str, float]
    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    episodes: pd.DataFrame
    curve: pd.DataFrame
    baselines: pd.DataFrame
    weights_digest: str
    table: pd.DataFrame = field(default_factory=pd.DataFrame)
    examples: Examples = field(default_factory=lambda: np.empty(0))
    classes: pd.DataFrame = field(default_factory=pd.DataFrame)
    answers: pd.DataFrame = field(default_factory=pd.DataFrame)
    fits: pd.DataFrame = field(default_factory=pd.DataFrame)
    support: pd.DataFrame = field(default_factory=pd.DataFrame)
    ratings: pd.DataFrame = field(default_factory=pd.DataFrame)
    lists: pd.DataFrame = field(default_factory=pd.DataFrame)
    tasks: pd.DataFrame = field(default_factory=pd.DataFrame)
    difficulty: pd.DataFrame = field(default_factory=pd.DataFrame)
    space: pd.DataFrame = field(default_factory=pd.DataFrame)
    pairs: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def headline(self) -> pd.DataFrame:
        """One row an episode: the headline's mode and step."""
        return self.episodes[
            (self.episodes["mode"] == self.mode) & (self.episodes["step"] == self.steps)
        ]

    def course(self, mode: str) -> pd.DataFrame:
        """The adaptation curve of a mode, by step."""
        return self.curve[self.curve["mode"] == mode].sort_values("step", ignore_index=True)

    @property
    def adapts(self) -> bool:
        """Whether the method has inner steps at test; else it answers from the support set in one go."""
        return self.curve["step"].nunique() > 1

    @property
    def other_mode(self) -> str | None:
        """The mode beside the headline's, if it was measured and differs (without batch norm the two agree)."""
        mine = self.course(self.mode)[self.score].to_numpy()
        for mode in sorted(set(self.curve["mode"]) - {self.mode}):
            theirs = self.course(mode)[self.score].to_numpy()
            if not (
                mine.shape == theirs.shape
                and np.allclose(mine, theirs, rtol=1e-9, atol=1e-12, equal_nan=True)
            ):
                return mode
        return None


def read(data: Path, model: Path, scores: Path, metrics: Path, history: Path) -> Results:
    """StageError: a file is missing, unreadable, of another format, or without a column that its kind needs."""
    meta, config = (
        _described(data / "meta.json", "episodes"),
        _described(model / "config.json", "train"),
    )
    kind = meta["kind"]
    if kind not in ("classification", "regression"):
        raise StageError(
            f"{data / 'meta.json'} has kind {kind!r}: must be classification or regression"
        )
    for key in ("kind", "dataset", "ways", "shots"):
        if config.get(key) != meta.get(key):
            raise StageError(
                f"{model} was trained for {key} {config.get(key)!r}, {data} holds {meta.get(key)!r}: run the stage train again"
            )
    score = "accuracy" if kind == "classification" else "mse"
    figures = flat(_read(metrics, "evaluate", read_json))
    for key in (score, f"{score}_ci95", "episodes", "steps"):
        if key not in figures:
            raise StageError(f"{metrics} has no {key}: run the stage evaluate again")
    step = ["iteration", "loss"]
    parts: dict[str, Any] = {
        "train": _table(
            history / "train.csv", "train", [*step, score] if score == "accuracy" else step
        ),
        "validation": _table(
            history / "validation.csv", "train", [*step, score, f"{score}_ci95", "best"]
        ),
        "episodes": _table(
            scores / "episodes.parquet", "evaluate", ["mode", "episode", "step", score]
        ),
        "curve": _table(scores / "curve.csv", "evaluate", ["mode", "step", score, f"{score}_ci95"]),
        "baselines": _table(scores / "baselines.parquet", "evaluate", ["method", "episode", score]),
        "tasks": _table(scores / "tasks.parquet", "evaluate", ["episode", "x", "y", score]),
        "difficulty": _table(
            scores / "difficulty.parquet",
            "evaluate",
            ["fifth", "low", "high", "mean", "episodes", score, "ci95"],
        ),
        "weights_digest": _read(
            model / "weights.safetensors",
            "train",
            lambda path: hashlib.sha256(path.read_bytes()).hexdigest(),
        ),
    }
    if kind == "classification":
        parts["test"] = _table(
            data / "test.parquet", "episodes", ["episode", "classes", "support", "query"]
        )
        parts["table"] = _table(
            data / "classes.parquet", "episodes", ["class", "group", "split", "count"]
        )
        parts["examples"] = _read(data / pictures.file(meta), "episodes", pictures.read)
        parts["classes"] = _table(
            scores / "classes.parquet",
            "evaluate",
            ["class", "group", "episodes", "queries", "correct", score, "ci95"],
        )
        columns = ["row", "class", "group", "x", "y", "nearest", "similarity"]
        parts["space"] = _table(scores / "space.parquet", "evaluate", columns)
        columns = ["first", "second", "similarity", "queries", "confused"]
        parts["pairs"] = _table(scores / "pairs.parquet", "evaluate", columns, empty=True)
        parts["answers"] = _table(
            scores / "answers.parquet", "evaluate", ["episode", "image", "label", "before", "after"]
        )
    elif "tasks" in meta:
        parts["test"] = _table(data / "test.parquet", "episodes", ["episode"])
        parts["ratings"] = _table(
            scores / "ratings.csv", "evaluate", ["method", "shots", "mae", "rmse", "ahead"]
        )
        parts["lists"] = _table(
            scores / "lists.parquet", "evaluate", ["episode", "part", "item", "rating", "answer"]
        )
    else:
        parts["test"] = _table(data / "test.parquet", "episodes", ["episode"])
        parts["fits"] = _table(scores / "fits.parquet", "evaluate", ["episode", "x", "truth"])
        parts["support"] = _table(scores / "support.parquet", "evaluate", ["episode", "x", "y"])
    result = Results(
        kind, score, config["batch_norm"], int(figures["steps"]), meta, config, figures, **parts
    )
    if result.headline.empty:
        raise StageError(
            f"{scores / 'episodes.parquet'} has no rows for {result.mode} after {result.steps} steps: run the stage evaluate again"
        )
    return result


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of figures by dotted keys, as docs/files.md names them."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        result |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return result


def in_use(raw: dict[str, Any]) -> dict[str, Any]:
    """The params that count: of a section that picks by name, only the picked one's own section; of an encoder's folder its name alone."""
    picks = {
        key: section
        for key, section in raw.items()
        if isinstance(section, dict) and "name" in section
    }
    found = {
        key: {k: v for k, v in section.items() if not isinstance(v, dict) or k == section["name"]}
        if key in picks
        else section
        for key, section in raw.items()
    }
    return _placeless(found)


def _placeless(tree: dict[str, Any]) -> dict[str, Any]:
    """Without the path of a folder that is of one machine."""
    result = {
        key: _placeless(value) if isinstance(value, dict) else value for key, value in tree.items()
    }
    return result | {
        key: Path(value).name
        for key, value in tree.items()
        if key == "path" and Path(str(value)).is_absolute()
    }


def _described(path: Path, stage: str) -> dict[str, Any]:
    found = _read(path, stage, read_json)
    if found.get("format") != FORMAT:
        raise StageError(
            f"{path} has format {found.get('format')!r}, not {FORMAT}: run the stage {stage} again"
        )
    wanted = ["kind", "dataset", "ways", "shots"] + (
        ["queries", "protocol", "license", "inputs"]
        if stage == "episodes"
        else ["algorithm", "model", "batch_norm", "inputs", "input"]
    )
    absent = [key for key in wanted if key not in found]
    if absent:
        raise StageError(f"{path} has no {', '.join(absent)}: run the stage {stage} again")
    return found


def _read(path: Path, stage: str, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise StageError(
            f"there is no {path}: run the stage {stage} first (dvc repro runs what is needed)"
        ) from error
    except (
        ValueError,
        OSError,
        json.JSONDecodeError,
    ) as error:  # pyarrow's and pandas' errors are ValueErrors or OSErrors
        raise StageError(
            f"{path} cannot be read ({' '.join(str(error).split())}): run the stage {stage} again"
        ) from error


def _table(path: Path, stage: str, columns: list[str], empty: bool = False) -> pd.DataFrame:
    found = _read(path, stage, pd.read_csv if path.suffix == ".csv" else pd.read_parquet)
    absent = [column for column in columns if column not in found]
    if absent:
        raise StageError(f"{path} has no column {', '.join(absent)}: run the stage {stage} again")
    if found.empty and not empty:
        raise StageError(f"{path} has no rows: run the stage {stage} again")
    return found
