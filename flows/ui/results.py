"""Results of a finished run in Prefect's UI: its scores, and the report's summary."""

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
        root: Root of the checkout.
        workspace: Folder that contains the outputs.
        experiment: Prefix of the keys of the artifacts.
        page: Path of the report in the checkout.
    """
    file = workspace / "reports/metrics.json"
    metrics = read_json(file) if file.exists() else None
    if isinstance(metrics, dict):  # stages of other repositories may write other files
        rows = [{"score": name, "value": value} for name, value in summarize(metrics)]
        create_table_artifact(
            rows,
            key=artifact_key(experiment, "result"),
            description=f"Result of {experiment or 'the run'}",
        )
    summary = workspace / "reports/summary/summary.md"
    if summary.exists():
        text = inline_images(summary)
        link = f"[Full report]({page_url(root, page)})\n\n" if page.exists() else ""
        create_markdown_artifact(
            link + text,
            key=artifact_key(experiment, "report"),
            description=text.splitlines()[0].lstrip("# "),
        )


def inline_images(file: Path) -> str:
    """Return the text of a Markdown file, with its SVG images embedded as data URLs."""

    def embed(match: re.Match[str]) -> str:
        path = file.parent / match[2]
        if not path.is_file():
            return match[0]
        data = base64.b64encode(path.read_bytes()).decode()
        return f"![{match[1]}](data:image/svg+xml;base64,{data})"

    return re.sub(r"!\[([^\]]*)\]\(([^)]+\.svg)\)", embed, file.read_text(encoding="utf-8"))
