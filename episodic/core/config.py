"""Configurations are frozen dataclasses, checked when they are made."""

from __future__ import annotations

from typing import Any

from episodic.core.errors import UserError


class ConfigError(UserError, ValueError):
    """A value that cannot be used; `key` is the field (dotted when nested), `allowed` says what would do."""

    def __init__(self, key: str, value: Any, allowed: str):
        said = (
            "null"
            if value is None
            else str(value).lower()
            if isinstance(value, bool)
            else repr(value)
        )  # as YAML has it
        super().__init__(f"{key} is {said}: {allowed}")
        self.key, self.value, self.allowed = key, value, allowed


def require(holds: bool, key: str, value: Any, allowed: str) -> None:
    """Raises ConfigError unless `holds`; `allowed` completes 'KEY is VALUE: ...', as in 'must be at least 1'."""
    if not holds:
        raise ConfigError(key, value, allowed)
