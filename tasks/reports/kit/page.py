"""A self-contained page: templates, escaping, scripts that a content security policy knows by their hash, no request to anywhere."""

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


def html(
    name: str,
    context: Mapping[str, Any],
    figures: Sequence[Figure],
    drawn: Mapping[str, str],
    also: Sequence[str] = (),
) -> str:
    """The page by template `name`; drawn: each figure as SVG, for readers without scripts; also: scripts of its own beside report.js."""
    import vl_convert

    scripts = [
        script(vl_convert.javascript_bundle()),  # type: ignore[call-arg]
        *(script(template(file)) for file in ("report.js", *also)),
    ]
    shared = {
        "figures": figures,
        "drawn": {key: data_uri(picture) for key, picture in drawn.items()},
        "palette": charts.PALETTE,
        "config": charts.CONFIG,
        "css": Markup(template("report.css")),  # noqa: S704 (our own file)
        "scripts": scripts,
        "policy": policy(scripts),
    }
    return render(name, dict(context) | shared)


def template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def render(name: str, context: dict[str, Any]) -> str:
    """Every value is escaped for HTML; in Markdown also what Markdown would read as more than text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_markdown if name.endswith(".md.j2") else None,
    )
    return environment.get_template(name).render(context)


def _markdown(value: Any) -> Any:
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    line = markup.escape(re.sub(r"[ \t\r\n]+", " ", value.strip()), quote=False)
    return Markup(re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", line))  # noqa: S704 (escaped in this very line)


def script(text: str) -> Markup:
    """A script to stand in a page: nothing in it ends the element."""
    harmless = re.sub(r"</(script)", r"<\\/\1", text.replace("\r\n", "\n"), flags=re.IGNORECASE)
    return Markup(harmless.strip())  # noqa: S704 (the project's and Vega's own code)


def policy(scripts: list[Markup]) -> str:
    """A content security policy: these scripts alone, pictures from the page itself, no request to anywhere."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'; form-action 'none'"


def data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
