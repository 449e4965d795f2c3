"""What code computed a number: the versions of the packages, and the commit of a checkout."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_GIT_SECONDS = 5


@cache
def versions() -> dict[str, str]:
    """Name the versions of cpc, torch and Python, and the commit where cpc runs from a git checkout.

    Returns:
        By name, the version. "commit" is missing where there is none; it ends in "-dirty" if tracked files differ.
    """
    found = {"cpc": _installed("cpc-audio"), "torch": _installed("torch"), "python": platform.python_version()}
    return found | ({"commit": commit} if (commit := _commit()) else {})


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # used from its folder, without installation
        return "not installed"


def _commit() -> str:
    """Name the commit of the checkout that this file is tracked in; empty if there is none."""
    here = Path(__file__).resolve()
    # The package may lie, untracked, inside the checkout of another project: in its virtual environment.
    if not _git(here.parent, "ls-files", here.name):
        return ""
    return _git(here.parent, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12")


def _git(folder: Path, *arguments: str) -> str:
    """Return what git prints; empty if it fails or is not installed."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_SECONDS).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
