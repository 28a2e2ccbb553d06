"""`python -m episodic`, which the wheel installs as the command `episodic`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line, or report which extra it needs."""
    try:
        from episodic.cli import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(
            "error: the command line needs two more packages: pip install 'episodic-learning[use]'",
            file=sys.stderr,
        )
        sys.exit(1)
    app(prog_name="episodic")


if __name__ == "__main__":
    main()
