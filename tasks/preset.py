"""Set params.yaml to a preset: the defaults, and the values of conf/presets/NAME.yaml. Comments stay.

`python -m tasks.preset` lists the presets; `python -m tasks.preset default` restores the defaults.
"""

from __future__ import annotations

import argparse
import io
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from episodic.core.config import ConfigError
from episodic.core.registry import did_you_mean
from tasks import params
from tasks.params import CHOICES, PLAIN, General, read_yaml, rename_keys, section_type
from tasks.runtime import stage
from tasks.runtime.files import ROOT, write_text

FOLDER = ROOT / "conf" / "presets"
COLUMN = 28
COMMENT = re.compile(r"(?m)^([^#'\"\n]*[^#'\"\s]) +(# .*)$")
"""The value and the comment of a line. Comments begin at the same column where there is room."""


def names() -> list[str]:
    """List the presets."""
    return ["default", *sorted(path.stem for path in FOLDER.glob("*.yaml"))]


def defaults() -> dict[str, Any]:
    """Return the default of every key, as plain values."""
    result: dict[str, Any] = asdict(General())
    for section, choice in CHOICES.items():
        entries = {name: asdict(choice.registry[name]()) for name in choice.registry}
        result[section] = {"name": choice.default} | asdict(choice.keys()) | entries
    return result | {section: asdict(section_type(section)()) for section in PLAIN}


def apply(name: str, path: Path, source: str | None = None) -> list[str]:
    """Set params.yaml to a preset. Comments stay.

    Args:
        name: The preset.
        path: The file.
        source: Path of the user's own data; None: that of the preset.

    Returns:
        The changes, as "key: old -> new".

    Raises:
        ConfigError: There is no such preset.
        StageError: The file cannot be used. With `source` it is set all the same, so that what the
            data cannot give can be corrected in it.
    """
    if name not in names():
        raise ConfigError(
            "preset", name, f"must be one of {', '.join(names())}{did_you_mean(name, names())}"
        )
    wanted = defaults()
    if name != "default":
        merge(wanted, read_yaml(FOLDER / f"{name}.yaml"))
    if source is not None:
        wanted["dataset"]["source"] = source
    round_trip = YAML()
    round_trip.width = 200
    round_trip.preserve_quotes = True
    round_trip.representer.add_representer(
        type(None),
        lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null"),
    )
    if not path.exists():
        raise stage.StageError(
            f"there is no {path}; run in the repository's root, or name the file with --params"
        )
    if not isinstance(read_yaml(path), dict):
        raise stage.StageError(
            f"{path} must hold sections such as dataset and train; get it back with git checkout {path}"
        )
    document = round_trip.load(path.read_text(encoding="utf-8"))
    changes = [f"{old} -> {new}" for old, new in rename_keys(document).items()]
    _assign(document, wanted, "", changes)
    text = io.StringIO()
    round_trip.dump(document, text)
    aligned = COMMENT.sub(lambda line: f"{line[1]:<{COLUMN - 1}} {line[2]}", text.getvalue())
    found = YAML(typ="safe", pure=True).load(aligned)
    if source is None:
        params.parse(found, str(path))  # nothing is written that would be refused
    if changes:
        write_text(path, aligned)
    if source is not None:
        params.parse(found, str(path))
    return changes


def merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    """Set `values` in nested dicts, in place."""
    for key, value in values.items():
        if isinstance(value, dict):
            merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _assign(document: Any, wanted: dict[str, Any], path: str, changes: list[str]) -> None:
    for key, value in wanted.items():
        where = f"{path}{key}"
        if isinstance(value, dict):
            if document.get(key) is None:
                document[key] = {}
            _assign(document[key], value, f"{where}.", changes)
            continue
        value = list(value) if isinstance(value, tuple) else value
        if key not in document or document[key] != value:
            changes.append(f"{where}: {document.get(key)} -> {value}")
            if isinstance(value, list) and isinstance(document.get(key), list):
                document[key][:] = value
            else:
                document[key] = value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="the preset; without it the presets are listed"
    )
    parser.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        metavar="FILE",
        help="the file to set (default: params.yaml)",
    )
    parser.add_argument(
        "--source",
        metavar="PATH",
        help="your own data, for presets such as image_folder (dataset.source)",
    )
    args = parser.parse_args()

    def body() -> None:
        if args.name is None:
            for name in names():
                first = (
                    "the values that params.yaml came with"
                    if name == "default"
                    else _headline(name)
                )
                print(f"{name:16} {first}")
            return
        changes = apply(args.name, args.params, args.source)
        print("\n".join(changes) if changes else f"{args.params} already is {args.name}")

    stage.run(body)


def _headline(name: str) -> str:
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


if __name__ == "__main__":
    main()
