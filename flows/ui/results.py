"""What a finished run leaves on its page in Prefect's UI: its figures, and the report's summary with its pictures."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.server import pages
from flows.ui.progress import key
from tasks.runtime.files import read_json
from tasks.summary import summarise


def show(root: Path, workspace: Path, experiment: str, page: Path) -> None:
    """`workspace`: where the outputs lie; `experiment`: begins the artifacts' keys; `page`: the report, in the checkout `root`."""
    file = workspace / "reports/metrics.json"
    metrics = read_json(file) if file.exists() else None
    if isinstance(metrics, dict):  # another repository's stages may write something else
        figures = [{"what": name, "figure": figure} for name, figure in summarise(metrics)]
        create_table_artifact(
            figures,
            key=key(experiment, "result"),
            description=f"Result of {experiment or 'the run'}",
        )
    summary = workspace / "reports/summary/summary.md"
    if summary.exists():
        text = inlined(summary)
        link = f"[The whole report]({pages.address(root, page)})\n\n" if page.exists() else ""
        create_markdown_artifact(
            link + text,
            key=key(experiment, "report"),
            description=text.splitlines()[0].lstrip("# "),
        )


def inlined(file: Path) -> str:
    """Markdown whose pictures beside it become part of it."""

    def picture(found: re.Match[str]) -> str:
        path = file.parent / found[2]
        if not path.is_file():
            return found[0]
        return f"![{found[1]}](data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()})"

    return re.sub(r"!\[([^\]]*)\]\(([^)]+\.svg)\)", picture, file.read_text(encoding="utf-8"))
