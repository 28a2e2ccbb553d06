"""Self-contained pages: templates, escaping, and a content security policy without requests."""

from __future__ import annotations

import base64
import hashlib
import html as markup
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tasks.reports.kit import charts
from tasks.reports.kit.section import Figure

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"


def render_page(
    name: str,
    context: Mapping[str, Any],
    figures: Sequence[Figure],
    svgs: Mapping[str, str],
    scripts: Sequence[str] = (),
) -> str:
    """Render an HTML page.

    Args:
        name: File name of the template.
        context: Its variables.
        figures: The charts of the page.
        svgs: Each chart as an SVG, for readers without scripts.
        scripts: Scripts of this page in addition to report.js.
    """
    import vl_convert

    embedded = [
        embed_script(vl_convert.javascript_bundle()),  # type: ignore[call-arg]
        *(embed_script(read_template(file)) for file in ("report.js", *scripts)),
    ]
    shared = {
        "figures": figures,
        "svgs": {key: encode_svg(svg) for key, svg in svgs.items()},
        "palette": charts.PALETTE,
        "config": charts.CONFIG,
        "css": Markup(read_template("report.css")),  # noqa: S704 (part of the project)
        "scripts": embedded,
        "policy": build_security_policy(embedded),
    }
    return render(name, dict(context) | shared)


def read_template(name: str) -> str:
    """Read a template file."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def render(name: str, context: dict[str, Any]) -> str:
    """Render a template with all values escaped for HTML and, in Markdown, for Markdown."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=escape_markdown if name.endswith(".md.j2") else None,
    )
    return environment.get_template(name).render(context)


def escape_markdown(value: Any) -> Any:
    """Return text with all characters escaped that are special in Markdown or HTML."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    line = markup.escape(re.sub(r"[ \t\r\n]+", " ", value.strip()), quote=False)
    return Markup(re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", line))  # noqa: S704 (escaped here)


def embed_script(text: str) -> Markup:
    """Return a script for embedding in a page, with closing script tags escaped."""
    escaped = re.sub(r"</(script)", r"<\\/\1", text.replace("\r\n", "\n"), flags=re.IGNORECASE)
    return Markup(escaped.strip())  # noqa: S704 (code of the project and of Vega)


def build_security_policy(scripts: list[Markup]) -> str:
    """Return a content security policy: only these scripts, embedded images, and no requests."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}; "
        "base-uri 'none'; form-action 'none'"
    )


def encode_svg(svg: str) -> str:
    """Return an SVG as a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
