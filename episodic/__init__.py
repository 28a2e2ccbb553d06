"""Few-shot meta-learning: episodes, meta-gradients, honest evaluation. Needs torch and numpy alone.

learner = episodic.load("models/run")                     # a model that the pipeline trained
adapted = learner.adapt(pictures, labels)                 # to new classes, by a few examples each
adapted.predict(others)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from episodic.inference.adapted import load_adapted
    from episodic.inference.few_shot import load

__version__ = "0.1.0"
__all__ = ["load", "load_adapted"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is asked for: a stage that downloads data needs no model."""
    if name in __all__:
        from episodic.inference import adapted, few_shot

        return getattr(few_shot if name == "load" else adapted, name)
    raise AttributeError(f"module 'episodic' has no attribute {name!r}")
