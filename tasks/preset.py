"""Sets params.yaml to a preset: the defaults, and what conf/presets/NAME.yaml says instead. Comments stay.

`python -m tasks.preset` lists the presets; `python -m tasks.preset default` goes back to the defaults.
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
from tasks.params import CHOICES, PLAIN, plain_type, read_yaml, registry, settings_type
from tasks.runtime import stage
from tasks.runtime.files import ROOT, write_text

FOLDER = ROOT / "conf" / "presets"
COLUMN = 28
COMMENT = re.compile(r"(?m)^([^#'\"\n]*[^#'\"\s]) +(# .*)$")
"""A line's value and its comment, which begins at a column wherever the value leaves room."""
DEFAULTS = {"dataset": "glyphs", "model": "conv4", "algorithm": "maml"}


def names() -> list[str]:
    return ["default", *sorted(path.stem for path in FOLDER.glob("*.yaml"))]


def defaults() -> dict[str, Any]:
    """Every key at the value that the code gives it, as plain values."""
    result: dict[str, Any] = {"device": "auto", "processes": None}
    for section, (_, beside) in CHOICES.items():
        result[section] = {"name": DEFAULTS[section]} | {
            key: {"seed": 0, "source": params.OWN_DATA}[key] for key in beside
        }
        result[section] |= {
            name: asdict(settings_type(registry(section)[name])()) for name in registry(section)
        }
    return result | {section: asdict(plain_type(section)()) for section in PLAIN}


def apply(name: str, path: Path, source: str | None = None) -> list[str]:
    """Rewrites `path`; returns the changes as 'key: old -> new'. source: of data of one's own (None: that of the preset)"""
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
    changes: list[str] = []
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
        params.parse(found, str(path))  # what one's own data cannot give is set right in the file
    return changes


def merge(into: dict[str, Any], values: dict[str, Any]) -> None:
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
        help="your own data, for presets as image_folder (dataset.source)",
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
