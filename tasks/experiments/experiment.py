"""An experiment, and the errors of reading one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tasks.runtime.stage import StageError

WORKSPACE = "workspace"
"""Name of the revision that denotes the files of the checkout."""


class Revision(NamedTuple):
    """A revision of the repository.

    Attributes:
        name: The name under which it was requested.
        commit: Hash of its commit; '' for the workspace.
    """

    name: str
    commit: str


@dataclass(frozen=True)
class Experiment:
    """A trained and tested model.

    Attributes:
        name: Its name.
        commit: Hash of its commit; '' for the workspace.
        params: The params of its stages according to dvc.lock, nested as in params.yaml.
        params_file: Content of params.yaml; differs from `params` if edited after the run.
        meta: meta.json of data/prepared (docs/reference/files.md describes these files).
        config: config.json of models/run.
        run: run.json.
        metrics: Numbers of metrics.json by dotted key.
        episodes: Digest of the test episodes. Experiments with the same one were tested on the same
            examples, which may be encoded differently.
        score: `accuracy` or `mse`.
        scores: The headline score by test episode `(episodes,)`.
        curve: Mean scores by mode and step.
        validation: Validation history.
        classes: Scores by test class; may be empty.
        file: Returns the location of another file of the experiment.
    """

    name: str
    commit: str
    params: dict[str, Any]
    params_file: dict[str, Any]
    meta: dict[str, Any]
    config: dict[str, Any]
    run: dict[str, Any]
    metrics: dict[str, float]
    episodes: str
    score: str
    scores: np.ndarray
    curve: pd.DataFrame = field(repr=False)
    validation: pd.DataFrame = field(repr=False)
    classes: pd.DataFrame = field(repr=False)
    file: Callable[[str], Path] = field(repr=False)

    @property
    def mode(self) -> str:
        """Batch-norm mode of the headline score."""
        return self.config["batch_norm"]

    @property
    def steps(self) -> int:
        """Inner steps of the headline score."""
        return int(self.metrics["steps"])


class NoResultError(StageError):
    """A revision at which no model was trained and tested."""


class MissingFilesError(StageError):
    """Files of a revision are missing in DVC's cache.

    Attributes:
        revision: Name of the revision.
        names: Names of the files.
    """

    def __init__(self, revision: str, names: Sequence[str]):
        super().__init__(f"{revision}: DVC's cache lacks {', '.join(names)}")
        self.revision, self.names = revision, list(names)
