"""Stage `evaluate`: the trained model on the fixed test episodes, beside what puts it in proportion -> scores and metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from episodic import counter, evaluate, memory, trained
from episodic.episode import Episode
from episodic.evaluate import CURVE_STEPS
from episodic.group import Group
from episodic.learner import BATCH_NORM, MetaLearner
from episodic.ops import Params
from episodic.statistics import mean_ci95
from tasks import params, prepared, ranks, stage
from tasks.files import folder_beside, write_json
from tasks.prepared import Prepared

DIVERGED = 100.0
"""Regression: an episode whose squared error is not finite or above this counts as diverged."""

RATE_EPISODES = 20
"""Validation episodes on which the rate of the baseline `random_init` is chosen."""

LARGE_NETWORK, TUNED = 1_000_000, 100
"""Of a network with more parameters than this, the baseline `random_init`, a training for each episode, sees so many test episodes."""

LARGE = 1 << 20
"""Numbers in the query sets of all test episodes from which more processes pay."""

RENAMINGS, RENAMED = 5, 50
"""Classification: how often classes are renumbered, in how many episodes, to see how much their numbers count."""

FITS = 6
"""Regression: how many episodes, from typical to worst, are kept as curves for the report."""


def run(settings: params.Params, data: Path, model: Path, scores: Path, metrics: Path) -> None:
    """Writes the files described in docs/files.md, sections reports/scores and reports/metrics.json."""
    memory.keep_freed()
    device = prepared.pick_device(settings.device)
    source = prepared.read(data, device)
    found = trained.load(model, device)
    meta_learner, members, config = found.learner, found.members, found.config
    test, steps = source.table("test"), evaluate.headline(meta_learner, settings.evaluate.steps)
    points = evaluate.points(meta_learner, steps)
    first = source.fixed(test[:1])
    meta_learner.at_test.accept(first)
    if source.kind == "classification":
        config = config | {"ways": source.meta["ways"]}  # of what is tested; a method may have been trained at others
    chunk, numbers = settings.evaluate.chunk or evaluate.at_once(first), first.query_x.numel() * len(test)
    sizes = [min(chunk, len(test) - start) for start in range(0, len(test), chunk)]
    count = ranks.suited(settings.processes, len(sizes), large=numbers > LARGE, device=device)
    with ranks.group(count, device) as group:
        if group.rank == 0:
            stage.emit("plan", stage="evaluate", episodes_at_once=chunk, processes=group.size)
        curve, baselines = _scores(meta_learner, trained.plain(config), members, source, test, points, sizes, group)
        more = {"labels": labels} if (labels := _renamed(meta_learner, members, source, test, steps, chunk, group)) else {}
        more |= _outside(meta_learner, members, source, test, curve, points.index(steps), steps, chunk, group)
        if group.rank:
            return
    _write(source, meta_learner, members, config, test, curve, points, steps, baselines, more, scores, metrics)


def _scores(
    meta_learner: MetaLearner,
    plain: MetaLearner,
    members: list[Params],
    source: Prepared,
    test: pd.DataFrame,
    points: list[int],
    sizes: list[int],
    group: Group,
) -> tuple[evaluate.Curve, dict[str, np.ndarray]]:
    """Every test episode after `points` inner steps, and its baselines; `sizes` episodes at once, the group's processes share."""
    examples = source.examples() if source.kind == "classification" else None
    sentences = _tfidf(source, test) if source.texts() else None
    tuned = TUNED if sum(p.numel() for p in members[0].values()) > LARGE_NETWORK else len(test)
    seed, starts = source.meta["seed"], [sum(sizes[:i]) for i in range(len(sizes))]
    rate = evaluate.fine_tune_rate(plain, seed, source.fixed(source.table("validation")[:RATE_EPISODES], examples), group)
    layout: dict[str, torch.Size] = {}
    with stage.bar("evaluate", "episodes", len(test)) if group.rank == 0 else nullcontext() as bar:

        def one(i: int) -> torch.Tensor:
            episode = source.fixed(test[starts[i] : starts[i] + sizes[i]], examples)
            curve = evaluate.curve(meta_learner, members, episode, points)
            parts = {f"{part} {mode}": value for part in ("score", "loss") for mode, value in getattr(curve, part).items()}
            parts |= {"outputs": curve.outputs.transpose(0, 1)}
            parts |= {
                f"baseline {name}": s
                for name, s in _baselines(plain, episode, seed, rate, starts[i], source.meta["inputs"], sentences, tuned).items()
            }
            layout.update({name: value.shape[1:] for name, value in parts.items()})
            if bar:
                bar.update(min(len(test), bar.done + episode.tasks * group.size))
            return torch.cat([value.double().flatten(1) if value.dim() > 1 else value.double()[:, None] for value in parts.values()], 1)

        rows = group.rows(one, sizes)
    columns = rows.split([shape.numel() for shape in layout.values()], 1)
    found = {name: part.unflatten(1, shape) if shape else part[:, 0] for (name, shape), part in zip(layout.items(), columns, strict=True)}
    score, loss = ({mode: found[f"{part} {mode}"] for mode in BATCH_NORM} for part in ("score", "loss"))
    outputs = found["outputs"].to(torch.get_default_dtype()).transpose(0, 1)
    baselines = {name.removeprefix("baseline "): s.cpu().numpy() for name, s in found.items() if name.startswith("baseline ")}
    baselines["random_init"] = baselines["random_init"][:tuned]
    return evaluate.Curve(score, loss, outputs), baselines


