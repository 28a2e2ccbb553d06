"""params.yaml as types: everything is checked before anything runs.

`python -m tasks.params` checks the file and prints what it means.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
from collections.abc import Collection
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML, YAMLError

from episodic.core.config import ConfigError, require
from episodic.core.errors import UserError
from episodic.core.files import holds_data
from episodic.core.registry import ALGORITHMS, DATASETS, MODELS, Registry, did_you_mean
from tasks.runtime.stage import StageError

if TYPE_CHECKING:
    from episodic.training.config import EvaluationConfig, TrainingConfig

FORBID = {"extra": "forbid"}


@dataclass(frozen=True)
class Episodes:
    seed: int = 0
    ways: int = 5
    shots: int = 1
    queries: int = 5
    validation: int = 200
    test: int = 500
    within_group: bool = False

    __pydantic_config__ = FORBID

    def __post_init__(self):
        require(self.seed >= 0, "seed", self.seed, "must be at least 0")
        for key in ("ways", "shots", "queries"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        for key in ("validation", "test"):
            require(
                getattr(self, key) >= 2,
                key,
                getattr(self, key),
                "must be at least 2, since an interval needs a spread",
            )


@dataclass(frozen=True)
class Report:
    title: str | None = None

    __pydantic_config__ = FORBID


OWN_DATA = "data/own"
"""The default of dataset.source. It exists in every checkout, as DVC demands of a dependency."""

UNUSED_PATH = "data/README.md"
"""The default of dataset.source and of encoder paths in params.yaml of earlier versions."""


@dataclass(frozen=True)
class Choice:
    """A section that picks a module by name and carries that module's own section."""

    name: str
    config: Any
    seed: int = 0
    source: str = OWN_DATA

    @property
    def own_data(self) -> Path | None:
        """The user's own data; None if dataset.source is its default and nothing is there."""
        named = self.source != OWN_DATA or holds_data(Path(OWN_DATA))
        return Path(self.source) if named else None


@dataclass(frozen=True)
class Params:
    """What a run is configured by. Sections that were not asked for are None; `raw` is the file as plain values."""

    raw: dict[str, Any] = field(repr=False)
    device: str = "auto"
    processes: int | None = None
    dataset: Choice = None  # type: ignore[assignment]
    episodes: Episodes = None  # type: ignore[assignment]
    model: Choice = None  # type: ignore[assignment]
    algorithm: Choice = None  # type: ignore[assignment]
    train: TrainingConfig = None  # type: ignore[assignment]
    evaluate: EvaluationConfig = None  # type: ignore[assignment]
    report: Report = None  # type: ignore[assignment]


CHOICES = {
    "dataset": (DATASETS, ("seed", "source")),
    "model": (MODELS, ()),
    "algorithm": (ALGORITHMS, ()),
}
"""Sections that pick by name: where the registry is, and their keys beside `name` and one section a name."""

PLAIN = {
    "episodes": ("tasks.params", "Episodes"),
    "train": ("episodic.training.config", "TrainingConfig"),
    "evaluate": ("episodic.training.config", "EvaluationConfig"),
    "report": ("tasks.params", "Report"),
}
"""The other sections: where their type is. Everything is imported when it is asked for, so that a stage that reads the section
`dataset` depends on no method's code."""

SECTIONS = (*CHOICES, *PLAIN)
DEVICES = ("auto", "cpu", "cuda", "mps")


def registry(section: str) -> Registry:
    return CHOICES[section][0]


def settings_type(entry: Any) -> type:
    """The dataclass of an entry's section: the entry itself, or a module's `Config`."""
    return entry if isinstance(entry, type) else entry.Config


def plain_type(section: str) -> type:
    module, name = PLAIN[section]
    return getattr(importlib.import_module(module), name)


def read_yaml(path: Path) -> Any:
    """YAML 1.2 as plain values (PyYAML would read 1e-3 as a string)."""
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StageError(
            f"there is no {path}; run in the repository's root, or name the file with --params"
        ) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise StageError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def load(path: Path, *sections: str) -> Params:
    """Checks the whole file and returns `sections` of it; StageError lists every fault, a sentence each.

    The whole is checked by a child process: this one then has imported no more than its sections need.
    """
    raw = read_yaml(path)
    context = multiprocessing.get_context("fork")
    answer, ask = context.Pipe(duplex=False)
    child = context.Process(target=_check, args=(raw, str(path), ask))
    child.start()
    ask.close()
    try:
        faults = answer.recv()
    except EOFError:
        faults = f"{path} could not be checked"
    child.join()
    if faults:
        raise StageError(faults)
    return parse(raw, str(path), sections)


