"""The file dvc.lock of a revision: its stages, their outputs and their params."""

from __future__ import annotations

from functools import cache
from typing import Any

from tasks.params import merge_into, rename_keys


class _Scalar(str):
    """An unquoted scalar of dvc.lock, whose type follows from YAML's rules."""


def parse_yaml(content: bytes) -> Any:
    """Parse YAML 1.2 into plain values, as the stages read params.yaml."""
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(content)


def parse_lock(content: bytes | None) -> dict[str, Any]:
    """Return the stages of a dvc.lock with all scalars as text.

    As text, digests are not misread as numbers. This is also much faster than `parse_yaml`.
    """
    import yaml

    base: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # builds text, lists and mappings

    class Loader(base):
        def construct_scalar(self, node: Any) -> str:
            return node.value if node.style in ("'", '"', "|", ">") else _Scalar(node.value)

    # BaseLoader ignores tags, so it cannot create other objects.
    lock = (yaml.load(content, Loader) if content else None) or {}  # noqa: S506
    return lock.get("stages", {})


def read_params(stages: dict[str, Any]) -> dict[str, Any]:
    """Return the params of the stages, nested as in params.yaml, by their current names.

    Args:
        stages: The stages of a dvc.lock, which may record no params.
    """
    params: dict[str, Any] = {}
    # The stage report only repeats the params of other stages, and may be out of date.
    for name in sorted(stages, key=lambda name: name != "report"):
        recorded = stages[name].get("params", {}).get("params.yaml") or {}
        of_stage: dict[str, Any] = {}
        for key, value in recorded.items():
            for name in reversed(key.split(".")):
                value = {str(name): value}
            merge_into(of_stage, _convert_scalars(value))
        rename_keys(of_stage)
        merge_into(params, of_stage)
    return params


def _convert_scalars(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _convert_scalars(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_convert_scalars(child) for child in value]
    return _parse_scalar(str(value)) if isinstance(value, _Scalar) else value


@cache
def _parse_scalar(text: str) -> Any:
    return parse_yaml(text.encode())
