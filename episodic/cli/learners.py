"""The model that a command uses: a trained one, or a pretrained encoder with a head."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from episodic.cli.app import fail
from episodic.inference.heads import DEFAULT_HEAD, HEADS, LEAVE_ONE_OUT, PARTIAL_FINETUNE

if TYPE_CHECKING:
    from episodic.inference.few_shot import FewShotLearner

__all__ = ["Device", "Encoder", "Head", "load_learner", "note_single_examples", "split_arguments"]

Encoder = Annotated[
    str | None,
    typer.Option(
        help="without MODEL: the pretrained image encoder to use, efficientnet_lite0 or a file that"
        " `episodic encoder import` wrote; with MODEL: the file of its encoder, if it has one other"
        " than efficientnet_lite0",
        show_default=False,
    ),
]
Head = Annotated[
    str | None,
    typer.Option(
        help="without MODEL: the classifier on the features of the encoder, fitted to the support"
        f" set ({PARTIAL_FINETUNE} also fine-tunes the last block of the encoder, in seconds):"
        f" {', '.join(HEADS)} (default: {DEFAULT_HEAD})",
        show_default=False,
    ),
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, mps, or auto (cuda if available, otherwise cpu)")
]


def split_arguments(
    folders: Sequence[Path], encoder: str | None, name: str
) -> tuple[Path | None, Path]:
    """Return the model, None for an encoder without one, and the folder of examples."""
    if len(folders) == 2:
        return folders[0], folders[1]
    if len(folders) == 1 and encoder is not None:
        return None, folders[0]
    fail(
        f"specify MODEL and {name}, or only {name} with --encoder efficientnet_lite0; got"
        f" {', '.join(map(str, folders)) or 'neither'}"
    )


def load_learner(
    model: Path | None, encoder: str | None, head: str | None, device: str
) -> FewShotLearner:
    """Load a trained classifier, or make one of an encoder and a head."""
    from episodic.inference import few_shot, pretrained

    if model is None:
        if encoder is None:
            fail("specify a trained model, such as models/run, or --encoder efficientnet_lite0")
        return pretrained.from_encoder(encoder, head or DEFAULT_HEAD, device)
    if head is not None:
        fail(f"--head is for --encoder without MODEL: {model} has a head of its own")
    if encoder is not None and not (model / "config.json").is_file():
        fail(f"{model} is not a trained model: with --encoder, specify one folder of examples")
    learner = few_shot.load(model, device, encoder)
    if learner.kind != "classification":
        fail(
            f"{model} is a regression model, which the command line does not support: use it from"
            " Python (docs/guide/using-a-model.md)"
        )
    return learner


def note_single_examples(head: str | None, counts: Mapping[str, int]) -> None:
    """Print a note if classes with one example keep a head from choosing its regularization."""
    single = [name for name, count in counts.items() if count == 1]
    if head in LEAVE_ONE_OUT and 0 < len(single) < len(counts):
        print(
            f"note: {head} has its default regularization, since"
            f" {', '.join(single)} {'have' if len(single) > 1 else 'has'} one example: add a second"
            " one, and leave-one-out chooses it",
            file=sys.stderr,
        )
