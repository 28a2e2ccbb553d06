"""The stages, one module each: files in, files out. `python -m tasks.train --help` runs alone; no Prefect, no DVC."""
