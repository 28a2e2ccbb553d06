"""The table and the learning curves of the results: python -m benchmarks.labels.plot."""

from __future__ import annotations

import csv
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PICTURE = Path("docs/images/labels.svg")
WIDTH, HEIGHT = 250, 210
"""Size of a panel."""
COLOURS = {
    "random": "#777777",
    "margin": "#d55e00",
    "coverage": "#009e73",
    "margin_coverage": "#0072b2",
}
TITLES = {"omniglot": "Omniglot", "clinc150": "CLINC150", "grocery": "Grocery Store"}


def read_results() -> list[dict[str, str]]:
    """Read the rows of all datasets that were measured."""
    rows: list[dict[str, str]] = []
    for name in TITLES:
        path = RESULTS / f"{name}.csv"
        if path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                rows += csv.DictReader(file)
    return rows


def print_table(rows: list[dict[str, str]]) -> None:
    """Print the labels needed and the savings as Markdown."""
    print("| dataset | start | strategy | labels needed | saving | 95 % interval |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        if row["strategy"] == "random":
            continue
        saving, low, high = (f"{100 * float(row[key]):.0f}" for key in ("saving", "low", "high"))
        interval = f"{low} to {high} %".replace("-", "−")
        print(
            f"| {TITLES[row['dataset']]} | {row['start']} | `{row['strategy']}` |"
            f" {float(row['labels']):.1f} | {saving.replace('-', '−')} % | {interval} |"
        )


def draw_curves(rows: list[dict[str, str]]) -> str:
    """Draw the mean accuracy by number of labels as SVG, one panel per dataset and start."""
    datasets = [name for name in TITLES if any(row["dataset"] == name for row in rows)]
    parts = []
    for row in rows:
        left = 50 + WIDTH * datasets.index(row["dataset"])
        top = 30 + HEIGHT * (row["start"] == "warm")
        points = [
            (int(key.removeprefix("accuracy_")), float(value))
            for key, value in row.items()
            if key.startswith("accuracy_") and value
        ]
        path = " ".join(
            f"{left + 200 * (n - 5) / 25:.1f},{top + 160 * (1 - (accuracy - 0.3) / 0.7):.1f}"
            for n, accuracy in points
        )
        colour = COLOURS[row["strategy"]]
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if row["strategy"] != "random":
            continue
        title = f"{TITLES[row['dataset']]}, {row['start']} start"
        parts.append(f'<text x="{left}" y="{top - 8}" font-weight="bold">{title}</text>')
        for percent in (40, 60, 80, 100):
            y = top + 160 * (1 - (percent / 100 - 0.3) / 0.7)
            parts.append(f'<path d="M{left} {y:.1f}h200" stroke="#ccc"/>')
            parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>')
        for n in range(5, 31, 5):
            x = left + 8 * (n - 5)
            parts.append(f'<text x="{x}" y="{top + 176}" text-anchor="middle">{n}</text>')
    width, height = 50 + WIDTH * len(datasets), 2 * HEIGHT + 40
    for i, (strategy, colour) in enumerate(COLOURS.items()):
        x, y = 50 + 140 * i, height - 12
        parts.append(f'<path d="M{x} {y - 4}h20" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 26}" y="{y}">{strategy}</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%"'
        f' fill="#fff"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    results = read_results()
    print_table(results)
    PICTURE.write_text(draw_curves(results), encoding="utf-8")
