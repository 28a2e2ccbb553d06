"""Shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Small tensors gain nothing from threads, and lose much where another program has the cores.
torch.set_num_threads(1)

# The same examples every time, so that a red run can be repeated.
settings.register_profile("project", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("project")


@pytest.fixture(scope="session")
def mirror() -> Path:
    """The folder of real data that EPISODIC_MIRROR names; without it the test is skipped, and says so."""
    folder = os.environ.get("EPISODIC_MIRROR")
    if not folder or not (Path(folder) / "omniglot").is_dir():
        pytest.skip(
            "the real Omniglot is not at hand: set EPISODIC_MIRROR to a folder that holds omniglot/images_background.zip"
        )
    return Path(folder)
