"""What several sections of params.yaml have to agree on."""

from __future__ import annotations

from episodic.core.config import ConfigError
from episodic.core.errors import UserError
from episodic.core.registry import ALGORITHMS, MODELS
from episodic.datasets.base import ClassificationDataset, Limits, RegressionDataset
from tasks.params.settings import USER_DATA, Settings
from tasks.runtime import class_selection

EXAMPLES = {
    "image": "images",
    "vector": "vectors of numbers",
    "text_features": "features of sentences",
    "tokens": "tokens of sentences",
    "categorical": "categorical features",
}
"""Kinds of examples in words."""


def find_conflicts(settings: Settings) -> list[str]:
    """Return what sections contradict each other in, one sentence each."""
    dataset = settings.dataset
    conflicts = _check_training_ways(settings)
    if dataset.config.source_policy == "required" and dataset.user_data is None:
        return [
            *conflicts,
            f"dataset.source is {USER_DATA}, which is empty: put your data there, or name it by "
            f"python -m tasks.preset {dataset.name} --source PATH",
        ]
    if isinstance(dataset.config, RegressionDataset):
        return conflicts + _check_regression(settings, dataset.config)
    return conflicts + _check_classification(settings, dataset.config)


def _check_training_ways(settings: Settings) -> list[str]:
    algorithm, ways = settings.algorithm, settings.episodes.ways
    if (
        algorithm.config.any_ways
        or algorithm.config.labels != "episode"
        or settings.train.ways in (None, ways)
    ):
        return []
    return [
        f"train.ways is {settings.train.ways}; it must be null or episodes.ways ({ways}) for "
        f"{algorithm.name}, whose head has one output per class"
    ]


def _check_model(settings: Settings) -> list[str]:
    """Check that the model takes the examples of the dataset."""
    dataset, model = settings.dataset, settings.model
    kind = dataset.config.produces
    if kind not in model.config.accepts:
        names = _join([name for name in MODELS if kind in MODELS[name].accepts])
        return [
            f"model.name is {model.name!r}; it must be {names} for {dataset.name}, whose examples "
            f"are {EXAMPLES.get(kind, kind)}"
        ]
    size, needed = model.config.vocabulary, dataset.config.vocabulary
    if size and needed and size.value < needed.value:
        return [
            f"model.{model.name}.{size.key} is {size.value}; it must be at least "
            f"dataset.{dataset.name}.{needed.key} ({needed.value})"
        ]
    return []


