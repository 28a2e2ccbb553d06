"""The comparison of experiments as a Prefect flow.

Run it as `python -m flows.compare`, or call it after `from flows.compare import compare`.
The flow is imported on first use, after the command line has set Prefect's environment.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.compare.flow import compare

__all__ = ["compare"]


def __getattr__(name: str) -> Any:
    if name == "compare":
        from flows.compare.flow import compare

        return compare
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
