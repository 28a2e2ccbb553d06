"""The commands `episodic encoder`: import and describe image encoders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from episodic.cli.app import app, report_errors

if TYPE_CHECKING:
    from episodic.preprocessing.encoders.weights import EncoderDescription

__all__ = ["describe_encoder", "import_encoder"]

encoder_app = typer.Typer(help="Import and describe image encoders.", no_args_is_help=True)
app.add_typer(encoder_app, name="encoder")


@encoder_app.command("import")
@report_errors
def import_encoder(
    weights: Annotated[
        Path,
        typer.Argument(
            help="published weights: a torch file (*.pth), a safetensors file, or a folder of"
            " Hugging Face",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="file to write, *.safetensors", show_default=False),
    ],
    architecture: Annotated[
        str | None,
        typer.Option(
            help="torchvision/NAME, timm/NAME or efficientnet_lite0 (default: recognized by the"
            " name of an official file, or by timm's config.json next to it)",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="pixels of the central crop (default: as published)", show_default=False),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(
            help="pixels of the shorter side before the crop (default: as published)",
            show_default=False,
        ),
    ] = None,
    interpolation: Annotated[
        str | None,
        typer.Option(help="bilinear or bicubic (default: as published)", show_default=False),
    ] = None,
    mean: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            metavar="R G B",
            help="mean of each channel, from 0 to 1 (default: as published)",
            show_default=False,
        ),
    ] = None,
    std: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            metavar="R G B",
            help="standard deviation of each channel (default: as published)",
            show_default=False,
        ),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(help="licence of the weights (default: as published)", show_default=False),
    ] = None,
) -> None:
    """Convert published weights to an encoder file, without running code of the file."""
    from episodic.preprocessing.encoders.importing import import_weights

    changes = {
        "size": size,
        "resize": resize,
        "interpolation": interpolation,
        "mean": mean,
        "std": std,
    }
    chosen = {key: value for key, value in changes.items() if value is not None}
    print_encoder(import_weights(weights, out, architecture, chosen, license), out)


@encoder_app.command("info")
@report_errors
def describe_encoder(
    encoder: Annotated[
        str, typer.Argument(help="efficientnet_lite0, or an encoder file", show_default=False)
    ],
) -> None:
    """Check an encoder and describe it: architecture, preprocessing, licence and digest."""
    from episodic.preprocessing.encoders.encoder import find_encoder
    from episodic.preprocessing.encoders.weights import read_encoder

    path = find_encoder(encoder)
    description, _ = read_encoder(path)
    print_encoder(description, path)


def print_encoder(description: EncoderDescription, path: Path) -> None:
    """Print the facts of an encoder, one per line."""
    transform = description.transform
    facts = {
        "file": f"{path}, {path.stat().st_size / 1e6:.1f} MB",
        "architecture": description.architecture,
        "features": f"{description.width:,}",
        "images": f"{transform.resizing} ({transform.interpolation}), and the central"
        f" {transform.size} x {transform.size} are used",
        "mean, std": f"{transform.mean}, {transform.std}",
        "licence": description.license,
        "digest": description.digest,
    }
    for name, value in facts.items():
        print(f"{name:<14}{value}")
