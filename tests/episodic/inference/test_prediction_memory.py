"""The memory of predictions does not grow with the number of queries."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import ROOT

PROGRAM = """
import resource, torch, episodic
torch.set_num_threads(1)
learner = episodic.from_encoder("efficientnet_lite0")
features = torch.nn.functional.normalize(torch.rand(2560, 1280), dim=1)
adapted = learner.adapt(features, [row % 20 for row in range(2560)])
for queries in (640, 2560):
    assert len(adapted.predict(features[:queries])) == queries
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit elsewhere")
def test_memory_does_not_grow_with_the_number_of_chunks():
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    few, many = (int(line) / 1024 for line in result.stdout.split())
    support_set = 2560 * 1280 * 4 / 2**20  # 12.5 MB, which each of 40 chunks copies
    assert many - few < 2 * support_set
