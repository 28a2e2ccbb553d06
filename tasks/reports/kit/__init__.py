"""What the run report and the comparison share: sections, charts, wording, pages, results of a run."""