Sentences = Callable[[Episode, int], dict[str, torch.Tensor]]


def _tfidf(source: Prepared, test: pd.DataFrame) -> Sentences:
    """Baselines that read the sentences: scikit-learn's tf-idf of words, its weights from the training classes."""
    from episodic.inputs.text import TfIdf

    texts, classes = source.texts(), source.classes()
    train = classes[classes["split"] == "train"]
    known = [texts[row] for first, count in zip(train["offset"], train["count"], strict=True) for row in range(first, first + count)]
    baselines = TfIdf.fit(known)

    def score(episode: Episode, first: int) -> dict[str, torch.Tensor]:
        lines = test.iloc[first : first + episode.tasks]
        found = []
        for line, support_y, query_y in zip(lines.to_dict("records"), episode.support_y.cpu(), episode.query_y.cpu(), strict=True):
            support, query = ([texts[row] for row in line[part]] for part in ("support", "query"))
            answers = baselines.answers(support, support_y.numpy(), query)
            found.append({name: float((answer == query_y.numpy()).mean()) for name, answer in answers.items()})
        return {name: torch.tensor([one[name] for one in found], device=episode.query_y.device) for name in found[0]}

    return score


def _outside(
    meta_learner: MetaLearner, members: list[Params], source: Prepared, test: pd.DataFrame, curve: evaluate.Curve, at: int, steps: int,
    chunk: int, group: Group,
) -> dict[str, Any]:  # fmt: skip
    """How well the probability of the answer tells an episode's queries from examples of no class at all: the area under the ROC curve."""
    number = source.meta.get("outside", 0)
    if not number:
        return {}
    examples = source.examples()
    first, queries = len(examples) - number, curve.outputs.shape[2]
    bits = counter.draws(counter.key(source.meta["seed"], "outside"), torch.arange(len(test)), queries)
    rows = (first + counter.below(bits, number)).to(source.device)
    starts = range(0, len(test), chunk)

    def one(i: int) -> torch.Tensor:
        part = slice(starts[i], starts[i] + chunk)
        episode = source.fixed(test[part], examples)
        x = examples[rows[part].flatten()].unflatten(0, (episode.tasks, queries))
        strange = episode._replace(query_x=x, query_y=torch.zeros_like(rows[part]))
        answer = evaluate.curve(meta_learner, members, strange, [steps], [meta_learner.batch_norm]).outputs[0]
        return answer.softmax(-1).amax(-1).double()

    strange = group.rows(one, [min(chunk, len(test) - start) for start in starts]).cpu().numpy()
    known = curve.outputs[at].softmax(-1).amax(-1).double().cpu().numpy()
    mean, ci95 = mean_ci95(np.array([_auroc(a, b) for a, b in zip(known, strange, strict=True)]))
    return {"rejection": {"auroc": mean, "auroc_ci95": ci95}}


def _auroc(above: np.ndarray, below: np.ndarray) -> float:
    """The probability that one of `above` is greater than one of `below`, ties counted half (Mann, Whitney 1947)."""
    greater, same = (above[:, None] > below).mean(), (above[:, None] == below).mean()
    return float(greater + same / 2)


def _renamed(
    meta_learner: MetaLearner, members: list[Params], source: Prepared, test: pd.DataFrame, steps: int, chunk: int, group: Group
) -> dict[str, Any]:
    """How far the accuracy of some episodes spreads over random numberings of their classes."""
    if source.kind != "classification":
        return {}
    parts = list(evaluate.chunks(source.fixed(test[:RENAMED]), chunk))

    def one(i: int) -> torch.Tensor:
        number, part = divmod(i, len(parts))
        score = evaluate.relabelled(meta_learner, members, parts[part], steps, source.meta["seed"], number, part * chunk)
        return score.double().sum().view(1, 1)

    rows = group.rows(one, [1] * (RENAMINGS * len(parts))).view(RENAMINGS, -1).sum(1) / sum(part.tasks for part in parts)
    return {"accuracy_sd": float(rows.std()), "renamings": RENAMINGS, "episodes": min(RENAMED, len(test))}


