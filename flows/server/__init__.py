"""The Prefect server of a run, and the settings that Prefect reads."""
