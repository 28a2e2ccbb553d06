"""Checks of params.yaml across sections."""

from __future__ import annotations

from typing import Any

from episodic.core.config import ConfigError
from episodic.core.episode_size import size_bounds
from episodic.core.errors import UserError
from episodic.core.registry import ALGORITHMS, MODELS
from episodic.datasets.base import ClassificationDataset, Limits, RegressionDataset
from episodic.preprocessing.encoders.architectures import EncoderError
from tasks.params.settings import USER_DATA, Settings
from tasks.runtime import class_selection

EXAMPLES = {
    "image": "images",
    "vector": "vectors of numbers",
    "text_features": "features of sentences",
    "tokens": "tokens of sentences",
    "categorical": "categorical features",
}
"""Names of the kinds of examples."""


def find_section_errors(settings: Settings) -> list[str]:
    """Find the contradictions between sections; one sentence per error."""
    dataset = settings.dataset
    errors = _check_training_ways(settings)
    if dataset.config.source_policy == "required" and dataset.user_data is None:
        return [
            *errors,
            f"dataset.source is {USER_DATA}, which is empty: put your data there, or set it with "
            f"python -m tasks.preset {dataset.name} --source PATH",
        ]
    if isinstance(dataset.config, RegressionDataset):
        return errors + _check_regression(settings, dataset.config)
    return errors + _check_classification(settings, dataset.config)


def _check_training_ways(settings: Settings) -> list[str]:
    algorithm, ways = settings.algorithm, settings.episodes.ways
    if algorithm.config.any_ways or algorithm.config.labels != "episode":
        return []
    if isinstance(ways, tuple):
        if isinstance(settings.dataset.config, RegressionDataset):
            return []  # it requires one way
        return [
            f"episodes.ways is {_show(ways)}; it must be a number for {algorithm.name}, whose head "
            "has one output per class"
        ]
    if settings.train.ways in (None, ways):
        return []
    training_ways = _show(settings.train.ways)
    return [
        f"train.ways is {training_ways}; it must be null or episodes.ways ({ways}) for "
        f"{algorithm.name}, whose head has one output per class"
    ]


def _training_ways(settings: Settings) -> int:
    """Return the number of classes of the largest training episode."""
    return size_bounds(settings.train.ways, settings.episodes.ways)[1]


def _show(size: Any) -> Any:
    return list(size) if isinstance(size, tuple) else size


def _check_model(settings: Settings) -> list[str]:
    """Check that the model accepts the examples of the dataset."""
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


def _check_augmentation(settings: Settings, input: tuple[int, ...]) -> list[str]:
    """Check that the examples are images to which the augmentation applies."""
    dataset = settings.dataset
    produced = dataset.config.produces
    shape = input if produced == "image" else ()
    whose = f", such as those of {dataset.name}"
    if produced == "vector" and hasattr(dataset.config, "features"):
        whose = f", such as features of an encoder (dataset.{dataset.name}.features.kind)"
    errors = []
    for section in ("train", "evaluate"):
        try:
            getattr(settings, section).augmentation.check_input(shape)
        except ConfigError as error:
            errors.append(f"{section}.augmentation.{error}{whose}")
    if settings.train.augmentation.dihedral and settings.algorithm.config.labels == "split":
        errors.append(
            "train.augmentation.dihedral is true; it must be false for "
            f"{settings.algorithm.name}, which is trained to tell all training classes apart"
        )
    return errors


def _check_build(settings: Settings, input: tuple[int, ...], outputs: int) -> list[str]:
    model = settings.model
    try:
        model.config.build(input, outputs)
    except ConfigError as error:
        return [f"model.{model.name}.{error}"]
    return []


def _check_classification(settings: Settings, dataset: ClassificationDataset) -> list[str]:
    name, episodes, train = settings.dataset.name, settings.episodes, settings.train
    errors = []
    if train.vary_shots:
        errors.append(_describe_vary_shots(name))
    if episodes.ways_bounds[0] < 2:
        errors.append(f"episodes.ways is {_show(episodes.ways)}; it must be at least 2 for {name}")
    if episodes.is_varied and (copies := settings.evaluate.augmentation.copies):
        errors.append(
            f"evaluate.augmentation.copies is {copies}; it must be 0 if episodes.ways or "
            "episodes.shots has bounds"
        )
    if size_bounds(train.ways, 2)[0] == 1:
        errors.append(
            f"train.ways is {_show(train.ways)}; it must be null or at least 2 for {name}"
        )
    try:
        limits = dataset.limits(settings.dataset.seed, settings.dataset.user_data)
    except EncoderError as error:
        return [*errors, f"dataset.{name}.features.path: {error}"]
    except UserError as error:
        return [*errors, *str(error).splitlines()]
    if model_errors := _check_model(settings):
        return errors + model_errors
    return [
        *errors,
        *_check_build(settings, limits.input, settings.episodes.ways_bounds[1]),
        *_check_augmentation(settings, limits.input),
        *_check_examples(settings, limits),
        *_check_groups(settings, limits),
        *class_selection.find_errors(train, name, _training_ways(settings), limits),
        *_check_classes(settings, limits),
    ]


