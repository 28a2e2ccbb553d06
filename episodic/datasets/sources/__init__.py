"""Shared code of datasets: sources, downloads and archives."""
