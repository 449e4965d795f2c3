"""The house has rooms: imports go down the list of rooms and through their doors, and functions stay short."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cpc"
# A room imports from the rooms that stand to its right alone. Files of the ground floor form rooms of their own.
ROOMS = [
    *(
        "__main__",
        "cli",
        "hub",
        "export",
        "experiments",
        "report",
        "probes",
        "features",
        "train",
        "losses",
        "infonce",
        "foreign",
        "runs",
        "model",
    ),
    *("labels", "data", "devices", "config", "files", "processes", "versions", "doors"),
]
DOORS_OF_PACKAGE = {"__init__"}  # cpc itself: cpc.load and cpc.CPC, on first use
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def imports_of(path: Path) -> set[str]:
    """Modules below cpc that a file imports, anywhere in it: "cpc.data.audio" is "data.audio"."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    found |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.removeprefix("cpc.") for name in found if name.startswith("cpc.")}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_rooms_import_the_doors_of_rooms_below(path):
    room = name_of(path).split("/")[0]
    for module in imports_of(path):
        other = module.split(".")[0]
        if room in DOORS_OF_PACKAGE or other == room:
            continue
        assert ROOMS.index(other) > ROOMS.index(room), f"{room} imports {other}"
        assert module == other, f"{module} is behind the door of {other}"


def test_no_two_files_of_a_room_import_each_other():
    """Inside a room too, imports form no circle."""
    imports = {name_of(p).replace("/", "."): imports_of(p) for p in FILES}

    def visit(module, trail):
        assert module not in trail, " → ".join([*trail, module])
        for other in imports.get(module, ()):
            visit(other, [*trail, module])

    for module in imports:
        visit(module, [])


# Why a function may be longer than 60 lines or have more than 8 arguments.
EXCEPTIONS = {
    "losses/contrastive:info_nce": "the signature follows info-nce-pytorch's, so that code can change over",
}


def functions_of(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name_of(path)}:{node.name}", node


def test_functions_are_at_most_60_lines_and_take_at_most_8_arguments():
    found = set()
    for path in FILES:
        for name, node in functions_of(path):
            arguments = [a.arg for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
            num_arguments = len([a for a in arguments if a not in ("self", "cls", "ctx")])
            if node.end_lineno - node.lineno + 1 > 60 or num_arguments > 8:
                found.add(name)
    assert found == set(EXCEPTIONS)
    assert len(EXCEPTIONS) <= 3


def test_the_loop_reads_like_the_algorithm():
    """It has at most 150 lines: a newcomer reads it whole."""
    loop = PACKAGE / "train" / "loop.py"
    assert len(loop.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_formatter_formats_everything():
    root = PACKAGE.parent
    sources = [*FILES, *sorted((root / "recipes").rglob("*.py"))]
    assert [str(path) for path in sources if "fmt: skip" in path.read_text(encoding="utf-8")] == []


def test_only_data_names_the_columns_of_a_manifest():
    """Other rooms and recipes ask the Manifest in the domain's words."""
    sources = [p for p in FILES if not name_of(p).startswith("data/")]
    for path in [*sources, *sorted((PACKAGE.parent / "recipes").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Attribute) and node.attr == "table"), f"{path}, line {node.lineno}"


def test_only_audio_opens_sound_files_and_only_encoding_makes_them():
    users = {name_of(p) for p in FILES if "import soundfile" in p.read_text(encoding="utf-8")}
    assert users == {"data/audio", "data/encoding"}


def test_no_corpus_logic_in_the_package():
    """LibriSpeech's layout may be an example and a default pattern; no code path asks which corpus it is."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                text = ast.unparse(node).lower()
                assert not any(corpus in text for corpus in ("librispeech", "minispeech", "fsdd")), path
