"""Digests of files and of the project's code. `episodic.core.files` writes files."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

from episodic.core.files import atomic_folder, atomic_path, read_json, write_json, write_text

__all__ = [
    "ROOT",
    "atomic_folder",
    "atomic_path",
    "compute_code_digest",
    "compute_digest",
    "list_code_files",
    "read_json",
    "write_json",
    "write_text",
]

ROOT = Path(__file__).resolve().parents[2]


def compute_digest(*paths: Path) -> str:
    """Compute a SHA-256 digest of files and folders, by name and content.

    Returns:
        The first 16 hexadecimal digits.
    """
    total = hashlib.sha256()
    for path in paths:
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        for file in files:
            name = file.name if file == path else file.relative_to(path).as_posix()
            with file.open("rb") as stream:
                total.update(
                    f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode()
                )
    return total.hexdigest()[:16]


def list_code_files() -> list[Path]:
    """List the modules of the project that this process has imported, and their C++ sources."""
    names = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    files = {Path(name).resolve() for name in names if name}
    files |= {source for file in files if (source := file.with_suffix(".cpp")).exists()}
    return sorted(
        f
        for f in files
        if any(f.is_relative_to(ROOT / layer) for layer in ("episodic", "tasks", "benchmarks"))
    )


def compute_code_digest(others: Iterable[Path] = ()) -> str:
    """Compute the digest of the code in use.

    Args:
        others: Files in addition to those of `list_code_files`, such as a user's model.
    """
    total = hashlib.sha256()
    project_files = [(file.relative_to(ROOT).as_posix(), file) for file in list_code_files()]
    for name, file in project_files + [(file.name, file) for file in others]:
        total.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]
