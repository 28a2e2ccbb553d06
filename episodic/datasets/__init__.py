"""Datasets, one module each (`episodic.datasets.base` documents what a module defines)."""
