"""The sections of params.yaml and the dataclasses that define them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from episodic.core.config import Section
from episodic.core.registry import ALGORITHMS, DATASETS, MODELS, Registry
from tasks.params.settings import Choice, DatasetChoice, DatasetKeys


@dataclass(frozen=True)
class ChoiceSection:
    """A section that selects a registry entry by name.

    Attributes:
        registry: The registry.
        default: The name in the committed params.yaml.
        keys: Type of the keys shared by all entries.
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

Imported lazily, so a stage that reads only `dataset` does not depend on the code of any
algorithm.
"""

SECTIONS = (*SELECTABLE_SECTIONS, *FIXED_SECTIONS)


def import_section_type(section: str) -> type[Section]:
    """Import the type of a fixed section."""
    module, name = FIXED_SECTIONS[section]
    type_: type[Section] = getattr(importlib.import_module(module), name)
    return type_
