"""Experiments in Git worktrees, the points of a sweep, and score changes of experiments."""
