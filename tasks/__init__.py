"""The stages, one module each, as in `python -m tasks.train`. They need neither Prefect nor DVC."""
