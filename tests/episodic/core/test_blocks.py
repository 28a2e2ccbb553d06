"""Images in files are read and written with the memory of one block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from episodic.core.blocks import BLOCK, iterate_blocks, save_images


def test_images_are_written_as_numpy_does(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (2 * BLOCK + 3, 3, 5, 4), dtype=np.uint8)
    np.save(tmp_path / "expected.npy", array)
    save_images(tmp_path / "images.npy", array.shape, iterate_blocks(array))
    assert (tmp_path / "images.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    columns = np.asfortranarray(array)
    save_images(tmp_path / "columns.npy", array.shape, [columns[:7], columns[7:]])
    assert (tmp_path / "columns.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()
    with pytest.raises(ValueError, match="the blocks have 7 images, not 515"):
        save_images(tmp_path / "few.npy", array.shape, [array[:7]])
    with pytest.raises(ValueError, match=r"a block is float64 \(1, 3, 5, 4\), not uint8"):
        save_images(tmp_path / "float.npy", array.shape, [array[:1].astype(float)])


SMAPS = Path("/proc/self/smaps")


def resident_bytes(path) -> int:
    """Bytes of a memory-mapped file that count towards the memory of this process."""
    total, in_file = 0, False
    with SMAPS.open() as file:
        for line in file:
            if "-" in line.split()[0]:
                in_file = line.rstrip().endswith(str(path))
            elif in_file and line.startswith("Rss:"):
                total += 1024 * int(line.split()[1])
    return total


@pytest.mark.skipif(not SMAPS.exists(), reason="needs Linux")
def test_a_memory_map_is_read_with_the_memory_of_one_block(tmp_path):
    path, count = tmp_path / "images.npy", 5 * BLOCK
    row = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8)
    save_images(path, (count, 3, 64, 64), (row + np.uint8(i % 256) for i in range(count)))
    images, sums, resident = np.load(path, mmap_mode="r"), [], []
    for block in iterate_blocks(images):
        sums += block.sum((1, 2, 3)).tolist()
        resident.append(resident_bytes(path))
    block_bytes = BLOCK * row.nbytes
    assert block_bytes / 2 < max(resident) < 1.5 * block_bytes, "5 blocks without the release"
    assert sums == np.load(path).sum((1, 2, 3)).tolist()
    assert (images[-1] == row[0] + np.uint8((count - 1) % 256)).all(), "pages can be read again"
