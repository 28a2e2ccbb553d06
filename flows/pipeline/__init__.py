"""The stages of dvc.yaml as a Prefect flow.

Run it as `python -m flows.pipeline`, or call it after `from flows.pipeline import pipeline`.
The flow is imported on first use, after the command line has set Prefect's environment.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.pipeline.flow import pipeline

__all__ = ["pipeline"]


def __getattr__(name: str) -> Any:
    if name == "pipeline":
        from flows.pipeline.flow import pipeline

        return pipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
