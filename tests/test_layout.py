"""The package reads in one direction: imports go up the list of stages, and no corpus is named in it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "cpc"
# As design says: each module may import what its line names.
MAY_IMPORT = {
    "files": set(),
    "memory": set(),
    "audio": set(),
    "manifest": {"audio", "files"},
    "alignment": {"manifest"},
    "intervals": {"alignment", "files", "manifest"},
    "aligner": {"alignment", "audio", "files", "intervals", "manifest"},
    "cache": {"audio", "files", "manifest"},
    "windows": {"audio", "cache", "manifest"},
    "batches": {"manifest", "windows"},
    "encoder": set(),
    "autoregressor": set(),
    "predictor": set(),
    "negatives": set(),
    "infonce": {"negatives"},
    "embeddings": set(),
    "losses": {"embeddings"},
    "loss_modules": {"embeddings", "losses"},
    "momentum": {"embeddings"},
    "config": {"files"},
    "model": {"config", "encoder", "autoregressor", "predictor"},
    "profile": set(),
    "tables": set(),
    "stages": {"files", "tables"},
    "estimate": {"config", "features", "manifest", "metrics", "train"},
    "optim": {"encoder", "predictor"},
    "metrics": {"files"},
    "checkpoint": {"config", "files", "model"},
    "targets": {"alignment", "config", "windows"},
    "distributed": {"config"},
    "objectives": {
        "alignment", "config", "distributed", "infonce", "losses", "model", "momentum", "negatives", "profile",
        "targets", "windows",
    },
    "train": {
        "batches", "checkpoint", "cli", "config", "distributed", "encoder", "manifest", "memory", "metrics", "model",
        "negatives", "objectives", "optim", "profile", "windows",  # cli: `python -m cpc.train` is `cpc train`
    },
    "features": {"audio", "checkpoint", "files", "manifest", "memory", "model"},
    "baselines": {"features"},
    "probes/frames": {"alignment", "features"},
    "probes/classifiers": {"probes"},
    "probes/linear": {"alignment", "features", "files", "probes"},
    "probes/__init__": set(),
    "ablate": {"alignment", "checkpoint", "config", "features", "files", "manifest", "probes", "train"},
    "report": {"files", "metrics", "tables"},
    "maps": {"alignment", "features"},
    "page": {"alignment", "audio", "config", "features", "files", "maps", "report"},
    "cli": {
        "ablate", "aligner", "alignment", "baselines", "checkpoint", "config", "features", "intervals", "manifest",
        "page", "probes", "train",
    },
    "__init__": {"checkpoint", "model"},
}  # fmt: skip


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "cpc":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cpc."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("cpc.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_go_up_the_list(path):
    name = path.relative_to(PACKAGE).with_suffix("").as_posix()
    assert imports_of(path) <= MAY_IMPORT[name]


def test_networks_take_plain_numbers_not_configurations():
    for name in ("encoder", "autoregressor", "predictor", "negatives", "infonce", "losses"):
        assert "config" not in imports_of(PACKAGE / f"{name}.py")


def test_only_audio_opens_sound_files():
    users = {
        p.stem for p in PACKAGE.rglob("*.py") if "soundfile" in p.read_text() and "import soundfile" in p.read_text()
    }
    assert users == {"audio"}


def test_no_corpus_logic_in_the_package():
    """LibriSpeech's layout may be an example and a default pattern; no code path asks which corpus it is."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                text = ast.unparse(node).lower()
                assert not any(corpus in text for corpus in ("librispeech", "minispeech", "fsdd")), path
