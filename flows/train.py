"""A run from a form: `train` takes what people change most as typed parameters, in an experiment workspace of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from episodic.core.registry import ALGORITHMS, DATASETS, MODELS
from flows import workspace
from flows.dvc_worker.driver import Worker, WorkerError
from flows.dvc_worker.protocol import Plan, Verdict
from flows.experiments import experiment, watch
from flows.experiments.points import changed, plain, whole_section
from flows.pipeline import Result, follow
from flows.server import pages, stale_runs
from flows.states import failed
from flows.ui import results
from tasks import params
from tasks import preset as presets
from tasks.experiments import WORKSPACE
from tasks.params import read_yaml
from tasks.reports.kit.trees import flatten
from tasks.runtime.stage import StageError

AS_IT_IS = "as it is"
"""The choice of the form that leaves a setting alone; of numbers it is 0 (seed: -1)."""

if TYPE_CHECKING:
    Preset: TypeAlias = str
    Dataset: TypeAlias = str
    Method: TypeAlias = str
    Network: TypeAlias = str
else:  # choices of the form, from where each of them has its home
    Preset, Dataset, Method, Network = (
        Literal[(AS_IT_IS, *names)] for names in (presets.names(), DATASETS, ALGORITHMS, MODELS)
    )

Count = Annotated[int, Field(ge=0)]


@flow(name="train", persist_result=False)
def train(
    preset: Preset = AS_IT_IS,
    dataset: Dataset = AS_IT_IS,
    algorithm: Method = AS_IT_IS,
    model: Network = AS_IT_IS,
    ways: Count = 0,
    shots: Count = 0,
    queries: Count = 0,
    iterations: Count = 0,
    seed: Annotated[int, Field(ge=-1)] = -1,
    more: dict[str, Any] = {},  # noqa: B006 (never changed; the form needs a value)
    name: str = "",
    share: str = "",
) -> State:
    """Trains, tests and reports as an experiment of its own: the checkout's params.yaml and dvc.lock stay as they are.

    The five stages end `Cached` or `Completed`; the page ends with the figures and the report. `dvc exp show` and the comparison see it.

    Args:
        preset: a ready-made setting to start from; "as it is" starts from params.yaml
        dataset: the data set; "as it is" keeps that of the setting, here and below
        algorithm: the method
        model: the base learner
        ways: classes an episode; 0 keeps what the setting says, here and below
        shots: support examples a class
        queries: query examples a class, at test
        iterations: meta-updates
        seed: of initial weights and training episodes; -1 keeps what the setting says
        more: any other parameter by its dotted key, as {"train.meta_lr": 0.001}
        name: of the experiment; empty is made of what was asked for
        share: a git remote, as origin: what others have computed comes from DVC's remote, and the experiment is pushed to both
    """
    stale_runs.arrive()
    log = get_run_logger()
    stages: list[Result] = []
    names = {"dataset.name": dataset, "algorithm.name": algorithm, "model.name": model}
    numbers = {
        "episodes.ways": ways,
        "episodes.shots": shots,
        "episodes.queries": queries,
        "train.iterations": iterations,
    }
    asked: dict[str, Any] = {key: value for key, value in names.items() if value != AS_IT_IS}
    asked |= {key: value for key, value in numbers.items() if value}
    asked |= ({"train.seed": seed} if seed >= 0 else {}) | more
    try:
        root = workspace.find_root(Path.cwd())
        raw = read_yaml(root / "params.yaml")
        keys_alone(raw, more)
        changes = preset_changes(preset) | asked
        if (root / "tasks").is_dir():
            params.parse(changed(raw, changes), "the form")
        if share:
            experiment.sharing(root, share)
        base = experiment.base(root)
        if name and (plain(name) == WORKSPACE or not re.search("[A-Za-z0-9]", name)):
            raise StageError(
                f"name is {name!r}: must have letters or digits (of ASCII), and not be {WORKSPACE}"
            )
        called = plain(name) if name else default_name(preset, asked)
        log.info("experiment %s", called)
        before = watch.latest(root, called)
        with experiment.opened(base, called, changes) as place, Worker(place) as worker:
            steps = worker.ask(Plan(), log.info)
            if isinstance(steps, Verdict):
                raise StageError(f"dvc.yaml: {steps.message}")
            state = follow(steps, worker, False, 300.0, stages, root, called, bool(share))
            if not state.is_completed():
                raise StageError(state.message or "a stage failed")
            pages.keep(root, place, called)
            results.show(root, place, called, pages.kept(root, called))
        said = watch.since(root, called, before, log) if (root / "tasks").is_dir() else ""
        if share:
            experiment.share(root, share, [called])
            log.info("pushed to %s", share)
    except (StageError, WorkerError) as error:
        return failed(str(error), stages)
    return Completed(message=f"experiment {called}: {state.message}{said}", data=stages)


def keys_alone(raw: dict[str, Any], more: dict[str, Any]) -> None:
    """StageError where `more` gives a whole section of the params, whose other keys would be lost."""
    if faults := [
        f"more: {said}" for key, value in more.items() if (said := whole_section(raw, key, value))
    ]:
        raise StageError("\n".join(faults))


def preset_changes(name: str) -> dict[str, Any]:
    """All params of a preset by dotted key; none for params.yaml as it is."""
    if name == AS_IT_IS:
        return {}
    whole = presets.defaults()
    if name != "default":
        presets.merge(whole, read_yaml(presets.FOLDER / f"{name}.yaml"))
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flatten(whole).items()
    }  # as a file has them


def default_name(preset: str, asked: dict[str, Any]) -> str:
    """`omniglot_fast-anil-ways5-shots5`: what was asked for, a name by itself, a number with its key."""
    parts = [] if preset == AS_IT_IS else [preset]
    for key, value in asked.items():
        last = key.rpartition(".")[2]
        parts.append(str(value) if last == "name" else f"{last}{value}")
    return plain("-".join(parts) or "as-it-is")
