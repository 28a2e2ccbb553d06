"""Reports: a kit shared by the run report and the comparison, and the templates."""
