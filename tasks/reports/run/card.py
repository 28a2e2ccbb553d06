"""The model card: description, scores, intended use and limits of a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from episodic.core.episode_size import describe_bounds
from tasks.reports.kit import wording
from tasks.reports.kit.results import Results
from tasks.reports.run import sentences
from tasks.reports.run.facts import rank_baselines
from tasks.reports.run.headline import Headline

EXAMPLES = {
    "image": ("image", "images"),
    "numbers": ("row of numbers", "rows of numbers"),
    "text": ("sentence", "sentences"),
}
"""Words for one example and for several, by kind of input."""


def build_context(results: Results, folder: Path, headline: Headline) -> dict[str, Any]:
    """Return the variables of the template model_card.md.j2.

    Args:
        results: The results of the run.
        folder: The folder of the model.
        headline: The headline of the report.
    """
    meta, config = results.meta, results.config
    regression = results.kind == "regression"
    algorithm, model = config["algorithm"]["name"], config["model"]["name"]
    kind = config["inputs"]["kind"]
    example, examples = EXAMPLES.get(kind, (kind, f"{kind}s"))
    tasks, support, use = _describe_purpose(results, examples)
    article = "An" if model[:1] in "aeiou" or model == "mlp" else "A"
    encoder = wording.name_encoder(meta)
    features = f" on features of the pretrained encoder {encoder}" if encoder else ""
    data = wording.describe_dataset(meta)
    if not regression:
        training, test = (meta["classes"].get(split, 0) for split in ("train", "test"))
        data += f", {training:,} classes for training, {test:,} for test"
    return {
        "title": f"{algorithm} for {headline.title}",
        "what": f"{article} {model} model with "
        f"{wording.format_count(config.get('parameters', 0), 'parameter')}{features}, "
        f"{'meta-trained by' if results.was_trained else 'used by'} {algorithm} to adapt to new "
        f"{tasks}.",
        "folder": Markup(folder),  # noqa: S704 (inside a code block, and the user's own path)
        "needs": _describe_needs(config["inputs"]),
        "option": "" if _finds_encoder(config["inputs"]) else " --encoder ENCODER",
        "regression": regression,
        "support": support,
        "measured": f"on {wording.format_count(int(results.metrics['episodes']), 'test episode')}",
        "score": wording.name_score(results.score),
        "scores": _list_scores(results),
        "protocol": headline.protocol,
        "use": use,
        "limits": _list_limits(results, example),
        "data": f"{data}.",
        "license": meta["license"],
        "training": [
            _describe_training(results),
            *(
                [f"Training images were augmented: {', '.join(config['augmentation'])}."]
                if "augmentation" in config
                else []
            ),
            *(f"{name}: {digest} ({what})." for name, what, digest in list_digests(results)),
            "The end of the run's report lists all settings, as does the commit's params.yaml.",
        ],
    }


def _finds_encoder(inputs: dict[str, Any]) -> bool:
    """Return whether the model needs no encoder, or one that is found by itself."""
    encoder = inputs.get("encoder")
    return encoder is None or encoder["name"] == "efficientnet_lite0"


def _describe_needs(inputs: dict[str, Any]) -> str:
    if "encoder" not in inputs:
        return "self-contained; no data, DVC or Prefect needed"
    if _finds_encoder(inputs):
        return "needs the package of efficientnet_lite0; no data, DVC or Prefect"
    name = inputs["encoder"]["name"]
    return f"add encoder=PATH of {name}, or set EPISODIC_ENCODER to it; see Limits"


def _describe_training(results: Results) -> str:
    config = results.config
    if not results.was_trained:
        return wording.NOTHING_TO_TRAIN
    return (
        f"Trained for {config['iterations']:,} iterations. The best checkpoint by validation "
        f"score is that of iteration {config['iteration']:,}."
    )


def _describe_purpose(results: Results, examples: str) -> tuple[str, str, str]:
    """Return the tasks that the model adapts to, the arguments of `adapt`, and the use."""
    config = results.config
    kind, shots = config["inputs"]["kind"], config["shots"]
    if kind == "ratings":
        ratings = f"{wording.format_count(shots, 'rating')} or fewer"
        use = (
            f"Predicting a new user's ratings from {ratings}, for users and items of the kind "
            "that the model was trained on."
        )
        return f"users from {ratings}", "names of items, and a rating for each", use
    if results.kind == "regression":
        use = (
            "Fitting a curve of the family that the model was trained on to "
            f"{wording.format_count(shots, 'point')} or a few more."
        )
        return f"curves from {wording.format_count(shots, 'example')}", "points (x, y)", use
    ways, per_class = str(config["ways"]), f"{wording.format_count(shots, 'example')} per class"
    if "varied" in config:
        ways = describe_bounds(config["varied"]["ways"])
        if shots > 1:
            per_class = f"{describe_bounds(config['varied']['shots'])} examples per class"
    similar = "those of training" if results.was_trained else "the test classes"
    use = (
        f"Distinguishing a few new classes of {examples} ({ways} in the test episodes) from "
        f"{per_class}, for classes similar to {similar}."
    )
    return (
        f"classes of {examples} from {per_class}",
        f"a list of {examples}, and a label for each",
        use,
    )


def _list_scores(results: Results) -> list[tuple[str, str]]:
    """Return the scores of the model as loaded, then those of other modes and baselines."""
    metrics, score = results.metrics, results.score

    def show(prefix: str) -> str:
        value, ci95 = metrics[f"{prefix}{score}"], metrics.get(f"{prefix}{score}_ci95")
        return wording.format_estimate(score, value, ci95)

    if "inductive.accuracy" in metrics:
        name = "inductive batch norm, as the loaded model predicts"
        if not results.other_mode:
            name = "as the loaded model predicts"
        scores = [(name, show("inductive."))]
        if results.other_mode:
            name = "transductive batch norm, statistics of the whole query set"
            scores.append((name, show("transductive.")))
    else:
        scores = [("as the loaded model predicts", show(""))]
    if f"before.{score}" in metrics:
        scores.append(("before adaptation", show("before.")))
    return scores + [
        (
            f"baseline: {wording.name_baseline(baseline.key)}",
            wording.format_estimate(score, baseline.value, baseline.ci95),
        )
        for baseline in rank_baselines(results)
    ]


def _list_limits(results: Results, example: str) -> list[str]:
    config = results.config
    limits = []
    if results.was_trained:
        limits.append(
            f"It was trained only on {results.meta['dataset']}. On other kinds of data it may be "
            "no better than its baselines."
        )
    elif "encoder" in config["inputs"]:
        limits.append(
            "Only its encoder was trained. On examples unlike those of the encoder's training it "
            "may be no better than its baselines."
        )
    if results.is_transductive:
        limits.append(sentences.describe_transductive_inference(results.meta))
        limits.append(
            "Predict all examples of a task in one call. Predictions for fewer examples, or for "
            "query sets with another balance of classes, have another accuracy."
        )
    if results.kind == "classification":
        if "encoder" in config["inputs"]:
            limits += _list_encoder_limits(config["inputs"], example)
        elif config["inputs"]["kind"] == "image":
            shape = " x ".join(map(str, config["input"]))
            limits.append(f"Every {example} is resized to {shape}.")
        limits.append(_describe_unknown(results))
        if config["inputs"].get("inverted"):
            limits.append("It expects dark drawings on a light background.")
        limits.append(_describe_calibration(results))
        if "sets.coverage_90.coverage" in results.metrics:
            limits.append(_describe_sets(results))
        limits.append(
            "The folder of an adapted model contains the support examples. Do not share it if "
            "they are private."
        )
    return limits


def _describe_calibration(results: Results) -> str:
    metrics = results.metrics
    if "calibration.ece" not in metrics:
        return (
            "Its probabilities are not calibrated: they rank predictions, but are not frequencies."
        )
    error, ci95 = (100 * metrics[f"calibration.{key}"] for key in ("ece", "ece_ci95"))
    return (
        "Its probabilities are calibrated on validation episodes. Their expected calibration error "
        f"on the test episodes is {error:.1f} % ± {ci95:.1f}; with other numbers of classes or "
        "examples, or on other data, it may be larger."
    )


def _describe_unknown(results: Results) -> str:
    metrics, prefix = results.metrics, "unknown.other_classes.accepted_"
    always = "it always predicts one of the given classes, for any input."
    if f"{prefix}unknown" not in metrics:
        return always.capitalize()
    found, rejected = (
        wording.format_estimate(
            "accuracy", 1 - metrics[f"{prefix}{name}"], metrics[f"{prefix}{name}_ci95"]
        )
        for name in ("unknown", "known")
    )
    return (
        f"Without `--unknown`, {always} With it, {found} of the queries of other test classes were "
        f"recognized as unknown, and {rejected} of those of the given classes were rejected; "
        "examples of another kind were not tested."
    )


def _describe_sets(results: Results) -> str:
    metrics, prefix = results.metrics, "sets.coverage_90."
    covered = wording.format_estimate(
        "accuracy", metrics[f"{prefix}coverage"], metrics[f"{prefix}coverage_ci95"]
    )
    size, ci95 = metrics[f"{prefix}size"], metrics[f"{prefix}size_ci95"]
    return (
        f"Prediction sets of 90 % (`--coverage 0.9`) contained the true class of {covered} of the "
        f"test queries, with {size:.2f} ± {ci95:.2f} classes on average. The promise is marginal "
        "over tasks drawn like the validation tasks: single tasks or classes, other sizes and "
        "other kinds of data may be covered less."
    )


def _list_encoder_limits(inputs: dict[str, Any], example: str) -> list[str]:
    """Describe the pretrained encoder, and what it may have seen."""
    encoder = inputs["encoder"]
    name = f"{encoder['name']} (digest {encoder['digest'][:12]})"
    if inputs["kind"] != "image":
        return [f"It needs the pretrained encoder {name}."]
    transform = encoder["transform"]
    size, resize = transform["size"], transform["resize"]
    shape = f"{resize} x {resize} pixels" if transform.get("square") else f"{resize} pixels"
    resized = (
        f"Every {example}" if transform.get("square") else f"The shorter side of every {example}"
    )
    return [
        f"It needs the pretrained encoder {name}, whose licence is {encoder['license']}.",
        f"{resized} is resized to {shape}, and the central {size} x {size} are used.",
        "The encoder may have been trained on images of the test classes (ImageNet has 1,000 "
        "common classes), so scores on such classes are optimistic.",
    ]


def list_digests(results: Results) -> list[tuple[str, str, str]]:
    """List the digests of the data, the weights and the code: name, meaning and digest."""
    digests = [
        ("data", "digest of data/prepared", results.meta.get("data_digest")),
        ("model", "SHA-256 of models/run/weights.safetensors", results.weights_digest),
        (
            "code of the stage episodes",
            "digest of the modules that prepared the data",
            results.meta.get("code_digest"),
        ),
        (
            "code of the stage train",
            "digest of the modules that trained the model",
            results.config.get("code_digest"),
        ),
    ]
    return [(name, what, digest) for name, what, digest in digests if digest]
