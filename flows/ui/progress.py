"""Progress of a stage, from its JSON lines to progress artifacts and log lines."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.ui.curve import LearningCurve

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]

ARTIFACT_INTERVAL = 2.0
"""Seconds between two updates of an artifact."""

LOG_INTERVAL = 10.0
"""Seconds between two log lines."""


@dataclass
class Track:
    """The progress of one loop of a stage.

    Attributes:
        artifact: Id of the progress artifact.
        written: Time of the last update of the artifact.
        logged: Time of the last log line.
        pending: Percentage and description that have not been written yet.
    """

    artifact: UUID
    written: float
    logged: float
    pending: tuple[float, str] | None = None


class Progress:
    """Publishes the output of a stage, or of all stages of an experiment.

    Args:
        stage: Name of the stage. If empty, the events contain it.
        log: Logger for all other lines.
        experiment: Prefix of the keys of the artifacts.
    """

    def __init__(self, stage: str, log: Log, experiment: str = ""):
        self.stage, self.log, self.experiment = stage, log, experiment
        self.curve = LearningCurve(artifact_key(experiment, "learning curve"))
        self.tracks: dict[str, Track] = {}

    def write(self, line: str) -> None:
        """Publish one line of the stage's output."""
        event = parse_event(line)
        if event is None:
            self.log.info(line)
        elif event["event"] == "progress":
            self._publish(event)
        else:
            self.log.info(
                append_values(
                    event.pop("event"),
                    {name: value for name, value in event.items() if name != "stage"},
                )
            )

    def close(self) -> None:
        """Write pending updates."""
        for track in self.tracks.values():
            self._update(track, time.monotonic())

    def _publish(self, event: dict[str, Any]) -> None:
        stage = self.stage or str(event.get("stage", ""))
        key = artifact_key(self.experiment, stage, str(event.get("what", "work")))
        now = time.monotonic()
        percent = 100.0 * min(event["done"] / max(event["total"], 1), 1.0)
        track = self.tracks.get(key)
        if track is None:
            # The first rate is unreliable, because little time has passed.
            steady = {name: value for name, value in event.items() if name not in ("rate", "eta")}
            description = describe_event(steady)
            artifact = cast(
                UUID, create_progress_artifact(percent, key=key, description=description)
            )
            self.tracks[key] = Track(artifact, written=now, logged=now)
            self.log.info(description)
            return
        description = describe_event(event)
        finished = event["done"] >= event["total"]
        if stage == "train":
            self.curve.add(event, finished)
        track.pending = percent, description
        if finished or now - track.written >= ARTIFACT_INTERVAL:
            self._update(track, now)
        if finished or now - track.logged >= LOG_INTERVAL:
            self.log.info(description)
            track.logged = now

    def _update(self, track: Track, now: float) -> None:
        if track.pending:
            update_progress_artifact(track.artifact, *track.pending)
            track.written, track.pending = now, None


def parse_event(line: str) -> dict[str, Any] | None:
    """Parse an event, or return None for other lines and for progress without numbers."""
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not isinstance(event.get("event"), str):
        return None
    has_numbers = all(isinstance(event.get(name), int | float) for name in ("done", "total"))
    return event if has_numbers or event["event"] != "progress" else None


def describe_event(event: dict[str, Any]) -> str:
    """Describe an event: 'iterations: 350 of 600 (58 %), 12.3 per second, 20 s left, loss 1.25'."""
    done, total = event["done"], event["total"]
    parts = [f"{done} of {total} ({100 * done // max(total, 1):.0f} %)"]
    if event.get("rate"):
        parts.append(f"{event['rate']:.4g} per second")
    if event.get("eta"):
        parts.append(f"{event['eta']:.0f} s left")
    known = {"event", "stage", "what", "done", "total", "rate", "eta"}
    values = {name: value for name, value in event.items() if name not in known}
    return append_values(f"{event.get('what', 'work')}: " + ", ".join(parts), values)


def append_values(start: str, values: dict[str, Any]) -> str:
    texts = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    ]
    return ", ".join([start, *texts])


def artifact_key(experiment: str, *parts: str) -> str:
    """Return the key of an artifact, which consists of lowercase letters, digits and dashes.

    If the experiment's name has other characters, a digest is added so that keys are unique.
    """
    name = slug(experiment)
    prefix = [name]
    if name != experiment:
        prefix.append(hashlib.sha256(experiment.encode()).hexdigest()[:6])
    return "-".join(filter(None, [*prefix, *map(slug, parts)]))


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
