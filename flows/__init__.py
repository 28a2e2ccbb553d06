"""Prefect: order, retries, progress, artifacts. No learning and no file formats; what is up to date, DVC decides."""
