"""Set params.yaml to a preset, the defaults changed by conf/presets/NAME.yaml, and keep comments.

`python -m tasks.preset` lists the presets; `python -m tasks.preset default` restores the defaults.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from episodic.core.config import ConfigError
from episodic.core.registry import did_you_mean
from tasks import params
from tasks.params import default_params, merge_into, read_yaml, rename_keys
from tasks.runtime import stage
from tasks.runtime.files import ROOT, write_text

PRESETS = ROOT / "conf" / "presets"
COMMENT_COLUMN = 28
COMMENT = re.compile(r"(?m)^([^#'\"\n]*[^#'\"\s]) +(# .*)$")
"""The value and the comment of a line. Comments begin at COMMENT_COLUMN where there is room."""


def list_presets() -> list[str]:
    """Return the names of all presets."""
    return ["default", *sorted(path.stem for path in PRESETS.glob("*.yaml"))]


def apply_preset(name: str, path: Path, source: str | None = None) -> list[str]:
    """Set params.yaml to a preset and keep its comments.

    Args:
        name: The preset.
        path: The file.
        source: Path of the user's own data; None: that of the preset.

    Returns:
        The changes, as "key: old -> new".

    Raises:
        ConfigError: There is no such preset.
        StageError: The file is missing, or its new values are invalid. With `source` it is written
            even so, so that values that do not fit the data can be corrected in it.
    """
    known = list_presets()
    if name not in known:
        raise ConfigError(
            "preset", name, f"must be one of {', '.join(known)}{did_you_mean(name, known)}"
        )
    values = default_params()
    if name != "default":
        merge_into(values, read_yaml(PRESETS / f"{name}.yaml"))
    if source is not None:
        values["dataset"]["source"] = source
    round_trip = round_trip_yaml()
    if not path.exists():
        raise stage.StageError(
            f"{path} does not exist; run in the root of the repository, or pass the file with "
            "--params"
        )
    if not isinstance(read_yaml(path), dict):
        raise stage.StageError(
            f"{path} must contain sections such as dataset and train; restore it with git checkout "
            f"{path}"
        )
    document = round_trip.load(path.read_text(encoding="utf-8"))
    changes = [f"{old} -> {new}" for old, new in rename_keys(document).items()]
    _assign(document, values, "", changes)
    text = io.StringIO()
    round_trip.dump(document, text)
    aligned = COMMENT.sub(
        lambda line: f"{line[1]:<{COMMENT_COLUMN - 1}} {line[2]}", text.getvalue()
    )
    written = YAML(typ="safe", pure=True).load(aligned)
    if source is None:
        params.parse(written, str(path))  # invalid values are not written
    if changes:
        write_text(path, aligned)
    if source is not None:
        params.parse(written, str(path))
    return changes


def round_trip_yaml() -> YAML:
    """Return a reader and writer of YAML that preserves comments and layout.

    It builds plain values only: unlike PyYAML's default, no tag creates a Python object.
    """
    round_trip = YAML(typ="rt", pure=True)
    round_trip.width = 10_000
    round_trip.preserve_quotes = True
    round_trip.representer.add_representer(
        type(None),
        lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null"),
    )
    return round_trip


def _assign(document: Any, values: dict[str, Any], path: str, changes: list[str]) -> None:
    for key, value in values.items():
        where = f"{path}{key}"
        if isinstance(value, dict):
            if document.get(key) is None:
                document[key] = {}
            _assign(document[key], value, f"{where}.", changes)
            continue
        value = list(value) if isinstance(value, tuple) else value
        if key not in document or document[key] != value:
            changes.append(f"{where}: {document.get(key)} -> {value}")
            if isinstance(value, list):
                if not isinstance(document.get(key), list):
                    document[key] = CommentedSeq()
                document[key][:] = value
                document[key].fa.set_flow_style()  # a new list has no style of its own
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
            for name in list_presets():
                print(f"{name:16} {_describe_preset(name)}")
            return
        changes = apply_preset(args.name, args.params, args.source)
        print("\n".join(changes) if changes else f"{args.params} already is {args.name}")

    stage.run(body)


def _describe_preset(name: str) -> str:
    """Return the first comment of a preset's file."""
    if name == "default":
        return "the values that params.yaml came with"
    first_line = (PRESETS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    return first_line.removeprefix("# ")


if __name__ == "__main__":
    main()
