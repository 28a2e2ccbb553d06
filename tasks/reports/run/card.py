"""The model card: what a trained model is, how well it does what, and what it should not be used for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from tasks.reports.kit import wording
from tasks.reports.kit.results import Results

KINDS = {
    "image": ("picture", "pictures"),
    "numbers": ("row of numbers", "rows of numbers"),
    "text": ("sentence", "sentences"),
}


def context(found: Results, folder: Path, headline: dict[str, Any]) -> dict[str, Any]:
    """What the template model_card.md.j2 is filled with; headline: as the report's."""
    meta, config = found.meta, found.config
    regression = found.kind == "regression"
    method, network = config["algorithm"]["name"], config["model"]["name"]
    kind = config["inputs"]["kind"]
    one, many = KINDS.get(kind, (kind, f"{kind}s"))
    shape = " x ".join(map(str, config["input"]))
    adapts, support, use = _purpose(kind, regression, config, many)
    return {
        "title": f"{method} for {headline['title']}",
        "what": f"{_article(network)} {network} network of {config.get('parameters', 0):,} parameters, meta-trained by {method} to adapt "
        f"to new {adapts}.",
        "folder": Markup(folder),  # noqa: S704 (it stands in code, and is the user's own)
        "regression": regression,
        "support": support,
        "measured": f"on {wording.count(int(found.metrics['episodes']), 'test episode')}",
        "score": "mean squared error" if regression else "accuracy",
        "figures": _figures(found),
        "protocol": headline["protocol"],
        "use": use,
        "limits": _limits(found, one, shape),
        "data": f"{meta['dataset']} ({meta['protocol']})"
        + (
            "."
            if regression
            else f", {meta['classes'].get('train', 0):,} classes for training, {meta['classes'].get('test', 0):,} for test."
        ),
        "license": meta["license"],
        "made": [
            f"{config['iterations']:,} iterations; the best checkpoint by validation is that of iteration {config['iteration']:,}.",
            *(f"{name}: {digest} ({what})." for name, what, digest in digests(found)),
            "All parameters stand at the end of the run's report, and in params.yaml of the commit.",
        ],
    }


def _article(name: str) -> str:
    return "An" if name[:1] in "aeiou" or name == "mlp" else "A"


def _purpose(
    kind: str, regression: bool, config: dict[str, Any], many: str
) -> tuple[str, str, str]:
    """What the model adapts to and by what, what `adapt` takes, and what it is for."""
    shots = config["shots"]
    if kind == "ratings":
        given = f"{wording.count(shots, 'rating')} or fewer"
        use = f"Telling how a new user will rate items, from {given}, where users and items are of the kind that it was trained on."
        return f"users by {given}", "names of items, and a rating each", use
    if regression:
        use = f"Fitting a curve of the family that it was trained on to {wording.count(shots, 'point')} or a few more."
        return f"curves by {wording.count(shots, 'example')}", "points (x, y)", use
    given = f"{wording.count(shots, 'example')} each"
    use = (
        f"Telling apart a few new classes of {many}, {config['ways']} as trained, from {given}, where they are of the kind that the "
        "training classes were."
    )
    return f"classes of {many} by {given}", f"a list of {many}, and a label each", use


def _figures(found: Results) -> list[tuple[str, str]]:
    """First what the loaded model does, then what puts it in proportion."""
    metrics, score = found.metrics, found.score

    def at(key: str) -> str:
        return wording.figure(score, metrics[f"{key}{score}"], metrics.get(f"{key}{score}_ci95"))

    rows = []
    if "inductive.accuracy" in metrics:
        rows.append(
            ("each example answered alone, as the loaded model does (inductive)", at("inductive."))
        )
        if found.other_mode:
            rows.append(("a task's queries seen together (transductive)", at("transductive.")))
    else:
        rows.append(("as the loaded model does", at("")))
    if f"before.{score}" in metrics:
        rows.append(("before adaptation", at("before.")))
    names = sorted({key.split(".")[1] for key in metrics if key.startswith("baselines.")})
    return rows + [
        (f"baseline: {name.replace('_', ' ')}", at(f"baselines.{name}.")) for name in names
    ]


def _limits(found: Results, one: str, shape: str) -> list[str]:
    config = found.config
    limits = [
        f"It knows {found.meta['dataset']} alone; on things of another kind it may be no better than its baselines."
    ]
    if found.kind == "classification":
        if config["inputs"]["kind"] == "image":
            limits.append(f"Every {one} is brought to {shape} first.")
        limits.append("It answers one of the classes it was given, whatever it is shown.")
        if config["inputs"].get("inverted"):
            limits.append("It expects dark ink on light paper.")
        limits.append("Its probabilities are not calibrated: they rank answers and are no odds.")
        limits.append(
            "An adapted model's folder holds the support examples: do not pass it on if they are private."
        )
    return limits


def digests(found: Results) -> list[tuple[str, str, str]]:
    """What identifies the data, the weights and the code: a name, what it is of, and the digest."""
    known = [
        ("data", "digest of data/prepared", found.meta.get("data_digest")),
        ("model", "SHA-256 of models/run/weights.safetensors", found.weights_digest),
        (
            "code of episodes",
            "digest of the modules that made the data",
            found.meta.get("code_digest"),
        ),
        (
            "code of train",
            "digest of the modules that made the model",
            found.config.get("code_digest"),
        ),
    ]
    return [(name, what, digest) for name, what, digest in known if digest]
