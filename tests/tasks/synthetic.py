"""Synthetic outputs of the stages before `report`, laid out as in docs/reference/files.md.

They are deterministic, and some classes have names that need escaping.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw
from ruamel.yaml import YAML
from safetensors.numpy import save_file

from episodic.training.reliability import Reliability
from episodic.training.unknown import SCORES, UnknownDetector
from tasks import prepared
from tasks.evaluate import replace_infinite
from tasks.evaluation import reliability, task_space
from tasks.runtime.files import write_json

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(2)</script>",
    "a|b *c* [d](e) `f`",
    "{{ 7*7 }}",
]
"""Names that would break a page, a chart's JSON or a Markdown table that forgot to escape them."""

DIGESTS = {"data_digest": "0123456789abcdef", "code_digest": "fedcba9876543210"}
MODES = ("transductive", "inductive")
STEPS = range(11)

SETS = {
    f"coverage_{percent}": {
        "coverage": coverage,
        "coverage_ci95": 0.01,
        "size": size,
        "size_ci95": 0.02,
        "empty": empty,
        "empty_ci95": 0.002,
    }
    for percent, coverage, size, empty in (
        (80, 0.81, 0.83, 0.16),
        (90, 0.885, 0.97, 0.05),
        (95, 0.957, 1.24, 0.0),
        (99, 0.994, 2.31, 0.0),
    )
}
"""Prediction sets in metrics.json. Those of 90 % are too small."""

SIZES = [
    {"ways": 5, "shots": shots, "temperature": 1.37}
    | {
        key: value
        for name, number in (
            ("accuracy", 0.87 + 0.02 * shots),
            ("raw_ece", 0.093 / shots),
            ("raw_likelihood", 0.41 / shots),
            ("raw_brier", 0.19 / shots),
            ("ece", 0.021 / shots),
            ("likelihood", 0.37 / shots),
            ("brier", 0.17 / shots),
            ("set_coverage", 0.88 + 0.005 * shots),
            ("set_size", 0.97),
            ("set_empty", 0.05),
            ("unknown_auroc", 0.83 + 0.02 * shots),
            ("unknown_fpr", 0.6 / shots),
        )
        for key, value in ((name, number), (f"{name}_ci95", 0.011))
    }
    | {"score": "mean_distance"}
    for shots in (1, 5)
]
"""Rows of sizes.csv."""


CALIBRATION = {"temperature": 1.5, "weight": 0.0, "bias": 0.0} | {
    f"{prefix}{name}{suffix}": value / (10 if suffix else 1)
    for prefix, values in (("raw_", (0.09, 0.8, 0.35)), ("", (0.02, 0.6, 0.3)))
    for name, value in zip(("ece", "likelihood", "brier"), values, strict=True)
    for suffix in ("", "_ci95")
}
"""The entry `calibration` of metrics.json."""


def params(kind: str, **episodes: Any) -> dict[str, Any]:
    """params.yaml as plain values; `episodes` overrides keys of that section."""
    image = kind == "classification"
    section = {
        "seed": 0,
        "ways": 5 if image else 1,
        "shots": 1 if image else 10,
        "queries": 15 if image else 20,
        "validation": 50,
        "test": 60,
    }
    algorithm = {"inner_lr": 0.4 if image else 0.01, "inner_steps": 1}
    return {
        "device": "cpu",
        "dataset": {
            "name": "omniglot" if image else "sinusoid",
            "seed": 0,
            "omniglot": {"split": "maml", "rotations": True, "rotate_test": True},
            "sinusoid": {
                "amplitude": [0.1, 5.0],
                "phase": [0.0, 3.141592653589793],
                "x": [-5.0, 5.0],
            },
        },
        "episodes": section | episodes,
        "model": {
            "name": "conv4" if image else "mlp",
            "conv4": {"filters": 64, "blocks": 4},
            "mlp": {"hidden": [40, 40]},
        },
        "algorithm": {"name": "maml", "maml": algorithm, "fomaml": dict(algorithm)},
        "train": {
            "seed": 0,
            "iterations": 600,
            "meta_batch": 32,
            "meta_lr": 0.001,
            "batch_norm": "transductive",
        },
        "evaluate": {"steps": 3 if image else 1, "chunk": 25},
        "report": {"title": None},
    }


