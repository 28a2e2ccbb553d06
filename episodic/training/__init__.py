"""Meta-training, evaluation, checkpoints and the folder of a trained model."""
