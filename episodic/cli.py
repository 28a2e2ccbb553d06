"""The command `episodic`: adapt a trained model to classes of your own and ask it.

What is heavy is imported by the command that needs it, so that `--help` is there at once.
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
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

from episodic.core.errors import UserError

if TYPE_CHECKING:
    from episodic.inference.few_shot import FewShotLearner
    from episodic.preprocessing.base import Inputs

app = typer.Typer(
    name="episodic",
    help="Adapt a trained few-shot model to new classes by a few examples each, and ask it. Models come from the pipeline (models/run).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    Path, typer.Argument(help="folder of a trained model, as models/run", show_default=False)
]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps or auto")]
P = ParamSpec("P")

STDIN = "-"


def told(body: Callable[P, None]) -> Callable[P, None]:
    """What the user can mend is one sentence and exit code 1."""

    @functools.wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            body(*args, **kwargs)
        except UserError as error:
            fail(str(error))
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:  # as `| head` leaves it
            sys.stderr.close()
            raise typer.Exit(0) from None

    return run


def fail(message: str) -> None:
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[
        bool, typer.Option("--version", help="print the version", is_eager=True)
    ] = False,
) -> None:
    if show:
        from episodic import __version__

        print(__version__)
        raise typer.Exit


@app.command()
@told
def info(
    model: Annotated[
        Path, typer.Argument(help="folder of a trained or an adapted model", show_default=False)
    ],
) -> None:
    """Say what a model is: method, network, what it takes, how well it did."""
    from episodic.training import model_folder

    config = model_folder.read_config(model)
    shape = " x ".join(map(str, config["input"]))
    facts = {
        "method": config["algorithm"]["name"],
        "network": f"{config['model']['name']}, {config.get('parameters', 0):,} parameters",
        "takes": f"{config['inputs']['kind']}, {shape}"
        + (", dark ink on light paper" if config["inputs"].get("inverted") else ""),
        "trained on": f"{config.get('dataset')}: {config['ways']}-way {config.get('shots')}-shot"
        if config["kind"] == "classification"
        else config.get("dataset"),
    }
    if "adapted" in config:
        facts["adapted to"] = ", ".join(map(str, config["adapted"]["classes"])) or "a curve"
    else:
        from episodic.inference.few_shot import load

        load(model)  # says what is wrong with the weights, if anything is
        facts["validation"] = (
            f"{config.get('validation'):.4g} after {config.get('iteration'):,} of {config.get('iterations'):,} iterations"
        )
        if (model / "README.md").exists():
            facts["model card"] = str(model / "README.md")
    for name, value in facts.items():
        print(f"{name:<12}{value}")


@app.command()
@told
def adapt(
    model: Model,
    support: Annotated[
        Path,
        typer.Argument(
            help="folder with a folder of examples for each class; text: also a CSV text,label, or - for it",
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
        int | None, typer.Option(help="inner steps (default: the method's own)", show_default=False)
    ] = None,
    device: Device = "cpu",
) -> None:
    """Adapt a trained model to new classes by a few labelled examples."""
    from episodic.inference import few_shot

    replaceable(out)
    learner = of_classes(few_shot.load(model, device), model)
    files, labels = labelled(support, learner.inputs)
    adapted = learner.adapt(read(files, learner.inputs), labels, steps)
    adapted.save(out)
    counts = Counter(labels)
    print(
        f"{out}: adapted to {len(counts)} classes by {len(labels)} examples ({', '.join(f'{name} {n}' for name, n in counts.items())})"
    )


@app.command()
@told
def predict(
    adapted: Annotated[
        Path, typer.Argument(help="folder that `episodic adapt` wrote", show_default=False)
    ],
    files: Annotated[
        list[str],
        typer.Argument(
            help="files, or folders of them; - reads names of pictures, or sentences, one a line, from standard input",
            show_default=False,
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="one JSON object a file and line, with all probabilities")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV with all probabilities")] = False,
    device: Device = "cpu",
) -> None:
    """Name the class of each picture, or of each sentence (a line of a file)."""
    from episodic.inference import few_shot

    if as_json and as_csv:
        fail("--json and --csv: choose one of them")
    model = few_shot.load_adapted(adapted, device)
    wanted = list(asked(files, model.inputs))
    if not wanted:
        fail("there is nothing to predict: name files, or a folder that holds some")
    probabilities = model.predict_proba(read(wanted, model.inputs))
    labels = model.named(probabilities).tolist()
    kind = "text" if model.inputs.what == "sentence" else "file"
    for line in shown(
        wanted,
        labels,
        probabilities,
        model.classes_,
        "json" if as_json else "csv" if as_csv else "text",
        kind,
    ):
        print(line)


@app.command()
@told
def evaluate(
    model: Model,
    folder: Annotated[
        Path,
        typer.Argument(
            help="your own examples: a folder for each class, or a CSV text,label",
            show_default=False,
        ),
    ],
    ways: Annotated[
        int | None,
        typer.Option(min=2, help="classes an episode (default: as trained)", show_default=False),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            min=1, help="labelled examples a class (default: as trained)", show_default=False
        ),
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="examples a class to score on")] = 5,
    episodes: Annotated[int, typer.Option(min=2, help="how many")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="which episodes")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
    device: Device = "cpu",
) -> None:
    """Measure how well a model adapts to your own classes: episodes drawn from your examples, accuracy with its 95 % interval."""
    from episodic.inference import few_shot

    learner = of_classes(few_shot.load(model, device), model)
    files, labels = labelled(folder, learner.inputs)
    found = learner.evaluate(
        read(files, learner.inputs),
        labels,
        ways,
        shots,
        queries,
        episodes,
        seed,
        progress=Bar("episodes"),
    )
    if as_json:
        print(json.dumps(found.summary))
        return
    task = f"{found.ways} classes by {found.shots} examples each, {found.queries} queries a class"
    print(
        f"{100 * found.accuracy:.1f} % ± {100 * found.ci95:.1f} on {episodes} episodes of {task} (chance: {100 / found.ways:.1f} %)"
    )


@app.command()
@told
def export(
    adapted: Annotated[
        Path, typer.Argument(help="folder that `episodic adapt` wrote", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Argument(help="file to write: *.onnx, or *.pt2 for torch.export", show_default=False),
    ],
    encoder: Annotated[
        bool,
        typer.Option(
            "--encoder", help="the features in front of the head, in place of probabilities"
        ),
    ] = False,
) -> None:
    """Write an adapted model as ONNX or torch.export, for other runtimes."""
    from episodic.inference import export, few_shot
    from episodic.training import model_folder

    kinds = {".onnx": export.onnx, ".pt2": export.torch_program}
    if out.suffix not in kinds:
        fail(f"{out} ends in neither .onnx nor .pt2: the ending says which kind of file to write")
    if "adapted" not in model_folder.read_config(adapted):
        fail(export.NOT_ADAPTED)
    kinds[out.suffix](few_shot.load_adapted(adapted), out, encoder)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


@app.command()
@told
def demo(
    model: Model,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="of the page; 0 takes a free one")
    ] = 8765,
    host: Annotated[
        str,
        typer.Option(help="to listen on; anything but loopback lets others in, without a password"),
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open the page")] = True,
    device: Device = "cpu",
) -> None:
    """Show a page where a person teaches the model new classes by drawing, dropping or typing a few examples."""
    from episodic.inference import few_shot

    try:
        from episodic.inference.demo import serve
    except ModuleNotFoundError as error:
        fail(f"the page needs more packages: pip install 'episodic-learning[demo]' ({error})")
    serve(of_classes(few_shot.load(model, device), model), str(model), host, port, browser)


def of_classes(learner: FewShotLearner, model: Path) -> FewShotLearner:
    """The learner, or the end where its tasks have no classes."""
    if learner.kind != "classification":
        fail(f"{model} tells numbers and no classes: use it from Python (docs/using-a-model.md)")
    return learner


def labelled(path: Path, inputs: Inputs) -> tuple[list[Any], list[str]]:
    """Examples and labels from a folder with a folder for each class, or a table; all that is wrong with it in one error."""
    from episodic.preprocessing.base import folders

    if inputs.what == "sentence" and (str(path) == STDIN or path.is_file()):
        from episodic.preprocessing.text import read_table

        rows = read_table(None if str(path) == STDIN else path)
        return [row["text"] for row in rows], [row["label"] for row in rows]
    found = folders(path, inputs)
    return [example for examples in found.values() for example in examples], [
        name for name, examples in found.items() for _ in examples
    ]


def asked(names: Sequence[str], inputs: Inputs) -> Iterator[Any]:
    """The examples of files and folders; on standard input stand names of pictures, or sentences."""
    for name in names:
        given = (
            (line.strip() for line in sys.stdin.read().splitlines() if line.strip())
            if name == STDIN
            else iter([name])
        )
        if name == STDIN and inputs.what == "sentence":
            yield from given
            continue
        for path in map(Path, given):
            if not path.is_dir():
                yield from inputs.in_file(path)
                continue
            for folder in [path, *sorted(p for p in path.rglob("*") if p.is_dir())]:
                yield from inputs.in_folder(folder)


def read(examples: Sequence[Any], inputs: Inputs) -> Any:
    """The examples as numbers, with a bar where there are many; what is wrong with any of them is one error."""
    import torch

    from episodic.preprocessing import base as kinds

    if inputs.what != "picture":
        return inputs(examples)
    bar, parts, problems = Bar(f"{inputs.what}s"), [], []
    for done, path in enumerate(examples, 1):
        try:
            parts.append(inputs([path]))
        except kinds.InputError as error:
            problems.append(str(error))
        bar(done, len(examples))
    if problems:
        raise kinds.InputError("\n".join(kinds.told(problems)))
    return torch.cat(parts)


class Bar:
    """Progress on standard error, if that is a terminal and there is enough to do."""

    def __init__(self, what: str, least: int = 50):
        self.what, self.least = what, least
        self.rich: Any = None

    def __call__(self, done: int, total: int) -> None:
        if total < self.least or not sys.stderr.isatty():
            return
        if self.rich is None:
            from rich.console import Console
            from rich.progress import Progress

            self.rich = Progress(console=Console(stderr=True), transient=True)
            self.task = self.rich.add_task(self.what, total=total)
            self.rich.start()
        self.rich.update(self.task, completed=done)
        if done >= total:
            self.rich.stop()


def replaceable(out: Path) -> None:
    """Only an adapted model is written over, never something else that the folder holds."""
    from episodic.training import model_folder

    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        if "adapted" in model_folder.read_config(out):
            return
    except UserError:
        pass
    raise UserError(
        f"{out} is there and holds something else than an adapted model, which would be lost: name another folder"
    )


def shown(
    files: Sequence[Any],
    labels: Sequence[Any],
    probabilities: Any,
    classes: Sequence[Any],
    form: str,
    what: str,
) -> Iterator[str]:
    """A line for each file; the CSV's first line is its head."""
    rows = zip(files, labels, probabilities, strict=True)
    if form == "json":
        for path, label, row in rows:
            by_class = {str(name): round(float(p), 6) for name, p in zip(classes, row, strict=True)}
            yield json.dumps(
                {what: str(path), "label": label, "probabilities": by_class}, ensure_ascii=False
            )
    elif form == "csv":
        yield _csv([what, "label", *classes])
        for path, label, row in rows:
            yield _csv([path, label, *(f"{p:.6f}" for p in row)])
    else:
        widths = max(map(len, map(str, files))), max(map(len, map(str, classes)))
        for path, label, row in rows:
            yield f"{path!s:<{widths[0]}}  {label!s:<{widths[1]}}  {100 * max(row):5.1f} %"


def _csv(cells: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
