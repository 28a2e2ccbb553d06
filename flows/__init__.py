"""Prefect flows: order, retries, progress and artifacts.

DVC decides what is up to date. Flows contain no learning code.
"""
