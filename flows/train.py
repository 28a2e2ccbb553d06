"""The flow `train`: a run from a form, as an experiment in a workspace of its own."""

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
from flows import workspace
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
from tasks.params import old_name_warnings, read_yaml, rename_dotted
from tasks.reports.kit.trees import flatten
from tasks.runtime.stage import StageError

UNCHANGED = "as it is"
"""The choice of the form that keeps a setting; of numbers it is 0 (seed: -1)."""

if TYPE_CHECKING:
    Preset: TypeAlias = str
    Dataset: TypeAlias = str
    Method: TypeAlias = str
    Network: TypeAlias = str
else:
    Preset, Dataset, Method, Network = (
        Literal[(UNCHANGED, *names)] for names in (presets.names(), DATASETS, ALGORITHMS, MODELS)
    )

Count = Annotated[int, Field(ge=0)]


@flow(name="train", persist_result=False)
def train(
    preset: Preset = UNCHANGED,
    dataset: Dataset = UNCHANGED,
    algorithm: Method = UNCHANGED,
    model: Network = UNCHANGED,
    ways: Count = 0,
    shots: Count = 0,
    queries: Count = 0,
    iterations: Count = 0,
    seed: Annotated[int, Field(ge=-1)] = -1,
    more: dict[str, Any] = {},  # noqa: B006 (never mutated; the form needs a value)
    name: str = "",
    share: str = "",
) -> State:
    """Trains, evaluates and reports as an experiment of its own.

    The checkout's params.yaml and dvc.lock stay as they are. The page of the run ends with the
    figures and the report. `dvc exp show` and the comparison find the experiment.

    Args:
        preset: A ready-made configuration to start from. "as it is" starts from params.yaml.
        dataset: The dataset. "as it is" keeps the configured one, here and below.
        algorithm: The method.
        model: The base learner.
        ways: Classes per episode. 0 keeps the configured number, here and below.
        shots: Support examples per class.
        queries: Query examples per class at test time.
        iterations: Meta-updates.
        seed: Seed of initial weights and training episodes. -1 keeps the configured one.
        more: Any other params by dotted key, such as {"train.meta_lr": 0.001}.
        name: Name of the experiment. By default, it is made of the settings above.
        share: A git remote, such as origin. Results that others have computed come from DVC's
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
    settings |= {key: value for key, value in numbers.items() if value}
    settings |= {"train.seed": seed} if seed >= 0 else {}
    try:
        root = workspace.find_root(Path.cwd())
        raw = read_yaml(root / "params.yaml")
        settings |= read_overrides(raw, more, log.warning)
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


def read_overrides(raw: Mapping[str, Any], more: Changes, warn: Callable[[str], None]) -> Changes:
    """Return `more` with the present names of all keys.

    Raises:
        StageError: It replaces a section of the params, whose other keys would be lost, or has a
            key by two names.
    """
    more, renamed = rename_dotted(more)
    for warning in old_name_warnings(renamed, "more"):
        warn(warning)
    errors = [find_section_error(raw, key, value) for key, value in more.items()]
    if lines := [f"more: {error}" for error in errors if error]:
        raise StageError("\n".join(lines))
    return more


def preset_changes(name: str) -> Changes:
    """Return all params of a preset by dotted key, or none for "as it is"."""
    if name == UNCHANGED:
        return {}
    content = presets.defaults()
    if name != "default":
        presets.merge(content, read_yaml(presets.FOLDER / f"{name}.yaml"))
    # Lists, as in YAML, where the defaults are tuples.
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flatten(content).items()
    }


def experiment_name(name: str, preset: str, settings: Changes) -> str:
    """Return the name asked for as a Git ref, or a default one.

    Raises:
        StageError: The name has no letter or digit, or means the workspace.
    """
    if not name:
        return default_name(preset, settings)
    if ref_name(name) == WORKSPACE or not re.search("[A-Za-z0-9]", name):
        raise StageError(
            f"name is {name!r}; it must have ASCII letters or digits, and not be {WORKSPACE}"
        )
    return ref_name(name)


def default_name(preset: str, settings: Changes) -> str:
    """Return a name made of the settings, for example `omniglot_fast-anil-ways5-shots5`."""
    parts = [] if preset == UNCHANGED else [preset]
    for key, value in settings.items():
        last = key.rpartition(".")[2]
        parts.append(str(value) if last == "name" else f"{last}{value}")
    return ref_name("-".join(parts) or "as-it-is")
