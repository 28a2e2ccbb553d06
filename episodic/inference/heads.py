"""The heads that `episodic adapt --encoder` and `from_encoder` fit to a support set."""

from __future__ import annotations

from typing import Any

__all__ = ["DEFAULT_HEAD", "HEADS"]

DEFAULT_HEAD = "nearest_mean"
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "nearest_mean": ("protonet", {}),
    "ridge": ("ridge", {}),
    "metaoptnet": ("metaoptnet", {}),
}
"""The algorithm of each head, and its settings that differ from the defaults."""
