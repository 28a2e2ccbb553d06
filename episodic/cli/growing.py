"""`episodic adapt --extend`: add, remove and correct examples of an adapted model."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from episodic.cli.app import fail
from episodic.cli.calibration import describe_probabilities
from episodic.cli.examples import encode_examples, read_labelled_examples
from episodic.cli.learners import note_single_examples

if TYPE_CHECKING:
    from torch import Tensor

    from episodic.inference.adapted import AdaptedModel
    from episodic.inference.labelled_examples import LabelledExamples
    from episodic.preprocessing.base import Preprocessor

__all__ = ["extend_adapted"]


def extend_adapted(
    adapted: Path,
    more: Path | None,
    removed: Sequence[str],
    corrections: Sequence[str],
    held_out: Path | None,
    out: Path,
    steps: int | None,
    encoder: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Change the examples of an adapted model, adapt anew, and write the result.

    Classes are removed first, then examples are added, then labels are corrected.

    Args:
        adapted: Folder of the adapted model.
        more: Folder or table of examples to add.
        removed: Names of classes to remove.
        corrections: Each `EXAMPLE=LABEL`, or a folder or table of examples with their right labels.
        held_out: Folder or table of examples on which accuracy is compared.
        out: Folder to write.
        steps: Number of inner steps; None for that of the adapted model.
        encoder: File of the encoder.
        device: Device of the computation.
        as_json: Whether to print the result as one JSON object.
    """
    from episodic.inference.adapted_folder import load_adapted
    from episodic.inference.forgetting import measure_forgetting
    from episodic.inference.labelled_examples import list_counts

    if more is None and not removed and not corrections:
        fail("--extend needs examples to add, --remove or --correct: specify at least one")
    before = load_adapted(adapted, device, encoder)
    if not before.classes_:
        fail(
            f"{adapted} is a regression model: extend it from Python (docs/guide/using-a-model.md)"
        )
    inputs = before.inputs if before.learner is None else before.learner.inputs
    start = before.examples
    examples = start
    for name in removed:
        examples = examples.remove(examples.classes.get(name, name))
    if more is not None:
        examples = _add(examples, more, inputs, adapted)
    for correction in corrections:
        examples = _correct(examples, correction, inputs, adapted)
    tested = None
    if held_out is not None:  # read first, so that errors leave no output
        classes = {str(label): label for label in before.classes_} | examples.classes
        x, names = _read_held_out(held_out, inputs, start, examples)
        tested = x, [classes.get(name, name) for name in names]
    started = time.perf_counter()
    after = before
    if examples is not start or steps is not None:
        steps = before.steps if steps is None else steps
        after = replace(before, steps=steps).adapt_to(examples)
    seconds = time.perf_counter() - started
    forgetting = None if tested is None else measure_forgetting(before, after, *tested)
    after.save(out)
    changes = after.history[len(before.history) :]
    counts = dict(zip(map(str, after.classes_), after.shots.tolist(), strict=True))
    if as_json:
        summary: dict[str, Any] = {
            "classes": counts,
            "changes": [change.to_json() for change in changes],
            "seconds": round(seconds, 3),
            "calibrated": after.calibrated_on is not None,
            "unknown": after.detects_unknown,
        }
        print(json.dumps(summary | ({"held_out": forgetting.summary} if forgetting else {})))
    else:
        for change in changes:
            print(f"{out}: {change.action} {change}")
        total = sum(counts.values())
        print(f"{out}: {len(counts)} classes, {total} examples ({list_counts(counts)})")
        print(f"{out}: probabilities are {describe_probabilities(after.config)}")
        if forgetting is not None:
            print(forgetting)
    note_single_examples(after.config.get("head"), counts)
    if before.detects_unknown and after.unknown_note is not None:
        print(f"note: {after.unknown_note}", file=sys.stderr)
    if after is not before and _adapts_by_gradients(after):
        name = after.config.get("head", after.config["algorithm"]["name"])
        print(
            f"note: {name} adapted anew to all {len(examples.labels)} examples, from its"
            f" meta-parameters, in {seconds:.1f} s",
            file=sys.stderr,
        )


def _add(
    examples: LabelledExamples, more: Path, inputs: Preprocessor, adapted: Path
) -> LabelledExamples:
    """Add the examples of a folder or table, without those that the model has."""
    found, names = read_labelled_examples(more, inputs)
    x = encode_examples(found, inputs)
    labels: list[Hashable] = [examples.classes.get(name, name) for name in names]
    new = [
        i
        for i, label in enumerate(labels)
        if all(examples.labels[j] != label for j in examples.find(x[i]))
    ]
    if known := len(labels) - len(new):
        print(
            f"note: {known} of {len(labels)} examples of {more} are in {adapted} already, with the"
            " same label, and are not added again",
            file=sys.stderr,
        )
    if not new:
        return examples
    return examples.add(x[new], [labels[i] for i in new], [str(found[i]) for i in new])


def _read_held_out(
    folder: Path, inputs: Preprocessor, *models: LabelledExamples
) -> tuple[Tensor, list[str]]:
    """Read examples and labels, without those that a model is adapted to."""
    found, names = read_labelled_examples(folder, inputs)
    x = encode_examples(found, inputs)
    kept = [i for i, row in enumerate(x) if not any(model.find(row) for model in models)]
    if not kept:
        fail(f"the model is adapted to all examples of {folder}: hold out others")
    if known := len(names) - len(kept):
        print(
            f"note: {known} of {len(names)} examples of {folder} are not held out, since the model"
            " is adapted to them: they are not counted",
            file=sys.stderr,
        )
    return x[kept], [names[i] for i in kept]


def _correct(
    examples: LabelledExamples, correction: str, inputs: Preprocessor, adapted: Path
) -> LabelledExamples:
    """Correct the label of one example, or those of a folder or table."""
    ends = [name for name in examples.classes if correction.endswith(f"={name}")]
    # The name of a class, or the example, may contain the separator too.
    label = max(ends, key=len) if ends else correction.rpartition("=")[2]
    example, separator = correction[: -len(label) - 1], "=" in correction
    if os.path.exists(correction):  # noqa: PTH110 - Path.exists raises for a long sentence
        found, names = read_labelled_examples(Path(correction), inputs)
    elif separator and example and label:
        found, names = [example if inputs.example_name == "sentence" else Path(example)], [label]
    else:
        fail(
            f"--correct is {correction!r}; it must be EXAMPLE=LABEL, or a folder with one subfolder"
            " of examples per right class"
        )
    labels = [examples.classes.get(name, name) for name in names]
    corrected = examples.correct(encode_examples(found, inputs), labels)
    if corrected is examples:
        print(
            f"note: {correction} changes nothing: {adapted} has the right label already; more"
            " examples of the class may help",
            file=sys.stderr,
        )
    return corrected


def _adapts_by_gradients(adapted: AdaptedModel) -> bool:
    algorithm = adapted.trained.learner.test_variant.algorithm
    return algorithm.inner_steps > 0 or adapted.tuned_blocks is not None
