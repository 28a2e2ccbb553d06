"""Stage `download`: the raw data of the chosen dataset, downloaded, copied or generated.

EPISODIC_MIRROR names a folder to look into before the official address. What is written does not
depend on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from episodic.core.progress import ProgressCallback
from episodic.datasets.sources.fetch import MIRROR_VARIABLE
from tasks import params
from tasks.runtime import stage
from tasks.runtime.files import atomic_folder


def run(settings: params.Settings, out: Path, mirror: Path | None = None) -> None:
    """Write the folder data/raw, which docs/reference/files.md describes.

    Args:
        settings: Settings with the section `dataset`.
        out: The folder to write.
        mirror: A folder to look into before the official address.
    """
    chosen = settings.dataset
    with atomic_folder(out) as folder, report_progress() as progress:
        chosen.config.fetch(folder, source=chosen.user_data, mirror=mirror, progress=progress)


@contextmanager
def report_progress() -> Iterator[ProgressCallback]:
    """Report the progress of a dataset, one piece of work at a time."""
    current: stage.ProgressReporter | None = None

    def progress(what: str, done: int, total: int) -> None:
        nonlocal current
        if current is None or current.what != what:
            if current:
                current.close()
            current = stage.ProgressReporter("download", what, total)
        current.update(done, total)

    try:
        yield progress
    finally:
        if current:
            current.close()


def main() -> None:
    args = stage.build_parser(__doc__, out="folder to write").parse_args()
    mirror = os.environ.get(MIRROR_VARIABLE)
    stage.run(
        lambda: run(params.load(args.params, "dataset"), args.out, Path(mirror) if mirror else None)
    )


if __name__ == "__main__":
    main()
