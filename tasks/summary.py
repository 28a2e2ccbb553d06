"""Print the result of a run as a small table.

python -m tasks.summary --metrics reports/metrics.json --report reports/report.html
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tasks.reports.kit import wording
from tasks.runtime import stage
from tasks.runtime.files import read_json


def summarize(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the scores of a run as pairs of name and value.

    Args:
        metrics: The content of metrics.json.
    """
    score = "accuracy" if "accuracy" in metrics else "mse"

    def show(values: dict[str, Any]) -> str:
        if values[score] is None:
            return f"{values['diverged']} episodes diverged"
        return _format_score(score, values[score], values.get(f"{score}_ci95"))

    steps = metrics["steps"]
    name = f"after {steps} inner step{'s' if steps != 1 else ''}"
    if "before" not in metrics:
        name = "with the support set"
    if metrics.get("ensemble", 1) > 1:
        name += f", ensemble of {metrics['ensemble']} checkpoints"
    rows = [(name, show(metrics))]
    if "transductive_inference" in metrics:
        facts = metrics["transductive_inference"]
        balance = facts.get("query_balance")
        balanced = "balanced" if balance is None else f"Dirichlet {balance:g}"
        rows.append(("transductive inference, queries together", f"{facts['queries']}, {balanced}"))
    if "before" in metrics:
        rows.append(("before adaptation", show(metrics["before"])))
    if scope := metrics.get("unknown", {}).get("out_of_scope"):
        auroc, ci95 = scope["auroc"], scope["auroc_ci95"]
        rows.append(("out-of-scope detection (AUROC)", _format_score("accuracy", auroc, ci95)))
    return rows + [
        (wording.name_baseline(key), show(values))
        for key, values in sorted(metrics["baselines"].items())
    ]


def _format_score(score: str, value: float, ci95: float | None) -> str:
    """Format a score with a fixed number of decimals so that the column is aligned."""
    scale, decimals, unit = (100, 1, " %") if score == "accuracy" else (1, 3, "")
    interval = f" ± {scale * ci95:.{decimals}f}" if ci95 is not None else ""
    return f"{scale * value:.{decimals}f}{unit}{interval}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--metrics", type=Path, required=True, metavar="FILE", help="the file metrics.json to read"
    )
    parser.add_argument(
        "--report", type=Path, required=True, metavar="FILE", help="the report to refer to"
    )
    args = parser.parse_args()

    def body() -> None:
        metrics = read_json(args.metrics)
        name = wording.name_score("accuracy" if "accuracy" in metrics else "mse")
        print(f"\n{name} over {metrics['episodes']} test episodes (± 95 % interval)")
        rows = summarize(metrics)
        width = max(38, *(len(name) for name, _ in rows))
        for name, value in rows:
            print(f"  {name:{width}} {value:>14}")
        print(f"\nreport: {args.report}")

    stage.run(body)


if __name__ == "__main__":
    main()