def _write(
    source: Prepared, meta_learner: MetaLearner, members: list[Params], config: dict[str, Any], test: pd.DataFrame,
    curve: evaluate.Curve, points: list[int], steps: int, baselines: dict[str, np.ndarray], more: dict[str, Any],
    scores: Path, metrics: Path,
) -> None:  # fmt: skip
    name = meta_learner.objective.score_name
    episodes = _episode_table(curve, points, name)
    compared = pd.concat(
        [pd.DataFrame({"method": method, "episode": np.arange(len(score)), name: score}) for method, score in baselines.items()]
    )
    with folder_beside(scores) as folder:
        episodes.to_parquet(folder / "episodes.parquet", index=False)
        _curve_table(episodes, name).to_csv(folder / "curve.csv", index=False)
        compared.to_parquet(folder / "baselines.parquet", index=False)
        if source.kind == "classification":
            answers = _answers(source, test, curve.outputs[0], curve.outputs[points.index(steps)])
            answers.to_parquet(folder / "answers.parquet", index=False)
            _class_table(source, test, answers).to_parquet(folder / "classes.parquet", index=False)
        else:
            headline = episodes.query(f"mode == '{meta_learner.batch_norm}' and step == {steps}")
            fits, support = _fits(meta_learner, members, source, test, headline)
            fits.to_parquet(folder / "fits.parquet", index=False)
            support.to_parquet(folder / "support.parquet", index=False)
    figures = _metrics(episodes, compared, name, meta_learner.batch_norm, steps, config) | more
    write_json(metrics, _finite(figures))


CENTROIDS = {"image": "pixel_centroid", "ngrams": "ngram_centroid"}
"""What the nearest class mean of the inputs is called; of tokens, which are no quantities, there is none."""


def _baselines(
    plain: MetaLearner,
    episode: Episode,
    seed: int,
    rate: float,
    first: int,
    inputs: dict[str, Any],
    sentences: Sentences | None,
    tuned: int,
) -> dict[str, torch.Tensor]:
    """sentences: of the support and the query sets, where people read the examples; tuned: episodes that `random_init` sees"""
    part = episode.part(0, max(0, tuned - first)) if first + episode.tasks > tuned else episode
    random_init = evaluate.random_init(plain, seed, part, rate, first) if part.tasks else torch.empty(0, device=episode.query_y.device)
    result = {"random_init": F.pad(random_init, (0, episode.tasks - part.tasks))}
    if plain.objective.kind == "classification":
        if name := CENTROIDS.get(inputs.get("features", inputs["kind"])):
            result[name] = evaluate.input_centroid(episode)
        if sentences:
            result |= sentences(episode, first)
    else:
        result["zero"] = evaluate.constant(episode, torch.zeros((), device=episode.query_y.device))
        result["support_mean"] = evaluate.constant(episode, episode.support_y.mean(1, keepdim=True))
    return result


def _episode_table(curve: evaluate.Curve, points: list[int], name: str) -> pd.DataFrame:
    tables = []
    for mode in BATCH_NORM:
        score, loss = (getattr(curve, part)[mode].double().cpu().numpy() for part in ("score", "loss"))
        episode, point = np.indices(score.shape)
        step = np.array(points)[point.ravel()]
        columns = {"mode": mode, "episode": episode.ravel(), "step": step, "loss": loss.ravel(), name: score.ravel()}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def _curve_table(episodes: pd.DataFrame, name: str) -> pd.DataFrame:
    rows = []
    for (mode, step), part in episodes.groupby(["mode", "step"], sort=True):
        rows.append({"mode": mode, "step": step, "loss": part["loss"].mean()} | _summary(part[name].to_numpy(), name))
    return pd.DataFrame(rows)


def _summary(values: np.ndarray, name: str) -> dict[str, Any]:
    """Mean and half-width; regression: also the median, and how many episodes diverged (then the mean may be infinite)."""
    with np.errstate(invalid="ignore", over="ignore"):
        mean, ci95 = mean_ci95(values)
    result: dict[str, Any] = {name: mean, f"{name}_ci95": ci95}
    if name == "mse":
        result |= {"mse_median": float(np.median(values)), "diverged": int((~np.isfinite(values) | (values > DIVERGED)).sum())}
    return result


