"""The speed table: every row computes the same meta-gradients in the same run.

    python benchmarks/speed/run.py [--rounds 9] [--workloads W1q1 ...] [--rows eager engine ...]
                                   [--out benchmarks/results]

Rows are measured alternately, so variations in speed affect all of them. A ratio is the median
over rounds of the baseline's seconds divided by the row's seconds in the same round. Rows of other
libraries appear where they are installed: `.venv/uv/bin/uv pip install '.[peers]'` (learn2learn 0.2
does not build on Python 3.11).
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from benchmarks.speed import peers  # noqa: E402
from benchmarks.speed.rows import BASELINE, ROWS, THREADS  # noqa: E402
from benchmarks.speed.table import parse_folder, parse_positive, write  # noqa: E402
from benchmarks.speed.workloads import WORKLOADS, Workload  # noqa: E402
from episodic.core.files import atomic_path  # noqa: E402
from episodic.engine import outer, plan  # noqa: E402

TOLERANCE = 1e-10
"""Maximum relative difference from the baseline in float64."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds",
        type=parse_positive,
        default=9,
        help="rounds, after one warm-up round (default: 9)",
    )
    parser.add_argument(
        "--workloads",
        nargs="+",
        choices=WORKLOADS,
        default=list(WORKLOADS),
        metavar="W",
        help="W1q1, W1q15, W2",
    )
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        metavar="ROW",
        help=f"of {', '.join(ROWS)} (default: all)",
    )
    parser.add_argument(
        "--out", type=parse_folder, help="folder to write speed.csv and speed.png to"
    )
    args = parser.parse_args()
    missing = {name: why for name in args.rows or ROWS if (why := ROWS[name].missing)}
    names = [name for name in args.rows or ROWS if name not in missing]
    if BASELINE not in names:
        names.insert(0, BASELINE)
    peak = measure_peak_flops()
    modes: list[plan.Mode] = [
        "auto",
        *{ROWS[name].plan.mode for name in names} - {"auto", "per_task"},
    ]
    print(
        f"{processor_name()}, torch {torch.__version__}, {THREADS} threads; "
        f"measured peak {peak / 1e9:.0f} GFLOP/s"
    )
    for why in dict.fromkeys(missing.values()):
        print(f"left out: {', '.join(name for name in missing if missing[name] == why)}: {why}")
    table = []
    for name in args.workloads:
        workload = WORKLOADS[name]
        print(
            f"\n{name}: {workload.what}; {workload.floating_point_operations() / 1e9:.1f} GFLOP; "
            f"float64 {verify_gradient(workload, modes)}"
        )
        table += measure_rows(name, workload, names, args.rounds, peak)
    if args.out and table:
        write(args.out / "speed.csv", table)
        plot(table, args.out / "speed.png")


def measure_rows(
    name: str, workload: Workload, names: list[str], rounds: int, peak: float
) -> list[dict[str, Any]]:
    """Measure the rows alternately and print them."""
    processes = {row: start(row, name) for row in names}
    try:
        seconds: dict[str, list[float]] = {row: [] for row in names}
        for i in range(rounds + 1):
            for row, process in list(processes.items()):
                took = request_gradient(process)
                if took is None:
                    killed = " (out of memory?)" if process.wait() == -9 else ""
                    print(f"  {ROWS[row].what:44} failed: exit code {process.returncode}{killed}")
                    del processes[row], seconds[row]
                elif i:  # the first round warms up
                    seconds[row].append(took)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    if BASELINE not in seconds:
        print("  the baseline failed, so there are no ratios and no rows of this workload")
        return []
    table = []
    print(f"  {'':44} {'it/s':>7} {'min..max':>15} {'ratio':>6} {'min..max':>13} {'of peak':>8}")
    for row in seconds:
        rates = sorted(1 / s for s in seconds[row])
        ratios = sorted(b / s for b, s in zip(seconds[BASELINE], seconds[row], strict=True))
        rate, ratio = statistics.median(rates), statistics.median(ratios)
        of_peak = workload.floating_point_operations() * rate / peak
        spread, ratio_spread = (
            f"{rates[0]:.2f}..{rates[-1]:.2f}",
            f"{ratios[0]:.2f}..{ratios[-1]:.2f}",
        )
        print(
            f"  {ROWS[row].what:44} {rate:7.2f} {spread:>15} {ratio:6.2f} {ratio_spread:>13} "
            f"{of_peak:8.0%}",
            flush=True,
        )
        table.append(
            {
                "workload": name,
                "row": row,
                "what": ROWS[row].what,
                "rounds": rounds,
                "iterations_per_second": round(rate, 4),
                "slowest": round(rates[0], 4),
                "fastest": round(rates[-1], 4),
                "ratio": round(ratio, 3),
                "ratio_lowest": round(ratios[0], 3),
                "ratio_highest": round(ratios[-1], 3),
                "fraction_of_peak": round(of_peak, 4),
                "processor": processor_name(),
                "torch": torch.__version__,
            }
        )
    return table