def _check(raw: Any, source: str, ask: Any) -> None:
    try:
        parse(raw, source)
        ask.send("")
    except StageError as error:
        ask.send(str(error))


def parse(raw: Any, source: str = "params.yaml", sections: Collection[str] = SECTIONS) -> Params:
    """`sections` of values already read; what only sections together can tell is checked if all of them are asked for."""
    if not isinstance(raw, dict):
        raise StageError(
            f"{source} must hold sections such as dataset and train, not {type(raw).__name__}"
        )
    raw = _without_unused_paths(raw)
    faults: list[str] = []
    known = ["device", "processes", *SECTIONS]
    faults += [
        f"unknown key {key}{did_you_mean(str(key), known)}" for key in raw if key not in known
    ]
    device = raw.get("device", "auto")
    if device not in DEVICES:
        faults.append(f"device is {device!r}; it must be one of {', '.join(DEVICES)}")
    processes = raw.get("processes")
    if processes is not None and (type(processes) is not int or processes < 1):
        faults.append(f"processes is {processes!r}; it must be null or a whole number, 1 or more")
    values: dict[str, Any] = {}
    for section in sections:
        if section in CHOICES:
            values[section] = _choice(section, raw.get(section), faults)
        else:
            values[section] = _section(section, plain_type(section), raw.get(section), faults)
    if set(sections) == set(SECTIONS):
        _not_chosen(raw, faults)
        if not faults:
            _together(values, faults)
    if faults:
        raise StageError("\n".join(f"{source}: {fault}" for fault in dict.fromkeys(faults)))
    return Params(raw=raw, device=device, processes=processes, **values)


def _without_unused_paths(raw: Any) -> Any:
    """Leave out every key that has the default path of earlier versions."""
    if not isinstance(raw, dict):
        return raw
    return {k: _without_unused_paths(v) for k, v in raw.items() if v != UNUSED_PATH}


def _choice(section: str, raw: Any, faults: list[str]) -> Choice | None:
    modules, beside = registry(section), CHOICES[section][1]
    names = sorted(modules)
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        faults.append(f"{section}.name is missing; it must be one of {', '.join(names)}")
        return None
    known = ["name", *beside, *names]
    source = raw.get("source", OWN_DATA)
    if not isinstance(source, str) or not source:
        faults.append(f"{section}.source is {source!r}; it must be the path of a folder or file")
    faults += [
        f"unknown key {section}.{key}{did_you_mean(str(key), known)}"
        for key in raw
        if key not in known
    ]
    name, seed = raw["name"], raw.get("seed", 0)
    if type(seed) is not int or seed < 0:
        faults.append(f"{section}.seed is {seed!r}; it must be a whole number, 0 or more")
    try:
        module = modules[name]
    except ConfigError as error:
        faults.append(f"{section}.{error}")
        return None
    config = _section(f"{section}.{name}", settings_type(module), raw.get(name), faults)
    return Choice(name, config, seed, str(source))


def _not_chosen(raw: dict[str, Any], faults: list[str]) -> None:
    """Sections of other names wait for their turn, but a mistake in them is told now."""
    for section in CHOICES:
        present = raw.get(section)
        if not isinstance(present, dict):
            continue
        for name in registry(section):
            if name in present and name != present.get("name"):
                _section(
                    f"{section}.{name}",
                    settings_type(registry(section)[name]),
                    present[name],
                    faults,
                )


def _section(path: str, type_: Any, raw: Any, faults: list[str]) -> Any:
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        faults.append(f"{path} is {raw!r}; it must be a section of keys")
        return None
    # A section within it that is left empty has its defaults, as the section itself would.
    raw = {
        key: value for key, value in raw.items() if value is not None or not _is_section(type_, key)
    }
    try:
        # Through JSON: strict about types, yet a list is a tuple and 1 is a float.
        return TypeAdapter(type_).validate_json(json.dumps(raw), strict=True)
    except TypeError as error:
        faults.append(f"{path} holds a value that is no number, text, list or section ({error})")
    except ValidationError as error:
        faults += dict.fromkeys(_fault(path, fault, _keys(type_)) for fault in error.errors())
    return None


