"""Algorithms, one module each. A module defines only what differs from the shared engine."""
