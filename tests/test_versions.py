"""Results and runs name the code that computed them."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import cpc.versions
from cpc.versions import versions

HERE = Path(cpc.versions.__file__)


def test_versions_are_those_of_the_installed_packages():
    assert versions()["torch"] == version("torch")
    assert versions()["cpc"] == version("cpc-audio")


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here")
def test_the_commit_is_that_of_the_checkout_in_which_the_package_is_tracked(tmp_path):
    """A package that lies untracked in another project's checkout, as in its virtual environment, has none."""
    (tmp_path / "site").mkdir()
    shutil.copy(HERE, tmp_path / "site" / "versions.py")

    def found() -> str:
        script = "import versions; print(versions.versions().get('commit', 'none'))"
        done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path / "site", capture_output=True, text=True)
        return done.stdout.strip()

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True).stdout.strip()

    assert found() == "none"
    git("init")
    git("commit", "--allow-empty", "-m", "of another project")
    assert found() == "none"
    git("add", "site/versions.py")
    git("commit", "-m", "tracked")
    commit = git("rev-parse", "--short=12", "HEAD")
    assert found() == commit
    with (tmp_path / "site" / "versions.py").open("a") as file:
        file.write("# changed\n")
    assert found() == f"{commit}-dirty"
