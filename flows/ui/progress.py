"""A stage's JSON lines as progress artifacts and, now and then, as a line of the log."""

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

from flows.ui.curve import Curve

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]

ARTIFACT_EVERY = 2.0
LOG_EVERY = 10.0


@dataclass
class Track:
    """One piece of work of a stage: its artifact, when it was last written and last logged, and what is still to be written."""

    artifact: UUID
    written: float
    logged: float
    unwritten: tuple[float, str] | None = None


class Progress:
    """Follows one stage, or all of an experiment; every line of its output goes through `line`, `close` writes what the throttle kept back.

    stage: '' takes it from the events
    """

    def __init__(self, stage: str, log: Log, experiment: str = ""):
        self.stage, self.log, self.experiment = stage, log, experiment
        self.curve = Curve(key(experiment, "learning curve"))
        self.tracks: dict[str, Track] = {}

    def line(self, text: str) -> None:
        event = parse(text)
        if event is None:
            self.log.info(text)
        elif event["event"] == "progress":
            self.progress(event)
        else:
            self.log.info(
                sentence(
                    event.pop("event"),
                    {name: value for name, value in event.items() if name != "stage"},
                )
            )

    def progress(self, event: dict[str, Any]) -> None:
        stage = self.stage or str(event.get("stage", ""))
        what, said, now = (
            key(self.experiment, stage, str(event.get("what", "work"))),
            describe(event),
            time.monotonic(),
        )
        percent = 100.0 * min(event["done"] / max(event["total"], 1), 1.0)
        track = self.tracks.get(what)
        if track is None:
            said = describe(
                {name: value for name, value in event.items() if name not in ("rate", "eta")}
            )  # of too short a time
            artifact = cast(UUID, create_progress_artifact(percent, key=what, description=said))
            self.tracks[what] = Track(artifact, written=now, logged=now)
            self.log.info(said)
            return
        finished = event["done"] >= event["total"]
        if stage == "train":
            self.curve.add(event, finished)
        track.unwritten = percent, said
        if finished or now - track.written >= ARTIFACT_EVERY:
            self.write(track, now)
        if finished or now - track.logged >= LOG_EVERY:
            self.log.info(said)
            track.logged = now

    def write(self, track: Track, now: float) -> None:
        if track.unwritten:
            update_progress_artifact(track.artifact, *track.unwritten)
            track.written, track.unwritten = now, None

    def close(self) -> None:
        for track in self.tracks.values():
            self.write(track, time.monotonic())


def parse(text: str) -> dict[str, Any] | None:
    """A stage's event, or None for any other line; a progress event without its numbers is any other line."""
    if not text.startswith("{"):
        return None
    try:
        event = json.loads(text)
    except ValueError:
        return None
    if not isinstance(event.get("event"), str):
        return None
    numbers = all(isinstance(event.get(name), int | float) for name in ("done", "total"))
    return event if numbers or event["event"] != "progress" else None


def describe(event: dict[str, Any]) -> str:
    """'iterations: 350 of 600 (58 %), 12.3 a second, 20 s left, loss 1.25'"""
    done, total = event["done"], event["total"]
    parts = [f"{done} of {total} ({100 * done // max(total, 1):.0f} %)"]
    if event.get("rate"):
        parts.append(f"{event['rate']:.4g} a second")
    if event.get("eta"):
        parts.append(f"{event['eta']:.0f} s left")
    known = {"event", "stage", "what", "done", "total", "rate", "eta"}
    figures = {name: value for name, value in event.items() if name not in known}
    return sentence(f"{event.get('what', 'work')}: " + ", ".join(parts), figures)


def sentence(start: str, figures: dict[str, Any]) -> str:
    said = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in figures.items()
    ]
    return ", ".join([start, *said])


def key(experiment: str, *what: str) -> str:
    """An artifact's key: lowercase letters, digits and dashes. Experiments whose names differ in other characters alone get other keys."""
    name = plain(experiment)
    known = (
        [name]
        if name == experiment
        else [name, hashlib.sha256(experiment.encode()).hexdigest()[:6]]
    )
    return "-".join(filter(None, [*known, *map(plain, what)]))


def plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
