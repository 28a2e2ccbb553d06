"""Algorithms, one module each, saying only what differs from the shared engine."""
