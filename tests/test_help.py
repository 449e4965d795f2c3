"""`help(cpc)` teaches: what it shows runs, and it names every room."""

import inspect
import pydoc
import re
from pathlib import Path

import pytest
import torch

import cpc
from cpc.config import Config
from cpc.runs import build_model, save_weights
from tests.conftest import write_sound

HELP = pydoc.render_doc(cpc, renderer=pydoc.plaintext)


def blocks():
    """Collect the indented blocks of the docstring."""
    lines = re.split(r"\n(?=\S)", inspect.getdoc(cpc))
    return [
        inspect.cleandoc(code) for part in lines for code in re.findall(r"(?s):\n\n((?:    .*?(?:\n|$)|\n)+)", part)
    ]


def test_it_shows_what_the_package_exports_and_where_to_read_on():
    for name in ("load(run", "class CPC", "stream(self", "model.stream()", "recipes/tour.ipynb", "cpc --help"):
        assert name in HELP
    rooms = {path.parent.name for path in Path(cpc.__file__).parent.glob("*/__init__.py")}
    assert {f"cpc.{room}" for room in rooms} <= set(re.findall(r"cpc\.\w+", inspect.getdoc(cpc)))


def test_its_examples_run(tmp_path, monkeypatch, capsys):
    """In order: use a run, train one, see what was learned; two updates are trained."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_weights(tmp_path / "runs" / "mine" / "best.safetensors", Config(), build_model(Config()))
    write_sound(tmp_path / "speech.wav", 1.0, seed=0)
    for speaker in "abc":
        for i in range(5):
            write_sound(tmp_path / "recordings" / speaker / f"{speaker}{i}.wav", 1.4, seed=ord(speaker) + 10 * i)
    use, train, see = blocks()
    names = {"waveforms": torch.randn(2, 4000), "piece": torch.randn(1000)}
    exec(use, names)
    assert names["predictions"].shape == (12, 2, 23, 512)
    assert names["z"].shape == (4, 512)
    (tmp_path / "runs" / "mine" / "best.safetensors").unlink()
    changes = '"manifest.csv", "train.num_updates": 2, "encoder.channels": 16, "batches.num_windows": 4}'
    assert '"manifest.csv"}' in train
    exec(train.replace('"manifest.csv"}', changes), names)
    exec(see, names)
    assert re.search(r"speaker: \d+\.\d % of test frames right", capsys.readouterr().out)


@pytest.mark.parametrize("name", ["load", "CPC", "__version__"])
def test_each_exported_name_is_there(name):
    assert name in cpc.__all__
    assert getattr(cpc, name)
