"""Experiments in Git worktrees, the points of a sweep, and changes of an experiment's score."""
