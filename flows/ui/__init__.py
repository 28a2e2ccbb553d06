"""Runs in Prefect's UI: progress, learning curves and results."""
