"""The command `episodic`: adapt a trained model to new classes and predict.

Heavy modules are imported by the commands that need them so that `--help` is fast.
"""

# They register their commands.
from episodic.cli import commands, encoders, serving, suggest  # noqa: F401
from episodic.cli.app import app

__all__ = ["app"]
