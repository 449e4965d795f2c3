"""One process at a time writes a folder; and a run knows the utterances that it began with."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cpc.config import TrainConfig
from cpc.data import read_manifest, write_manifest
from cpc.features import SpectralExtractor, extract_features
from cpc.files import LOCK, ClaimError, locked
from cpc.train import TrainingError, complete, train
from tests.conftest import tiny_config

HOLDER = """
import sys, time
from pathlib import Path
from cpc.files import locked
with locked(Path(sys.argv[1]), "folder"):
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def hold():
    """Lock a folder in another process, until it is killed or the test ends."""
    holders = []

    def start(folder: Path) -> subprocess.Popen:
        holders.append(subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True))
        assert holders[-1].stdout.readline() == "ready\n"
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_a_second_process_is_refused_until_the_first_one_ends_or_dies(corpus, tmp_path, hold):
    config, run = tiny_config(corpus), tmp_path / "run"
    train(config, run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    holder = hold(run)
    with pytest.raises(ClaimError, match="another process is writing this run; wait for its end, or pass another"):
        train(config, run, resume=True)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.name != LOCK} == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (run / LOCK).exists()  # a crash leaves the file, and no lock
    train(config, run, resume=True)
    assert not (run / LOCK).exists()


def test_a_folder_that_was_copied_while_it_was_written_is_not_locked(corpus, tmp_path, hold):
    run = train(tiny_config(corpus), tmp_path / "run")
    hold(run)
    shutil.copytree(run, tmp_path / "copy")
    assert (tmp_path / "copy" / LOCK).exists()
    complete(tiny_config(corpus), tmp_path / "copy")


def test_features_that_another_process_writes_are_refused(corpus, tmp_path, hold):
    manifest, out = read_manifest(corpus), tmp_path / "mfcc"
    hold(out)
    with pytest.raises(ClaimError, match="another process is writing this features folder"):
        extract_features(SpectralExtractor("mfcc"), manifest, out, progress=False)
    assert [path.name for path in out.iterdir()] == [LOCK]


def test_a_lock_leaves_nothing_where_nothing_was_written(tmp_path):
    with locked(tmp_path / "new", "run"):
        assert (tmp_path / "new" / LOCK).exists()
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with locked(tmp_path / "old", "run"):
        pass
    assert (tmp_path / "old").is_dir()


@pytest.mark.parametrize("change", ["speaker", "split", "order", "fewer", "sound"])
def test_a_run_does_not_resume_with_other_utterances(corpus, tmp_path, change):
    manifest = read_manifest(corpus)
    if "audio_hash" not in manifest.table:
        manifest = manifest.with_column("audio_hash", manifest.utterances)
    table = tmp_path / "corpus" / "manifest.csv"
    write_manifest(manifest, table)
    config, run = tiny_config(table, train=TrainConfig(num_updates=4, checkpoint_every=2)), tmp_path / "run"
    train(config, run)
    if change == "speaker":
        other = manifest.with_column("speaker", [*manifest.speakers[1:], manifest.speakers[0]])
    elif change == "split":
        splits = manifest.column("split")
        other = manifest.with_column(
            "split", ["dev" if i == splits.index("train") else s for i, s in enumerate(splits)]
        )
    elif change == "order":
        other = type(manifest)(manifest.root, manifest.table[::-1])
    elif change == "fewer":
        first = manifest.column("split").index("train")
        other = manifest.keep([i != first for i in range(len(manifest))])
    else:
        other = manifest.with_column("audio_hash", [f"other {name}" for name in manifest.utterances])
    write_manifest(other, table)
    with pytest.raises(
        TrainingError, match=r"manifest.csv: the utterances of train or dev, .* not those that .* began"
    ):
        train(config, run, resume=True)


def test_a_run_resumes_with_a_corpus_that_moved_and_a_column_that_was_added(corpus, tmp_path):
    manifest = read_manifest(corpus)
    write_manifest(manifest, tmp_path / "manifest.csv")
    config = tiny_config(tmp_path / "manifest.csv", train=TrainConfig(num_updates=4, checkpoint_every=2))
    train(config, tmp_path / "run")
    shutil.copytree(Path(corpus).parent, tmp_path / "moved")
    moved = read_manifest(tmp_path / "moved" / Path(corpus).name).with_column("age", ["9"] * len(manifest))
    write_manifest(moved, tmp_path / "manifest.csv")
    train(config, tmp_path / "run", resume=True)


def test_what_a_killed_process_left_unfinished_is_removed_by_the_next(corpus, tmp_path):
    manifest, run, out = read_manifest(corpus), tmp_path / "run", tmp_path / "mfcc"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    extract_features(SpectralExtractor("mfcc"), manifest, out, progress=False)
    run.mkdir()
    left = [run / f".last.pt.{ended.pid}.tmp", out / "frames" / f".a.npy.{ended.pid}.tmp"]
    kept = [run / f".other.{os.getpid()}.tmp", run / ".notes.tmp"]  # of a process that runs; no temporary of ours
    for path in left + kept:
        path.write_bytes(b"unfinished")
    train(tiny_config(corpus), run)
    extract_features(SpectralExtractor("mfcc"), manifest, out, progress=False)
    assert [path.exists() for path in left + kept] == [False, False, True, True]
