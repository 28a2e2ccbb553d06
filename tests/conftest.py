"""Settings and fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Threads do not speed up small tensors, and two workers share the cores.
# Programs that start threads nevertheless let them sleep while they wait. All processes inherit it.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# The same examples every time, so that a red run can be repeated.
settings.register_profile("project", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("project")


LONGEST = ("flows", "test_docs.py", "tasks", "test_dvc_yaml.py", "benchmarks")
"""Folders and files with the slowest tests. They start first, so that both workers end together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def position(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).parts[0]
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=position)


@pytest.fixture(scope="session")
def mirror() -> Path:
    """Folder of real data from EPISODIC_MIRROR. The test is skipped if it is not set."""
    folder = os.environ.get("EPISODIC_MIRROR")
    if not folder or not (Path(folder) / "omniglot").is_dir():
        pytest.skip(
            "needs the real Omniglot: set EPISODIC_MIRROR to a folder that contains "
            "omniglot/images_background.zip"
        )
    return Path(folder)


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted weights and features in a cache of the tests, not in that of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        yield
