"""Experiments and commits as DVC keeps them, read without checking anything out.

Small files come from git, the others from DVC's cache, where the revision's dvc.lock locates them.
No stage imports this package.
"""

from tasks.experiments.experiment import (
    WORKSPACE,
    Experiment,
    MissingFilesError,
    NoResultError,
    Revision,
)
from tasks.experiments.history import RevisionHistory

__all__ = [
    "WORKSPACE",
    "Experiment",
    "MissingFilesError",
    "NoResultError",
    "Revision",
    "RevisionHistory",
]
