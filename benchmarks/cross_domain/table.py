"""Build the matrix from its cells: results.csv, ranks.csv, results.md and results.svg."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from episodic.analysis.ranks import average_ranks
from episodic.core.statistics import mean_ci95
from tasks.params import read_yaml
from tasks.reports.kit import charts, wording
from tasks.runtime import stage
from tasks.runtime.files import atomic_folder, read_json, write_text
from tasks.runtime.stage import StageError

BASELINE = "protonet"
"""The method that the others are compared with, on the same input and source."""

ALL_SOURCES = "all"
"""Name of the ranks over all sources and targets."""


@dataclass(frozen=True)
class Cell:
    """The scores of all learners of a source on a target.

    Attributes:
        facts: The content of cell.json.
        episodes: The accuracy of each learner on each test episode.
    """

    facts: dict[str, Any]
    episodes: pd.DataFrame

    def scores(self, learner: str) -> np.ndarray:
        """Return the accuracy of a learner on each test episode."""
        return self.episodes[learner].to_numpy(np.float64)


Cells = dict[tuple[str, str, str], Cell]
"""Cells by setting, source and target."""


def read_cells(cells: Path, matrix: dict[str, Any]) -> Cells:
    """Read the cells that the matrix has, in its order.

    Raises:
        StageError: There are none, or they are inconsistent.
    """
    names = [dataset["name"] for dataset in matrix["datasets"]]
    learners = [f"{learner['input']}-{learner['method']}" for learner in matrix["learners"]]
    found: Cells = {}
    for setting, source, target in product(matrix["settings"], names, names):
        folder = cells / setting / f"{source}-{target}"
        if not (folder / "cell.json").is_file():
            continue
        cell = Cell(read_json(folder / "cell.json"), pd.read_csv(folder / "episodes.csv"))
        if set(cell.facts["learners"]) != set(learners):
            raise StageError(f"{folder} has other learners than matrix.yaml: run make cross-domain")
        # In the order of matrix.yaml; JSON files have sorted keys.
        cell.facts["learners"] = {name: cell.facts["learners"][name] for name in learners}
        same_target = [key for key in found if (key[0], key[2]) == (setting, target)]
        for key in same_target[:1]:
            digests = [
                {input: of_input["data_digest"] for input, of_input in facts["inputs"].items()}
                for facts in (found[key].facts, cell.facts)
            ]
            if digests[0] != digests[1]:
                raise StageError(
                    f"{source} and {key[1]} were tested on different {setting} episodes of "
                    f"{target}: run make cross-domain"
                )
        found[setting, source, target] = cell
    if not found:
        raise StageError(f"there are no cells in {cells}: run make cross-domain")
    return found


def build_table(cells: Cells) -> pd.DataFrame:
    """Build the table, one row per setting, input, source, target and method.

    Returns:
        The accuracy with its interval; `to_home`, the paired difference to the same method trained
        on the training classes of the target; and `to_protonet`, the paired difference to ProtoNet
        with the same input and source.
    """
    rows = []
    for (setting, source, target), cell in cells.items():
        home = cells.get((setting, target, target))
        for learner, facts in cell.facts["learners"].items():
            scores = cell.scores(learner)
            accuracy, ci95 = mean_ci95(scores, share=True)
            baseline = f"{facts['input']}-{BASELINE}"
            row = {
                "setting": setting,
                "input": facts["input"],
                "source": source,
                "target": target,
                "method": facts["method"],
                "accuracy": accuracy,
                "ci95": ci95,
                "to_home": np.nan,
                "to_home_ci95": np.nan,
                "to_protonet": np.nan,
                "to_protonet_ci95": np.nan,
                "test_episodes": len(scores),
                **{key: facts[key] for key in ("iterations", "steps", "batch_norm", "seconds")},
            }
            if home is not None and source != target:
                difference = mean_ci95(scores - home.scores(learner))
                row["to_home"], row["to_home_ci95"] = difference
            if baseline in cell.episodes and learner != baseline:
                difference = mean_ci95(scores - cell.scores(baseline))
                row["to_protonet"], row["to_protonet_ci95"] = difference
            rows.append(row)
    table = pd.DataFrame(rows)
    order = [list(dict.fromkeys(table[column])) for column in ("setting", "input")]
    return table.sort_values(
        ["setting", "input"],
        key=lambda column: column.map((order[0] + order[1]).index),
        kind="stable",
        ignore_index=True,
    )


def build_ranks(cells: Cells) -> pd.DataFrame:
    """Rank the methods of each input, averaged over targets, per source and over all sources.

    Returns:
        One row per setting, input, source and method: the rank with its interval, and the ranks on
        each target, by name, if it is that of one source.
    """
    rows = []
    for setting in dict.fromkeys(key[0] for key in cells):
        of_setting = {key[1:]: cell for key, cell in cells.items() if key[0] == setting}
        sources = list(dict.fromkeys(source for source, _ in of_setting))
        known = next(iter(of_setting.values())).facts["learners"]
        for input in dict.fromkeys(facts["input"] for facts in known.values()):
            learners = [name for name, facts in known.items() if facts["input"] == input]
            if len(learners) < 2:
                continue
            for source in (*sources, ALL_SOURCES):
                chosen = {
                    key: np.stack([cell.scores(name) for name in learners])
                    for key, cell in of_setting.items()
                    if source in (key[0], ALL_SOURCES)
                }
                ranks = average_ranks(list(chosen.values()))
                targets = [target for _, target in chosen] if source != ALL_SOURCES else []
                for name, rank in zip(learners, ranks, strict=True):
                    rows.append(
                        {
                            "setting": setting,
                            "input": input,
                            "source": source,
                            "method": known[name]["method"],
                            "rank": rank.mean,
                            "low": rank.low,
                            "high": rank.high,
                            **dict(zip(targets, rank.of_targets, strict=False)),
                        }
                    )
    return pd.DataFrame(rows)


# --- Markdown ----------------------------------------------------------------------------------

EXPLANATION = (
    "Each learner was trained once per source, from one seed: intervals are only over test "
    "episodes. On a target, all learners have the same test episodes, of classes that no learner "
    "has seen in training. In brackets is the rank among the methods of the same source: methods "
    "whose paired difference to the best is not significant share its rank, as on the leaderboard "
    "of Meta-Dataset. Bold: trained on the training classes of the target."
)


def render_markdown(
    table: pd.DataFrame, ranks: pd.DataFrame, cells: Cells, matrix: dict[str, Any]
) -> str:
    """Render the matrices, one section per setting and input."""
    sections = []
    for (setting, input), rows in table.groupby(["setting", "input"], sort=False):
        of_section = ranks[(ranks["setting"] == setting) & (ranks["input"] == input)]
        targets = list(dict.fromkeys(rows["target"]))
        parts = [
            f"**{setting}, {input}**",
            f"{_describe(rows)} {EXPLANATION}",
            _render_grid(rows, targets, lambda row, s=of_section: _format_accuracy(row, s)),
            "Paired difference, in percentage points, to the same method trained on the training "
            "classes of the target:",
            _render_grid(rows, targets, lambda row: _format_points(row, "to_home")),
        ]
        if not of_section.empty:
            parts += [
                "Mean rank of each method over the targets, with 95 % interval; 1 is the best:",
                _render_ranks(of_section),
            ]
        sections.append("\n\n".join(parts))
    return "\n\n".join([*sections, _render_datasets(cells, matrix)]) + "\n"


def _render_datasets(cells: Cells, matrix: dict[str, Any]) -> str:
    """Render a table of the splits, one line per dataset and input."""
    folders = {dataset["name"]: Path(dataset["source"]).name for dataset in matrix["datasets"]}
    described = {
        (target, input): facts
        for (_, _, target), cell in cells.items()
        for input, facts in cell.facts["inputs"].items()
    }
    lines = ["| dataset | input | split | test classes |", "|---|---|---|---|"]
    for (target, input), facts in described.items():
        # A user's dataset has the name in matrix.yaml instead of that of its folder.
        split = facts["protocol"].removeprefix(f"{folders[target]}, ")
        lines.append(f"| {target} | {input} | {split} | {facts['classes']['test']} |")
    return "\n".join(lines)


def _describe(rows: pd.DataFrame) -> str:
    """Describe what the rows of a section share."""
    ways, shots = rows["setting"].iloc[0][:-1].split("w")
    episodes = wording.format_count(int(rows["test_episodes"].iloc[0]), "test episode")
    modes = sorted(set(rows["batch_norm"].dropna()))
    norm = f" Batch norm: {wording.join_words(modes)}." if modes else ""
    return f"{ways}-way {shots}-shot, {episodes} per target.{norm}"


def _render_grid(rows: pd.DataFrame, targets: list[str], text: Any) -> str:
    """Render a table with one line per source and method, and one column per target."""
    lines = [
        f"| trained on | method | {' | '.join(targets)} |",
        "|---|---" + "|---" * len(targets) + "|",
    ]
    for (source, method), of_learner in rows.groupby(["source", "method"], sort=False):
        by_target = {row["target"]: text(row) for row in of_learner.to_dict("records")}
        cells = [by_target.get(target, "") for target in targets]
        lines.append(f"| {source} | `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _format_accuracy(row: dict[Any, Any], ranks: pd.DataFrame) -> str:
    text = wording.format_estimate("accuracy", row["accuracy"], row["ci95"])
    if row["source"] == row["target"]:
        text = f"**{text}**"
    of_row = ranks[(ranks["source"] == row["source"]) & (ranks["method"] == row["method"])]
    return f"{text} ({of_row[row['target']].iloc[0]:g})" if len(of_row) else text


def _format_points(row: dict[Any, Any], column: str) -> str:
    if np.isnan(row[column]):
        return ""
    return f"{100 * row[column]:+.1f} ± {100 * row[f'{column}_ci95']:.1f}".replace("-", "−")


def _render_ranks(ranks: pd.DataFrame) -> str:
    sources = list(dict.fromkeys(ranks["source"]))
    heads = ["all sources" if source == ALL_SOURCES else source for source in sources]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for method, of_method in ranks.groupby("method", sort=False):
        by_source = {row["source"]: row for row in of_method.to_dict("records")}
        cells = [
            f"{row['rank']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
            for row in map(by_source.__getitem__, sources)
        ]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def list_missing(cells: Cells, matrix: dict[str, Any]) -> str:
    """List the cells without a result in a sentence; '' for none."""
    names = [dataset["name"] for dataset in matrix["datasets"]]
    missing = [
        f"{source} to {target} ({setting})"
        for setting, source, target in product(matrix["settings"], names, names)
        if (setting, source, target) not in cells
    ]
    return f"\nNot computed yet: {wording.join_words(missing)}.\n" if missing else ""


# --- chart -------------------------------------------------------------------------------------


def draw_chart(table: pd.DataFrame) -> str:
    """Draw the accuracies as one coloured matrix per setting and input, an SVG."""
    import altair as alt

    panels = []
    for (setting, input), rows in table.groupby(["setting", "input"], sort=False):
        values = rows.assign(
            row=rows["source"] + ", " + rows["method"],
            text=(100 * rows["accuracy"]).map("{:.1f}".format),
            is_dark=rows["accuracy"] > (rows["accuracy"].min() + rows["accuracy"].max()) / 2,
        )
        axis = alt.Axis(title=None, labelLimit=240, orient="top", labelAngle=0, labelFlush=False)
        base = alt.Chart(values).encode(
            x=alt.X("target:N", sort=list(dict.fromkeys(values["target"])), axis=axis),
            y=alt.Y(
                "row:N",
                sort=list(dict.fromkeys(values["row"])),
                axis=alt.Axis(title=None, labelLimit=240, minExtent=150),
            ),
        )
        squares = base.mark_rect().encode(
            color=alt.Color("accuracy:Q", scale=alt.Scale(scheme="blues"), legend=None)
        )
        text = base.mark_text(fontSize=12).encode(
            text="text:N",
            color=alt.condition("datum.is_dark", alt.value("#fff"), alt.value("#222")),
        )
        title = alt.TitleParams(
            f"{setting}, {input}: accuracy in %",
            subtitle="rows: trained on, method; columns: tested on",
            anchor="start",
            fontSize=13,
            dy=-6,
        )
        panels.append(
            alt.layer(squares, text).properties(
                title=title,
                width=110 * values["target"].nunique(),
                height=24 * values["row"].nunique(),
            )
        )
    spec = alt.vconcat(*panels).resolve_scale(color="independent").to_dict()
    spec.pop("config", None)
    return charts.render_svg(spec)


def write(cells_folder: Path, matrix_yaml: Path, out: Path) -> None:
    """Write the results.

    Args:
        cells_folder: Folder of the cells, SETTING/SOURCE-TARGET.
        matrix_yaml: What is compared.
        out: Folder to write.

    Raises:
        StageError: There are no cells, or they are inconsistent.
    """
    matrix = read_yaml(matrix_yaml)
    cells = read_cells(cells_folder, matrix)
    table, ranks = build_table(cells), build_ranks(cells)
    with atomic_folder(out) as draft:
        table.to_csv(draft / "results.csv", index=False)
        ranks.to_csv(draft / "ranks.csv", index=False)
        text = render_markdown(table, ranks, cells, matrix) + list_missing(cells, matrix)
        write_text(draft / "results.md", text)
        write_text(draft / "results.svg", draw_chart(table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    helps = {
        "cells": "folder of cells: SETTING/SOURCE-TARGET/cell.json and episodes.csv",
        "matrix": "file with the datasets, settings and learners",
        "out": "folder to write",
    }
    for key, text in helps.items():
        parser.add_argument(f"--{key}", type=Path, required=True, help=text)
    args = parser.parse_args()
    stage.run(lambda: write(args.cells, args.matrix, args.out))


if __name__ == "__main__":
    main()
