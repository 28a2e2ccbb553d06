"""What a finished run publishes in Prefect's UI: its figures, and the report's summary."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.server.pages import page_url
from flows.ui.progress import artifact_key
from tasks.runtime.files import read_json
from tasks.summary import summarize


def publish_results(root: Path, workspace: Path, experiment: str, page: Path) -> None:
    """Create the artifacts of a finished run.

    Args:
        root: The checkout.
        workspace: Where the outputs are.
        experiment: Prefix of the artifacts' keys.
        page: The report, in the checkout.
    """
    file = workspace / "reports/metrics.json"
    metrics = read_json(file) if file.exists() else None
    if isinstance(metrics, dict):  # stages of other repositories may write something else
        figures = [{"what": name, "figure": figure} for name, figure in summarize(metrics)]
        create_table_artifact(
            figures,
            key=artifact_key(experiment, "result"),
            description=f"Result of {experiment or 'the run'}",
        )
    summary = workspace / "reports/summary/summary.md"
    if summary.exists():
        text = inline_pictures(summary)
        link = f"[Full report]({page_url(root, page)})\n\n" if page.exists() else ""
        create_markdown_artifact(
            link + text,
            key=artifact_key(experiment, "report"),
            description=text.splitlines()[0].lstrip("# "),
        )


def inline_pictures(file: Path) -> str:
    """Return a Markdown file with its SVG pictures embedded as data URLs."""

    def embed(match: re.Match[str]) -> str:
        path = file.parent / match[2]
        if not path.is_file():
            return match[0]
        data = base64.b64encode(path.read_bytes()).decode()
        return f"![{match[1]}](data:image/svg+xml;base64,{data})"

    return re.sub(r"!\[([^\]]*)\]\(([^)]+\.svg)\)", embed, file.read_text(encoding="utf-8"))
