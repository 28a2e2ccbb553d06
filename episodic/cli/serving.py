"""The command `episodic serve`: predictions of an adapted model over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from episodic.cli.app import app, fail, report_errors
from episodic.cli.commands import AdaptedFolder, EncoderFile
from episodic.cli.learners import Device

__all__ = ["serve"]


@app.command()
@report_errors
def serve(
    adapted: AdaptedFolder,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="port to listen on; 0 for a free one")
    ] = 8766,
    host: Annotated[
        str,
        typer.Option(
            help="address to listen on. For any but a loopback address, set the environment"
            " variable EPISODIC_TOKEN to a secret, which requests then need."
        ),
    ] = "127.0.0.1",
    allowed_hosts: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            help="host name of requests, such as that of a proxy; may be given several times"
            " (default: this machine for a loopback address, any name for others)",
            show_default=False,
        ),
    ] = None,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="write a line per request to standard error")
    ] = False,
    encoder: EncoderFile = None,
    device: Device = "cpu",
) -> None:
    """Serve an adapted model over HTTP, with metrics, limits and a clean stop."""
    try:
        from episodic.inference.service import app as service
    except ModuleNotFoundError as error:
        fail(f"the service needs more packages: pip install 'episodic-learning[serve]' ({error})")
    from episodic.inference.adapted_folder import load_adapted

    model = load_adapted(adapted, device, encoder)
    service.serve(model, str(adapted), host, port, allowed_hosts or (), access_log)
