"""The experiments of a sweep file as a Prefect flow.

Run it as `python -m flows.sweep FILE`, or call it after `from flows.sweep import sweep`.
The flow is imported on first use, after the command line has set Prefect's environment.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.sweep.flow import sweep

__all__ = ["sweep"]


def __getattr__(name: str) -> Any:
    if name == "sweep":
        from flows.sweep.flow import sweep

        return sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
