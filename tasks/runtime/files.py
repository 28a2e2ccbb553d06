"""Files known by their digests; how they are written is `episodic.core.files`."""

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
    "code_digest",
    "code_files",
    "digest",
    "read_json",
    "write_json",
    "write_text",
]

ROOT = Path(__file__).resolve().parents[2]


def digest(*paths: Path) -> str:
    """SHA-256 over files and folders, by name and content; 16 hexadecimal digits."""
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


def code_files() -> list[Path]:
    """The project's own modules that this process has imported, and what they compile, sorted."""
    named = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    files = {Path(name).resolve() for name in named if name}
    files |= {source for file in files if (source := file.with_suffix(".cpp")).exists()}
    return sorted(
        f
        for f in files
        if any(f.is_relative_to(ROOT / layer) for layer in ("episodic", "tasks", "benchmarks"))
    )


def code_digest(others: Iterable[Path] = ()) -> str:
    """Digest of the code in use: `code_files`, and `others` such as a user's network."""
    total = hashlib.sha256()
    own = [(file.relative_to(ROOT).as_posix(), file) for file in code_files()]
    for name, file in own + [(file.name, file) for file in others]:
        total.update(f"{name}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]