def _join(names: list[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _check_build(settings: Settings, input: tuple[int, ...], outputs: int) -> list[str]:
    model = settings.model
    try:
        model.config.build(input, outputs)
    except ConfigError as error:
        return [f"model.{model.name}.{error}"]
    return []


def _check_classification(settings: Settings, dataset: ClassificationDataset) -> list[str]:
    name, episodes, train = settings.dataset.name, settings.episodes, settings.train
    conflicts = []
    if train.vary_shots:
        conflicts.append(_vary_shots_conflict(name))
    if episodes.ways < 2:
        conflicts.append(f"episodes.ways is {episodes.ways}; it must be at least 2 for {name}")
    if train.ways == 1:
        conflicts.append(f"train.ways is 1; it must be null or at least 2 for {name}")
    try:
        limits = dataset.limits(settings.dataset.seed, settings.dataset.user_data)
    except UserError as error:
        return [*conflicts, *str(error).splitlines()]
    if model_conflicts := _check_model(settings):
        return conflicts + model_conflicts
    return [
        *conflicts,
        *_check_build(settings, limits.input, episodes.ways),
        *_check_examples(settings, limits),
        *_check_groups(settings, limits),
        *class_selection.find_conflicts(train, name, train.ways or episodes.ways, limits),
        *_check_classes(settings, limits),
    ]


def _check_examples(settings: Settings, limits: Limits) -> list[str]:
    """Check that classes have as many examples as an episode takes."""
    name, episodes, train = settings.dataset.name, settings.episodes, settings.train
    smallest = f" ({limits.smallest})" if limits.smallest else ""
    return [
        f"{shots_section}.shots + {section}.queries is {shots} + {queries} = {shots + queries}; it "
        f"must be at most {limits.examples}, the examples per class of {name}{smallest}"
        for shots_section, shots, section, queries in (
            ("episodes", episodes.shots, "episodes", episodes.queries),
            (
                "train" if train.shots else "episodes",
                train.shots or episodes.shots,
                "train",
                train.queries,
            ),
        )
        if shots + queries > limits.examples
    ]


def _check_groups(settings: Settings, limits: Limits) -> list[str]:
    """Check that the groups are large enough for episodes within one group."""
    name, episodes, train = settings.dataset.name, settings.episodes, settings.train
    conflicts = []
    for split, section, within_group in (
        ("validation", "episodes", episodes.within_group),
        ("test", "episodes", episodes.within_group),
        ("train", "train", train.within_group),
    ):
        if not within_group:
            continue
        groups = limits.groups.get(split, {})
        if not groups:
            conflicts.append(
                f"{section}.within_group is true; it must be false for {name}, whose classes have "
                "no groups"
            )
            continue
        in_training = split == "train"
        chosen = train.groups if in_training and train.groups else tuple(groups)
        ways = (train.ways if in_training else None) or episodes.ways
        largest = max((n for group, n in groups.items() if group in chosen), default=ways)
        if largest < ways:
            key = "train" if in_training and train.ways else "episodes"
            of = "of train.groups" if in_training and train.groups else f"group of {name}"
            conflicts.append(
                f"{key}.ways is {ways}; it must be at most {largest}, the {split} classes of the "
                f"largest {of}, with {section}.within_group"
            )
    return conflicts


def _check_classes(settings: Settings, limits: Limits) -> list[str]:
    """Check that splits have as many classes as an episode takes."""
    conflicts = []
    for split, classes in limits.classes.items():
        section = "train" if split == "train" and settings.train.ways else "episodes"
        ways = (settings.train.ways if section == "train" else None) or settings.episodes.ways
        if ways > classes:
            conflicts.append(
                f"{section}.ways is {ways}; it must be at most {classes}, the number of {split} "
                f"classes of {settings.dataset.name}"
            )
    return conflicts


def _check_regression(settings: Settings, dataset: RegressionDataset) -> list[str]:
    name, algorithm = settings.dataset.name, settings.algorithm
    episodes, train = settings.episodes, settings.train
    conflicts = []
    if not algorithm.config.regression:
        names = _join([name for name in ALGORITHMS if ALGORITHMS[name].regression])
        conflicts.append(
            f"algorithm.name is {algorithm.name!r}; it must be {names} for {name}, a regression "
            "problem"
        )
    if episodes.ways != 1:
        conflicts.append(
            f"episodes.ways is {episodes.ways}; it must be 1 for {name}, which has no classes"
        )
    for section, within_group in (
        ("episodes", episodes.within_group),
        ("train", train.within_group),
    ):
        if within_group:
            conflicts.append(
                f"{section}.within_group is true; it must be false for {name}, which has no classes"
            )
    conflicts += class_selection.find_conflicts(train, name, 1, None)
    size = dataset.min_task_size
    if size is None and train.vary_shots:
        conflicts.append(_vary_shots_conflict(name))
    for section, shots in (("episodes", episodes.shots), ("train", train.shots or 0)):
        if size is not None and shots >= size.value:
            conflicts.append(
                f"{section}.shots is {shots}; it must be below dataset.{name}.{size.key} "
                f"({size.value})"
            )
    if model_conflicts := _check_model(settings):
        return conflicts + model_conflicts
    try:
        shape = dataset.shape(settings.dataset.user_data)
    except ConfigError as error:
        return [*conflicts, f"dataset.{error}"]
    except UserError as error:
        return [*conflicts, *str(error).splitlines()]
    return conflicts + _check_build(settings, shape, 1)


def _vary_shots_conflict(name: str) -> str:
    return (
        f"train.vary_shots is true; it must be false for {name}, whose tasks are drawn at one size"
    )
