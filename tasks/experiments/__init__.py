"""Experiments and commits, read without checking anything out.

Small files come from git, others from DVC's cache, located by the revision's dvc.lock.
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
