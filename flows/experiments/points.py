"""The points of a sweep: conf/sweeps/NAME.yaml -> named settings by dotted key.

    base: {train.iterations: 200}     # settings of all points
    grid:                             # every combination
      algorithm.name: [maml, protonet]
      episodes.shots: [1, 5]
    seeds: [0, 1, 2]                  # train.seed of every point

`grid: [{train.classes: [10, 100]}, {episodes.shots: [2, 5]}, {}]` is a list of separate grids, of
which `{}` is only the base. `points: [{model.name: mlp}, {model.name: conv4}]` lists single points.
If there is a grid, each of them is combined with each point of the grid.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from episodic.core.registry import did_you_mean
from tasks import params
from tasks.experiments import WORKSPACE
from tasks.params import read_yaml, rename_dotted, rename_keys, warn_about_renamed_keys
from tasks.runtime.stage import StageError

SEED = "train.seed"
KEYS = ("base", "grid", "points", "seeds")

Changes = dict[str, Any]
"""Settings by dotted key."""


@dataclass(frozen=True)
class Point:
    """One experiment of a sweep.

    Attributes:
        name: Name of the experiment.
        changes: Settings by dotted key.
    """

    name: str
    changes: Changes


def read_points(file: Path, raw: Mapping[str, Any], check: bool = True) -> list[Point]:
    """Read the points of a sweep file, in its order.

    Args:
        file: The sweep file.
        raw: Content of params.yaml.
        check: Validate the settings of every point. Turn off for repositories with other stages.

    Raises:
        StageError: The file or the settings of a point are invalid. The message lists all errors,
            one per line.
    """
    if file.is_dir():
        raise StageError(
            f"{file} is a folder; specify a sweep file, such as conf/sweeps/methods.yaml"
        )
    if not file.exists():
        raise StageError(
            f"{file} does not exist; specify a sweep file, such as conf/sweeps/methods.yaml"
        )
    content = read_yaml(file)
    if not isinstance(content, dict) or not content:
        raise StageError(
            f"{file} is empty or not a mapping; it must contain some of {', '.join(KEYS)}"
        )
    errors: list[str] = []
    sweep = _parse_sweep(content, raw, str(file), errors)
    points = _expand(sweep, file.stem)
    if not errors:
        errors += _find_duplicates(points)
    if any(point.name == WORKSPACE for point in points):
        errors.append(
            f"an experiment would be called {WORKSPACE}, a name that is reserved for the files of"
            " the checkout; rename the sweep file"
        )
    points = _number_duplicate_names(points)
    lines = [f"{file}: {error}" for error in errors]
    if check:
        lines += [f"{file}, {error}" for error in _check_params(points, raw)]
    if lines:
        raise StageError("\n".join(dict.fromkeys(lines)))
    return points


@dataclass(frozen=True)
class _Sweep:
    """The content of a sweep file, without invalid sections."""

    base: Changes
    grids: list[dict[str, list[Any]]]
    singles: list[Changes]
    seeds: list[int]

    def sections(self) -> list[Changes]:
        """Return all settings of the file as separate sections. A grid has one per key."""
        of_grids = [{key: values[0]} for grid in self.grids for key, values in grid.items()]
        return [self.base, *of_grids, *self.singles]


def _parse_sweep(
    content: Mapping[str, Any], raw: Mapping[str, Any], source: str, errors: list[str]
) -> _Sweep:
    """Parse a sweep file. Errors are collected, and invalid sections are left out."""
    renamed: dict[str, str] = {}
    errors += [
        f"unknown key {key}{did_you_mean(str(key), list(KEYS))}"
        for key in content
        if key not in KEYS
    ]
    sweep = _Sweep(
        base=_rename_keys(
            "base", _parse_section("base", content.get("base"), errors), renamed, errors
        ),
        grids=[
            _rename_keys("grid", grid, renamed, errors)
            for grid in _parse_grids(content.get("grid"), errors)
        ],
        singles=[
            _rename_keys("points", single, renamed, errors)
            for single in _parse_singles(content.get("points"), errors)
        ],
        seeds=_parse_seeds(content.get("seeds"), errors),
    )
    warn_about_renamed_keys(renamed, source)
    for changes in sweep.sections():
        for key, value in list(changes.items()):
            if error := find_section_error(raw, key, value):
                errors.append(error)
                for section in (sweep.base, *sweep.grids, *sweep.singles):
                    section.pop(key, None)
    if sweep.seeds and any(SEED in changes for changes in sweep.sections()):
        errors.append(f"both {SEED} and seeds are given; remove one of them")
    if not errors and not (any(sweep.grids) or any(sweep.singles) or sweep.seeds):
        errors.append("there is nothing to vary; add a grid, points or seeds")
    return sweep


def _parse_section(key: str, value: Any, errors: list[str]) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        errors.append(
            f"{key} is {value!r}; it must be a section of settings by dotted key,"
            " such as train.iterations: 200"
        )
        return {}
    return {str(name): setting for name, setting in value.items()}


def _rename_keys(
    key: str, section: dict[str, Any], renamed: dict[str, str], errors: list[str]
) -> dict[str, Any]:
    try:
        section, old_names = rename_dotted(section)
    except StageError as error:
        errors.append(f"{key}: {error}")
        return {}
    renamed.update(old_names)
    return section


def _parse_grids(value: Any, errors: list[str]) -> list[dict[str, list[Any]]]:
    listed = value if isinstance(value, list) and value else [value or None]
    grids = []
    for section in listed:
        grid = _parse_section("grid", section, errors)
        for key, values in grid.items():
            if not isinstance(values, list) or not values:
                errors.append(f"grid.{key} is {values!r}; it must be a list of values")
        grids.append({k: v for k, v in grid.items() if isinstance(v, list) and v})
    return grids


def _parse_singles(value: Any, errors: list[str]) -> list[Changes]:
    if value is None:
        return []
    sections = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    if not sections or len(sections) < len(value):
        errors.append(
            f"points is {value!r}; it must be a list of sections of settings by dotted key"
        )
    return sections


def _parse_seeds(value: Any, errors: list[str]) -> list[int]:
    if value is None:
        return []
    listed = value if isinstance(value, list) else []
    seeds = [seed for seed in listed if type(seed) is int and seed >= 0]
    if not seeds or len(seeds) < len(listed):
        errors.append(f"seeds is {value!r}; it must be a list of integers, each at least 0")
    return seeds


def _expand(sweep: _Sweep, stem: str) -> list[Point]:
    """Return all combinations, named after the sweep file and the settings that vary."""
    combinations: list[Changes] = [
        dict(zip(grid, values, strict=True))
        for grid in sweep.grids
        for values in product(*grid.values())
    ]
    variants = [
        combination | single for single in sweep.singles or [{}] for combination in combinations
    ]
    varied = list(dict.fromkeys(key for variant in variants for key in variant))
    seeds: list[int | None] = [*sweep.seeds] or [None]
    points = []
    for variant in variants:
        parts = [ref_name(stem), _label_variant(variant, varied)]
        for seed in seeds:
            changes = sweep.base | variant
            if seed is None:
                points.append(Point("-".join(filter(None, parts)), changes))
            else:
                name = "-".join(filter(None, [*parts, f"s{seed}"]))
                points.append(Point(name, changes | {SEED: seed}))
    return points


def _find_duplicates(points: Sequence[Point]) -> list[str]:
    errors = []
    for i, point in enumerate(points):
        first = next((other for other in points[:i] if other.changes == point.changes), None)
        if first is not None:
            errors.append(
                f"two points are equal, {first.name} with {first.changes}; remove one of them"
            )
    return errors


def _number_duplicate_names(points: Sequence[Point]) -> list[Point]:
    names = [point.name for point in points]
    return [
        point if names.count(point.name) == 1 else Point(f"{point.name}-{i}", point.changes)
        for i, point in enumerate(points, start=1)
    ]


def _check_params(points: Sequence[Point], raw: Mapping[str, Any]) -> list[str]:
    """Validate the settings of all points. An error that points share is listed once."""
    errors: dict[str, str] = {}
    for point in points:
        try:
            params.parse(apply_changes(raw, point.changes), point.name)
        except StageError as error:
            for line in str(error).splitlines():
                errors.setdefault(line.removeprefix(f"{point.name}: "), line)
    return list(errors.values())


def find_section_error(raw: Mapping[str, Any], key: str, value: Any) -> str:
    """Return an error if `value` would replace a section at `key`, otherwise "".

    A value with only some keys of a section would remove its other keys.
    """
    section: Any = raw
    for name in key.split("."):
        section = section.get(name) if isinstance(section, Mapping) else None
    if not isinstance(value, dict) or not isinstance(section, Mapping):
        return ""
    known = [name for name in value if name in section]
    return f"{key} is a section; set one of its keys, such as {key}.{known[0]}" if known else ""


def apply_changes(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the settings with `changes` applied.

    Unknown keys are added so that validation reports them. Keys of `raw` are renamed to their
    current names, which those of `changes` must have already.

    Raises:
        StageError: A key of `raw` is given by both its old and its current name.
    """
    result = _copy(raw)
    rename_keys(result)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = result
        for name in path:
            if not isinstance(section.get(name), dict):
                section[name] = {}
            section = section[name]
        section[last] = value
    return result


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _label_variant(variant: Mapping[str, Any], varied: Sequence[str]) -> str:
    """Return the values of the settings that vary, for example `protonet-shots5`."""
    parts = []
    for key in varied:
        if key in variant:
            last, value = key.rpartition(".")[2], ref_name(str(variant[key]))
            parts.append(value if last == "name" else f"{ref_name(last)}{value}")
    return "-".join(parts)


def ref_name(text: str) -> str:
    """Return `text` as a Git ref, with only letters, digits, `_`, `+`, `-` and inner dots."""
    name = re.sub(r"[^A-Za-z0-9_.+]+", "-", text).strip("-.")
    # Git allows neither two dots in succession nor this suffix.
    return re.sub(r"\.lock$", "-lock", re.sub(r"\.{2,}", ".", name)) or "x"
