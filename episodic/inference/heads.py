"""The heads that `episodic adapt --encoder` and `from_encoder` fit to a support set."""

from __future__ import annotations

from typing import Any

__all__ = ["CALIBRATED", "DEFAULT_HEAD", "HEADS", "LEAVE_ONE_OUT", "PARTIAL_FINETUNE"]

DEFAULT_HEAD, PARTIAL_FINETUNE = "nearest_mean", "partial_finetune"
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    # The scale with the lowest cross-entropy on validation classes of the Grocery Store dataset.
    "nearest_mean": ("meta_baseline", {"scale": 20.0}),
    "ridge": ("ridge", {"leave_one_out": True}),
    "logistic": ("logistic", {}),
    "metaoptnet": ("metaoptnet", {"leave_one_out": True}),
    # There are no training classes whose mean features could be subtracted.
    "simpleshot": ("simpleshot", {"centre": False}),
    "bd_cspn": ("bd_cspn", {"centre": False}),
    "laplacian_shot": ("laplacian_shot", {"centre": False}),
    "tim": ("tim", {"centre": False}),
    "alpha_tim": ("tim", {"centre": False, "alpha": 2.0}),
    "transductive_finetune": ("transductive_finetune", {}),
    # After fine-tuning the encoder on the support set.
    PARTIAL_FINETUNE: ("meta_baseline", {"scale": 20.0}),
}
"""The algorithm of each head, and its settings that differ from the defaults."""

LEAVE_ONE_OUT = ("ridge", "logistic", "metaoptnet")
"""Heads whose regularization is chosen by leave-one-out if every class has two examples."""

CALIBRATED = ("nearest_mean", "ridge", "logistic", "metaoptnet", "simpleshot")
"""Heads whose probabilities are calibrated on left-out support examples if every class has two.

Transductive heads predict other probabilities for other queries. `partial_finetune` would have to
fine-tune the encoder again without each example."""
