"""Experiments in Git worktrees, and the points of a sweep."""
