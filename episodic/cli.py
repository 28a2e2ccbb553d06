"""The command `episodic`: adapt a trained model to new classes and predict.

Heavy modules are imported by the commands that need them so that `--help` is fast.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, ParamSpec

import typer

from episodic.core.errors import UserError
from episodic.inference.heads import DEFAULT_HEAD, HEADS

if TYPE_CHECKING:
    from episodic.inference.few_shot import FewShotLearner
    from episodic.preprocessing.base import Preprocessor
    from episodic.preprocessing.encoders.weights import EncoderDescription

__all__ = ["app"]

app = typer.Typer(
    name="episodic",
    help="Adapt a few-shot model to new classes from a few examples per class, and predict. The"
    " model is one that the pipeline trained (models/run), or a pretrained image encoder"
    " (--encoder efficientnet_lite0).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    Path, typer.Argument(help="folder of a trained model, such as models/run", show_default=False)
]
ENCODER_HELP = (
    "pretrained image encoder to use without a trained model: efficientnet_lite0, or a file that"
    " `episodic encoder import` wrote"
)
Encoder = Annotated[str | None, typer.Option(help=ENCODER_HELP, show_default=False)]
EncoderFile = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        help="file of the encoder that the model uses, other than efficientnet_lite0",
        show_default=False,
    ),
]
Head = Annotated[
    str,
    typer.Option(
        help="with --encoder: the classifier on its features, fitted to the support set:"
        f" {', '.join(HEADS)}"
    ),
]
AdaptedFolder = Annotated[
    Path, typer.Argument(help="folder that `episodic adapt` wrote", show_default=False)
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, mps, or auto (cuda if available, otherwise cpu)")
]
P = ParamSpec("P")

STDIN = "-"
IMAGES_AT_ONCE = 32
"""Images that are read between two updates of the progress bar."""


def report_errors(command: Callable[P, None]) -> Callable[P, None]:
    """Print the message of a `UserError` and exit with code 1."""

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


@app.command()
@report_errors
def info(
    model: Annotated[
        Path, typer.Argument(help="folder of a trained or an adapted model", show_default=False)
    ],
) -> None:
    """Describe a model: algorithm, inputs, training data and validation score."""
    from episodic.core.registry import ALGORITHMS
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
    if "head" in config:
        facts["head"] = config["head"]
    else:
        facts["trained on"] = f"{config.get('dataset')}"
        if config["kind"] == "classification":
            facts["trained on"] += f": {config['ways']}-way {config.get('shots')}-shot"
    if "adapted" in config:
        classes = ", ".join(map(str, config["adapted"]["classes"]))
        facts["adapted to"] = classes or "a regression task"
    else:
        from episodic.inference.few_shot import load

        load(model)  # reports invalid weights
        at = f"at iteration {config.get('iteration'):,} of {config.get('iterations'):,}"
        facts["validation"] = f"{config.get('validation'):.4g} " + (
            at if config.get("iterations") else "(the model has nothing to train)"
        )
    if ALGORITHMS[config["algorithm"]["name"]].transductive:
        facts["inference"] = "transductive: a prediction depends on the other examples of the call"
        if (model / "README.md").exists():
            facts["model card"] = str(model / "README.md")
    for name, value in facts.items():
        print(f"{name:<12}{value}")


@app.command()
@report_errors
def adapt(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="[MODEL] SUPPORT",
            help="MODEL: folder of a trained model, such as models/run; omit it with --encoder."
            " SUPPORT: folder with one subfolder of examples per class; for a text model also a CSV"
            " file with the columns text,label, or - to read it from standard input",
            show_default=False,
        ),
    ],
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
    encoder: Encoder = None,
    head: Head = DEFAULT_HEAD,
    device: Device = "cpu",
) -> None:
    """Adapt a trained model, or an encoder, to new classes from a few labelled examples."""
    model, support = split_arguments(folders, encoder, "SUPPORT")
    check_replaceable(out)
    learner = load_learner(model, encoder, head, device)
    examples, labels = read_labelled_examples(support, learner.inputs)
    adapted = learner.adapt(encode_examples(examples, learner.inputs), labels, steps)
    adapted.save(out)
    counts = Counter(labels)
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(f"{out}: adapted to {len(counts)} classes from {len(labels)} examples ({listed})")


@app.command()
@report_errors
def predict(
    adapted: AdaptedFolder,
    files: Annotated[
        list[str],
        typer.Argument(
            help="files or folders of files; - reads image file names, or sentences, from standard"
            " input, one per line",
            show_default=False,
        ),
    ],
    as_json: Annotated[
        bool,
        typer.Option("--json", help="one JSON object per line, with all class probabilities"),
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with all class probabilities")] = False,
    encoder: EncoderFile = None,
    device: Device = "cpu",
) -> None:
    """Predict the class of each image, or of each sentence (one per line of a text file)."""
    from episodic.inference.adapted import load_adapted

    if as_json and as_csv:
        fail("--json and --csv are mutually exclusive: choose one")
    model = load_adapted(adapted, device, encoder)
    examples = list(list_examples(files, model.inputs))
    if not examples:
        fail("there are no examples to predict: specify files, or a folder with files")
    if model.transductive:
        print(
            f"note: {model.config['algorithm']['name']} uses all {len(examples)} examples together"
            " (transductive inference): predictions depend on what is asked together",
            file=sys.stderr,
        )
    probabilities = model.predict_proba(encode_examples(examples, model.inputs))
    lines = format_predictions(
        examples,
        model.most_likely_labels(probabilities).tolist(),
        probabilities,
        model.classes_,
        "json" if as_json else "csv" if as_csv else "text",
        "text" if model.inputs.example_name == "sentence" else "file",
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
            help="MODEL: folder of a trained model, such as models/run; omit it with --encoder."
            " FOLDER: your own examples, one subfolder per class, or a CSV file with the columns"
            " text,label",
            show_default=False,
        ),
    ],
    ways: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="classes per episode (default: as in training, or 5)",
            show_default=False,
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="support examples per class (default: as in training, or 1)",
            show_default=False,
        ),
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="query examples per class")] = 5,
    episodes: Annotated[int, typer.Option(min=2, help="number of episodes")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="seed of the episodes")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    encoder: Encoder = None,
    head: Head = DEFAULT_HEAD,
    device: Device = "cpu",
) -> None:
    """Measure how well a model adapts to your own classes, on episodes drawn from your examples."""
    model, folder = split_arguments(folders, encoder, "FOLDER")
    learner = load_learner(model, encoder, head, device)
    examples, labels = read_labelled_examples(folder, learner.inputs)
    result = learner.evaluate(
        encode_examples(examples, learner.inputs),
        labels,
        ways,
        shots,
        queries,
        episodes,
        seed,
        progress=ProgressBar("episodes"),
    )
    if as_json:
        print(json.dumps(result.summary))
        return
    print(
        f"accuracy {100 * result.accuracy:.1f} % ± {100 * result.ci95:.1f} (95 % interval) on"
        f" {episodes} {result.ways}-way {result.shots}-shot episodes,"
        f" {result.queries} queries per class (chance: {100 / result.ways:.1f} %)"
    )


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
    encoder: EncoderFile = None,
) -> None:
    """Export an adapted model to ONNX or torch.export, for other runtimes."""
    from episodic.inference import export
    from episodic.inference.adapted import load_adapted
    from episodic.training import model_folder

    writers = {".onnx": export.export_onnx, ".pt2": export.export_torch}
    if out.suffix not in writers:
        fail(f"{out} ends in neither .onnx nor .pt2: the suffix determines the format")
    if "adapted" not in model_folder.read_config(adapted):
        fail(export.NOT_ADAPTED)
    writers[out.suffix](load_adapted(adapted, encoder=encoder), out, features)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


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
    head: Head = DEFAULT_HEAD,
    device: Device = "cpu",
) -> None:
    """Open a page to adapt the model to new classes, by drawing, dropping or typing examples."""
    if model is None and encoder is None:
        fail("specify a trained model, such as models/run, or --encoder efficientnet_lite0")
    try:
        from episodic.inference.demo import serve
    except ModuleNotFoundError as error:
        fail(f"the page needs more packages: pip install 'episodic-learning[demo]' ({error})")
    learner = load_learner(model, encoder, head, device)
    name = str(model) if encoder is None else f"{encoder}, {head}"
    serve(learner, name, host, port, browser)


encoder_app = typer.Typer(help="Import and describe image encoders.", no_args_is_help=True)
app.add_typer(encoder_app, name="encoder")


@encoder_app.command("import")
@report_errors
def import_encoder(
    weights: Annotated[
        Path,
        typer.Argument(
            help="published weights: a torch file (*.pth) or a safetensors file",
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
        typer.Option(help="pixels of the central crop (default: usual)", show_default=False),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(
            help="pixels of the shorter side before the crop (default: usual)", show_default=False
        ),
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option(help="bilinear or bicubic (default: usual)", show_default=False)
    ] = None,
    mean: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="mean of each channel, from 0 to 1 (default: usual)", show_default=False),
    ] = None,
    std: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="standard deviation of each channel", show_default=False),
    ] = None,
    license: Annotated[
        str | None, typer.Option(help="licence of the weights (default: usual)", show_default=False)
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
    """Describe an encoder: architecture, preprocessing, licence and digest."""
    from episodic.preprocessing.encoders.encoder import find_encoder
    from episodic.preprocessing.encoders.weights import read_description

    path = find_encoder(encoder)
    print_encoder(read_description(path), path)


def print_encoder(description: EncoderDescription, path: Path) -> None:
    """Print the facts of an encoder, one per line."""
    transform = description.transform
    facts = {
        "file": f"{path}, {path.stat().st_size / 1e6:.1f} MB",
        "architecture": description.architecture,
        "features": f"{description.width:,}",
        "images": f"shorter side {transform.resize} ({transform.interpolation}), central crop"
        f" {transform.size}",
        "mean, std": f"{transform.mean}, {transform.std}",
        "licence": description.license,
        "digest": description.digest,
    }
    for name, value in facts.items():
        print(f"{name:<14}{value}")


def split_arguments(
    folders: Sequence[Path], encoder: str | None, name: str
) -> tuple[Path | None, Path]:
    """Return the model, None with an encoder, and the folder of examples."""
    expected = 1 if encoder is not None else 2
    if len(folders) == expected:
        return (None if encoder is not None else folders[0]), folders[-1]
    if encoder is not None:
        fail(
            f"--encoder takes the place of MODEL, so specify only {name}, not"
            f" {', '.join(map(str, folders))}"
        )
    fail(
        f"specify MODEL and {name}, or only {name} with --encoder efficientnet_lite0; got"
        f" {', '.join(map(str, folders))}"
    )


def load_learner(model: Path | None, encoder: str | None, head: str, device: str) -> FewShotLearner:
    """Load a trained classifier, or make one of an encoder and a head."""
    from episodic.inference import few_shot, pretrained

    if model is None:
        return pretrained.from_encoder(encoder or "", head, device)
    return require_classifier(few_shot.load(model, device, encoder), model)


def require_classifier(learner: FewShotLearner, model: Path) -> FewShotLearner:
    """Return the learner, or fail if it is a regression model."""
    if learner.kind != "classification":
        fail(
            f"{model} is a regression model, which the command line does not support: use it from"
            " Python (docs/guide/using-a-model.md)"
        )
    return learner


def read_labelled_examples(path: Path, inputs: Preprocessor) -> tuple[list[Any], list[str]]:
    """Read examples and labels from a folder with one subfolder per class or from a table.

    Raises:
        InputError: Examples cannot be read. The message has one line per error.
    """
    from episodic.preprocessing.base import read_class_folders

    if inputs.example_name == "sentence" and (str(path) == STDIN or path.is_file()):
        from episodic.preprocessing.sentences.files import read_table

        rows = read_table(None if str(path) == STDIN else path)
        return [row["text"] for row in rows], [row["label"] for row in rows]
    by_class = read_class_folders(path, inputs)
    return [example for examples in by_class.values() for example in examples], [
        name for name, examples in by_class.items() for _ in examples
    ]


def list_examples(names: Sequence[str], inputs: Preprocessor) -> Iterator[Any]:
    """List the examples of files and folders; `-` reads names or sentences from standard input."""
    for name in names:
        if name == STDIN:
            lines = [line.strip() for line in sys.stdin.read().splitlines() if line.strip()]
            if inputs.example_name == "sentence":
                yield from lines
                continue
        else:
            lines = [name]
        for path in map(Path, lines):
            if not path.is_dir():
                yield from inputs.examples_in_file(path)
                continue
            for folder in [path, *sorted(p for p in path.rglob("*") if p.is_dir())]:
                yield from inputs.examples_in_folder(folder)


def encode_examples(examples: Sequence[Any], inputs: Preprocessor) -> Any:
    """Preprocess examples, with a progress bar for many images.

    Raises:
        InputError: Examples cannot be read. The message has one line per error.
    """
    import torch

    from episodic.preprocessing import base

    if inputs.example_name != "image":
        return inputs(examples)
    bar, tensors, errors = ProgressBar("images"), [], []
    for start in range(0, len(examples), IMAGES_AT_ONCE):
        some = examples[start : start + IMAGES_AT_ONCE]
        try:
            tensors.append(inputs(some))
        except base.InputError as error:
            errors += str(error).splitlines()
        bar(start + len(some), len(examples))
    if errors:
        raise base.InputError("\n".join(base.shorten_errors(errors)))
    return torch.cat(tensors)


class ProgressBar:
    """A progress bar on standard error, shown only on a terminal and for long tasks.

    Args:
        description: Name of the counted items.
        minimum: Minimum total for which the bar is shown.
    """

    def __init__(self, description: str, minimum: int = 50) -> None:
        self.description, self.minimum = description, minimum
        self._progress: Any = None

    def __call__(self, done: int, total: int) -> None:
        if total < self.minimum or not sys.stderr.isatty():
            return
        if self._progress is None:
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(self.description, total=total)
            self._progress.start()
        self._progress.update(self._task, completed=done)
        if done >= total:
            self._progress.stop()


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


def format_predictions(
    examples: Sequence[Any],
    labels: Sequence[Any],
    probabilities: Any,
    classes: Sequence[Any],
    form: Literal["text", "json", "csv"],
    key: str,
) -> Iterator[str]:
    """Yield one line per example, in CSV after a header.

    Args:
        examples: File names or sentences.
        labels: The predicted label of each.
        probabilities: The class probabilities of each, `(n, classes)`.
        classes: The labels of the columns.
        form: The format.
        key: Name of the column of examples: `file` or `text`.
    """
    rows = zip(examples, labels, probabilities, strict=True)
    if form == "json":
        for example, label, row in rows:
            by_class = {str(name): round(float(p), 6) for name, p in zip(classes, row, strict=True)}
            prediction = {key: str(example), "label": label, "probabilities": by_class}
            yield json.dumps(prediction, ensure_ascii=False)
    elif form == "csv":
        yield _csv([key, "label", *classes])
        for example, label, row in rows:
            yield _csv([example, label, *(f"{p:.6f}" for p in row)])
    else:
        widths = max(map(len, map(str, examples))), max(map(len, map(str, classes)))
        for example, label, row in rows:
            yield f"{example!s:<{widths[0]}}  {label!s:<{widths[1]}}  {100 * max(row):5.1f} %"


def _csv(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
