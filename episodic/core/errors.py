"""The base class of errors that a user can correct."""

from __future__ import annotations

from typing import ClassVar

__all__ = ["UserError"]


class UserError(Exception):
    """An error that the user can correct.

    Its message is one sentence: what is wrong, where, and what to do. Programs print it without a
    traceback and exit with code 1.
    """

    temporary: ClassVar[bool] = False
    """Whether a retry may succeed, as after a network timeout."""
