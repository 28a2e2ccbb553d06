"""The change of an experiment's score since its previous run, such as that of the night before.

The final state of the flow `train` contains the change. A decrease also emits an event, which can
trigger automations.
"""

from __future__ import annotations

from pathlib import Path

from prefect.events import emit_event

from flows.ui.progress import Log
from tasks.experiments import Experiment, Revision, RevisionHistory
from tasks.reports.comparison.score_change import measure_change

SCORE_FELL = "episodic.score.fell"
"""Name of the event.

Its resource is `episodic.experiment.NAME`. Its payload contains the message and the difference with
its interval.
"""


def latest_revision(root: Path, name: str) -> Revision | None:
    """Return the most recent experiment of this name, regardless of the commit it started from."""
    with RevisionHistory.open(root) as history:
        known = history.experiments().get(name)
    return Revision(name, known[0]) if known else None


def describe_change(root: Path, name: str, previous: Revision | None, log: Log) -> str:
    """Compare an experiment with its previous run, and emit the event if its score fell.

    Returns:
        A clause to append to a message, or "" if the two runs cannot be compared.
    """
    latest = latest_revision(root, name)
    if previous is None or latest is None:
        return ""
    with RevisionHistory.open(root) as history:
        results = list(history.read([previous, latest]))
    for result in results:
        if not isinstance(result, Experiment):
            log.warning("not compared with the last run: %s", result)
            return ""
    before, after = (result for result in results if isinstance(result, Experiment))
    difference = measure_change(before, after)
    if difference is None:
        log.info("not compared with the last run: it used other test episodes or another mode")
        return ""
    if difference.worse:
        log.warning("%s since the last run", difference)
        emit_event(
            SCORE_FELL,
            resource={
                "prefect.resource.id": f"episodic.experiment.{name}",
                "prefect.resource.name": name,
            },
            payload={
                "message": str(difference),
                "difference": difference.difference.mean,
                "low": difference.difference.low,
                "high": difference.difference.high,
            },
        )
    return f"; {difference} since the last run"
