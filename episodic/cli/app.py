"""The command `episodic` and what its commands have in common: errors and `--version`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Annotated, NoReturn, ParamSpec

import typer

from episodic.core.errors import UserError

__all__ = ["app", "fail", "report_errors"]

P = ParamSpec("P")

app = typer.Typer(
    name="episodic",
    help="Adapt a few-shot model to new classes from a few examples per class, and predict. The"
    " model is one that the pipeline trained (models/run), or a pretrained image encoder"
    " (--encoder efficientnet_lite0).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def report_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Print the message of a `UserError` or of a file that cannot be used, and exit with code 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            fail(str(error))
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader has closed the pipe, as with `| head`
            sys.stderr.close()
            raise typer.Exit(0) from None
        except OSError as error:
            fail(f"{error.filename or 'a file'}: {error.strerror or error}")

    return run


def fail(message: str) -> NoReturn:
    """Print an error and exit with code 1."""
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def print_version(
    version: Annotated[
        bool, typer.Option("--version", help="print the version and exit", is_eager=True)
    ] = False,
) -> None:
    """Print the version if `--version` is given."""
    if version:
        from episodic import __version__

        print(__version__)
        raise typer.Exit
