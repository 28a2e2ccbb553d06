"""What the run report and the comparison share: results, sections, charts, wording and pages."""
