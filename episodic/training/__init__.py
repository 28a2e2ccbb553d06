"""Meta-training, evaluation, checkpoints, and folders of trained models."""
