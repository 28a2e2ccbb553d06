"""What a sweep consists of: conf/sweeps/NAME.yaml -> its points, each a set of params by dotted key under a name that can be read.

base: {train.iterations: 200}                     # of all points, beside params.yaml as it is
grid: {algorithm.name: [maml, protonet], episodes.shots: [1, 5]}      # every combination
grid: [{train.classes: [10, 100]}, {episodes.shots: [2, 5]}, {}]       # or several grids, one after the other; {}: the base alone
points: [{model.name: mlp}, {model.name: conv4}]  # or one by one; with a grid: each of them with each combination
seeds: [0, 1, 2]                                  # train.seed of every point
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from episodic.core.registry import did_you_mean
from tasks import params
from tasks.experiments import WORKSPACE
from tasks.params import read_yaml
from tasks.runtime.stage import StageError

SEED = "train.seed"
KEYS = ("base", "grid", "points", "seeds")


@dataclass(frozen=True)
class Point:
    """name: of the experiment; changes: params by dotted key"""

    name: str
    changes: dict[str, Any]


def read(file: Path, raw: Mapping[str, Any], check: bool = True) -> list[Point]:
    """The points of a sweep file over the params `raw`, in its order; StageError lists every mistake of any of them.

    check: whether each point's params are checked as a whole, before anything runs (a repository with other stages has other params)
    """
    if file.is_dir():
        raise StageError(f"{file} is a folder: name a file, as conf/sweeps/methods.yaml")
    if not file.exists():
        raise StageError(f"there is no {file}: name a sweep file, as conf/sweeps/methods.yaml")
    content = read_yaml(file)
    if not isinstance(content, dict) or not content:
        raise StageError(f"{file} must hold some of {', '.join(KEYS)}")
    faults = [
        f"{file}: unknown key {key}{did_you_mean(str(key), list(KEYS))}"
        for key in content
        if key not in KEYS
    ]
    base, singles, seeds = (
        _section(content, "base", faults),
        content.get("points"),
        content.get("seeds"),
    )
    listed = content.get("grid")
    grids = [
        _section({"grid": grid}, "grid", faults)
        for grid in (listed if isinstance(listed, list) and listed else [listed or None])
    ]
    for grid in grids:
        for key, values in grid.items():
            if not isinstance(values, list) or not values:
                faults.append(f"{file}: grid.{key} is {values!r}: must be a list of values")
    if singles is not None and not (
        isinstance(singles, list) and singles and all(isinstance(p, dict) for p in singles)
    ):
        faults.append(
            f"{file}: points is {singles!r}: must be a list of sections of params by dotted key"
        )
    if seeds is not None and not (
        isinstance(seeds, list) and seeds and all(type(s) is int and s >= 0 for s in seeds)
    ):
        faults.append(f"{file}: seeds is {seeds!r}: must be a list of whole numbers, 0 or more")
    # From here on with what is right of it, so that its other mistakes are told at once.
    grids = [
        {key: values for key, values in grid.items() if isinstance(values, list) and values}
        for grid in grids
    ]
    singles = (
        [single for single in singles if isinstance(single, dict)]
        if isinstance(singles, list)
        else []
    )
    seeds = [s for s in seeds if type(s) is int and s >= 0] if isinstance(seeds, list) else None
    given = [base, *({key: values[0]} for grid in grids for key, values in grid.items()), *singles]
    for part in given:
        for key, value in list(part.items()):
            if said := whole_section(raw, key, value):
                faults.append(f"{file}: {said}")
                part.pop(key)
                for grid in grids:
                    grid.pop(key, None)
    if seeds is not None and any(SEED in part for part in given):
        faults.append(f"{file}: {SEED} is given beside seeds: leave one of them out")
    if not faults and not any(grids) and not any(singles) and seeds is None:
        faults.append(f"{file} has nothing to vary: give it a grid, points or seeds")
    combinations = [
        dict(zip(grid, values, strict=True)) for grid in grids for values in product(*grid.values())
    ]
    rows = [combination | single for single in singles or [{}] for combination in combinations]
    varied = list(dict.fromkeys(key for row in rows for key in row))
    points = []
    for row in rows:
        label = _label(row, varied)
        for seed in seeds or [None]:
            changes = base | row | ({SEED: seed} if seed is not None else {})
            name = "-".join(
                filter(None, [plain(file.stem), label, f"s{seed}" if seed is not None else ""])
            )
            points.append(Point(name, changes))
    for i, point in enumerate(points):
        same = next((other for other in points[:i] if other.changes == point.changes), None)
        if same is not None and not faults:
            raise StageError(
                f"{file}: two points are the same, {same.name} with {same.changes}: leave one of them out"
            )
    if any(p.name == WORKSPACE for p in points):
        faults.append(
            f"{file}: its experiment would be called {WORKSPACE}, which means the files that lie here: name the file otherwise"
        )
    names = [p.name for p in points]
    points = [
        Point(p.name if names.count(p.name) == 1 else f"{p.name}-{i + 1}", p.changes)
        for i, p in enumerate(points)
    ]
    of_params: dict[str, str] = {}  # one that many points share is told of the first
    for point in points if check else []:
        try:
            params.parse(changed(raw, point.changes), point.name)
        except StageError as error:
            for line in str(error).splitlines():
                of_params.setdefault(line.removeprefix(f"{point.name}: "), f"{file}, {line}")
    if faults or of_params:
        raise StageError("\n".join(dict.fromkeys([*faults, *of_params.values()])))
    return points


def whole_section(raw: Mapping[str, Any], key: str, value: Any) -> str:
    """Why `value` cannot be given for `key`: in a section's place it would drop the section's other keys; '' where it can."""
    inner = (
        [name for name in value if name in _at(raw, str(key))] if isinstance(value, dict) else []
    )
    return f"{key} is a section: say which of its keys, as {key}.{inner[0]}" if inner else ""


def _at(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The section of the params at a dotted key, empty if it is none."""
    found: Any = raw
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _section(content: Mapping[str, Any], key: str, faults: list[str]) -> dict[str, Any]:
    found = content.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        faults.append(
            f"{key} is {found!r}: must be a section of params by dotted key, as train.iterations: 200"
        )
        return {}
    return {str(name): value for name, value in found.items()}


def changed(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The params with `changes` made; a key that is not there is made, so that its check can name it."""
    result = _copy(raw)
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


def _label(row: Mapping[str, Any], varied: list[str]) -> str:
    """`protonet-shots5`: the values that differ between points; a name stands for itself."""
    parts = []
    for key in varied:
        if key in row:
            last = key.rpartition(".")[2]
            parts.append(
                plain(str(row[key])) if last == "name" else f"{plain(last)}{plain(str(row[key]))}"
            )
    return "-".join(parts)


def plain(text: str) -> str:
    """What a git ref takes: letters, digits, `_`, `+` and inner dots."""
    return re.sub(r"[^A-Za-z0-9_.+]+", "-", text).strip("-.").replace("..", ".") or "x"
