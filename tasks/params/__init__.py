"""Typed settings of params.yaml, validated before any stage runs."""

from tasks.params.defaults import default_params, merge_into
from tasks.params.reading import load, parse, read_yaml
from tasks.params.renames import (
    list_rename_warnings,
    rename_dotted,
    rename_keys,
    warn_about_renamed_keys,
)
from tasks.params.sections import FIXED_SECTIONS, SECTIONS, SELECTABLE_SECTIONS, import_section_type
from tasks.params.settings import (
    USER_DATA,
    Choice,
    DatasetChoice,
    DatasetKeys,
    Episodes,
    General,
    Report,
    Settings,
)

__all__ = [
    "FIXED_SECTIONS",
    "SECTIONS",
    "SELECTABLE_SECTIONS",
    "USER_DATA",
    "Choice",
    "DatasetChoice",
    "DatasetKeys",
    "Episodes",
    "General",
    "Report",
    "Settings",
    "default_params",
    "import_section_type",
    "list_rename_warnings",
    "load",
    "merge_into",
    "parse",
    "read_yaml",
    "rename_dotted",
    "rename_keys",
    "warn_about_renamed_keys",
]
