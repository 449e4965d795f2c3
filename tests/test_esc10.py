"""recipes/esc10 on a small tree of its layout."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cpc.data import ManifestError, read_manifest
from tests.conftest import recipe_script

SCRIPT = Path(__file__).resolve().parents[1] / "recipes" / "esc10" / "run.py"
CLASSES = {"001 - Dog bark": 300, "002 - Rain": 1500, "010 - Fire crackling": 6000}  # and the pitch of its tone, Hz
TINY = """
[audio]
sample_rate = 44100
[data]
window_samples = 8820
[batches]
num_windows = 4
[encoder]
kind = "logmel"
channels = 16
[autoregressor]
hidden = 8
[criterion]
num_steps = 3
[train]
validate_batches = 2
"""


@pytest.fixture(scope="module")
def recipe():
    """The script as a module."""
    with recipe_script(SCRIPT) as script:
        yield script


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Write two clips of each class and fold at 44.1 kHz, cut from one recording, with a tone of the class in noise."""
    for i, (name, pitch) in enumerate(CLASSES.items()):
        for fold in range(1, 6):
            for take in "AB":
                rng = np.random.default_rng([i, fold, ord(take)])
                wave = np.sin(2 * np.pi * pitch * np.arange(22050) / 44100) + 0.3 * rng.standard_normal(22050)
                path = tmp_path / "ESC-10" / name / f"{fold}-{100 * i + fold}-{take}.ogg"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, 0.2 * wave, 44100)
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path / "ESC-10"


def run(recipe, monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, arguments)])
    recipe.main()


def test_each_fold_is_test_once_and_dev_once(recipe, corpus, tmp_path):
    """The others are train; a clip's class and recording are columns, and nothing is resampled."""
    recipe.make_manifests(corpus, tmp_path / "out")
    for fold in range(1, 6):
        manifest = read_manifest(tmp_path / "out" / f"fold-{fold}.csv")
        assert len(manifest) == 30
        for split, folds in (("test", {fold}), ("dev", {(fold - 2) % 5 + 1})):
            assert set(map(int, manifest.select(split).column("fold"))) == folds
        assert manifest.splits == {"train": 18, "dev": 6, "test": 6}
        assert set(manifest.column("category")) == {"Dog bark", "Rain", "Fire crackling"}
        assert set(manifest.sample_rates) == {44100}
        assert manifest.speaker_of["3-203-B"] == "203"


def test_a_corpus_that_is_missing_is_refused_with_its_address(recipe, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(recipe, monkeypatch, "--root", tmp_path, "--out", tmp_path / "out")
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(
        f"esc10: error: {tmp_path}: no ESC-10 in it; run `git clone https://github.com/karoldvl/ESC-10"
    )
    assert line.count("\n") == 1


def test_a_corpus_that_is_not_whole_is_refused(recipe, corpus, tmp_path):
    (corpus / "002 - Rain" / "4-104-A.ogg").unlink()
    with pytest.raises(ValueError, match="1 clips of 'Rain' in fold 4, but 2 elsewhere"):
        recipe.make_manifests(corpus, tmp_path / "out")


def test_a_recording_in_two_folds_is_refused(recipe, corpus, tmp_path):
    (corpus / "002 - Rain" / "4-104-A.ogg").rename(corpus / "002 - Rain" / "4-103-C.ogg")
    with pytest.raises(ManifestError, match="share one speaker, 103"):
        recipe.make_manifests(corpus, tmp_path / "out")


def test_from_the_clips_to_the_table(recipe, corpus, tmp_path, monkeypatch, capsys):
    """All stages in small. A second call, for a fold more, makes nothing again; MFCC recognise each pitch."""
    arguments = ("--root", tmp_path, "--out", tmp_path / "out", "--preset", tmp_path / "tiny.toml", "--updates", 4)
    run(recipe, monkeypatch, *arguments, "--folds", 1, "--seeds", 0)
    first = capsys.readouterr()
    assert "Accuracy in % of test clips, mean over folds 1:" in first.out
    run(recipe, monkeypatch, *arguments, "--folds", 1, 5, "--seeds", 0)
    second = capsys.readouterr()
    for stage in ("manifests", "spectral", "train-fold-1-seed-0", "probes-fold-1-seed-0-test"):
        assert f"== {stage}: done" in second.err
        assert f"== {stage}: done" not in first.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert {(one["fold"], one["seed"]) for one in results} == {("1", 0), ("5", 0)}
    accuracies = {row: [one["accuracy"] for one in results if one["row"] == row] for row in recipe.NAMES}
    assert {row: len(of) for row, of in accuracies.items() if of} == {
        **dict.fromkeys(("mfcc", "logmel", "untrained", "cpc_z", "cpc_c"), 2 * 4),
        "majority": 2 * 4 * 5,
    }
    assert accuracies["majority"] == pytest.approx([1 / 3] * 40)
    assert [one["accuracy"] for one in results if (one["row"], one["probe"]) == ("mfcc", "mean, linear")] == [1, 1]
    assert not (tmp_path / "out" / "fold-1" / "seed-0" / "features" / "cpc_c").exists()


def test_the_table_averages_folds_first_and_then_seeds(recipe):
    found = [
        {"row": "mfcc", "probe": "p", "fold": fold, "seed": seed, "accuracy": accuracy}
        for fold, seed, accuracy in (("1", 0, 0.5), ("2", 0, 0.7), ("1", 1, 0.6), ("2", 1, 0.8))
    ]
    table = recipe.table(found, {"all": {"probe": "p"}, "fold 2": {"probe": "p", "fold": "2"}})
    assert "65.0 ± 7.1 | 75.0 ± 7.1 |" in table
