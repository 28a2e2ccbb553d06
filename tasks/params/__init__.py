"""params.yaml as types: everything is checked before anything runs."""

from tasks.params.reading import load, parse, read_yaml
from tasks.params.renames import (
    old_name_warnings,
    rename_dotted,
    rename_keys,
    warn_of_old_names,
)
from tasks.params.sections import CHOICES, PLAIN, SECTIONS, section_type
from tasks.params.settings import (
    OWN_DATA,
    Choice,
    DatasetChoice,
    DatasetKeys,
    Episodes,
    General,
    Report,
    Settings,
)

__all__ = [
    "CHOICES",
    "OWN_DATA",
    "PLAIN",
    "SECTIONS",
    "Choice",
    "DatasetChoice",
    "DatasetKeys",
    "Episodes",
    "General",
    "Report",
    "Settings",
    "load",
    "old_name_warnings",
    "parse",
    "read_yaml",
    "rename_dotted",
    "rename_keys",
    "section_type",
    "warn_of_old_names",
]
