"""The version of the running code: its release and, in a git checkout, its commit."""

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def code_version() -> str:
    """Returns the release, such as `0.1.0`; in a git checkout followed by `+` and the commit."""
    release = version("mergesweep")
    commit = _git_commit(Path(__file__).resolve().parents[2])
    return f"{release}+{commit}" if commit else release


def _git_commit(root: Path) -> str:
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 fixed
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
