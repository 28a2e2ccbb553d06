"""Stage `report`: write two self-contained pages, a Markdown summary and a model card.

The stage loads no model and computes no new scores. Identical files produce identical bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks import params
from tasks.reports.kit import charts, gallery, page
from tasks.reports.kit.results import Results, read_results
from tasks.reports.kit.section import Figure, ReportSection
from tasks.reports.kit.trees import select_used
from tasks.reports.run import (
    calibration,
    classes,
    curves,
    fits,
    ratings,
    reliability,
    scores,
    task_maps,
)
from tasks.reports.run import card as model_card
from tasks.reports.run.headline import Headline, build_headline
from tasks.runtime import stage
from tasks.runtime.files import atomic_folder, write_text


def run(
    settings: params.Settings,
    results: Results,
    html: Path,
    tasks: Path,
    summary: Path,
    card: Path,
) -> None:
    """Write the reports of a run.

    Args:
        settings: Its settings.
        results: Its results.
        html: File to write: the report as a page.
        tasks: File to write: the tasks page.
        summary: Folder to write: summary.md and its charts.
        card: File to write: the model card.
    """
    classification = results.kind == "classification"
    sections = build_sections(results, settings.raw)
    curve_fits = fits.draw_fits(results) if len(results.fits) else []
    figures = [figure for section in sections for figure in section.figures]
    figures += [fit.figure for fit in curve_fits]
    svgs = draw_svgs(figures)
    headline = build_headline(results, settings.report.title, settings.device)
    shared = {
        "headline": headline,
        "sections": sections,
        "fits": curve_fits,
        "provenance": describe_provenance(settings, results),
    }
    context = shared | {
        "cards": gallery.select_cards(results) if classification else [],
        "confusions": classes.illustrate_hard_classes(results) if classification else None,
        "lines": fits.LINES,
        "users": ratings.select_users(results) if results.has_ratings else [],
    }
    write_text(html, page.render_page("report.html.j2", context, figures, svgs))
    write_text(tasks, render_tasks(results, headline))
    with atomic_folder(summary) as folder:
        write_text(folder / "summary.md", page.render("summary.md.j2", shared))
        for name, svg in svgs.items():
            write_text(folder / f"{name}.svg", svg)
    card_context = model_card.build_context(results, card.parent, headline)
    write_text(card, page.render("model_card.md.j2", card_context))


def build_sections(results: Results, params_yaml: dict[str, Any]) -> list[ReportSection]:
    """Build the sections of the report.

    Args:
        results: The results of the run.
        params_yaml: Its params.yaml.
    """
    sections = [scores.build_baseline_section(results, params_yaml)]
    if results.has_ratings:
        sections.append(ratings.build_rating_section(results))
    sections += [
        scores.build_distribution_section(results),
        curves.build_learning_section(results),
        curves.build_adaptation_section(results),
    ]
    if results.kind == "classification":
        sections += curves.build_mode_sections(results)
        if section := calibration.build_calibration_section(results):
            sections.append(section)
        sections += reliability.build_reliability_sections(results)
        sections += [classes.build_class_section(results), *classes.build_group_sections(results)]
    return sections


def render_tasks(results: Results, headline: Headline) -> str:
    """Render the tasks page."""
    sections, keys = task_maps.build_sections(results)
    figures = [figure for section in sections for figure in section.figures]
    classification = results.kind == "classification"
    context = {
        "headline": headline,
        "sections": sections,
        "keys": keys,
        "confusions": classes.illustrate_pairs(results) if classification else None,
        "invertible": results.meta.get("input", [0])[0] == 1,
    }
    return page.render_page("tasks.html.j2", context, figures, draw_svgs(figures))


def draw_svgs(figures: Sequence[Figure]) -> dict[str, str]:
    """Render each chart once and in a fixed order so that the bytes are reproducible."""
    return {figure.name: charts.render_svg(figure.spec) for figure in figures}


def describe_provenance(settings: params.Settings, results: Results) -> dict[str, Any]:
    """Return the settings as YAML, the digests and the command that reproduce the report."""
    from ruamel.yaml import YAML

    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output = False, False  # type: ignore[assignment]
    yaml.dump(select_used(settings.raw), stream)
    return {
        "yaml": stream.getvalue(),
        "digests": model_card.list_digests(results),
        "command": "dvc repro",
    }


def main() -> None:
    parser = stage.build_parser(
        __doc__,
        data="folder written by the stage episodes",
        model="folder written by the stage train",
        scores="folder written by the stage evaluate",
        metrics="file written by the stage evaluate",
        history="folder written by the stage train",
        html="file to write: the report",
        tasks="file to write: the tasks page, in the folder of the report",
        summary="folder to write: summary.md and its charts",
        card="file to write: the model card, in the folder of the model",
    )
    args = parser.parse_args()

    def body() -> None:
        settings = params.load(args.params, "report")
        results = read_results(args.data, args.model, args.scores, args.metrics, args.history)
        run(settings, results, args.html, args.tasks, args.summary, args.card)

    stage.run(body)


if __name__ == "__main__":
    main()