def write(root: Path, kind: str = "classification", **episodes: Any) -> Path:
    """Write params.yaml and every file that the stage reads to `root`, and return `root`.

    The same arguments give the same bytes.
    """
    raw = params(kind, **episodes)
    root.mkdir(parents=True, exist_ok=True)
    with (root / "params.yaml").open("w") as stream:
        YAML().dump(raw, stream)
    for folder in ("data/prepared", "models/run", "reports/scores", "reports/history"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(7)
    _model(root, kind, raw)
    _history(root / "reports/history", kind, rng)
    (_classification if kind == "classification" else _regression)(root, raw, rng)
    return root


def arguments(root: Path) -> list[str]:
    """The stage's command line for a folder made by `write`."""
    paths = {
        "params": "params.yaml",
        "data": "data/prepared",
        "model": "models/run",
        "scores": "reports/scores",
        "metrics": "reports/metrics.json",
        "history": "reports/history",
        "html": "reports/report.html",
        "tasks": "reports/tasks.html",
        "summary": "reports/summary",
        "card": "models/run/README.md",
    }
    return [
        argument for name, path in paths.items() for argument in (f"--{name}", str(root / path))
    ]


def draw_glyphs(rng: np.random.Generator, classes: int, drawings: int) -> np.ndarray:
    """Images of a few strokes per class, perturbed for each drawing; ink is 255 on 0.

    Returns:
        uint8 `(classes * drawings, 1, 28, 28)`.
    """
    images = np.zeros((classes * drawings, 1, 28, 28), np.uint8)
    for c in range(classes):
        strokes = [rng.uniform(15, 97, (4, 2)) for _ in range(rng.integers(2, 4))]
        for d in range(drawings):
            sheet = Image.new("L", (112, 112))
            for stroke in strokes:
                points = stroke + rng.normal(0, 4, stroke.shape)
                t = np.linspace(0, 1, 12)[:, None]
                curve = (
                    (1 - t) ** 3 * points[0]
                    + 3 * t * (1 - t) ** 2 * points[1]
                    + 3 * t**2 * (1 - t) * points[2]
                    + t**3 * points[3]
                )
                ImageDraw.Draw(sheet).line(
                    [tuple(p) for p in curve.tolist()], fill=255, width=9, joint="curve"
                )
            images[c * drawings + d, 0] = np.asarray(sheet.resize((28, 28), Image.Resampling.BOX))
    return images


def _ci95(values: np.ndarray) -> float:
    return float(1.96 * np.std(values, ddof=1) / np.sqrt(len(values)))


def _model(root: Path, kind: str, raw: dict[str, Any]) -> None:
    save_file(
        {"head.weight": np.arange(6, dtype=np.float32)}, root / "models/run/weights.safetensors"
    )
    pick = {s: {"name": raw[s]["name"]} | raw[s][raw[s]["name"]] for s in ("model", "algorithm")}
    image = kind == "classification"
    config = {
        "format": 2,
        "dataset": raw["dataset"]["name"],
        "kind": kind,
        "input": [1, 28, 28] if image else [1],
        "inputs": {"kind": "image", "inverted": True} if image else {"kind": "numbers"},
        "batch_norm": "transductive",
    }
    config |= pick | {key: raw["episodes"][key] for key in ("ways", "shots")} | DIGESTS
    config |= {
        "ensemble": 1,
        "iteration": 500,
        "iterations": 600,
        "validation": 0.9513 if image else 0.52,
        "parameters": 112_005,
    }
    write_json(root / "models/run/config.json", config)


def _history(folder: Path, kind: str, rng: np.random.Generator) -> None:
    step = np.arange(10, 601, 10)
    fall = np.exp(-step / 120)
    train = pd.DataFrame(
        {"iteration": step, "loss": 0.25 + 1.3 * fall + rng.normal(0, 0.05, len(step))}
    )
    train["gradient_norm"], train["meta_lr"] = (
        1 + fall,
        0.001 * (1 + np.cos(np.pi * step / 600)) / 2,
    )
    at = np.arange(100, 601, 100)
    fall = np.exp(-at / 120)
    validation = pd.DataFrame({"iteration": at, "loss": 0.3 + 1.3 * fall})
    if kind == "classification":
        train.insert(
            2,
            "accuracy",
            np.clip(0.96 - 0.7 * np.exp(-step / 110) + rng.normal(0, 0.02, len(step)), 0, 1),
        )
        validation["accuracy"], validation["accuracy_ci95"] = (
            [0.66, 0.8, 0.88, 0.93, 0.9513, 0.949],
            0.01 + 0.05 * fall,
        )
        validation["best"] = [1, 1, 1, 1, 1, 0]
    else:
        train["loss"] = train["loss"] * 2
        validation["mse"], validation["mse_ci95"] = (
            [1.6, 1.0, 0.7, 0.58, 0.52, 0.53],
            0.02 + 0.1 * fall,
        )
        validation["best"] = [1, 1, 1, 1, 1, 0]
    train.to_csv(folder / "train.csv", index=False)
    validation.to_csv(folder / "validation.csv", index=False)


def _classes() -> pd.DataFrame:
    names = HOSTILE + [f"character{i:02d}" for i in range(len(HOSTILE) + 1, 31)]
    groups = (
        ["Futurama"] * 8
        + ["<b>Bold</b>"] * 6
        + ["Tengwar | Elvish"] * 6
        + ["Keble"] * 6
        + ["Ge_ez"] * 4
    )
    splits = ["test"] * 20 + ["validation"] * 5 + ["train"] * 5
    return (
        pd.DataFrame({"class": names, "group": groups, "split": splits, "count": 20})
        .iloc[::-1]
        .reset_index(drop=True)
    )


def _classification(root: Path, raw: dict[str, Any], rng: np.random.Generator) -> None:
    ways, shots, queries, test = (
        raw["episodes"][key] for key in ("ways", "shots", "queries", "test")
    )
    table, data, scores = _classes(), root / "data/prepared", root / "reports/scores"
    table.to_parquet(data / "classes.parquet", index=False)
    np.save(data / "images.npy", draw_glyphs(rng, len(table), 20))
    meta = {
        "format": 2,
        "dataset": "omniglot",
        "kind": "classification",
        "inputs": {"kind": "image"},
        "protocol": "maml split, rotations as additional classes",
        "license": "MIT.",
    }
    meta |= {"input": [1, 28, 28], "classes": {"train": 5, "validation": 5, "test": 20}} | DIGESTS
    write_json(
        data / "meta.json",
        meta | {key: raw["episodes"][key] for key in ("ways", "shots", "queries", "seed")},
    )
    rows, tables = [], []
    of_test = np.flatnonzero(table["split"] == "test")
    easy = np.where(
        table["class"].isin(HOSTILE), 0.6, np.clip(rng.beta(9, 1.2, len(table)), 0.7, 1)
    )  # hostile names are hard: they are shown
    for e in range(test):
        classes = rng.choice(of_test, ways, replace=False)
        drawn = np.stack([c * 20 + rng.permutation(20)[: shots + queries] for c in classes])
        rows.append(
            {
                "episode": e,
                "classes": classes,
                "support": drawn[:, :shots].ravel(),
                "query": drawn[:, shots:].ravel(),
            }
        )
        skill = np.clip(easy[classes] - rng.exponential(0.05), 0.3, 1)
        label = np.arange(ways).repeat(queries)
        after = np.where(
            rng.random(len(label)) < skill[label], label, rng.integers(0, ways, len(label))
        )
        before = rng.choice(ways, len(label), p=rng.dirichlet(np.full(ways, 0.6)))
        tables.append(
            pd.DataFrame(
                {
                    "episode": e,
                    "image": drawn[:, shots:].ravel(),
                    "label": label,
                    "before": before,
                    "after": after,
                }
            )
        )
    pd.DataFrame(rows).to_parquet(data / "test.parquet", index=False)
    predictions = pd.concat(tables, ignore_index=True).assign(
        confidence=lambda a: rng.uniform(0.5, 1, len(a))
    )
    predictions.to_parquet(scores / "answers.parquet", index=False)
    right = (
        predictions.assign(
            ok=predictions["label"] == predictions["after"],
            was=predictions["label"] == predictions["before"],
        )
        .groupby("episode")[["ok", "was"]]
        .mean()
    )
    steps = raw["evaluate"]["steps"]
    course = np.where(np.array(STEPS) < steps, 1 - 0.5 ** (2.0 * np.array(STEPS)), 1.0)
    course[steps:] -= 0.002 * np.arange(len(course) - steps)
    parts = []
    for mode in MODES:
        for step in STEPS:
            accuracy = (
                right["was"]
                + (right["ok"] - right["was"]) * course[step]
                - (0.05 * course[step] if mode == "inductive" else 0.0)
            )
            accuracy = accuracy.clip(0, 1)
            parts.append(
                pd.DataFrame(
                    {
                        "mode": mode,
                        "episode": accuracy.index,
                        "step": step,
                        "loss": 2 * (1 - accuracy),
                        "accuracy": accuracy,
                    }
                )
            )
    baselines = {
        m: np.round(np.clip(rng.normal(mu, 0.09, test), 0, 1) * 75) / 75
        for m, mu in (("pixel_centroid", 0.48), ("random_init", 0.53))
    }
    episodes = _scores(scores, pd.concat(parts, ignore_index=True), baselines, "accuracy")
    class_of = np.stack([r["classes"] for r in rows])
    named = predictions.assign(
        row=class_of[predictions["episode"], predictions["label"]],
        ok=predictions["label"] == predictions["after"],
    )
    per_class = []
    for class_row, of_class in named.groupby("row"):
        each = of_class.groupby("episode")["ok"].mean()
        line = {
            "class": table["class"].iloc[class_row],
            "group": table["group"].iloc[class_row],
            "episodes": len(each),
            "queries": len(of_class),
        }
        per_class.append(
            line
            | {
                "correct": int(of_class["ok"].sum()),
                "accuracy": float(of_class["ok"].mean()),
                "ci95": _ci95(each.to_numpy()) if len(each) > 1 else np.nan,
            }
        )
    pd.DataFrame(per_class).to_parquet(scores / "classes.parquet", index=False)
    metrics = _metrics(episodes, baselines, "accuracy", raw) | {
        m: _at(episodes, m, steps, "accuracy") for m in MODES
    }
    metrics["baselines"]["chance"] = {"accuracy": 1 / ways}
    centres = easy[of_test, None] * 4 + rng.normal(
        0, 1, (len(of_test), 8)
    )  # hard classes are alike
    metrics |= _space(root, episodes, predictions, torch.tensor(centres), steps)
    metrics |= _reliability(scores, predictions)
    write_json(root / "reports/metrics.json", metrics)


def _reliability(folder: Path, predictions: pd.DataFrame) -> dict[str, Any]:
    """Write the tables of unknown classes and of other sizes, and return their metrics.

    There are as many queries of other classes as of those of the episodes, and half as many
    out-of-scope queries, which are easier to detect.
    """
    rng = np.random.default_rng(11)
    known = predictions[["episode", "label"]].assign(prediction=predictions["after"])
    others = known.assign(label=reliability.OTHER_CLASS)
    outside = known[::2].assign(label=reliability.OUT_OF_SCOPE)
    queries = pd.concat([known, others, outside]).sort_values("episode", kind="stable")
    queries = queries.reset_index(drop=True)
    label = queries["label"].to_numpy()
    familiar = np.select([label >= 0, label == reliability.OTHER_CLASS], [1.5, 0.0], -1.0)
    for name, noise in zip(SCORES, (1.4, 1.6, 1.0, 1.2), strict=True):
        queries[name] = familiar + rng.normal(0, noise, len(queries))
    queries.to_parquet(folder / "open.parquet", index=False)
    fitted = Reliability(5, 1, None, None, UnknownDetector("mean_distance", 0.7))
    unknown, detection = reliability.measure_unknown(queries, fitted, 0)
    selective = reliability.build_selective_table(queries, unknown["score"], 0)
    detection.to_csv(folder / "detection.csv", index=False)
    selective.to_csv(folder / "selective.csv", index=False)
    pd.DataFrame(SIZES).to_csv(folder / "sizes.csv", index=False)
    return {"unknown": unknown, "sets": SETS, "calibration": CALIBRATION}


def _regression(root: Path, raw: dict[str, Any], rng: np.random.Generator) -> None:
    test, shots, scores = raw["episodes"]["test"], raw["episodes"]["shots"], root / "reports/scores"
    meta = {
        "format": 2,
        "dataset": "sinusoid",
        "kind": "regression",
        "inputs": {"kind": "numbers"},
        "protocol": "sine waves",
        "license": "None.",
        "input": [1],
    }
    meta |= {"classes": {}, "family": raw["dataset"]["sinusoid"]} | DIGESTS
    write_json(
        root / "data/prepared/meta.json",
        meta | {key: raw["episodes"][key] for key in ("ways", "shots", "queries", "seed")},
    )
    amplitude, phase = rng.uniform(0.1, 5, test), rng.uniform(0, np.pi, test)
    support = rng.uniform(-5, 5, (test, shots))
    table = {
        "episode": np.arange(test),
        "amplitude": amplitude,
        "phase": phase,
        "support_x": list(support),
        "query_x": list(support),
    }
    pd.DataFrame(table).to_parquet(root / "data/prepared/test.parquet", index=False)
    error = amplitude**2 / 2.8
    parts = []
    for mode in MODES:
        for step in STEPS:
            mse = error * (0.12 + 0.88 * np.exp(-1.9 * step)) * rng.lognormal(0, 0.4, test)
            mse[3] = 250.0 if step > 8 else mse[3]
            parts.append(
                pd.DataFrame(
                    {
                        "mode": mode,
                        "episode": np.arange(test),
                        "step": step,
                        "loss": mse,
                        "mse": mse,
                    }
                )
            )
    table = pd.concat(parts, ignore_index=True)
    table.loc[table["mode"] == "inductive", "mse"] = table.loc[
        table["mode"] == "transductive", "mse"
    ].to_numpy()  # no batch norm: equal
    baselines = {
        "zero": amplitude**2 / 2,
        "support_mean": amplitude**2 / 1.9,
        "random_init": amplitude**2 / 2.4,
    }
    episodes = _scores(scores, table, baselines, "mse")
    x, fits, points = np.linspace(-5, 5, 61), [], []
    headline = (
        episodes[(episodes["mode"] == "transductive") & (episodes["step"] == 1)]
        .sort_values("mse")["episode"]
        .to_numpy()
    )
    for e in headline[np.linspace(len(headline) // 2, len(headline) - 1, 6).round().astype(int)]:
        truth, base = amplitude[e] * np.sin(x - phase[e]), 0.3 * np.sin(x / 2)
        fits.append(
            pd.DataFrame(
                {"episode": e, "x": x, "truth": truth}
                | {f"step_{s}": base + (truth - base) * (1 - 0.4**s) for s in (0, 1, 10)}
            )
        )
        points.append(
            pd.DataFrame(
                {"episode": e, "x": support[e], "y": amplitude[e] * np.sin(support[e] - phase[e])}
            )
        )
    pd.concat(fits, ignore_index=True).to_parquet(scores / "fits.parquet", index=False)
    pd.concat(points, ignore_index=True).to_parquet(scores / "support.parquet", index=False)
    metrics = _metrics(episodes, baselines, "mse", raw)
    metrics |= {f"after_{step}": _at(episodes, "transductive", step, "mse") for step in (1, 10)}
    metrics |= _space(root, episodes, pd.DataFrame(), None, 1)
    write_json(root / "reports/metrics.json", metrics)


def _space(
    root: Path,
    episodes: pd.DataFrame,
    predictions: pd.DataFrame,
    means: torch.Tensor | None,
    steps: int,
) -> dict[str, Any]:
    source = prepared.open_folder(root / "data/prepared", torch.device("cpu"))
    headline = episodes[(episodes["mode"] == "transductive") & (episodes["step"] == steps)]
    result = task_space.describe_tasks(
        source, source.read_episodes("test"), headline, predictions, means
    )
    for name, table in result.tables.items():
        table.to_parquet(root / f"reports/scores/{name}.parquet", index=False)
    return replace_infinite(result.metrics)


def _scores(
    folder: Path, episodes: pd.DataFrame, baselines: dict[str, np.ndarray], name: str
) -> pd.DataFrame:
    episodes.to_parquet(folder / "episodes.parquet", index=False)
    curve = [
        {"mode": mode, "step": step} | _at(episodes, mode, step, name)
        for mode in MODES
        for step in STEPS
    ]
    pd.DataFrame(curve).to_csv(folder / "curve.csv", index=False)
    parts = [
        pd.DataFrame({"method": method, "episode": np.arange(len(values)), name: values})
        for method, values in baselines.items()
    ]
    pd.concat(parts, ignore_index=True).to_parquet(folder / "baselines.parquet", index=False)
    return episodes


def _summary(values: np.ndarray, name: str) -> dict[str, Any]:
    more = (
        {"mse_median": float(np.median(values)), "diverged": int((values > 100).sum())}
        if name == "mse"
        else {}
    )
    return {name: float(values.mean()), f"{name}_ci95": _ci95(values)} | more


def _at(episodes: pd.DataFrame, mode: str, step: int, name: str) -> dict[str, Any]:
    return _summary(
        episodes.loc[(episodes["mode"] == mode) & (episodes["step"] == step), name].to_numpy(), name
    )


def _metrics(
    episodes: pd.DataFrame, baselines: dict[str, np.ndarray], name: str, raw: dict[str, Any]
) -> dict[str, Any]:
    steps = raw["evaluate"]["steps"]
    headline = episodes[(episodes["mode"] == "transductive") & (episodes["step"] == steps)]
    return _at(episodes, "transductive", steps, name) | {
        "loss": float(headline["loss"].mean()),
        "episodes": raw["episodes"]["test"],
        "steps": steps,
        "before": _at(episodes, "transductive", 0, name),
        "baselines": {method: _summary(values, name) for method, values in baselines.items()},
        "train": {
            "iterations": 600,
            "best_iteration": 500,
            f"validation_{name}": 0.9513 if name == "accuracy" else 0.52,
        },
    }
