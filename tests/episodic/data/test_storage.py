"""Images read from a file equal those in memory."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from episodic.data.sampling import ClassSampler
from episodic.data.storage import StoredImages


def test_rows_of_the_file_are_rows_of_the_array(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (20, 3, 5, 4), dtype=np.uint8)
    np.save(tmp_path / "images.npy", array)
    stored = StoredImages(tmp_path / "images.npy")
    rows = torch.tensor([19, 0, 7, 7])
    assert len(stored) == 20 and torch.equal(stored[rows], torch.from_numpy(array)[rows])
    sizes = {
        "offsets": torch.tensor([0, 10]),
        "counts": torch.tensor([10, 10]),
        "seed": 0,
        "split": "train",
        "ways": 2,
    }
    in_memory, on_disk = (
        ClassSampler(images, **sizes, shots=1, queries=2)(torch.arange(3))
        for images in (torch.from_numpy(array), stored)
    )
    assert all(torch.equal(a, b) for a, b in zip(in_memory.tensors, on_disk.tensors, strict=True))


def test_forked_processes_read_independently(tmp_path):
    array = np.arange(1000, dtype=np.uint8)[:, None, None, None].repeat(300, 3)
    np.save(tmp_path / "images.npy", array)
    stored = StoredImages(tmp_path / "images.npy")
    child = os.fork()
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(child))
    right = all(torch.equal(stored[order][:, 0, 0, 0], order.to(torch.uint8)) for _ in range(20))
    if child == 0:
        os._exit(0 if right else 1)
    assert right and os.waitpid(child, 0)[1] == 0


def test_files_without_images_are_rejected(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((3, 2)))
    with pytest.raises(ValueError, match="must contain uint8 in C order"):
        StoredImages(tmp_path / "images.npy")
