"""Whether an experiment got worse since it last ran, as a night's run may: said in its final state and as an event for automations."""

from __future__ import annotations

from pathlib import Path

from prefect.events import emit_event

from flows.ui.progress import Log
from tasks.experiments import Experiment, History, Revision
from tasks.reports.comparison.score_change import measure_change

FELL = "episodic.score.fell"
"""Name of the event; its resource is `episodic.experiment.NAME`, its payload has the sentence and the numbers."""


def latest(root: Path, name: str) -> Revision | None:
    """The last experiment of that name, whatever commit it started from."""
    with History.open(root) as history:
        known = history.experiments().get(name)
    return Revision(name, known[0]) if known else None


def since(root: Path, name: str, before: Revision | None, log: Log) -> str:
    """What became of the score since `before`, as the end of a sentence ('' the first time); emits the event if it fell."""
    after = latest(root, name)
    if before is None or after is None:
        return ""
    with History.open(root) as history:
        read = list(history.read([before, after]))
    for one in read:
        if not isinstance(one, Experiment):
            log.warning("no comparison with the last run: %s", one)
            return ""
    then, now = (one for one in read if isinstance(one, Experiment))
    found = measure_change(then, now)
    if found is None:
        log.info(
            "no comparison with the last run: it was scored on other episodes or in another mode"
        )
        return ""
    if found.worse:
        log.warning("%s since the last run", found)
        emit_event(
            FELL,
            resource={
                "prefect.resource.id": f"episodic.experiment.{name}",
                "prefect.resource.name": name,
            },
            payload={
                "said": str(found),
                "difference": found.difference.mean,
                "low": found.difference.low,
                "high": found.difference.high,
            },
        )
    return f"; {found} since the last run"