def _is_section(type_: Any, key: str) -> bool:
    return any(part.name == key and is_dataclass(part.default_factory) for part in fields(type_))


def _keys(type_: Any) -> list[str]:
    """The keys of a section and of the sections in it."""
    schema = TypeAdapter(type_).json_schema()
    return [
        key
        for part in (schema, *schema.get("$defs", {}).values())
        for key in part.get("properties", {})
    ]


_WANTED = {
    "dataclass_type": "must be a section of keys",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
}


_BOUNDS = {
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "too_short": "must not be empty",
}
"""The wording of `episodic.core.config` for pydantic's kinds of errors."""


def _fault(path: str, fault: Any, known: list[str]) -> str:
    # In a list the place is a position; a union adds the name of the branch, which is no key.
    unknown = fault["type"] == "unexpected_keyword_argument"
    where = ".".join(
        [path]
        + [str(part) for part in fault["loc"] if unknown or isinstance(part, int) or part in known]
    )
    inner = fault.get("ctx", {}).get("error")
    if isinstance(inner, ConfigError):
        return f"{where}.{inner}"
    if unknown:
        return f"unknown key {where}{did_you_mean(str(fault['loc'][-1]), known)}"
    if fault["type"] == "literal_error":
        return f"{where} is {fault['input']!r}; it must be {fault['ctx']['expected'].replace(chr(39), '')}"
    if fault["type"] in _BOUNDS:
        return f"{where} is {fault['input']!r}; it {_BOUNDS[fault['type']].format(**fault['ctx'])}"
    if fault["type"] in _WANTED:
        return f"{where} is {fault['input']!r}; it {_WANTED[fault['type']]}"
    return f"{where} is {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _together(values: dict[str, Any], faults: list[str]) -> None:
    """What no section can know alone."""
    from episodic.datasets.base import own
    from tasks.runtime import class_selection

    name, episodes, model = values["dataset"].name, values["episodes"], values["model"]
    module, config = registry("dataset")[name], values["dataset"].config
    chosen, train = values["algorithm"].name, values["train"]
    method = values["algorithm"].config
    if (
        not method.any_ways
        and method.labels == "episode"
        and train.ways not in (None, episodes.ways)
    ):
        faults.append(
            f"train.ways is {train.ways}; it must be null or episodes.ways ({episodes.ways}) for {chosen}, whose head has an output a class"
        )
    if getattr(module, "OWN", False) is True and values["dataset"].own_data is None:
        faults.append(
            f"dataset.source is {OWN_DATA}, which is empty: put your data there, or name it by python -m tasks.preset {name} --source PATH"
        )
        return
    if hasattr(module, "shape"):
        _regression(values, module, method, faults)
        return
    if train.vary_shots:
        faults.append(
            f"train.vary_shots is true; it must be false for {name}, whose tasks are drawn at one size"
        )
    if episodes.ways < 2:
        faults.append(f"episodes.ways is {episodes.ways}; it must be at least 2 for {name}")
    if train.ways == 1:
        faults.append(f"train.ways is 1; it must be null or at least 2 for {name}")
    try:
        limits = module.limits(config, values["dataset"].seed, **own(module, values["dataset"].own_data))
    except UserError as error:
        faults += str(error).splitlines()
        return
    if (features := getattr(config, "features", None)) is not None:
        suits = (
            ("textcnn",) if features.kind == "tokens" else ("bag", "mlp")
        )  # n-grams or embeddings
        if model.name not in (*suits, "module"):
            faults.append(
                f"model.name is {model.name!r}; it must be {' or '.join(suits)} for dataset.{name}.features.kind {features.kind}"
            )
            return
        if model.name == "textcnn" and model.config.tokens < features.size:
            said = f"must be at least dataset.{name}.features.size ({features.size})"
            faults.append(f"model.textcnn.tokens is {model.config.tokens}; it {said}")
    elif model.name in ("bag", "embeddings", "textcnn"):
        faults.append(
            f"model.name is {model.name!r}; it must be a model for images for {name}, such as conv4"
        )
        return
    try:
        model.config.build(limits.input, episodes.ways)
    except ConfigError as error:
        faults.append(f"model.{model.name}.{error}")
    training = "train" if train.shots else "episodes", train.shots or episodes.shots
    for (key, shots), section, queries in (
        (("episodes", episodes.shots), "episodes", episodes.queries),
        (training, "train", train.queries),
    ):
        if shots + queries > limits.examples:
            faults.append(
                f"{key}.shots + {section}.queries is {shots} + {queries} = {shots + queries}; it "
                f"must be at most {limits.examples}, the examples of a {name} class"
                + (f" ({limits.smallest})" if limits.smallest else "")
            )
    for split, section, within in (
        ("validation", "episodes", episodes.within_group),
        ("test", "episodes", episodes.within_group),
        ("train", "train", train.within_group),
    ):
        ways = (train.ways if split == "train" else None) or episodes.ways
        sizes = [
            n
            for group, n in limits.groups.get(split, {}).items()
            if split != "train" or group in (train.groups or (group,))
        ]
        if within and not limits.groups.get(split):
            faults.append(
                f"{section}.within_group is true; it must be false for {name}, whose classes have no groups"
            )
        elif within and sizes and max(sizes) < ways:
            key = "train" if split == "train" and train.ways else "episodes"
            of = "of train.groups" if split == "train" and train.groups else f"group of {name}"
            most = f"must be at most {max(sizes)}, the {split} classes of the largest {of}"
            faults.append(f"{key}.ways is {ways}; it {most}, with {section}.within_group")
    faults += class_selection.mistakes(train, name, train.ways or episodes.ways, limits)
    for split, classes in limits.classes.items():
        key, ways = (
            ("train", train.ways)
            if split == "train" and train.ways
            else ("episodes", episodes.ways)
        )
        if ways > classes:
            faults.append(
                f"{key}.ways is {ways}; it must be at most {classes}, the number of {split} classes of {name}"
            )


