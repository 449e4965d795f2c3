"""What the documentation shows can be run: the tree, the command lines, the flags and the Python examples."""

import contextlib
import functools
import io
import re
import shlex
from pathlib import Path

import pytest
import torch
import tyro

from cpc.cli import main
from cpc.config import Config
from cpc.runs import build_model, save_weights
from tests.bench.__main__ import TABLES
from tests.conftest import write_sound
from tests.faults.__main__ import ROWS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = ["README.md", "CONTRIBUTING.md", "data/README.md", "tests/bench/README.md"]
PAGES += sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("recipes/*/*.md"))
STAGES = ("manifest", "align", "train", "design", "import", "export", "doctor", "features", "probe", "ablate", "report")
STAGES += ("table",)
EMBEDDINGS = ("query", "positive", "image", "text", "view_1", "view_2", "embeddings")  # in the README's examples
FLAGS_OF_OTHERS = {"--nproc-per-node", "--check"}  # torchrun, ruff format


# --- the tree


def tree_of(text):
    """Read the paths of the files in an indented tree."""
    files, folders = [], []
    for line in text.splitlines():
        depth, name = len(line) - len(line.lstrip()), line.split()[0]
        folders = [(d, folder) for d, folder in folders if d < depth]
        if name.endswith("/"):
            folders.append((depth, name))
        else:
            files.append("".join(folder for _, folder in folders) + name)
    return files


def test_the_tree_has_one_line_for_each_file_of_the_package():
    """The doors of the rooms are the exception: the room's own line describes them."""
    block = re.search(r"(?m)^    cpc/(?:.*\n)*?(?=^    recipes/)", README)
    paths = [path for path in (ROOT / "cpc").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    doors = {path for path in paths if path.name == "__init__.py" and path.parent.name != "cpc"}
    assert sorted(tree_of(block[0])) == sorted(path.relative_to(ROOT).as_posix() for path in set(paths) - doors)


# --- command lines


def commands_of(page):
    """Collect the command lines in a page's indented blocks, as words."""
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = []
    for line in re.findall(r"(?m)^    (.*)", text):
        for part in line.split(" && "):
            if re.match(r"(cpc \w+|python \S+) ", part + " "):
                optional = re.sub(r"\[(--[^]]*)\]", r"\1", part.removesuffix(" …"))
                commands.append(shlex.split(optional, comments=True))
    return commands


COMMANDS = [(page, words) for page in PAGES for words in commands_of(page)]
COMMANDS += [("README.md", shlex.split(line)) for line in re.findall(r"torchrun.* -m (cpc train [^`]+)`", README)]


def cases(program):
    found = [case for case in COMMANDS if case[1][0] == program]
    return pytest.mark.parametrize(
        ("page", "words"), found, ids=[f"{page}: {' '.join(words)}" for page, words in found]
    )


def test_the_readme_shows_every_stage():
    shown = {words[1] for page, words in COMMANDS if page == "README.md" and words[0] == "cpc"}
    assert shown == {*STAGES} - {"ablate", "design", "import", "export"}
    assert "`cpc ablate " in README
    assert "`cpc design " in README
    assert "`cpc import " in README
    assert "`cpc export " in README


@cases("cpc")
def test_the_command_line_accepts_each_command(page, words, monkeypatch):
    """Each documented command parses; nothing is run."""
    parse, parsed = tyro.extras.subcommand_cli_from_dict, []

    def record(command):
        @functools.wraps(command)
        def run(*args, **options):
            parsed.append(command.__name__)

        return run

    def without_running(commands, **options):
        parse({name: record(command) for name, command in commands.items()}, **options)

    monkeypatch.setattr(tyro.extras, "subcommand_cli_from_dict", without_running)
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.chdir(ROOT)
    main()
    assert parsed == [words[1]]


@cases("python")
def test_a_script_exists_and_has_each_flag(page, words):
    if words[1:3] == ["-m", "tests.bench"]:
        assert words[3] in TABLES
        script = ROOT / "tests" / "bench" / "__main__.py"
    elif words[1:3] == ["-m", "tests.faults"]:
        assert {word for word in words[3:4] if not word.startswith("-")} <= set(ROWS)
        script = ROOT / "tests" / "faults" / "__main__.py"
    elif words[1:3] in (["-m", "venv"], ["-m", "build"]):
        return
    else:
        script = ROOT / words[1]
    source = script.read_text(encoding="utf-8")
    assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []


@functools.cache
def flags_of_commands():
    """Collect the flags of all stages from their help texts."""
    flags = set()
    for stage in STAGES:
        text = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
            patch.setattr("sys.argv", ["cpc", stage, "--help"])
            with contextlib.suppress(SystemExit):
                main()
        flags |= set(re.findall(r"--[a-z][\w.-]*", text.getvalue()))
    return flags


@pytest.mark.parametrize("page", PAGES)
def test_each_flag_that_a_page_names_exists(page):
    folder = (ROOT / page).parent
    scripts = [ROOT / "tests" / "bench" / "__main__.py", *(folder.glob("*.py") if folder != ROOT else ())]
    scripts += [ROOT / "recipes" / "librispeech" / "run.py"] if page == "data/README.md" else []
    sources = "".join(path.read_text(encoding="utf-8") for path in scripts)
    known = flags_of_commands() | FLAGS_OF_OTHERS | set(re.findall(r'"(--[a-z][\w-]*)"', sources))
    prose = re.sub(r"(?m)^    .*", "", (ROOT / page).read_text(encoding="utf-8"))
    inline = " ".join(re.findall(r"`([^`]+)`", prose))
    assert set(re.findall(r"(?<![\w-])--[a-zA-Z][\w.-]*", inline)) - known == set()


@pytest.mark.parametrize("page", PAGES)
def test_each_path_that_a_page_names_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:cpc|recipes|tests|data|\.github|\.ci)/[\w./-]*)`", text))
    named |= set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", text))
    folder = (ROOT / page).parent
    assert {path for path in named if not (ROOT / path).exists() and not (folder / path).exists()} == set()


def test_the_light_ci_job_names_existing_tests():
    named = re.findall(r"tests/\w+\.py", (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_citation_has_the_version_of_the_newest_section_of_the_changelog():
    newest = re.search(r"\n## \[([\d.]+)\] - ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert f"\nversion: {newest[1]}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


# --- Python


def test_the_python_examples_run(tmp_path):
    """They run in order and in one namespace, with a random model in place of the trained one."""
    torch.manual_seed(0)
    save_weights(tmp_path / "best.safetensors", Config(), build_model(Config()))
    names = {name: torch.randn(4, 16) for name in EMBEDDINGS}
    names |= {"torch": torch, "waveforms": torch.randn(2, 20480), "windows": torch.randn(2, 20480)}
    names |= {"speaker": [0, 1], "utterance": [0, 1]}
    write_sound(tmp_path / "corpus" / "274" / "2741" / "274-2741-0000.flac", 1.0, seed=0)
    use, training, losses = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(use.replace("runs/minispeech", str(tmp_path)), names)
    assert names["z"].shape == (2, 126, 512)
    assert names["c"].shape == (2, 126, 256)
    assert names["seconds"] == pytest.approx(232 / 16000)
    exec(training, names)
    assert names["result"].losses.shape == (12,)
    exec(losses, names | {"speaker": torch.tensor([0, 0, 1, 1])})