def _answers(source: Prepared, test: pd.DataFrame, before: torch.Tensor, adapted: torch.Tensor) -> pd.DataFrame:
    """One row a query image: what it is, and what the model says of it without and with adaptation."""
    query = np.stack(test["query"].to_list())
    after = adapted.softmax(-1)
    labels = np.arange(source.meta["ways"]).repeat(source.meta["queries"])
    columns = {
        "episode": np.arange(len(test)).repeat(query.shape[1]),
        "image": query.ravel(),
        "label": np.tile(labels, len(test)),
        "before": before.argmax(-1).cpu().numpy().ravel(),
        "after": after.argmax(-1).cpu().numpy().ravel(),
        "confidence": after.amax(-1).cpu().numpy().ravel(),
    }
    return pd.DataFrame(columns)


def _class_table(source: Prepared, test: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each test class, with its 95 % interval over the episodes that it was in (empty for one episode)."""
    table = source.classes()
    class_of = np.stack(test["classes"].to_list())
    right = answers.assign(row=class_of[answers["episode"], answers["label"]], right=answers["label"] == answers["after"])
    rows = []
    for row, part in right.groupby("row"):
        _, ci95 = mean_ci95(part.groupby("episode")["right"].mean().to_numpy())
        rows.append(
            {"class": table["class"][row], "group": table["group"][row], "episodes": part["episode"].nunique(), "queries": len(part)}
            | {"correct": int(part["right"].sum()), "accuracy": float(part["right"].mean()), "ci95": ci95}
        )
    return pd.DataFrame(rows)


def _fits(
    meta_learner: MetaLearner, members: list[Params], source: Prepared, test: pd.DataFrame, headline: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Whole curves of a few episodes at the quantiles of the headline error, from typical to worst."""
    order = headline.sort_values(["mse", "episode"])["episode"].to_numpy()
    picked = order[np.linspace(len(order) // 2, len(order) - 1, FITS).round().astype(int)]
    episode = source.fixed(test.iloc[picked])
    low, high = source.meta["family"]["x"]
    grid = torch.linspace(low, high, 121, device=source.device)
    x = grid[None, :, None].expand(len(picked), -1, -1)
    table = pd.DataFrame({"episode": picked.repeat(len(grid)), "x": np.tile(grid.cpu().double().numpy(), len(picked))})
    waves = test.iloc[table["episode"]]
    table["truth"] = waves["amplitude"].to_numpy() * np.sin(table["x"].to_numpy() - waves["phase"].to_numpy())
    for step, thetas in enumerate(zip(*(evaluate.adaptation(meta_learner, m, episode, CURVE_STEPS) for m in members), strict=True)):
        if step in (0, 1, CURVE_STEPS):
            with torch.no_grad():
                answer = meta_learner.objective.together([meta_learner.model(theta, x) for theta in thetas])
            table[f"step_{step}"] = answer.double().cpu().numpy().ravel()
    shots = episode.support_x.shape[1]
    points = [part.double().cpu().numpy().ravel() for part in (episode.support_x, episode.support_y)]
    return table, pd.DataFrame({"episode": picked.repeat(shots), "x": points[0], "y": points[1]})


def _finite(value: Any) -> Any:
    """JSON knows no infinity: null in its place."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _metrics(
    episodes: pd.DataFrame, compared: pd.DataFrame, name: str, headline: str, steps: int, config: dict[str, Any]
) -> dict[str, Any]:
    """The fixed schema of docs/files.md."""

    def at(mode: str, step: int) -> dict[str, Any]:
        return _summary(episodes.query(f"mode == '{mode}' and step == {step}")[name].to_numpy(), name)

    loss = episodes.query(f"mode == '{headline}' and step == {steps}")["loss"].mean()
    baselines = {method: _summary(part[name].to_numpy(), name) for method, part in compared.groupby("method")}
    if name == "accuracy":
        baselines["chance"] = {"accuracy": 1 / config["ways"]}
    result = at(headline, steps) | {
        "loss": float(loss),
        "episodes": int(episodes["episode"].nunique()),
        "steps": steps,
        "ensemble": config["ensemble"],
        "baselines": baselines,
        "train": {
            "iterations": config["iterations"],
            "best_iteration": config["iteration"],
            f"validation_{name}": config["validation"],
        },
    }
    if episodes["step"].nunique() > 1:
        result["before"] = at(headline, 0)
    if name == "accuracy":
        return result | {mode: at(mode, steps) for mode in BATCH_NORM}
    return result | {f"after_{step}": at(headline, step) for step in (1, CURVE_STEPS)}


def main() -> None:
    parser = stage.parser(
        __doc__,
        data="folder written by the stage episodes",
        model="folder written by the stage train",
        scores="folder to write: tables of scores",
        metrics="file to write: the headline figures as JSON",
    )
    args = parser.parse_args()
    stage.run(lambda: run(params.load(args.params, "evaluate"), args.data, args.model, args.scores, args.metrics))


if __name__ == "__main__":
    main()
