"""Reading of params.yaml into `Settings`."""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Collection
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError

from episodic.core.registry import did_you_mean
from tasks.params.renames import rename_keys, warn_about_renamed_keys
from tasks.params.sections import SECTIONS, SELECTABLE_SECTIONS, import_section_type
from tasks.params.settings import General, Settings
from tasks.params.validation import check_other_choices, read_choice, read_section
from tasks.runtime.stage import StageError


def read_yaml(path: Path) -> Any:
    """Read YAML 1.2 as plain values. (PyYAML would read 1e-3 as text.)

    Raises:
        StageError: There is no such file, or it is not valid YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StageError(
            f"{path} does not exist; run in the root of the repository, or pass the file with "
            "--params"
        ) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise StageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def load(path: Path, *sections: str) -> Settings:
    """Check the whole file, and return some of its sections.

    A child process checks the whole file, so this process imports only code of its sections.

    Raises:
        StageError: The file has errors. All of them are listed, one per line.
    """
    raw = read_yaml(path)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_check, args=(raw, str(path), sender))
    child.start()
    sender.close()
    try:
        errors = receiver.recv()
    except EOFError:
        errors = f"{path} could not be checked"
    child.join()
    if errors:
        raise StageError(errors)
    return parse(raw, str(path), sections)


def _check(raw: Any, source: str, sender: Any) -> None:
    try:
        parse(raw, source, warn=True)
        sender.send("")
    except StageError as error:
        sender.send(str(error))


def parse(
    raw: Any,
    source: str = "params.yaml",
    sections: Collection[str] = SECTIONS,
    warn: bool = False,
) -> Settings:
    """Build settings from plain values.

    Args:
        raw: The content of params.yaml.
        source: Name of the file, for messages.
        sections: The sections to return. Consistency across sections is checked if all are
            requested.
        warn: Whether to warn about renamed keys.

    Raises:
        StageError: The values have errors. All of them are listed, one per line.
    """
    if not isinstance(raw, dict):
        raise StageError(
            f"{source} must contain sections such as dataset and train, not {type(raw).__name__}"
        )
    raw = copy.deepcopy(raw)
    try:
        renamed = rename_keys(raw)
    except StageError as error:
        raise StageError(f"{source}: {error}") from error
    if warn:
        warn_about_renamed_keys(renamed, source)
    errors: list[str] = []
    general_keys = [field.name for field in fields(General)]
    known = [*general_keys, *SECTIONS]
    errors += [
        f"unknown key {key}{did_you_mean(str(key), known)}" for key in raw if key not in known
    ]
    general_values = {key: raw[key] for key in general_keys if key in raw}
    general = read_section("", General, general_values, errors)
    values: dict[str, Any] = {}
    for section in sections:
        if section in SELECTABLE_SECTIONS:
            values[section] = read_choice(section, raw.get(section), errors)
        else:
            values[section] = read_section(
                section, import_section_type(section), raw.get(section), errors
            )
    settings = Settings(raw, **(asdict(general) if general else {}), **values)
    if set(sections) == set(SECTIONS):
        check_other_choices(raw, errors)
        if not errors:
            # Imported here, because the checks import code that most stages do not depend on.
            from tasks.params.checks import find_section_errors

            errors += find_section_errors(settings)
    if errors:
        raise StageError("\n".join(f"{source}: {error}" for error in dict.fromkeys(errors)))
    return settings
