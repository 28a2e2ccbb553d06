"""The headline of a run: the score and the protocol under which it was measured."""

from __future__ import annotations

from dataclasses import dataclass

from episodic.core.episode_size import describe_sizes
from tasks.reports.kit import wording
from tasks.reports.kit.results import Results


@dataclass(frozen=True)
class Headline:
    """The headline of a run.

    Attributes:
        title: Title of the report.
        score: Name of the score.
        value: The score.
        ci95: Half-width of its 95 % interval.
        value_text: The score as text.
        ci95_text: The half-width as text; may be empty.
        remarks: Further scores, as text.
        protocol: Description of the protocol.
        facts: Algorithm, model, training and device by name.
        steps: Number of inner steps, as text.
        adapts: Whether the algorithm takes inner steps at test time.
    """

    title: str
    score: str
    value: float
    ci95: float
    value_text: str
    ci95_text: str
    remarks: list[str]
    protocol: str
    facts: dict[str, str]
    steps: str
    adapts: bool


def build_headline(results: Results, title: str | None, device: str) -> Headline:
    """Build the headline of a run.

    Args:
        results: Its results.
        title: Title of the report; None for the dataset and the task.
        device: The device that it ran on.
    """
    meta, config, metrics, score = results.meta, results.config, results.metrics, results.score
    task, queries = _describe_task(results)
    value, ci95 = metrics[score], metrics[f"{score}_ci95"]
    value_text, _, ci95_text = wording.format_estimate(score, value, ci95).partition(" ± ")
    facts = {"algorithm": config["algorithm"]["name"], "model": config["model"]["name"]}
    if encoder := wording.name_encoder(meta):
        facts["encoder"] = encoder
    if "parameters" in config:
        facts["parameters"] = f"{config['parameters']:,}"
    iterations = f"{config['iterations']:,}" if results.was_trained else "none (nothing to train)"
    facts |= {"iterations": iterations, "device": device}
    protocol = [task, queries, wording.describe_data(meta)]
    # Without batch norm, both modes have the same scores, so the mode is omitted.
    if results.other_mode or results.curve["mode"].nunique() == 1:
        protocol.append(f"{results.mode} batch norm")
    if results.is_transductive:
        protocol.append("transductive inference")
    if results.adapts:
        protocol.append(wording.format_count(results.steps, "inner step"))
    if copies := int(metrics.get("support_copies", 0)):
        number = wording.format_count(copies, "augmented copy", "augmented copies")
        protocol.append(f"{number} per support example")
    if config.get("ensemble", 1) > 1:
        protocol.append(f"ensemble of the {wording.spell_out(config['ensemble'])} best checkpoints")
    protocol.append(wording.format_count(metrics["episodes"], "test episode"))
    return Headline(
        title=title or f"{meta['dataset']}, {task}",
        score=wording.name_score(score),
        value=value,
        ci95=ci95,
        value_text=value_text,
        ci95_text=ci95_text,
        remarks=_list_remarks(results),
        protocol=", ".join(protocol),
        facts=facts,
        steps=wording.format_count(results.steps, "inner step"),
        adapts=results.adapts,
    )


def _describe_task(results: Results) -> tuple[str, str]:
    """Describe the task and its queries."""
    meta = results.meta
    queries = wording.format_count(meta["queries"], "query", "queries")
    if results.has_ratings:
        task = wording.format_count(meta["shots"], "first rating")
        return task, f"at most {queries} from the later ratings"
    if results.kind == "regression":
        return wording.format_count(meta["shots"], "support point"), queries
    return describe_sizes(meta), wording.describe_queries(meta)


def _list_remarks(results: Results) -> list[str]:
    metrics, score = results.metrics, results.score
    remarks = []
    if score == "mse" and "mse_median" in metrics:
        diverged = wording.format_count(metrics.get("diverged", 0), "episode")
        remarks.append(
            f"median {wording.format_number(metrics['mse_median'])}, {diverged} diverged"
        )
    if f"before.{score}" in metrics:
        value, ci95 = metrics[f"before.{score}"], metrics.get(f"before.{score}_ci95")
        remarks.append(f"{wording.format_estimate(score, value, ci95)} before adaptation")
    return remarks
