"""Stage `download`: the raw data of the chosen data set, downloaded, copied from a mirror or drawn.

EPISODIC_MIRROR may name a folder to look into before the official address; what is written does not depend on it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from episodic import datasets
from episodic.datasets.fetch import MIRROR
from tasks import params, stage
from tasks.files import folder_beside


def run(settings: params.Params, out: Path, mirror: Path | None = None) -> None:
    """Writes the folder described in docs/files.md, section data/raw."""
    chosen = settings.dataset
    with folder_beside(out) as folder, bars() as progress:
        module = datasets.registry[chosen.name]
        module.fetch(folder, chosen.config, mirror=mirror, progress=progress, **datasets.own(module, chosen.own))


@contextmanager
def bars() -> Iterator[datasets.Progress]:
    """A data set's progress as bars, one for each thing that it names."""
    current: stage.Bar | None = None

    def progress(what: str, done: int, total: int) -> None:
        nonlocal current
        if current is None or current.what != what:
            if current:
                current.close()
            current = stage.Bar("download", what, total)
        current.update(done, total)

    try:
        yield progress
    finally:
        if current:
            current.close()


def main() -> None:
    args = stage.parser(__doc__, out="folder to write").parse_args()
    mirror = os.environ.get(MIRROR)
    stage.run(lambda: run(params.load(args.params, "dataset"), args.out, Path(mirror) if mirror else None))


if __name__ == "__main__":
    main()