def start(row: str, workload: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.speed.rows", row, workload]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


def request_gradient(process: subprocess.Popen[str]) -> float | None:
    """Return the seconds of one meta-gradient; None if the process has ended."""
    assert process.stdin is not None and process.stdout is not None  # noqa: S101
    try:
        process.stdin.write("go\n")
    except BrokenPipeError:
        return None
    line = process.stdout.readline()
    return float(line) if line else None


def verify_gradient(workload: Workload, modes: list[plan.Mode]) -> str:
    """Compare the engine's plans with the sequential loop on two tasks in float64."""
    theta, episode = workload.theta(torch.float64), workload.episode(torch.float64, 2)
    other, worst = peers.eager(workload, theta, episode)(), 0.0
    for mode in modes:
        ours = outer.meta_gradient(
            workload.learner, theta, episode, outer.choose_plan(episode, 2, plan.PlanConfig(mode))
        ).gradient
        worst = max(
            worst, *(((ours[name] - g).norm() / g.norm()).item() for name, g in other.items())
        )
    if worst > TOLERANCE:
        sys.exit(
            f"error: the engine's gradient differs from that of the sequential loop by "
            f"{worst:.1e} in float64"
        )
    return f"difference {worst:.0e}"


def measure_peak_flops() -> float:
    """Measure the operations per second of large matrix products and convolutions."""
    torch.set_num_threads(THREADS)
    a, x, w = (
        torch.randn(2048, 2048),
        torch.randn(64, 64, 28, 28).contiguous(memory_format=torch.channels_last),
        torch.randn(64, 64, 3, 3),
    )
    works = [
        (2 * 2048**3, lambda: a @ a),
        (2 * 64 * 28 * 28 * 64 * 64 * 9, lambda: F.conv2d(x, w, padding=1)),
    ]
    best = 0.0
    for operations, work in works:
        for _ in range(8):
            begin = time.perf_counter()
            work()
            best = max(best, operations / (time.perf_counter() - begin))
    return best


def processor_name() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":")[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def plot(table: list[dict[str, Any]], path: Path) -> None:
    """Plot the ratios to the baseline, one panel per workload, with their range as a line."""
    import altair as alt
    import pandas as pd

    data = pd.DataFrame(table)
    base = alt.Chart(data).encode(
        y=alt.Y("what:N", sort=None, title=None, axis=alt.Axis(labelLimit=300))
    )
    bars = base.mark_bar().encode(
        x=alt.X("ratio:Q", title="times as fast as a sequential loop over tasks")
    )
    spread = base.mark_rule(color="black").encode(x="ratio_lowest:Q", x2="ratio_highest:Q")
    text = base.mark_text(align="left", dx=4).encode(
        x="ratio_highest:Q", text=alt.Text("ratio:Q", format=".2f")
    )
    chart = (
        alt.layer(bars, spread, text)
        .properties(width=420)
        .facet(row=alt.Row("workload:N", title=None))
        .resolve_scale(y="independent")
    )
    with atomic_path(path) as draft:
        chart.save(draft, format="png", scale_factor=1.5)


if __name__ == "__main__":
    main()
