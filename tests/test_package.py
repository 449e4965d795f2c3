"""The sdist and the wheel: built from a tagged commit, each installs and runs without the repository."""

import os
import shutil
import site
import subprocess
import sys
import venv
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import TINY, make_corpus

pytest.importorskip("build", reason="pip install -e '.[test]'")
pytest.importorskip("setuptools_scm", reason="pip install -e '.[test]'")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
CONFIG = f"""
device = "cpu"
{TINY}num_updates = 4
"""


def output(*command, **how) -> str:
    """Run a command that must succeed, and return what it prints."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=outside, **how)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """Build the sdist of a tagged copy of the repository, and from the sdist, which has no tags, the wheel."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("there is no git, or this is no clone")
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in output("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    git = partial(output, "git", "-c", "user.name=a", "-c", "user.email=a@b.c", cwd=source)
    for words in ("init -q", "add .", "commit -q -m all", "tag v7.8.9"):
        git(*words.split())
    output(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, source)
    return {"sdist": dist / "cpc_audio-7.8.9.tar.gz", "wheel": dist / "cpc_audio-7.8.9-py3-none-any.whl"}


@pytest.fixture(scope="module", params=["sdist", "wheel"])
def programs(request, built, tmp_path_factory) -> Path:
    """Install one of the two in a fresh environment that sees the dependencies of this one; return its programs."""
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder, symlinks=os.name != "nt")
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    own = Path(output(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (own / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "install", "-q", "--no-index")
    output(*pip, "--no-deps", "--no-build-isolation", "--ignore-installed", built[request.param])
    return programs


def test_what_is_installed_has_the_version_of_the_tag_and_all_its_files(programs, tmp_path):
    assert output(programs / "cpc", "--version", cwd=tmp_path) == "cpc 7.8.9\n"
    code = "import cpc; print(cpc.__version__, *cpc.__path__)"
    version, place = output(programs / "python", "-c", code, cwd=tmp_path).split(maxsplit=1)
    assert version == "7.8.9"
    assert Path(place.strip()).is_relative_to(programs.parent)
    installed = {path.relative_to(place.strip()) for path in Path(place.strip()).rglob("*") if path.is_file()}
    ours = {path.relative_to(ROOT / "cpc") for path in (ROOT / "cpc").rglob("*") if path.is_file()}
    assert {path for path in ours - installed if "__pycache__" not in path.parts} == set()


def test_what_is_installed_goes_from_sound_files_to_a_page(programs, tmp_path):
    cpc = partial(output, programs / "cpc", cwd=tmp_path)
    make_corpus(tmp_path / "sounds")
    (tmp_path / "tiny.toml").write_text(CONFIG)
    for words in (
        "manifest sounds -o manifest.csv --split utterance --fractions .6 .2 .2",
        "train tiny.toml --data.manifest manifest.csv --out run",
        "features run --out features --layer c",
        "probe speaker features --out run/probes/speaker.json",
        "report run",
    ):
        cpc(*words.split())
    assert "<html" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "small" in cpc("train", "--help")
