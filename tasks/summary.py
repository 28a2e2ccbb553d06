"""Prints a run's result as a small table: `python -m tasks.summary --metrics reports/metrics.json --report reports/report.html`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tasks.runtime import stage
from tasks.runtime.files import read_json


def rows(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    """What is said of a run, a line each: name and figure."""
    name = "accuracy" if "accuracy" in metrics else "mse"

    def figure(part: dict[str, Any]) -> str:
        scale, unit = (100, " %") if name == "accuracy" else (1, "")
        if part[name] is None:
            return f"{part['diverged']} episodes diverged"
        interval = (
            f" ± {scale * part[f'{name}_ci95']:.{1 if unit else 3}f}"
            if part.get(f"{name}_ci95") is not None
            else ""
        )
        return f"{scale * part[name]:.{1 if unit else 3}f}{unit}{interval}"

    steps = metrics["steps"]
    said = [("with its support set", figure(metrics))]
    if "before" in metrics:
        said = [
            (f"after {steps} inner step{'s' if steps != 1 else ''}", figure(metrics)),
            ("before adaptation", figure(metrics["before"])),
        ]
    words = {
        "chance": "chance",
        "pixel_centroid": "nearest class mean in pixels",
        "ngram_centroid": "nearest class mean of n-grams",
        "encoder_centroid": "nearest class mean of the encoder's embeddings",
        "tfidf_centroid": "tf-idf, nearest class mean",
        "tfidf_logistic": "tf-idf, logistic regression",
        "random_init": "same network, random start",
        "zero": "answer 0",
        "support_mean": "answer the support's mean",
    }
    if metrics.get("ensemble", 1) > 1:
        said[0] = f"{said[0][0]}, {metrics['ensemble']} checkpoints", said[0][1]
    if "rejection" in metrics:
        share = metrics["rejection"]
        said.append(
            (
                "told from what is of no class (AUROC)",
                f"{100 * share['auroc']:.1f} % ± {100 * share['auroc_ci95']:.1f}",
            )
        )
    return said + [
        (words[method], figure(part)) for method, part in sorted(metrics["baselines"].items())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--metrics", type=Path, required=True, metavar="FILE", help="reports/metrics.json"
    )
    parser.add_argument(
        "--report", type=Path, required=True, metavar="FILE", help="the page to point at"
    )
    args = parser.parse_args()

    def body() -> None:
        metrics = read_json(args.metrics)
        print(
            f"\n{'accuracy' if 'accuracy' in metrics else 'mean squared error'} over {metrics['episodes']} test episodes (± 95 %)"
        )
        for name, figure in rows(metrics):
            print(f"  {name:38} {figure:>14}")
        print(f"\nreport: {args.report}")

    stage.run(body)


if __name__ == "__main__":
    main()
