"""The sections of params.yaml and where their types are."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from episodic.core.config import Section
from episodic.core.registry import ALGORITHMS, DATASETS, MODELS, Registry
from tasks.params.settings import Choice, DatasetChoice, DatasetKeys


@dataclass(frozen=True)
class ChoiceSection:
    """A section that names an entry of a registry.

    Attributes:
        registry: The registry.
        default: The name that params.yaml is committed with.
        keys: Type of the keys that do not belong to an entry.
        type: Type of the section.
    """

    registry: Registry
    default: str
    keys: type[Section] = Section
    type: type[Choice] = Choice


SELECTABLE_SECTIONS = {
    "dataset": ChoiceSection(DATASETS, "glyphs", DatasetKeys, DatasetChoice),
    "model": ChoiceSection(MODELS, "conv4"),
    "algorithm": ChoiceSection(ALGORITHMS, "maml"),
}

FIXED_SECTIONS = {
    "episodes": ("tasks.params.settings", "Episodes"),
    "train": ("episodic.training.config", "TrainingConfig"),
    "evaluate": ("episodic.training.config", "EvaluationConfig"),
    "report": ("tasks.params.settings", "Report"),
}
"""Module and name of the type of each other section.

It is imported when it is needed, so that a stage which reads the section `dataset` depends on the
code of no algorithm.
"""

SECTIONS = (*SELECTABLE_SECTIONS, *FIXED_SECTIONS)


def import_section_type(section: str) -> type[Section]:
    """Import the type of a section without a choice."""
    module, name = FIXED_SECTIONS[section]
    found: type[Section] = getattr(importlib.import_module(module), name)
    return found
