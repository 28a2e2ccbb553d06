"""Hooks of mkdocs.yml: formulas in MathML, and content that is generated from the code.

A marker such as `<!-- generated: params -->` is replaced by the function of that name in GENERATED.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import json
import logging
import os
import re
import runpy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import griffe
from latex2mathml.converter import convert
from mkdocs.structure.files import File
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
LOG = logging.getLogger("mkdocs.plugins.episodic")

PROGRAMS = {
    "The pipeline": ("flows.pipeline", "flows.sweep", "flows.compare", "flows.ui"),
    "The stages": (
        "tasks.download",
        "tasks.episodes",
        "tasks.train",
        "tasks.evaluate",
        "tasks.report",
    ),
    "Configuration and comparisons": (
        "tasks.params",
        "tasks.preset",
        "tasks.schema",
        "tasks.compare",
        "tasks.summary",
    ),
    "Benchmarks": (
        "benchmarks.speed.run",
        "benchmarks.speed.plan",
        "benchmarks.speed.scale",
        "benchmarks.speed.sweep",
        "benchmarks.speed.time_to_accuracy",
        "benchmarks.gpu",
    ),
}
"""Modules whose `--help` is shown on the command-line page, by heading."""


IMAGES = {
    "speed.png": "benchmarks/results/speed.png",
    "cost.png": "benchmarks/results/cost.png",
    "method-benchmark.svg": "benchmarks/methods/results/omniglot.svg",
    "method-benchmark-cifar-fs.svg": "benchmarks/methods/results/cifar_fs.svg",
    "method-benchmark-cifar-fs-training.svg": "benchmarks/methods/results/cifar_fs-training.svg",
    "method-benchmark-fc100.svg": "benchmarks/methods/results/fc100.svg",
    "method-benchmark-fc100-training.svg": "benchmarks/methods/results/fc100-training.svg",
    "cross-domain.svg": "benchmarks/cross_domain/results/results.svg",
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace formulas and markers of a page."""
    markdown = re.sub(r"```math\n(.*?)```", _display_formula, markdown, flags=re.S)
    markdown = re.sub(r"\$`(.+?)`\$", lambda found: f"<span>{convert(found[1])}</span>", markdown)
    return re.sub(r"<!-- generated: (\w+) -->", lambda found: GENERATED[found[1]](), markdown)


def on_files(files: Any, config: Any) -> None:
    """Add the images that benchmarks write to their own folders."""
    for name, source in IMAGES.items():
        files.append(File.generated(config, f"images/{name}", abs_src_path=str(ROOT / source)))


def on_config(config: Any) -> None:
    """Warn of public names without a docstring. In a strict build, this is an error."""
    for path in sorted(_public_names_without_docstring(_library())):
        LOG.warning(f"{path} has no docstring")


def _display_formula(found: re.Match[str]) -> str:
    return f'<div class="formula">{convert(" ".join(found[1].split()), display="block")}</div>'


@functools.cache
def _library() -> griffe.Module:
    return cast(griffe.Module, griffe.load("episodic", search_paths=[str(ROOT)]))


def _public_names_without_docstring(scope: griffe.Object) -> Iterator[str]:
    for member in scope.members.values():
        if member.is_alias or not member.is_public or member.name.startswith("__"):
            continue
        if member.is_module or member.is_class:
            yield from _public_names_without_docstring(member)  # type: ignore[arg-type]
        if member.is_attribute or (scope.is_class and _is_documented_by_a_base(scope, member)):
            continue
        if not member.has_docstring:
            yield member.path


def _is_documented_by_a_base(scope: Any, member: Any) -> bool:
    return any(
        base.members[member.name].has_docstring
        for base in scope.mro()
        if member.name in base.members
    )


# --- params.yaml ---


def generate_params() -> str:
    """Return a table per section of conf/params.schema.json, in the order of params.yaml."""
    schema = json.loads((ROOT / "conf/params.schema.json").read_text(encoding="utf-8"))
    order = YAML().load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    sections = {key: schema["properties"][key] for key in order}
    top = {key: section for key, section in sections.items() if "properties" not in section}
    text = ["## Top level\n", _params_table("", top)]
    for name in [key for key in order if key not in top]:
        text += _params_section(name, sections[name], order[name], level=2)
    return "\n".join(text)


def _params_section(path: str, section: dict[str, Any], order: Any, level: int) -> list[str]:
    keys = {key: section["properties"][key] for key in order if key in section["properties"]}
    scalars = {key: value for key, value in keys.items() if "properties" not in value}
    described = section.get("description", "")
    text = [f"\n{'#' * level} `{path}`\n", f"{described[:1].upper()}{described[1:]}\n"]
    if scalars:
        text.append(_params_table(path, scalars))
    for key, value in keys.items():
        if key not in scalars:
            text += _params_section(f"{path}.{key}", value, order[key], level + 1)
    return text


