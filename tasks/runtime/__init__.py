"""Shared code of the stages: command lines, files, processes and resuming."""
