"""Simulations of how often confidence intervals cover the true value."""
