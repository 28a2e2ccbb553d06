"""Shared code of the run report and the comparison: results, sections, charts, wording, pages."""
