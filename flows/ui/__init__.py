"""What a run shows in the Prefect UI: progress, curves, results and report pages."""
