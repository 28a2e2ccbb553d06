"""The file dvc.lock of a revision: its stages, their outputs, and the params that they ran with."""

from __future__ import annotations

from functools import cache
from typing import Any

from tasks.params import rename_keys
from tasks.preset import merge_into


class _Scalar(str):
    """A scalar of dvc.lock without quotes, whose type follows from YAML's rules."""


def parse_yaml(content: bytes) -> Any:
    """Parse YAML 1.2 into plain values, as the stages read params.yaml."""
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(content)


def parse_lock(content: bytes | None) -> dict[str, Any]:
    """Return the stages of a dvc.lock with all scalars as text.

    Reading text keeps the digests as they are, whatever a version of YAML makes of them. It is
    also much faster than `parse_yaml`.
    """
    import yaml

    base: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # builds text, lists and mappings

    class Loader(base):
        def construct_scalar(self, node: Any) -> str:
            return node.value if node.style in ("'", '"', "|", ">") else _Scalar(node.value)

    lock = (yaml.load(content, Loader) if content else None) or {}  # noqa: S506
    return lock.get("stages", {})


def read_params(stages: dict[str, Any]) -> dict[str, Any]:
    """Return the params that stages ran with, as nested as in params.yaml, by their present names.

    Args:
        stages: The stages of a dvc.lock, which may record no params.
    """
    params: dict[str, Any] = {}
    # The stage report only repeats the params of the others, and may not have run since.
    for name in sorted(stages, key=lambda name: name != "report"):
        recorded = stages[name].get("params", {}).get("params.yaml") or {}
        of_stage: dict[str, Any] = {}
        for key, value in recorded.items():
            for part in reversed(key.split(".")):
                value = {str(part): value}
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
