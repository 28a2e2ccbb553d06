"""Names of configurations: the settings in which they differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any

from tasks.experiments import Experiment
from tasks.params import default_params, merge_into
from tasks.reports.kit.trees import flatten, select_used

CODE = "training code"
"""Key of the digest of the training code, which counts as a setting.

The same params with different code are a different configuration.
"""

SEED = "train.seed"

MAX_LENGTH = 100
"""Length of the longest name that is made of settings."""

WITHOUT_EFFECT = ("report.", "processes", "device")
"""Prefixes of the keys of settings that do not affect scores."""


def select_effective_settings(experiment: Experiment) -> dict[str, Any]:
    """Return the settings that may change the score, by dotted key, and the training code."""
    settings = complete_params(experiment.params)
    path = f"dataset.{settings['dataset.name']}.features.path"
    if path in settings:
        del settings[path]  # which encoder is there counts, not where it is
        if encoder := experiment.config["inputs"].get("encoder"):
            of_encoder = path.removesuffix("path") + "encoder"
            settings[of_encoder] = f"{encoder['name']} ({encoder['digest'][:7]})"
    return settings | {CODE: experiment.config.get("code_digest", "")}


def complete_params(params: dict[str, Any]) -> dict[str, Any]:
    """Return the params that may change the score, by dotted key.

    Keys missing in an older file have their default values, as in a run.
    """
    complete = deepcopy(_default_params())
    merge_into(complete, params)
    return {
        key: value
        for key, value in flatten(select_used(complete)).items()
        if not key.startswith(WITHOUT_EFFECT)
    }


@cache
def _default_params() -> dict[str, Any]:
    return json.loads(json.dumps(default_params()))  # lists instead of tuples, as in a file


def build_settings_key(settings: dict[str, Any], ignored: Sequence[str]) -> str:
    """Return a key that is equal for settings that differ at most in the `ignored` ones."""
    return repr(sorted((k, repr(v)) for k, v in settings.items() if k not in ignored))


def find_differing_keys(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Return the keys with several values among the configurations that have them.

    Settings that only one algorithm has follow from its name. The training code counts only if
    nothing else distinguishes two configurations, since every algorithm has its own code.
    """
    keys = list(dict.fromkeys(key for values in settings for key in values))
    keys = [
        key
        for key in keys
        if key not in (SEED, CODE)
        and len({repr(values[key]) for values in settings if key in values}) > 1
    ]
    labels = {_label(values, keys) for values in settings}
    return keys + [CODE] * (len(labels) < len(settings))


def name_configurations(
    settings: Sequence[dict[str, Any]], keys: Sequence[str], fallbacks: Sequence[str]
) -> list[str]:
    """Return a readable name for each configuration: the values of the settings that differ.

    Args:
        settings: Settings of each configuration.
        keys: The settings that differ.
        fallbacks: Name of an experiment of each configuration, used if no setting differs, or if so
            many differ that the names would be too long to read.
    """
    if len(settings) == 1:
        return list(fallbacks)
    labels = [_label(values, [key for key in keys if key != CODE]) for values in settings]
    if max(map(len, labels)) > MAX_LENGTH:
        return list(fallbacks)
    names = []
    for label, values, fallback in zip(labels, settings, fallbacks, strict=True):
        if not label:
            names.append(fallback)
        elif labels.count(label) > 1:
            names.append(f"{label}, code {values[CODE][:7]}")
        else:
            names.append(label)
    return names


def _label(values: dict[str, Any], keys: Sequence[str]) -> str:
    """Return a label such as `protonet, meta_lr=0.01`."""
    labels = []
    for key in keys:
        if key in values:
            last = key.rpartition(".")[2]
            text = format_setting(values[key], none="null")
            labels.append(text if last == "name" else f"{last}={text}")
    return ", ".join(labels)


def format_setting(value: Any, none: str = "") -> str:
    """Format the value of a setting as in YAML."""
    if value is None:
        return none
    return str(value).lower() if isinstance(value, bool) else str(value)
