"""Stage `report`: everything that the earlier stages left -> two self-contained pages, a Markdown summary and the model's card.

Loads no model and computes no new score; the same files give the same bytes.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from tasks import params
from tasks.reports.kit import charts, gallery, page, results, wording
from tasks.reports.kit.results import Results
from tasks.reports.kit.section import axis_title
from tasks.reports.run import card as cards
from tasks.reports.run import confusions, curves, fits, hardness, landscape, ratings, scores
from tasks.runtime import stage
from tasks.runtime.files import atomic_folder, write_text


def run(
    settings: params.Params, found: Results, html: Path, tasks: Path, summary: Path, card: Path
) -> None:
    """Writes the page and the one of its tasks, summary.md with its pictures, and the model card."""
    sections = [
        scores.comparison(found, settings.raw),
        scores.distribution(found),
        curves.learning(found),
        curves.adaptation(found),
    ]
    regression = found.kind == "regression"
    rated = len(found.ratings) > 0
    if rated:
        sections.insert(1, ratings.section(found))
    if not regression:
        sections += [*curves.modes(found), *confusions.sections(found)]
    fitted = fits.fits(found) if regression and not rated else []
    figures = [figure for section in sections for figure in section.figures] + [
        fit.figure for fit in fitted
    ]
    drawn = {
        figure.name: charts.svg(figure.spec) for figure in figures
    }  # once each and in this order: see charts.svg
    headline = _headline(settings, found)
    common = headline | {
        "sections": sections,
        "fits": fitted,
        "provenance": _provenance(settings, found),
    }
    context = common | {
        "cards": [] if regression else gallery.cards(found),
        "mistakes": None if regression else confusions.pictures(found),
        "lines": fits.LINES,
        "users": ratings.users(found) if rated else [],
    }
    write_text(html, page.html("report.html.j2", context, figures, drawn))
    write_text(tasks, _tasks(found, headline))
    with atomic_folder(summary) as folder:
        write_text(folder / "summary.md", page.render("summary.md.j2", common))
        for name, picture in drawn.items():
            write_text(folder / f"{name}.svg", picture)
    write_text(card, page.render("model_card.md.j2", cards.context(found, card.parent, headline)))


def _tasks(found: Results, headline: dict[str, Any]) -> str:
    """The page 'The tasks'."""
    sections, keys = landscape.sections(found)
    figures = [figure for section in sections for figure in section.figures]
    pairs = hardness.pairs(found) if found.kind == "classification" else None
    context = headline | {
        "sections": sections,
        "keys": keys,
        "pairs": pairs,
        "ink": found.meta.get("input", [0])[0] == 1,
    }
    return page.html(
        "tasks.html.j2",
        context,
        figures,
        {figure.name: charts.svg(figure.spec) for figure in figures},
    )


def _headline(settings: params.Params, found: Results) -> dict[str, Any]:
    """The top of the page: the figure, under which protocol, by which method."""
    meta, config, metrics, score = found.meta, found.config, found.metrics, found.score
    if found.kind == "regression":
        point = "first rating" if len(found.ratings) else "support point"
        shape, queries = (
            wording.count(meta["shots"], point),
            wording.count(meta["queries"], "query", "queries"),
        )
        queries = f"at most {queries} after them" if len(found.ratings) else queries
    else:
        shape, queries = (
            f"{meta['ways']}-way {meta['shots']}-shot",
            f"{wording.count(meta['queries'], 'query', 'queries')} a class",
        )
    # Without batch norm the mode says nothing.
    mode = [found.mode] if found.other_mode or found.curve["mode"].nunique() == 1 else []
    steps = [wording.count(found.steps, "inner step")] if found.adapts else []
    if config.get("ensemble", 1) > 1:
        steps.append(f"the {wording.in_words(config['ensemble'])} best checkpoints together")
    counts = [*steps, wording.count(metrics["episodes"], "test episode")]
    big, _, half = wording.figure(score, metrics[score], metrics[f"{score}_ci95"]).partition(" ± ")
    aside = []
    if score == "mse" and "mse_median" in metrics:
        aside.append(
            f"median {wording.number(metrics['mse_median'])}, {wording.count(metrics.get('diverged', 0), 'episode')} diverged"
        )
    if f"before.{score}" in metrics:
        before = wording.figure(
            score, metrics[f"before.{score}"], metrics.get(f"before.{score}_ci95")
        )
        aside.append(f"{before} before adaptation")
    chips = {"method": config["algorithm"]["name"], "model": config["model"]["name"]}
    if "parameters" in config:
        chips["parameters"] = f"{config['parameters']:,}"
    return {
        "title": settings.report.title or f"{meta['dataset']}, {shape}",
        "what": axis_title(found),
        "big": big,
        "half": half,
        "value": metrics[score],
        "ci95": metrics[f"{score}_ci95"],
        "aside": aside,
        "protocol": ", ".join(
            [shape, queries, f"{meta['dataset']} ({meta['protocol']})", *mode, *counts]
        ),
        "chips": chips
        | {"best of": f"{config['iterations']:,} iterations", "device": settings.device},
        "steps": wording.count(found.steps, "inner step"),
        "adapts": found.adapts,
    }


def _provenance(settings: params.Params, found: Results) -> dict[str, Any]:
    """What makes the same report again."""
    from ruamel.yaml import YAML

    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False  # type: ignore[assignment]
    yaml.dump(results.in_use(settings.raw), stream)
    return {"yaml": stream.getvalue(), "digests": cards.digests(found), "command": "dvc repro"}


def main() -> None:
    parser = stage.parser(
        __doc__,
        data="folder written by the stage episodes",
        model="folder written by the stage train",
        scores="folder written by the stage evaluate",
        metrics="file written by the stage evaluate",
        history="folder written by the stage train",
        html="file to write: the page",
        tasks="file to write: the page of its tasks, beside the other",
        summary="folder to write: summary.md and its pictures",
        card="file to write: the model card, beside the model",
    )
    args = parser.parse_args()

    def body() -> None:
        settings = params.load(args.params, "report")
        run(
            settings,
            results.read(args.data, args.model, args.scores, args.metrics, args.history),
            args.html,
            args.tasks,
            args.summary,
            args.card,
        )

    stage.run(body)


if __name__ == "__main__":
    main()
