"""How often confidence intervals cover the true value, on simulated results.

    python -m benchmarks.intervals [--worlds 2000]

Simulates experiments whose true accuracies are known, and applies the functions that evaluations
and comparisons use. Prints the tables of docs/results/intervals.md. Each table also has the
textbook interval that was not chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.intervals import accuracies, few_seeds, power_laws


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table. A cell may contain several columns."""
    print("| " + " | ".join(head) + " |")
    print("|---" + "|---:" * (len(head) - 1) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def print_few_seeds(worlds: int) -> None:
    """Print differences, means and families of comparisons over few seeds."""
    pooled_head = ["pooled: coverage", "width"]
    rows = []
    for name, seeds, spreads in few_seeds.COMPARISONS:
        ours, pooled, alarms = few_seeds.measure_seeds(seeds, spreads, worlds)
        rows.append([name, str(ours), f"{100 * alarms:.1f} %", str(pooled)])
    print_table(["difference", "coverage", "width", "false alarms", *pooled_head], rows)
    rows = []
    for name, k, spread in few_seeds.MEANS:
        ours, pooled, _ = few_seeds.measure_seeds([k], [spread], worlds)
        rows.append([name, str(ours), str(pooled)])
    print_table(["mean", "coverage", "width", *pooled_head], rows)
    rows = []
    for name, k, steady, spread in few_seeds.FAMILIES:
        families = few_seeds.measure_family(k, steady, spread, worlds)
        rows.append([name, *(f"{100 * share:.1f} %" for share in families)])
    print_table(["family", "false alarms", "pooled: false alarms"], rows)


def print_accuracies(worlds: int) -> None:
    """Print accuracies of three seeds and of single runs."""
    rows = []
    for accuracy in accuracies.SEED_ACCURACIES:
        pairs = [
            accuracies.measure_seed_accuracies(accuracy, spread, worlds)
            for spread in accuracies.ERROR_SPREADS
        ]
        rows.append([format_accuracy(accuracy), *(format_coverages(*pair) for pair in pairs)])
    spreads = [f"errors spread by {100 * spread:g} %" for spread in accuracies.ERROR_SPREADS]
    print_table(["accuracy of 3 seeds", *spreads], rows)
    for queries in accuracies.QUERIES:
        rows = []
        for accuracy in accuracies.ACCURACIES:
            cells = [
                accuracies.measure_accuracies(accuracy, episodes, queries, worlds)
                for episodes in accuracies.NUMBERS
            ]
            texts = [format_coverages(ours, normal) for ours, normal, _ in cells]
            rows.append([format_accuracy(accuracy), *texts, f"{cells[-1][2]:.2f}"])
        numbers = [f"{episodes} episodes" for episodes in accuracies.NUMBERS]
        width = f"width at {accuracies.NUMBERS[-1]}"
        print_table([f"accuracy, {queries} queries", *numbers, width], rows)


def print_power_laws(worlds: int) -> None:
    """Print exponents of power laws."""
    rows = []
    for points in power_laws.POINTS:
        for scatter in power_laws.SCATTERS:
            fits = power_laws.measure_power_law(points, scatter, worlds)
            rows.append([f"{points} points, scatter {scatter:g}", *map(str, fits)])
    print_table(["power law", "coverage", "width", "normal: coverage", "width"], rows)


def format_accuracy(accuracy: float) -> str:
    """Format a true accuracy."""
    return f"{100 * accuracy:g} %"


def format_coverages(ours: float, other: float) -> str:
    """Format a coverage in per cent, and that of the other interval in parentheses."""
    return f"{100 * ours:.1f} ({100 * other:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--worlds", type=int, default=2000, help="simulated results per cell")
    worlds = parser.parse_args().worlds
    print_few_seeds(worlds)
    print_accuracies(worlds)
    print_power_laws(worlds)


if __name__ == "__main__":
    main()
