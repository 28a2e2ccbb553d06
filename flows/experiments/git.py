"""Run Git commands, with an author even if the user has configured none."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tasks.runtime.stage import StageError


def run_git(folder: Path, *arguments: str, check: bool = True) -> str:
    """Run git in `folder` and return its output, or "" if it fails and `check` is off.

    Raises:
        StageError: The command failed. The message is that of git.
    """
    result = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env=os.environ | fallback_identity(folder),
        capture_output=True,
        text=True,
    )
    if not result.returncode:
        return result.stdout.strip()
    if check:
        lines = result.stderr.strip().splitlines()
        reason = lines[-1].removeprefix("fatal: ") if lines else "failed"
        raise StageError(f"git {arguments[0]}: {reason}")
    return ""


def fallback_identity(folder: Path) -> dict[str, str]:
    """Return environment variables with an author, or none if the user has configured one.

    DVC and `git stash` need an author for the commits that they create outside of branches.
    """
    if "GIT_AUTHOR_EMAIL" in os.environ:
        return {}
    command = ["git", "config", "user.email"]
    if subprocess.run(command, cwd=folder, capture_output=True).returncode == 0:
        return {}
    return {
        f"GIT_{role}_{field}": "episodic"
        for role in ("AUTHOR", "COMMITTER")
        for field in ("NAME", "EMAIL")
    }
