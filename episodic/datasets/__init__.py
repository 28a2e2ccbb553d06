"""Datasets, one module each (`episodic.datasets.base` says what a module defines)."""
