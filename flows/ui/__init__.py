"""What a run shows in Prefect's UI: progress, learning curves, results and report pages."""
