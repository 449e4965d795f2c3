"""Sound files that cannot be read, or that changed: refused, or left out, named and counted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from cpc.config import OptimConfig
from cpc.data import (
    AudioError,
    BadAudio,
    ManifestError,
    WindowOptions,
    Windows,
    read_manifest,
    refuse_changed_files,
    scan_folder,
)
from cpc.features import SpectralExtractor, extract_features, open_features
from cpc.probes import probe_speakers
from cpc.runs import read_checkpoint, read_metrics
from cpc.train import resume, train
from tests.conftest import make_corpus, tampered, tiny_config, without_file_hashes, write_sound


@pytest.fixture
def damaged(tmp_path) -> tuple[Path, str]:
    """A corpus with one train file that is cut short, and its utterance; the manifest is from before."""
    manifest = make_corpus(tmp_path / "corpus")
    table = read_manifest(manifest)
    row = table.column("split").index("train")
    path = table.audio_path(row)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return manifest, table.utterances[row]


def skipping(manifest, **changes):
    config = tiny_config(manifest)
    return replace(config, data=replace(config.data, on_bad_audio="skip", **changes))


def test_a_damaged_file_stops_training_by_default(damaged, tmp_path):
    manifest, utterance = damaged
    with pytest.raises(AudioError, match=f"{utterance}.flac: "):
        train(tiny_config(manifest), tmp_path / "run")


@pytest.mark.parametrize("data", [{}, {"workers": 2}, {"cache": "cache"}], ids=["here", "workers", "cache"])
def test_a_damaged_file_is_left_out_named_and_counted_where_asked(damaged, tmp_path, monkeypatch, capsys, data):
    monkeypatch.chdir(tmp_path)
    manifest, utterance = damaged
    run = train(skipping(manifest, **data), tmp_path / "run")
    said = capsys.readouterr().err
    assert f"left out: {manifest.parent}" in said
    assert "left out: 1 of 12 sound files that cannot be read" in said
    lines = [line for line in read_metrics(run / "metrics.jsonl") if line["kind"] == "train"]
    assert lines[-1]["bad_audio"] == 1
    (error,) = read_checkpoint(run / "last.pt")[1]["bad_audio"]
    assert utterance in error


def test_what_was_left_out_is_known_after_a_resume_and_weights_are_as_without_interruption(damaged, tmp_path):
    config = replace(skipping(damaged[0]), optim=OptimConfig(lr=1e-3))
    whole = train(config, tmp_path / "whole")
    train(replace(config, train=replace(config.train, num_updates=5)), tmp_path / "halved")
    with tampered(tmp_path / "halved" / "last.pt") as state:
        state["config"]["train"]["num_updates"] = config.train.num_updates
    resume(tmp_path / "halved")
    a, b = (read_checkpoint(run / "last.pt")[1] for run in (whole, tmp_path / "halved"))
    assert all(torch.equal(a["model"][name], b["model"][name]) for name in a["model"])
    assert a["bad_audio"] == b["bad_audio"]


def test_another_utterance_of_the_speaker_stands_in(damaged):
    """It is the same one every time, and all other windows are as they were."""
    manifest, utterance = damaged
    table = read_manifest(manifest).select("train")
    row = table.utterances.index(utterance)
    windows = Windows(table, WindowOptions(window_samples=4000, on_bad_audio="skip"))
    for index in range(len(windows)):
        window = windows[0, index]
        assert window.utterance != row
        assert window.speaker == windows.speaker[index]
        assert bool(window.instead_of) == (windows.utterance[index] == row)
        if not window.instead_of:
            assert window.utterance == windows.utterance[index]
    again = Windows(table, WindowOptions(window_samples=4000, on_bad_audio="skip"))
    first = int(np.flatnonzero(windows.utterance == row)[0])
    assert torch.equal(again[0, first].waveform, windows[0, first].waveform)


def test_when_no_file_is_left_the_first_error_is_reported(tmp_path):
    table = read_manifest(make_corpus(tmp_path, speakers=1, utterances=3))
    for i in range(len(table)):
        table.audio_path(i).unlink()
    windows = Windows(table, WindowOptions(window_samples=4000, on_bad_audio="skip"))
    with pytest.raises(AudioError, match=r"no such file.*; nor can any other sound file be read"):
        windows[0, 0]


def test_more_than_one_in_a_hundred_are_an_error():
    bad = BadAudio(200)
    assert bad.add(["a", "b", "a"]) == ["a", "b"]
    assert bad.add(["b"]) == []
    assert str(bad).splitlines() == ["left out: 2 of 200 sound files that cannot be read", "  a", "  b"]
    with pytest.raises(AudioError, match="3 of 200 sound files cannot be read, at most 2 are left out; the last: c"):
        bad.add(["c"])
    assert str(BadAudio(200)) == ""


def test_many_files_that_are_left_out_are_not_all_listed():
    bad = BadAudio(5000)
    bad.add(f"file {i}" for i in range(13))
    assert len(str(bad).splitlines()) == 12
    assert str(bad).endswith("  and 3 more")


def test_features_leave_out_a_damaged_file_where_asked(damaged, tmp_path, capsys):
    """Probes do without it, the record names it, and a repaired file is extracted by the same call."""
    manifest, utterance = damaged
    table, extractor = read_manifest(manifest), SpectralExtractor("mfcc")
    with pytest.raises(AudioError, match=utterance):
        extract_features(extractor, table, tmp_path / "refused", progress=False)
    folder = extract_features(extractor, table, tmp_path / "f", on_bad_audio="skip", progress=False)
    assert "left out: 1 of 15 sound files that cannot be read" in capsys.readouterr().out
    assert json.loads((folder / "features.json").read_text())["unreadable"] == [utterance]
    features = open_features(folder)
    assert features.frames(utterance).shape == (0, 39)
    assert probe_speakers(features, progress=lambda _: None).num_train_frames > 0
    row = table.utterances.index(utterance)
    write_sound(table.audio_path(row), table.num_samples[row] / 16000, seed=100 * (row // 5) + row % 5)
    extract_features(extractor, table, folder, on_bad_audio="skip", progress=False)
    assert len(open_features(folder).frames(utterance)) > 0


def test_a_file_that_was_replaced_by_one_of_the_same_length_is_noticed(tmp_path):
    """By training, by the cache and by features, unless the manifest knows nothing of its files."""
    manifest = make_corpus(tmp_path / "corpus")
    table = read_manifest(manifest).select("train")
    write_sound(table.audio_path(0), table.num_samples[0] / 16000, seed=99)
    changed = "changed since the manifest was made; run cpc manifest again"
    options = WindowOptions(window_samples=4000)
    with pytest.raises(AudioError, match=changed):
        Windows(table, options)[0, 0]
    with pytest.raises(AudioError, match=changed):
        Windows(table, replace(options, cache=tmp_path / "cache"))
    with pytest.raises(AudioError, match=changed):
        extract_features(SpectralExtractor("mfcc"), table, tmp_path / "f", progress=False)
    assert len(Windows(without_file_hashes(manifest).select("train"), options)[0, 0].waveform) == 4000


def test_verify_notices_a_single_sample(tmp_path):
    """In the middle of a file and of the same size, which the digest of some bytes does not see."""
    for name in "ab":
        write_sound(tmp_path / "s" / f"{name}.wav", 2, seed=ord(name))
    scanned = scan_folder(tmp_path / "s", speaker="none", progress=False).manifest
    refuse_changed_files(scanned, progress=False)
    samples, rate = soundfile.read(tmp_path / "s" / "a.wav", dtype="int16")
    samples[5000] += 1
    soundfile.write(tmp_path / "s" / "a.wav", samples, rate)
    assert scan_folder(tmp_path / "s", speaker="none", progress=False).manifest.file_hashes == scanned.file_hashes
    (tmp_path / "s" / "b.wav").unlink()
    with pytest.raises(ManifestError, match=r"2 of 2 sound .* a.wav: another audio_hash; b.wav: no such file"):
        refuse_changed_files(scanned, progress=False)
