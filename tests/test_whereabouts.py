"""A run knows its manifest by absolute path and by content, so that it works from any folder."""

import os
import shutil
from dataclasses import replace

import pytest

from cpc.config import ConfigError, TrainConfig, read_config
from cpc.data import ManifestError, read_manifest, write_manifest
from cpc.experiments import examine_run
from cpc.features import extract_features, extractor_of_run, open_features
from cpc.probes import Options, probe_speakers
from cpc.report import write_page
from cpc.runs import BEST, read_checkpoint, read_metrics
from cpc.train import TrainingError, complete, manifest_of_run, resume, train
from tests.conftest import make_corpus, tampered, tiny_config

SHORT = TrainConfig(num_updates=3, log_every=1, validate_every=3, validate_batches=1)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a corpus and a run that was trained there with relative paths; the test works elsewhere."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    make_corpus(home / "corpus")
    elsewhere.mkdir()
    monkeypatch.chdir(home)
    train(tiny_config("corpus/manifest.csv", train=SHORT), "run")
    monkeypatch.chdir(elsewhere)
    return home


def move(place):
    """Move the manifest, whose paths are then relative to its new folder."""
    new = place / "tables" / "all.csv"
    new.parent.mkdir()
    write_manifest(read_manifest(place / "corpus" / "manifest.csv"), new)
    (place / "corpus" / "manifest.csv").unlink()
    return new


def test_every_stage_finds_the_manifest_from_another_folder(place):
    run = place / "run"
    assert read_config(run / "config.toml").data.manifest == str(place / "corpus" / "manifest.csv")
    features = extract_features(extractor_of_run(run, "c"), manifest_of_run(run), "features", progress=False)
    assert probe_speakers(open_features(features), Options(max_frames=500)).accuracy > 0
    assert not [finding for finding in examine_run(run) if "not examined" in str(finding)]
    resume(run, num_updates=5)
    assert read_metrics(run / "metrics.jsonl")[-1]["update"] == 5
    write_page(run, "page.html", features=features)
    assert os.path.exists("page.html")


def test_a_run_is_completed_under_another_spelling_of_its_path(place, monkeypatch):
    monkeypatch.chdir(place / "corpus")
    config = tiny_config("manifest.csv", train=SHORT)
    complete(config, place / "run")
    with pytest.raises(
        ConfigError, match=r"holds a run with other settings: data\.manifest was .*manifest\.csv\", is .*other\.csv\";"
    ):
        complete(replace(config, data=replace(config.data, manifest="other.csv")), place / "run")


def test_a_run_that_moved_with_its_corpus_is_completed(place, tmp_path):
    """What counts is the content of train and dev; another corpus at the new place is refused."""
    config = tiny_config(place / "corpus" / "manifest.csv", train=SHORT)
    complete(config, place / "run")
    shutil.move(place, tmp_path / "moved")
    there = replace(config, data=replace(config.data, manifest=str(tmp_path / "moved" / "corpus" / "manifest.csv")))
    assert complete(there, tmp_path / "moved" / "run") == tmp_path / "moved" / "run"
    other = make_corpus(tmp_path / "other", speakers=2)
    with pytest.raises(ConfigError, match=r"train or dev of .*manifest\.csv are others"):
        complete(replace(config, data=replace(config.data, manifest=str(other))), tmp_path / "moved" / "run")


def test_a_manifest_that_moved_is_missed_by_name_and_taken_from_its_new_place(place):
    new, run = move(place), place / "run"
    with pytest.raises(
        ConfigError,
        match=r"manifest\.csv: the manifest that .*run was trained with is no longer there; "
        r"pass its new place by --manifest$",
    ):
        manifest_of_run(run)
    with pytest.raises(ConfigError, match=r"no longer there; pass its new place by --data\.manifest$"):
        resume(run, num_updates=5)
    resume(run, num_updates=5, moved={"data.manifest": os.path.relpath(new)})
    assert read_metrics(run / "metrics.jsonl")[-1]["update"] == 5
    assert read_config(run / "config.toml").data.manifest == str(new)
    for which in ("best", "last"):
        assert manifest_of_run(run, which).root == new.parent


def test_another_manifest_is_found_out_by_its_content(place):
    """Wherever it lies: at the old path, or where the user says that the old one went."""
    path, run = place / "corpus" / "manifest.csv", place / "run"
    shutil.copy(path, place / "copy.csv")
    manifest = read_manifest(path)
    fewer = manifest.keep([i != manifest.column("split").index("train") for i in range(len(manifest))])
    write_manifest(fewer, path)
    with pytest.raises(
        ConfigError, match=r"manifest\.csv: its train or dev are not what .*run was trained with; pass "
    ):
        manifest_of_run(run)
    with pytest.raises(
        TrainingError, match=r"are not those that .* began with; .* pass its new place by --data\.manifest"
    ):
        resume(run, num_updates=5, moved={"data.manifest": path})


def test_test_utterances_may_change(place):
    """They take no part in training."""
    path = place / "corpus" / "manifest.csv"
    manifest = read_manifest(path)
    write_manifest(manifest.keep([split != "test" for split in manifest.column("split")]), path)
    assert len(manifest_of_run(place / "run")) == len(manifest) - 3


def test_a_run_without_a_manifest_asks_for_one(place):
    (place / "run" / "config.toml").unlink()
    with tampered(place / "run" / "last.pt") as payload:
        payload["config"]["data"]["manifest"] = ""
    with pytest.raises(ConfigError, match=r"names no manifest; pass --manifest"):
        manifest_of_run(place / "run", "last")


def test_runs_of_earlier_versions_do_not_know_their_data(place):
    with tampered(place / "run" / "last.pt") as payload:
        del payload["data"]
    path = place / "corpus" / "manifest.csv"
    manifest = read_manifest(path)
    write_manifest(manifest.keep([split != "dev" for split in manifest.column("split")]), path)
    assert len(manifest_of_run(place / "run", "last")) == len(manifest) - 3
    with pytest.raises(ConfigError, match="its train or dev are not"):
        manifest_of_run(place / "run", "best")
    assert read_checkpoint(place / "run" / BEST)[1]["data"]
    path.write_text("nothing\n", encoding="utf-8")
    with pytest.raises(ManifestError):
        manifest_of_run(place / "run")
