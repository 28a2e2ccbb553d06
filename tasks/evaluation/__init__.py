"""Parts of the stage `evaluate`: baselines, diagnostics, ratings, task space and tables."""
