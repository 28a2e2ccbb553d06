"""Prefect flows: order, retries, progress and artifacts.

DVC decides what is up to date. No flow knows anything about learning or file formats.
"""
