"""Settings: frozen dataclasses that are validated on creation."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Le, Lt, MinLen

from episodic.core.errors import UserError

__all__ = [
    "ConfigError",
    "Fraction",
    "NonNegativeFloat",
    "PositiveFloat",
    "Section",
    "Seed",
    "Setting",
    "check_fields",
    "require",
]

PositiveFloat = Annotated[float, Gt(0), Le(1e6)]
NonNegativeFloat = Annotated[float, Ge(0), Le(1e6)]
Fraction = Annotated[float, Ge(0), Le(1)]
Seed = Annotated[int, Ge(0), Le(2**63 - 1)]


class ConfigError(UserError, ValueError):
    """A setting is invalid.

    Args:
        key: Name of the field, dotted if nested.
        value: The invalid value.
        requirement: Completes "KEY is VALUE; it ...", as in "must be at least 1".
    """

    def __init__(self, key: str, value: Any, requirement: str) -> None:
        super().__init__(f"{key} is {_as_yaml(value)}; it {requirement}")
        self.key, self.value, self.requirement = key, value, requirement


def _as_yaml(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


class Setting(NamedTuple):
    """Name (dotted if nested) and value of a field of a section."""

    key: str
    value: int


def require(holds: bool, key: str, value: Any, requirement: str) -> None:
    """Raise `ConfigError(key, value, requirement)` unless `holds`."""
    if not holds:
        raise ConfigError(key, value, requirement)


@dataclass(frozen=True)
class Section:
    """Base class of the frozen dataclasses that are sections of params.yaml.

    The type of a field includes its bounds, as in `Annotated[int, Ge(1), Le(4096)]`. Bounds are
    checked on creation, after lists have become tuples. The validation of params.yaml and its JSON
    schema derive from them too.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(value))
        check_fields(self)


def check_fields(instance: Any) -> None:
    """Check every field of a dataclass against the bounds and choices in its type.

    Raises:
        ConfigError: A value is out of bounds or not one of the choices.
    """
    cls: Any = type(instance)
    for key, hint in _hints(cls):
        for name, value, requirement in _violations(key, getattr(instance, key), hint):
            raise ConfigError(name, value, requirement)


@cache
def _hints(cls: Any) -> list[tuple[str, Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return [(field.name, hints[field.name]) for field in fields(cls)]


def _violations(key: str, value: Any, hint: Any) -> Iterator[tuple[str, Any, str]]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        yield from _violations(key, value, arguments[0])
        for bound in arguments[1:]:
            holds, requirement = _compare(value, bound)
            if not holds:
                yield key, value, requirement
    elif origin is Literal and value not in arguments:
        yield key, value, f"must be one of {', '.join(map(str, arguments))}"
    elif origin in (Union, types.UnionType):
        if value is not None:
            branches = [branch for branch in arguments if branch is not type(None)]
            is_list = isinstance(value, tuple)
            matching = [branch for branch in branches if (get_origin(branch) is tuple) == is_list]
            yield from _violations(key, value, (matching or branches)[0])
    elif origin is tuple:
        if not isinstance(value, tuple):
            yield key, value, "must be a list of values"
        elif arguments[-1] is Ellipsis:
            for i, item in enumerate(value):
                yield from _violations(f"{key}.{i}", item, arguments[0])
        elif len(value) != len(arguments):
            yield key, list(value), f"must have {len(arguments)} values"
        else:
            for i, (item, item_hint) in enumerate(zip(value, arguments, strict=True)):
                yield from _violations(f"{key}.{i}", item, item_hint)


def _compare(value: Any, bound: Any) -> tuple[bool, str]:
    """Return whether the bound holds (never for NaN) and what it requires."""
    if isinstance(bound, Gt):
        return value > bound.gt, f"must be greater than {bound.gt}"
    if isinstance(bound, Ge):
        return value >= bound.ge, f"must be at least {bound.ge}"
    if isinstance(bound, Lt):
        return value < bound.lt, f"must be less than {bound.lt}"
    if isinstance(bound, Le):
        return value <= bound.le, f"must be at most {bound.le}"
    if isinstance(bound, MinLen):
        return len(value) >= bound.min_length, "must not be empty"
    return True, ""
