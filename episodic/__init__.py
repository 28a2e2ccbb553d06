"""Few-shot meta-learning: episodes, meta-gradients, honest evaluation. Needs torch and numpy alone."""

__version__ = "0.1.0"