def _params_table(path: str, keys: dict[str, Any]) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, value in keys.items():
        name = f"{path}.{key}" if path else key
        cells = (
            f"`{name}`",
            _describe_type(value),
            f"`{json.dumps(value['default'])}`" if "default" in value else "",
            value.get("description", ""),
        )
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _describe_type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_describe_type(choice) for choice in schema["anyOf"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    words = " or ".join("mapping" if kind == "object" else kind for kind in kinds)
    if words == "array":
        inner = schema.get("items") or schema["prefixItems"][0]
        count = f"{schema['maxItems']} of " if "maxItems" in schema else ""
        return f"list ({count}{_describe_type(inner)})"
    bounds = (
        ("exclusiveMinimum", "greater than"),
        ("minimum", "at least"),
        ("exclusiveMaximum", "less than"),
        ("maximum", "at most"),
    )
    return ", ".join([words, *(f"{word} {schema[k]:g}" for k, word in bounds if k in schema)])


# --- The command line ---


@functools.cache
def generate_command_line() -> str:
    """Return the help texts of `make`, of `episodic` and its commands, and of all programs."""
    text = ["## `make`\n", _console(_make_targets()), "\n## `episodic`\n"]
    text += [_console(_episodic_help())]
    text += [f"\n### `episodic {name}`\n\n{_console(_episodic_help(name))}" for name in _commands()]
    for heading, modules in PROGRAMS.items():
        text.append(f"\n## {heading}\n")
        text += [f"\n### `python -m {name}`\n\n{_console(_module_help(name))}" for name in modules]
    return "\n".join(text)


def _console(text: str) -> str:
    return f"```text\n{text.strip()}\n```\n"


def _make_targets() -> str:
    targets = re.findall(r"^([a-z-]+):.*?## (.*)$", (ROOT / "Makefile").read_text(), re.M)
    return "\n".join(f"make {name:12} {words}" for name, words in targets)


def _typer_group() -> Any:
    import typer

    from episodic.cli import app

    app.rich_markup_mode = None  # plain text, without boxes
    return typer.main.get_command(app)


def _commands() -> list[str]:
    return list(_typer_group().commands)


def _episodic_help(*command: str) -> str:
    with _captured() as output, contextlib.suppress(SystemExit):
        _typer_group().main([*command, "--help"], prog_name="episodic")
    return output.getvalue()


def _module_help(module: str) -> str:
    with _captured(f"python -m {module}", "--help") as output, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the module may have been imported by another one
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit:
            pass
        except ImportError as error:
            LOG.warning(f"python -m {module} --help: {error}")
    return output.getvalue()


@contextlib.contextmanager
def _captured(*argv: str) -> Iterator[io.StringIO]:
    """Capture standard output, 96 columns wide, with the repository root on the import path."""
    output, before = io.StringIO(), (sys.argv, sys.path[:], dict(os.environ))
    sys.argv, sys.path = [*argv], [str(ROOT), *sys.path]
    os.environ["COLUMNS"] = os.environ["TERMINAL_WIDTH"] = "96"
    try:
        with contextlib.redirect_stdout(output):
            yield output
    finally:
        sys.argv, sys.path[:] = before[0], before[1]
        os.environ.clear()
        os.environ.update(before[2])


def generate_summary() -> str:
    """Return the output of `make run` for the committed metrics of the default run."""
    arguments = ("--metrics", "reports/metrics.json", "--report", "reports/report.html")
    with _captured("python -m tasks.summary", *arguments) as output:
        runpy.run_module("tasks.summary", run_name="__main__")
    return _console(output.getvalue())


# --- Deviations from the papers ---


def generate_deviations() -> str:
    """Return a section per algorithm with its paper and deviations, from the docstring."""
    text = []
    for path in sorted((ROOT / "episodic/algorithms").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        docs = {node.name: ast.get_docstring(node) or "" for node in classes}
        for name, doc in docs.items():
            differs = re.search(r"Differs from the paper: (.*?)(\n\n|\Z)", doc, re.S)
            source = re.search(r"Source: (.*?)(\n\n|\Z)", doc, re.S)
            if differs is None or source is None:
                continue
            paper = " ".join(source[1].split())
            paper = re.sub(r"(https?://\S+?)([.,)]*)(\s|$)", r"<\1>\2\3", paper)
            sentence = " ".join(differs[1].split())
            sentence = f"{sentence[:1].upper()}{sentence[1:]}"
            module = f"episodic.algorithms.{path.stem}"
            text.append(f"## [`{path.stem}`][{module}.{name}]\n\n{paper}\n\n{sentence}\n")
    return "\n".join(text)


# --- The API ---


def generate_public_names() -> str:
    """Return a table of the names that can be imported from `episodic`, by package."""
    names: dict[str, list[str]] = {}
    tree = ast.parse((ROOT / "episodic/__init__.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("episodic."):
            package = str(node.module).split(".")[1]
            links = [f"[`{alias.name}`][{node.module}.{alias.name}]" for alias in node.names]
            names.setdefault(package, []).extend(links)
    rows = [f"| [{p}]({p}.md) | {', '.join(links)} |" for p, links in sorted(names.items())]
    return "| package | names |\n|---|---|\n" + "\n".join(rows) + "\n"


GENERATED = {
    "params": generate_params,
    "command_line": generate_command_line,
    "deviations": generate_deviations,
    "public_names": generate_public_names,
    "summary": generate_summary,
}
