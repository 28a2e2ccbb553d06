"""Helpers of several test files: the checkout, Git and the C++ compiler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

COMPILER = shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(
    COMPILER is None, reason="the plan compiled needs a C++ compiler, and none is installed here"
)

ROOT = Path(__file__).resolve().parent.parent


def copy_checkout(folder: Path) -> Path:
    """Copy this checkout's tracked and new files to a clean Git repository, with no stage run."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/golden/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    (folder / "reports" / "metrics.json").unlink(missing_ok=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=checkout")
    return folder


def git(folder: Path, *args: str) -> str:
    """Run Git in `folder` as a test author, and return what it prints."""
    author_options = [
        "-c",
        "user.name=tester",
        "-c",
        "user.email=tester@example.org",
        "-c",
        "commit.gpgsign=false",
    ]
    return subprocess.run(
        ["git", *author_options, *args], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


class NoSynchronization(TorchDispatchMode):
    """Refuses operations that wait for a GPU, so that an iteration can be captured as a graph."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "equal"), f"{name} reads values"
        return function(*args, **(kwargs or {}))