def _check_examples(settings: Settings, limits: Limits) -> list[str]:
    """Check that each class has enough examples for an episode."""
    name, episodes, train = settings.dataset.name, settings.episodes, settings.train
    smallest = f" ({limits.smallest})" if limits.smallest else ""
    training_shots = size_bounds(train.shots, episodes.shots)[1]
    others = [
        f"episodes.other_sizes.{i} has {shots} shots; with {episodes.queries} episodes.queries, it "
        f"must have at most {limits.examples - episodes.queries}, as {name} has {limits.examples} "
        f"examples per class{smallest}"
        for i, (_, shots) in enumerate(episodes.other_sizes or ())
        if shots + episodes.queries > limits.examples
    ]
    return others + [
        f"{shots_section}.shots + {section}.queries is {shots} + {queries} = {shots + queries}; it "
        f"must be at most {limits.examples}, the examples per class of {name}{smallest}"
        for shots_section, shots, section, queries in (
            ("episodes", episodes.shots_bounds[1], "episodes", episodes.queries),
            (
                "train" if train.shots else "episodes",
                training_shots,
                "train",
                train.queries,
            ),
        )
        if shots + queries > limits.examples
    ]


def _check_groups(settings: Settings, limits: Limits) -> list[str]:
    """Check that the groups are large enough for episodes within one group."""
    name, episodes, train = settings.dataset.name, settings.episodes, settings.train
    errors = []
    for split, section, within_group in (
        ("validation", "episodes", episodes.within_group),
        ("test", "episodes", episodes.within_group),
        ("train", "train", train.within_group),
    ):
        if not within_group:
            continue
        groups = limits.groups.get(split, {})
        if not groups:
            errors.append(
                f"{section}.within_group is true; it must be false for {name}, whose classes have "
                "no groups"
            )
            continue
        in_training = split == "train"
        chosen = train.groups if in_training and train.groups else tuple(groups)
        ways = _training_ways(settings) if in_training else settings.episodes.ways_bounds[1]
        largest = max((n for group, n in groups.items() if group in chosen), default=ways)
        if largest < ways:
            key = "train" if in_training and train.ways else "episodes"
            of = "of train.groups" if in_training and train.groups else f"group of {name}"
            errors.append(
                f"{key}.ways is {_show(getattr(settings, key).ways)}; it must be at most {largest},"
                f" the {split} classes of the "
                f"largest {of}, with {section}.within_group"
            )
    return errors


def _check_classes(settings: Settings, limits: Limits) -> list[str]:
    """Check that each split has enough classes for an episode."""
    errors = []
    for split, classes in limits.classes.items():
        section = "train" if split == "train" and settings.train.ways else "episodes"
        ways = _training_ways(settings) if section == "train" else settings.episodes.ways_bounds[1]
        if ways > classes:
            errors.append(
                f"{section}.ways is {_show(getattr(settings, section).ways)}; it must be at most "
                f"{classes}, the number of {split} classes of {settings.dataset.name}"
            )
    fixed = {split: n for split, n in limits.classes.items() if split != "train"}
    smallest = min(fixed, key=fixed.__getitem__)
    errors += [
        f"episodes.other_sizes.{i} has {ways} ways; it must have at most {fixed[smallest]}, the "
        f"number of {smallest} classes of {settings.dataset.name}"
        for i, (ways, _) in enumerate(settings.episodes.other_sizes or ())
        if ways > fixed[smallest]
    ]
    return errors


def _check_regression(settings: Settings, dataset: RegressionDataset) -> list[str]:
    name, algorithm = settings.dataset.name, settings.algorithm
    episodes, train = settings.episodes, settings.train
    errors = []
    if not algorithm.config.regression:
        names = _join([name for name in ALGORITHMS if ALGORITHMS[name].regression])
        errors.append(
            f"algorithm.name is {algorithm.name!r}; it must be {names} for {name}, a regression "
            "problem"
        )
    if episodes.ways != 1:
        errors.append(
            f"episodes.ways is {_show(episodes.ways)}; it must be 1 for {name}, which has no "
            "classes"
        )
    for section, within_group in (
        ("episodes", episodes.within_group),
        ("train", train.within_group),
    ):
        if within_group:
            errors.append(
                f"{section}.within_group is true; it must be false for {name}, which has no classes"
            )
    if episodes.query_balance is not None:
        errors.append(
            f"episodes.query_balance is {episodes.query_balance}; it must be null for {name}, "
            "which has no classes"
        )
    errors += class_selection.find_errors(train, name, 1, None)
    size = dataset.min_task_size
    if size is None and train.vary_shots:
        errors.append(_describe_vary_shots(name))
    for key in ("ways", "shots"):
        if isinstance(value := getattr(train, key), tuple):
            remedy = "; set train.vary_shots" if size is not None and key == "shots" else ""
            errors.append(
                f"train.{key} is {list(value)}; it must be a number or null for {name}, which has "
                f"no classes{remedy}"
            )
    if isinstance(episodes.shots, tuple):
        errors.append(
            f"episodes.shots is {_show(episodes.shots)}; it must be a number for {name}, which has "
            "no classes"
        )
    for section, shots in (
        ("episodes", 0 if isinstance(episodes.shots, tuple) else episodes.shots),
        ("train", 0 if isinstance(train.shots, tuple) else train.shots or 0),
    ):
        if size is not None and shots >= size.value:
            errors.append(
                f"{section}.shots is {shots}; it must be below dataset.{name}.{size.key} "
                f"({size.value})"
            )
    if model_errors := _check_model(settings):
        return errors + model_errors
    try:
        shape = dataset.shape(settings.dataset.user_data)
    except ConfigError as error:
        return [*errors, f"dataset.{error}"]
    except UserError as error:
        return [*errors, *str(error).splitlines()]
    return errors + _check_build(settings, shape, 1) + _check_augmentation(settings, shape)


def _describe_vary_shots(name: str) -> str:
    return (
        f"train.vary_shots is true; it must be false for {name}, whose tasks all have the same size"
    )
