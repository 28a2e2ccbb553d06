"""The commands of models: describe, adapt, predict, evaluate, export and try them."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from episodic.cli.app import app, fail, report_errors
from episodic.cli.calibration import describe_probabilities, describe_reliability
from episodic.cli.examples import (
    check_labels,
    encode_examples,
    list_examples,
    read_labelled_examples,
)
from episodic.cli.growing import extend_adapted
from episodic.cli.learners import (
    Device,
    Encoder,
    Head,
    load_learner,
    note_single_examples,
    split_arguments,
)
from episodic.cli.predictions import format_predictions
from episodic.cli.progress import ProgressBar
from episodic.core.errors import UserError

if TYPE_CHECKING:
    from episodic.preprocessing.base import Preprocessor

__all__ = ["adapt", "demo", "evaluate", "export", "info", "predict"]

Model = Annotated[
    Path, typer.Argument(help="folder of a trained model, such as models/run", show_default=False)
]
EncoderFile = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        help="file of the encoder that the model uses, other than efficientnet_lite0",
        show_default=False,
    ),
]
AdaptedFolder = Annotated[
    Path, typer.Argument(help="folder that `episodic adapt` wrote", show_default=False)
]


@app.command()
@report_errors
def info(
    model: Annotated[
        Path, typer.Argument(help="folder of a trained or an adapted model", show_default=False)
    ],
) -> None:
    """Describe a model: algorithm, inputs, training data and validation score."""
    from episodic.core.episode_size import describe_sizes
    from episodic.core.registry import ALGORITHMS
    from episodic.inference.adapted_folder import read_history
    from episodic.training import model_folder

    config = model_folder.read_config(model)
    inputs = config["inputs"]
    inverted = ", dark ink on light paper" if inputs.get("inverted") else ""
    facts = {
        "algorithm": config["algorithm"]["name"],
        "model": f"{config['model']['name']}, {config.get('parameters', 0):,} parameters",
        "inputs": f"{inputs['kind']}, {' x '.join(map(str, config['input']))}{inverted}",
    }
    if "encoder" in inputs:
        encoder = inputs["encoder"]
        facts["encoder"] = f"{encoder['name']}, digest {encoder['digest'][:12]}"
        if "license" in encoder:
            facts["encoder"] += f", {encoder['license']}"
    if "tuned_blocks" in inputs:
        tuned = inputs["tuned_blocks"]
        facts["fine-tuned"] = (
            f"{tuned['parameters']:,} parameters of the encoder, digest {tuned['digest'][:12]}"
        )
    if "head" in config:
        facts["head"] = config["head"]
    else:
        facts["trained on"] = f"{config.get('dataset')}"
        if config["kind"] == "classification" and "shots" in config:
            facts["tested on"] = f"{describe_sizes(config)} episodes"
    if "adapted" in config:
        classes = ", ".join(map(str, config["adapted"]["classes"]))
        facts["adapted to"] = classes or "a regression task"
        if changes := read_history(model, config):
            facts["history"] = f"\n{'':<12}".join(
                f"{change.action:<9}{change}, digest {change.digest[:12]}" for change in changes
            )
    else:
        from episodic.inference.few_shot import load

        load(model)  # reports invalid weights
        at = f"at iteration {config.get('iteration'):,} of {config.get('iterations'):,}"
        facts["validation"] = f"{config.get('validation'):.4g} " + (
            at if config.get("iterations") else "(the model has nothing to train)"
        )
    if config["kind"] == "classification":
        facts["probability"] = describe_probabilities(config)
        facts |= describe_reliability(config)
    if ALGORITHMS[config["algorithm"]["name"]].transductive:
        facts["inference"] = "transductive: a prediction depends on the other examples of the call"
    if (model / "README.md").exists():
        facts["model card"] = str(model / "README.md")
    for name, value in facts.items():
        print(f"{name:<12}{value}")


@app.command()
@report_errors
def adapt(
    *,
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[MODEL] SUPPORT",
            help="MODEL: folder of a trained model, such as models/run; omit it to use --encoder"
            " or --extend. SUPPORT: folder with one subfolder of examples per class; for a text"
            " model also a CSV file with the columns text,label, or - to read it from standard"
            " input",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="folder to write the adapted model to", show_default=False
        ),
    ],
    steps: Annotated[
        int | None,
        typer.Option(
            help="number of inner steps (default: that of the algorithm)", show_default=False
        ),
    ] = None,
    extend: Annotated[
        Path | None,
        typer.Option(
            metavar="ADAPTED",
            help="folder of an adapted model, to which the examples of SUPPORT are added; they may"
            " be of known or new classes. -o may be the same folder",
            show_default=False,
        ),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LABEL",
            help="with --extend: a class to remove; may be repeated",
            show_default=False,
        ),
    ] = None,
    correct: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EXAMPLE=LABEL",
            help="with --extend: an image file or a sentence and its right class, or a folder or"
            " CSV file like SUPPORT with the right classes; may be repeated",
            show_default=False,
        ),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="with --extend: examples like SUPPORT on which the accuracy of the old classes is"
            " measured, before and after",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="with --extend: print one JSON object")
    ] = False,
    encoder: Encoder = None,
    head: Head = None,
    device: Device = "cpu",
) -> None:
    """Adapt a trained model, or an encoder, to new classes from a few labelled examples."""
    folders = folders or []
    if extend is not None:
        if len(folders) > 1 or head is not None:
            fail(
                f"--extend takes one folder of examples and no --head: {extend} has its model and"
                " its head"
            )
        check_replaceable(out)
        extend_adapted(
            extend,
            folders[0] if folders else None,
            remove or [],
            correct or [],
            held_out,
            out,
            steps,
            encoder,
            device,
            as_json,
        )
        return
    if remove or correct or held_out or as_json:
        fail("--remove, --correct, --held-out and --json need --extend ADAPTED")
    model, support = split_arguments(folders, encoder, "SUPPORT")
    check_replaceable(out)
    learner = load_learner(model, encoder, head, device)
    examples, labels = read_labelled_examples(support, learner.inputs)
    x = encode_examples(examples, learner.inputs)
    check_labels(examples, labels)
    start = time.perf_counter()
    adapted = learner.adapt(x, labels, steps)
    seconds = time.perf_counter() - start
    adapted.save(out)
    counts = Counter(labels)
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(f"{out}: adapted to {len(counts)} classes from {len(labels)} examples ({listed})")
    if adapted.classes_:
        print(f"{out}: probabilities are {describe_probabilities(adapted.config)}")
    note_single_examples(learner.config.get("head"), counts)
    if adapted.tuned_blocks is not None:
        megabytes = sum(path.stat().st_size for path in out.iterdir()) / 1e6
        print(
            f"{out}: fine-tuned {adapted.tuned_blocks.parameters:,} parameters of the encoder in"
            f" {seconds:.1f} s; the folder has {megabytes:.1f} MB"
        )


@app.command()
@report_errors
def predict(
    adapted: AdaptedFolder,
    files: Annotated[
        list[str],
        typer.Argument(
            help="files, folders of files, or CSV files with the column file (or text); - reads"
            " image file names, or sentences, from standard input, one per line",
            show_default=False,
        ),
    ],
    as_json: Annotated[
        bool,
        typer.Option("--json", help="one JSON object per line, with all class probabilities"),
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with all class probabilities")] = False,
    unknown: Annotated[
        bool,
        typer.Option(
            "--unknown", help="label examples that seem to be of none of the classes as unknown"
        ),
    ] = False,
    coverage: Annotated[
        float | None,
        typer.Option(
            min=0.5,
            max=0.99,
            help="also predict a set of classes that contains the true one with this probability,"
            " such as 0.9",
            show_default=False,
        ),
    ] = None,
    encoder: EncoderFile = None,
    device: Device = "cpu",
) -> None:
    """Predict the class of each image, or of each sentence (one per line of a text file)."""
    from episodic.inference.adapted_folder import load_adapted

    if as_json and as_csv:
        fail("--json and --csv are mutually exclusive: choose one")
    model = load_adapted(adapted, device, encoder)
    examples = list(list_examples(files, model.inputs))
    if not examples:
        fail("there are no examples to predict: specify files, or a folder with files")
    if model.transductive:
        name = model.config.get("head", model.config["algorithm"]["name"])
        number = f"all {len(examples)} examples" if len(examples) > 1 else "all examples of a call"
        print(
            f"note: {name} uses {number} together (transductive inference): predictions depend on"
            " what is asked together",
            file=sys.stderr,
        )
        if len(examples) < len(model.classes_):
            print(
                "warning: transductive inference needs more examples than classes"
                f" ({len(model.classes_)}): predict more in one call, or adapt with an inductive"
                " head such as nearest_mean",
                file=sys.stderr,
            )
    if coverage is not None:
        _ = model.prediction_sets  # a model without them is reported before examples are encoded
    if unknown:
        _ = model.detector
    if (unknown or coverage is not None) and model.reliability_note is not None:
        print(f"note: {model.reliability_note}", file=sys.stderr)
    predictions = model.predict_all(encode_examples(examples, model.inputs), unknown)
    lines = format_predictions(
        examples,
        predictions,
        "json" if as_json else "csv" if as_csv else "text",
        "text" if model.inputs.example_name == "sentence" else "file",
        coverage,
    )
    for line in lines:
        print(line)


@app.command()
@report_errors
def evaluate(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="[MODEL] FOLDER",
            help="MODEL: folder of a trained model, such as models/run; omit it to use --encoder."
            " FOLDER: your own examples, one subfolder per class, or a CSV file with the columns"
            " text,label",
            show_default=False,
        ),
    ],
    ways: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="classes per episode (default: as in the model's test episodes, or 5)",
            show_default=False,
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="support examples per class (default: as in the model's test episodes, or 1)",
            show_default=False,
        ),
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="query examples per class")] = 5,
    query_balance: Annotated[
        float | None,
        typer.Option(
            metavar="ALPHA",
            help="unbalanced query sets: Dirichlet concentration of the shares of their classes,"
            " such as 2; the number of queries per episode stays the same (default: balanced)",
            show_default=False,
        ),
    ] = None,
    episodes: Annotated[int, typer.Option(min=2, help="number of episodes")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="seed of the episodes")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    encoder: Encoder = None,
    head: Head = None,
    device: Device = "cpu",
) -> None:
    """Measure how well a model adapts to your own classes, on episodes drawn from your examples."""
    model, folder = split_arguments(folders, encoder, "FOLDER")
    learner = load_learner(model, encoder, head, device)
    examples, labels = read_labelled_examples(folder, learner.inputs)
    x = encode_examples(examples, learner.inputs)
    with ProgressBar("episodes") as bar:
        result = learner.evaluate(
            x,
            labels,
            ways,
            shots,
            queries,
            episodes,
            seed,
            progress=bar.update,
            query_balance=query_balance,
        )
    if as_json:
        print(json.dumps(result.summary))
        return
    print(result)


@app.command()
@report_errors
def export(
    adapted: AdaptedFolder,
    out: Annotated[
        Path,
        typer.Argument(
            help="file to write: *.onnx for ONNX, *.pt2 for torch.export", show_default=False
        ),
    ],
    features: Annotated[
        bool,
        typer.Option("--features", help="export the features instead of class probabilities"),
    ] = False,
    unknown: Annotated[
        bool,
        typer.Option(
            "--unknown", help="add the outputs familiarity and is_unknown: detect unknown classes"
        ),
    ] = False,
    coverage: Annotated[
        float | None,
        typer.Option(
            min=0.5,
            max=0.99,
            help="add the output in_set: which classes are in the prediction set of this coverage,"
            " such as 0.9",
            show_default=False,
        ),
    ] = None,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="ONNX with 8-bit integers: smaller, a little less accurate"),
    ] = False,
    examples: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="with --int8: some images like those to predict (default: the support set, which a"
            " model with an image encoder does not keep); may be repeated",
            show_default=False,
        ),
    ] = None,
    encoder: EncoderFile = None,
) -> None:
    """Export an adapted model to ONNX or torch.export, for other runtimes."""
    from episodic.inference import export
    from episodic.inference.adapted_folder import load_adapted
    from episodic.training import model_folder

    writers = {".onnx": export.export_onnx, ".pt2": export.export_torch}
    if out.suffix not in writers:
        fail(f"{out} ends in neither .onnx nor .pt2: the suffix determines the format")
    if "adapted" not in model_folder.read_config(adapted):
        fail(export.NOT_ADAPTED)
    if (int8 and out.suffix != ".onnx") or (examples and not int8):
        fail("--int8 is for *.onnx, and --examples for --int8")
    model = load_adapted(adapted, encoder=encoder)
    if int8:
        images = None
        if examples:
            images = _read_crops(examples, model.inputs)
        export.export_onnx(model, out, features, unknown, coverage, int8, images)
    else:
        writers[out.suffix](model, out, features, unknown, coverage)
    if (unknown or coverage is not None) and model.reliability_note is not None:
        print(f"note: {model.reliability_note}", file=sys.stderr)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def _read_crops(names: list[str], inputs: Preprocessor) -> Any:
    """Read images as an image encoder takes them.

    Raises:
        UserError: The model has no image encoder, or there are no images.
    """
    from episodic.preprocessing.image import EncodedImagePreprocessor

    if not isinstance(inputs, EncodedImagePreprocessor):
        raise UserError("--examples is for models with an image encoder: omit it")
    found = list(list_examples(names, inputs.crops))
    if not found:
        raise UserError("there are no images in --examples: specify files, or a folder with files")
    return encode_examples(found, inputs.crops)


@app.command()
@report_errors
def demo(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="folder of a trained model, such as models/run; omit it with --encoder",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="port to listen on; 0 for a free one")
    ] = 8765,
    host: Annotated[
        str,
        typer.Option(
            help="address to listen on. Any but a loopback address exposes the page to the network"
            " without a password."
        ),
    ] = "127.0.0.1",
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="open the page in the browser")
    ] = True,
    encoder: Encoder = None,
    head: Head = None,
    device: Device = "cpu",
) -> None:
    """Open a page to adapt the model to new classes, by drawing, dropping or typing examples."""
    try:
        from episodic.inference.demo import serve
    except ModuleNotFoundError as error:
        fail(f"the page needs more packages: pip install 'episodic-learning[demo]' ({error})")
    learner = load_learner(model, encoder, head, device)
    name = str(model) if model is not None else f"{encoder}, {learner.config['head']}"
    serve(learner, name, host, port, browser)


def check_replaceable(out: Path) -> None:
    """Check that a folder is empty or contains an adapted model, which may be replaced.

    Raises:
        UserError: The folder has other content.
    """
    from episodic.training import model_folder

    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        if "adapted" in model_folder.read_config(out):
            return
    except UserError:
        pass
    raise UserError(
        f"{out} exists and is not an adapted model; choose another folder, because its content"
        " would be overwritten"
    )
