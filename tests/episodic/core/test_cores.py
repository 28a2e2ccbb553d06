"""The number of cores is that of the process, not that of the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from episodic.core.cores import count_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_cores_that_the_process_may_not_use_are_not_counted():
    assert count_cores() == len(os.sched_getaffinity(0))
    restricted = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from episodic.core.cores import count_cores; print(count_cores())"
    )
    result = subprocess.run([sys.executable, "-c", restricted], capture_output=True, text=True)
    assert result.stdout.strip() == "1", result.stderr


def test_systems_without_affinity_have_all_cores(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert count_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert count_cores() == 1
