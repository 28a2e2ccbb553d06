"""What a form of the UI may name: no code, and no file outside the checkout and the user's data.

Everybody who can open the UI can submit a form. The files of the checkout are trusted instead:
params.yaml, the presets and the sweep files may name code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from prefect.context import FlowRunContext

from flows.experiments.git import run_git
from flows.experiments.points import Changes, apply_changes
from flows.server.pages import FOLDER
from tasks.params import rename_keys
from tasks.runtime.stage import StageError

CODE = ("model.module.path", "model.module.arguments")
"""Settings that import and run code: a class or function by its name, and what it is called with.

The only others are names of entries of a registry, whose modules are files of the checkout.
"""


def is_from_form() -> bool:
    """Whether this flow run was created by the server: by a form, its API or a schedule."""
    context = FlowRunContext.get()
    return bool(context and context.flow_run and context.flow_run.deployment_id)


def check_settings(raw: Mapping[str, Any], preset: Changes, settings: Changes) -> None:
    """Check that the settings of a form neither name code nor files that a form may not read.

    Args:
        raw: Content of params.yaml.
        preset: Settings of the preset by dotted key.
        settings: Settings of the form by dotted key.

    Raises:
        StageError: A setting does, and params.yaml and the preset have another value.
    """
    trusted = [_apply(raw, {}), _apply(raw, preset)]
    result = _apply(raw, preset | settings)
    errors = []
    for key in CODE:
        value = _find(result, key)
        if value not in [_find(params, key) for params in trusted]:
            errors.append(
                f"{key} is {value!r}; it names code to run, so set it in params.yaml of the"
                " checkout instead of the form"
            )
    for key in _list_paths(result):
        value = _find(result, key)
        if value not in [_find(params, key) for params in trusted] and not _is_data_path(value):
            errors.append(
                f"{key} is {value!r}; in the form, it must be an absolute path or one inside the"
                " checkout, without .. and hidden folders"
            )
    if errors:
        raise StageError("\n".join(errors))


def check_sweep_file(root: Path, file: str) -> None:
    """Check that a sweep file is part of the checkout, which makes it as trusted as params.yaml.

    Raises:
        StageError: It is not, or git ignores it.
    """
    path = Path(file).resolve()
    listing = ["ls-files", "--cached", "--others", "--exclude-standard", "--", f":(literal){path}"]
    # For a folder, git would list its files.
    if not path.is_file() or not run_git(root, *listing, check=False):
        raise StageError(
            f"file is {file!r}; in the form, it must be a file of the checkout, such as"
            " conf/sweeps/methods.yaml: for other files, run python -m flows.sweep FILE"
        )


def check_output_folder(root: Path, out: str) -> None:
    """Check that a comparison is written to a folder of reports.

    Raises:
        StageError: It is not.
    """
    reports = (root / FOLDER).resolve()
    folder = (root / out).resolve()
    if folder == reports or not folder.is_relative_to(reports):
        raise StageError(
            f"out is {out!r}; in the form, it must be a folder in {FOLDER}, such as"
            f" {FOLDER}/comparison: for other folders, run python -m flows.compare --out PATH"
        )


def _apply(raw: Mapping[str, Any], changes: Changes) -> dict[str, Any]:
    """Return changed settings with the names and values that the stages read."""
    result = apply_changes(raw, changes)
    rename_keys(result)
    return result


def _find(params: Any, key: str) -> Any:
    for name in key.split("."):
        params = params.get(name) if isinstance(params, Mapping) else None
    return params


def _list_paths(params: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys of all paths of data: `dataset.source` and `dataset.*.features.path`."""
    yield "dataset.source"
    dataset = params.get("dataset")
    for name in dataset if isinstance(dataset, Mapping) else ():
        yield f"dataset.{name}.features.path"


def _is_data_path(value: Any) -> bool:
    """Whether a value is a local path that stays in the checkout if it is relative.

    DVC would read URLs. An experiment links relative paths into its workspace.
    """
    if not isinstance(value, str):
        return value is None  # reported by the validation
    path = PurePath(value)
    if path.is_absolute():
        return True
    is_visible = not any(part.startswith(".") for part in path.parts)
    return bool(path.parts) and is_visible and not urlsplit(value).scheme
