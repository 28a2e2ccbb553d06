"""The command `episodic suggest`: what to label next."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from episodic.cli.app import app, fail, report_errors
from episodic.cli.examples import encode_examples, list_examples
from episodic.cli.learners import Device, Encoder, load_learner
from episodic.cli.predictions import format_csv_row

if TYPE_CHECKING:
    from episodic.inference.suggestion import Suggestions

__all__ = ["suggest"]


@app.command()
@report_errors
def suggest(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] POOL...",
            help="MODEL: folder that `episodic adapt` wrote, or of a trained model if nothing is"
            " labelled yet; omit it to use --encoder. POOL: unlabelled files, folders of files, or"
            " CSV files with the column file (or text); - reads image file names, or sentences,"
            " from standard input, one per line",
            show_default=False,
        ),
    ],
    n: Annotated[int, typer.Option("--number", "-n", min=1, help="number of suggestions")] = 10,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="margin_coverage, coverage, typicality, margin or random"
            " (default: margin_coverage)",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of the strategy random")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per line")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with a header")] = False,
    encoder: Encoder = None,
    device: Device = "cpu",
) -> None:
    """Suggest which images or sentences to label next, the most useful first."""
    from episodic.inference.adapted_folder import load_adapted
    from episodic.inference.suggestion import DEFAULT_STRATEGY
    from episodic.training import model_folder

    if as_json and as_csv:
        fail("--json and --csv are mutually exclusive: choose one")
    model: Any
    has_model = encoder is None or (Path(paths[0]) / "config.json").is_file()
    if has_model and len(paths) == 1:
        fail(
            "specify MODEL and POOL, or only POOL with --encoder efficientnet_lite0; got"
            f" {paths[0]}"
        )
    if has_model:
        folder, pool = Path(paths[0]), paths[1:]
        is_adapted = "adapted" in model_folder.read_config(folder)
        model = (
            load_adapted(folder, device, encoder)
            if is_adapted
            else load_learner(folder, encoder, None, device)
        )
    else:
        pool, model = paths, load_learner(None, encoder, None, device)
    inputs = model.inputs
    examples = list(list_examples(pool, inputs))
    if not examples:
        fail("there are no examples to choose from: specify files, or a folder with files")
    x = encode_examples(examples, inputs)
    found = model.suggest(x, n, strategy or DEFAULT_STRATEGY, seed)
    if not len(found):
        print(
            f"note: nothing is suggested: all {len(examples)} examples are labelled already",
            file=sys.stderr,
        )
        return
    if len(found) < min(n, len(examples)):
        print(
            f"note: only {len(found)} of {len(examples)} examples are suggested: the others are"
            " labelled already, or copies",
            file=sys.stderr,
        )
    key = "text" if inputs.example_name == "sentence" else "file"
    form = "json" if as_json else "csv" if as_csv else "text"
    for line in format_suggestions([str(examples[i]) for i in found.indices], found, form, key):
        print(line)


def format_suggestions(
    examples: Sequence[str], found: Suggestions, form: str, key: str
) -> Iterator[str]:
    """Yield one line per suggestion, in CSV after a header.

    Args:
        examples: File name or sentence of each suggestion.
        found: The suggestions.
        form: `text` (the example, a tab, and the reason), `json` or `csv`.
        key: Name of the column of examples: `file` or `text`.
    """
    rows = [
        {key: example} | facts for example, facts in zip(examples, found.to_json(), strict=True)
    ]
    if form == "csv":
        columns = [key, "represents"]
        columns += ["label", "runner_up", "margin"] if found.margins is not None else []
        yield format_csv_row(columns)
    for row in rows:
        if form == "json":
            yield json.dumps(row, ensure_ascii=False)
        elif form == "csv":
            yield format_csv_row(list(row.values()))
        else:
            reason = f"represents {row['represents']}"
            if "margin" in row:
                reason = (
                    f"{row['label']} or {row['runner_up']}? margin {row['margin']:.2f}, {reason}"
                )
            yield f"{row[key]}\t{reason}"
