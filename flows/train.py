"""The flow `train`: a run configured in a form, as an experiment in a separate workspace."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from episodic.core.registry import ALGORITHMS, DATASETS, MODELS
from flows import form, workspace
from flows.dvc_worker.driver import Worker
from flows.experiments.experiment import check_sharing, open_workspace, push_experiments
from flows.experiments.points import Changes, apply_changes, find_section_error, ref_name
from flows.experiments.score_change import describe_change, latest_revision
from flows.experiments.worktree import read_base
from flows.server import pages, stale_runs
from flows.stages import StageRun, run_stages
from flows.states import failed_state, read_records
from flows.ui.results import publish_results
from tasks import params
from tasks import preset as presets
from tasks.experiments import WORKSPACE
from tasks.params import list_rename_warnings, read_yaml, rename_dotted
from tasks.reports.kit.trees import flatten
from tasks.runtime.stage import StageError

UNCHANGED = "unchanged"
"""Option of the form that keeps the setting of params.yaml. Numbers use 0, the seed -1."""

MAX_NAME = 200
"""Maximum length of the name of an experiment, which is also a file name."""

if TYPE_CHECKING:
    Preset: TypeAlias = str
    Dataset: TypeAlias = str
    Algorithm: TypeAlias = str
    Model: TypeAlias = str
else:
    Preset, Dataset, Algorithm, Model = (
        Literal[(UNCHANGED, *names)]
        for names in (presets.list_presets(), DATASETS, ALGORITHMS, MODELS)
    )

Count = Annotated[int, Field(ge=0)]


@flow(name="train", persist_result=False)
def train(
    preset: Preset = UNCHANGED,
    dataset: Dataset = UNCHANGED,
    source: str = "",
    algorithm: Algorithm = UNCHANGED,
    model: Model = UNCHANGED,
    ways: Count = 0,
    shots: Count = 0,
    queries: Count = 0,
    iterations: Count = 0,
    seed: Annotated[int, Field(ge=-1)] = -1,
    overrides: dict[str, Any] = {},  # noqa: B006 (never mutated; the form needs a value)
    name: str = "",
    share: str = "",
) -> State:
    """Run the pipeline as a separate DVC experiment.

    The checkout's params.yaml and dvc.lock are not modified. When the run finishes, its page shows
    the scores and the report. `dvc exp show` and the comparison include the experiment.

    Args:
        preset: Preset to start from. "unchanged" starts from params.yaml.
        dataset: Dataset. "unchanged" keeps the configured one.
        source: Folder or file of your own data, for presets such as own_photos. Empty keeps the
            configured one.
        algorithm: Algorithm. "unchanged" keeps the configured one.
        model: Model. "unchanged" keeps the configured one.
        ways: Classes per episode. 0 keeps the configured number.
        shots: Support examples per class. 0 keeps the configured number.
        queries: Query examples per class at test time. 0 keeps the configured number.
        iterations: Number of outer steps. 0 keeps the configured number.
        seed: Seed of the initial weights and the training episodes. -1 keeps the configured one.
        overrides: Other settings by dotted key, such as {"train.meta_lr": 0.001},
            {"dataset.image_folder.features.path": "dino.safetensors"}, or bounds of ways and shots,
            such as {"episodes.ways": [5, 20]}. Settings that name code (model.module) must be in
            params.yaml.
        name: Name of the experiment. By default, it is made of the settings above.
        share: Git remote, such as origin. Results computed elsewhere are pulled from the DVC
            remote, and the experiment is pushed to both remotes.
    """
    stale_runs.register()
    log = get_run_logger()
    runs: list[StageRun] = []
    names = {"dataset.name": dataset, "algorithm.name": algorithm, "model.name": model}
    numbers = {
        "episodes.ways": ways,
        "episodes.shots": shots,
        "episodes.queries": queries,
        "train.iterations": iterations,
    }
    settings: Changes = {key: value for key, value in names.items() if value != UNCHANGED}
    settings |= {"dataset.source": source} if source else {}
    settings |= {key: value for key, value in numbers.items() if value}
    settings |= {"train.seed": seed} if seed >= 0 else {}
    try:
        root = workspace.find_root(Path.cwd())
        raw = read_yaml(root / "params.yaml")
        settings |= read_overrides(raw, overrides, log.warning)
        form.check_settings(raw, preset_changes(preset), settings)
        changes = preset_changes(preset) | settings
        if (root / "tasks").is_dir():
            params.parse(apply_changes(raw, changes), "the form")
        if share:
            check_sharing(root, share)
        base = read_base(root)
        experiment = experiment_name(name, preset, settings)
        log.info("experiment %s", experiment)
        previous = latest_revision(root, experiment)
        with open_workspace(base, experiment, changes) as folder, Worker(folder) as worker:
            plan = worker.plan([], log.info)
            state = run_stages(plan, worker, root, pull=bool(share), experiment=experiment)
            runs = read_records(state)
            if not state.is_completed():
                raise StageError(state.message or "a stage failed")
            pages.copy_pages(root, folder, experiment)
            publish_results(root, folder, experiment, pages.report_path(root, experiment))
        change = ""
        if (root / "tasks").is_dir():
            change = describe_change(root, experiment, previous, log)
        if share:
            push_experiments(root, share, [experiment])
            log.info("pushed to %s", share)
    except StageError as error:
        return failed_state(str(error), runs)
    return Completed(message=f"experiment {experiment}: {state.message}{change}", data=runs)


def read_overrides(
    raw: Mapping[str, Any], overrides: Changes, warn: Callable[[str], None]
) -> Changes:
    """Return `overrides` with the current names of all keys.

    Args:
        raw: Content of params.yaml.
        overrides: Settings by dotted key.
        warn: Called with a warning for each key that has been renamed.

    Raises:
        StageError: A value would replace a whole section, or a key is given by both of its names.
    """
    overrides, renamed = rename_dotted(overrides)
    for warning in list_rename_warnings(renamed, "overrides"):
        warn(warning)
    errors = [find_section_error(raw, key, value) for key, value in overrides.items()]
    if lines := [f"overrides: {error}" for error in errors if error]:
        raise StageError("\n".join(lines))
    return overrides


def preset_changes(name: str) -> Changes:
    """Return the settings of a preset by dotted key, or an empty dict for "unchanged".

    No preset knows where the user's own data is, so the configured path stays.
    """
    if name == UNCHANGED:
        return {}
    content = params.default_params()
    if name != "default":
        params.merge_into(content, read_yaml(presets.PRESETS / f"{name}.yaml"))
    # The defaults are tuples; YAML has lists.
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flatten(content).items()
        if key != "dataset.source"
    }


def experiment_name(name: str, preset: str, settings: Changes) -> str:
    """Return the requested name as a Git ref, or a default one.

    Raises:
        StageError: The name has no letter or digit, is too long, or is reserved for the workspace.
    """
    chosen = ref_name(name) if name else default_name(preset, settings)
    if name and (chosen == WORKSPACE or not re.search("[A-Za-z0-9]", name)):
        raise StageError(
            f"name is {name!r}; it must contain ASCII letters or digits and not be {WORKSPACE!r}"
        )
    if len(chosen) > MAX_NAME:
        raise StageError(
            f"the name of the experiment has {len(chosen)} characters; set name to one of at most"
            f" {MAX_NAME}"
        )
    return chosen


def default_name(preset: str, settings: Changes) -> str:
    """Return a name made of the settings, for example `omniglot_fast-anil-ways5-shots5`."""
    parts = [] if preset == UNCHANGED else [preset]
    for key, value in settings.items():
        last = key.rpartition(".")[2]
        if key == "dataset.source":
            parts.append(Path(value).name)
        else:
            parts.append(str(value) if last == "name" else f"{last}{value}")
    return ref_name("-".join(parts) or UNCHANGED)