def _regression(values: dict[str, Any], module: Any, method: Any, faults: list[str]) -> None:
    """The same for tasks without classes."""
    from episodic.datasets.base import own
    from tasks.runtime import class_selection

    name, episodes, model = values["dataset"].name, values["episodes"], values["model"]
    chosen, train, config = values["algorithm"].name, values["train"], values["dataset"].config
    if not method.regression:
        faults.append(
            f"algorithm.name is {chosen!r}; it must be a method for regression for {name}, such as maml"
        )
    if episodes.ways != 1:
        faults.append(
            f"episodes.ways is {episodes.ways}; it must be 1 for {name}, which has no classes"
        )
    for key, within in (("episodes", episodes.within_group), ("train", train.within_group)):
        if within:
            faults.append(
                f"{key}.within_group is true; it must be false for {name}, which has no classes"
            )
    faults += class_selection.mistakes(train, name, 1, None)
    suits = ("embeddings",) if hasattr(config, "tokens") else ("mlp",)
    if model.name not in (*suits, "module"):
        examples = (
            "names and not numbers" if hasattr(config, "tokens") else "numbers and not images"
        )
        faults.append(
            f"model.name is {model.name!r}; it must be {suits[0]} for {name}, whose examples are {examples}"
        )
        return
    if hasattr(config, "least"):
        for section, shots in (("episodes", episodes.shots), ("train", train.shots or 0)):
            if shots >= config.least:
                faults.append(
                    f"{section}.shots is {shots}; it must be below dataset.{name}.least ({config.least}), the ratings of a user"
                )
    elif train.vary_shots:
        faults.append(
            f"train.vary_shots is true; it must be false for {name}, whose tasks are drawn at one size"
        )
    if model.name == "embeddings" and model.config.tokens < config.tokens:
        faults.append(
            f"model.embeddings.tokens is {model.config.tokens}; it must be at least dataset.{name}.tokens ({config.tokens})"
        )
        return
    try:
        shape = module.shape(config, **own(module, values["dataset"].own_data))
        model.config.build(shape, 1)
    except ConfigError as error:
        faults.append(f"{'dataset' if error.key == 'source' else f'model.{model.name}'}.{error}")
    except UserError as error:
        faults += str(error).splitlines()


def main() -> None:
    from tasks.runtime import stage

    parser = stage.parser(__doc__)
    parser.add_argument("--quiet", action="store_true", help="print nothing but mistakes")
    args = parser.parse_args()

    def body() -> None:
        params = parse(read_yaml(args.params), str(args.params))
        for section in () if args.quiet else ("device", "processes", *SECTIONS):
            print(f"{section}: {getattr(params, section)}")

    stage.run(body)


if __name__ == "__main__":
    main()
