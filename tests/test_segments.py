"""Segments of sound files: each is read, everywhere, as a file that it was cut into would be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from cpc.data import (
    AudioError,
    Manifest,
    ManifestError,
    Segment,
    WindowOptions,
    Windows,
    audio_blocks,
    audio_statistics,
    join_columns,
    list_folder,
    read_audio,
    read_manifest,
    refuse_changed_files,
    refuse_leaks,
    scan_folder,
    scan_listing,
    split_manifest,
    write_manifest,
)
from cpc.data.audio import audio_info
from cpc.features import SpectralExtractor, extract_features, open_features
from cpc.labels import read_labels, read_phones
from cpc.labels.forced import _identity
from cpc.train import complete
from tests.conftest import cpc, tiny_config, write_sound

RATE = 22050
CUTS = [(0.1, 1.3), (1.3, 2.5), (2.0, 3.123456)]  # seconds


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Two recordings of 4 s as FLAC, and the same segments of both in a table and as files."""
    root = tmp_path_factory.mktemp("sounds")
    rows = []
    for seed, name in enumerate(["am dawn", "dusk"]):
        write_sound(root / "whole" / f"{name}.flac", 4.0, seed, RATE)
        wave, _ = soundfile.read(root / "whole" / f"{name}.flac", dtype="int16")
        for i, (start, end) in enumerate(CUTS):
            utterance = f"{name.split()[0]}-{i}"
            cut = wave[round(start * RATE) : round(end * RATE)]
            (root / "cut").mkdir(exist_ok=True)
            soundfile.write(root / "cut" / f"{utterance}.flac", cut, RATE)
            rows.append({"path": f"{name}.flac", "utterance": utterance, "start": start, "end": end, "species": name})
    pd.DataFrame(rows).to_csv(root / "segments.csv", index=False)
    return root


@pytest.fixture(scope="module")
def segments(sounds):
    """The manifest of the segments."""
    listed = sounds / "whole", "--pattern", "none", "--segments", sounds / "segments.csv"
    cpc("manifest", *listed, "-o", sounds / "s.csv")
    return read_manifest(sounds / "s.csv")


@pytest.fixture(scope="module")
def files(sounds):
    """The manifest of the same segments as files."""
    return scan_folder(sounds / "cut", speaker="none", progress=False).manifest


def test_a_scan_of_segments_finds_what_a_scan_of_the_cut_files_finds(segments, files):
    """Lengths, rates and the digests of the samples are equal, in the order of the table; other columns are kept."""
    by_name = {name: i for i, name in enumerate(files.utterances)}
    rows = [by_name[name] for name in segments.utterances]
    for column in ("num_samples", "sample_rate", "audio_hash"):
        assert segments.column(column) == [files.column(column)[i] for i in rows]
    assert segments.column("species") == 3 * ["am dawn"] + 3 * ["dusk"]
    refuse_changed_files(segments, progress=False)


@pytest.mark.parametrize("sample_rate", [RATE, 16000])
def test_every_way_of_reading_a_segment_gives_the_samples_of_the_cut_file(sounds, segments, sample_rate):
    """Whole, in blocks, as a slice, and its statistics; to the bit, also after resampling."""
    for i, utterance in enumerate(segments.utterances):
        cut, sound = sounds / "cut" / f"{utterance}.flac", segments.sound(i)
        how = {"sample_rate": sample_rate, "resample": True}
        expected, part = read_audio(cut, **how), {"start": 501, "stop": 9000}
        np.testing.assert_array_equal(read_audio(sound, **how), expected)
        np.testing.assert_array_equal(read_audio(sound, **part, **how), read_audio(cut, **part, **how))
        np.testing.assert_array_equal(np.concatenate(list(audio_blocks(sound, block_samples=777, **how))), expected)
        assert audio_statistics(sound, **how) == audio_statistics(cut, **how)
        assert audio_info(sound) == audio_info(cut)


def test_windows_training_and_features_of_segments_equal_those_of_the_cut_files(tmp_path, segments, files):
    """Windows, with a cache in memory, on disk or none; the metrics of a run; frames on disk: to the bit."""
    order = [files.utterances.index(name) for name in segments.utterances]
    files = Manifest(files.root, files.table.iloc[order].reset_index(drop=True))
    options = WindowOptions(window_samples=4000, resample=True)
    for keep in ({}, {"cache_megabytes": 10}, {"cache": "cache"}):
        where = [{name: tmp_path / kind if name == "cache" else value for name, value in keep.items()} for kind in "ab"]
        a, b = (Windows(of, replace(options, **changes)) for of, changes in zip((segments, files), where, strict=True))
        assert all(torch.equal(a[1, i].waveform, b[1, i].waveform) for i in range(len(a)))
    weights = []
    for name, table in (("s", segments), ("f", files)):
        table = table.with_column("split", ["dev", "train", "train"] * 2).with_column("speaker", list("aabbab"))
        write_manifest(table, tmp_path / name / "manifest.csv")
        config = tiny_config(tmp_path / name / "manifest.csv")
        weights.append(complete(replace(config, audio=replace(config.audio, resample=True)), tmp_path / name / "run"))
        extract_features(SpectralExtractor("mfcc"), table, tmp_path / name / "mfcc", resample=True, progress=False)
    a, b = (open_features(tmp_path / name / "mfcc") for name in "sf")
    assert all(np.array_equal(a.frames(u), b.frames(u)) for u in segments.utterances)
    a, b = ((tmp_path / name / "run" / "best.safetensors").read_bytes() for name in "sf")
    assert a[-4000:] == b[-4000:]


def test_frames_of_a_segment_that_moved_are_made_anew(tmp_path, sounds):
    """A segment of the same name and length at another time is another sound."""
    listing = list_folder(sounds / "whole", "none")
    frames = []
    for start in (0.5, 1.0):
        table = pd.DataFrame(
            {"path": ["dusk.flac"], "utterance": ["call"], "start": [str(start)], "end": [str(start + 1)]}
        )
        found = scan_listing(listing.cut(table, Path("table")), progress=False).manifest
        extract_features(SpectralExtractor("mfcc"), found, tmp_path / "f", resample=True, progress=False)
        frames.append(open_features(tmp_path / "f").frames("call").copy())
    assert not np.array_equal(*frames)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("dusk.flac", "9", "10"), "segment 9 to 10 s, the file has 4.000 s"),
        (("dusk.flac", "3", "4.6"), "segment 3 to 4.6 s"),
        (("dusk.flac", "2", "2"), "segment 2 to 2 s"),
    ],
)
def test_a_segment_outside_its_file_is_left_out_with_the_reason(sounds, row, reason):
    table = pd.DataFrame([row, ("dusk.flac", "3.5", "4.4")], columns=["path", "start", "end"])
    found = scan_listing(list_folder(sounds / "whole", "none").cut(table, Path("t.csv")), progress=False)
    assert reason in found.left_out[0][1]
    assert found.manifest.column("end") == ["4.0"]  # up to half a second after the end, it ends with the file
    assert found.manifest.utterances == ["dusk-00003500-00004400"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,start,end\nnone.flac,0,1\n", "path 'none.flac' is no sound file of"),
        ("path,start,end\ndusk.flac,0,x\n", "row 1, end is 'x', expected seconds"),
        ("path,start\ndusk.flac,0\n", "no column end"),
        ("start,end\n0,1\n", "no column utterance or path"),
        ("path,utterance,start,end\ndusk.flac,a,0,1\ndusk.flac,a,1,2\n", "utterance 'a' stands for both"),
        ("path,start,end,num_samples\ndusk.flac,0,1,3\n", "column num_samples is what a scan measures"),
    ],
)
def test_a_wrong_table_of_segments_is_refused_in_one_line(sounds, tmp_path, table, message, capsys):
    (tmp_path / "t.csv").write_text(table)
    listed = sounds / "whole", "--pattern", "none", "--segments", tmp_path / "t.csv"
    with pytest.raises(SystemExit) as ended:
        cpc("manifest", *listed, "-o", tmp_path / "m.csv")
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "m.csv").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "0.2"}, "end is '1.3', expected seconds, num_samples after start"),
        ({"end": ""}, "end is ''"),
        ({"start": "-1"}, "end is '1.3'"),
    ],
)
def test_a_manifest_whose_segments_do_not_fit_their_lengths_is_refused(segments, tmp_path, changes, message):
    table = segments.table.copy()
    for name, value in changes.items():
        table.loc[0, name] = value
    table.to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path / "m.csv")
    segments.table.drop(columns="end").to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(ManifestError, match="a segment needs both"):
        read_manifest(tmp_path / "m.csv")


def test_a_file_that_became_shorter_is_found_out(tmp_path):
    write_sound(tmp_path / "a.wav", 1.0, 0)
    with pytest.raises(AudioError, match=r"samples 8000 to 16001: the file has 16000 samples"):
        read_audio(Segment(str(tmp_path / "a.wav"), 8000, 16001), sample_rate=16000)


def test_segments_of_one_file_may_be_in_two_splits_unless_they_overlap(segments):
    """Segments 1 and 2 of each recording share half a second."""
    refuse_leaks(segments.with_column("split", ["dev", "train", "train"] * 2), by="utterance")
    with pytest.raises(ManifestError, match=r"am-1 \(dev\) and am-2 \(train\) overlap in .*am dawn.flac"):
        refuse_leaks(segments.with_column("split", ["train", "dev", "train"] * 2), by="utterance")
    by_path = split_manifest(segments, by="path", fractions=(0.5, 0, 0.5))
    assert by_path.splits == {"train": 3, "test": 3}


def test_labels_of_files_of_one_name_in_two_folders_stay_apart(tmp_path):
    """Segments get the labels of their own file, and none where only the other file has some."""
    for i, site in enumerate(("site1", "site2")):
        write_sound(tmp_path / "rec" / site / "rec.wav", 2.0, i)
    (tmp_path / "t.csv").write_text("path,start,end\nsite1/rec.wav,0.5,1.5\nsite2/rec.wav,0.5,1.5\n")
    cpc("manifest", tmp_path / "rec", "--pattern", "none", "--segments", tmp_path / "t.csv", "-o", tmp_path / "m.csv")
    (tmp_path / "lab" / "site1").mkdir(parents=True)
    (tmp_path / "lab" / "site1" / "rec.txt").write_text("0\t2\towl\n")
    cpc("align", "--manifest", tmp_path / "m.csv", "--intervals", tmp_path / "lab", "--out", tmp_path / "labels")
    assert list(read_labels(tmp_path / "labels" / "phone_labels.txt")) == ["site1_rec-00000500-00001500"]


def test_labels_of_whole_files_in_another_unit_are_refused(segments, tmp_path, capsys):
    """Milliseconds lie behind every segment, which would all be silent."""
    write_manifest(segments, tmp_path / "m.csv")
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "dusk.txt").write_text("1500 3000 owl\n5000 6500 owl\n")
    with pytest.raises(SystemExit):
        cpc("align", "--manifest", tmp_path / "m.csv", "--intervals", tmp_path / "lab", "--out", tmp_path / "labels")
    assert "dusk" in capsys.readouterr().err


def test_an_alignment_of_segments_that_moved_is_another_one(segments, tmp_path):
    """Names, lengths and words are the same."""
    texts = dict.fromkeys(segments.utterances, "yes")
    moved = segments.table.assign(start=segments.table["start"].astype(float) + 0.01)
    other = Manifest(segments.root, moved)
    assert _identity(tmp_path, segments, texts, {}) != _identity(tmp_path, other, texts, {})


def test_a_file_with_several_segments_is_joined_by_its_name_alone(segments, tmp_path):
    (tmp_path / "t.csv").write_text("path,site\ndusk.flac,hill\nother.flac,lake\n")
    joined = join_columns(segments, tmp_path / "t.csv")
    assert joined.manifest.column("site") == ["", "", "", "hill", "hill", "hill"]
    assert joined.num_unknown == 1


@pytest.mark.parametrize("labels", ["other 1 0.1 0.5 a\n", "dusk 1 0.1 0.5 sil\n"])
def test_label_files_without_a_segment_are_refused(sounds, tmp_path, labels, capsys):
    (tmp_path / "calls.ctm").write_text(labels)
    with pytest.raises(SystemExit):
        cpc("manifest", sounds / "whole", "--pattern", "none", "--segments", tmp_path / "calls.ctm")
    assert "no segment in it" in capsys.readouterr().err


def test_label_files_named_after_the_sound_files_give_segments_and_their_labels(tmp_path, sounds, capsys):
    """Raven's selections become utterances with their annotation; frame labels of whole files are cut to them."""
    folder = tmp_path / "selections"
    folder.mkdir()
    head = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tAnnotation\n"
    (folder / "am_dawn.Table.1.selections.txt").write_text(
        f"{head}1\tSpectrogram\t1\t0.5\t1.5\tTurdus merula\n2\tSpectrogram\t1\t2\t3\tParus\n"
    )
    (folder / "dusk.Table.1.selections.txt").write_text(f"{head}1\tSpectrogram\t1\t1\t2.5\tStrix\n")
    out = tmp_path / "m.csv"
    cpc("manifest", sounds / "whole", "--pattern", "none", "--segments", folder, "-o", out)
    found = read_manifest(out)
    assert found.column("label") == ["Turdus_merula", "Parus", "Strix"]
    assert found.utterances == ["am_dawn-00000500-00001500", "am_dawn-00002000-00003000", "dusk-00001000-00002500"]
    calls = tmp_path / "calls"
    calls.mkdir()
    (calls / "am_dawn.txt").write_text("0.0\t0.7\ta\n1.2\t2.5\tb\n")
    cpc("align", "--manifest", out, "--intervals", calls, "--out", tmp_path / "labels")
    names = read_phones(tmp_path / "labels" / "phones.txt")
    labels = read_labels(tmp_path / "labels" / "phone_labels.txt")
    # Label i is centred 12.5 ms + 10 ms · i after 0.5 s of the file, where a lasts for 0.2 s and b begins after 0.7 s.
    first = "".join(names[i][0] for i in labels["am_dawn-00000500-00001500"])
    assert first == "a" * 19 + "s" * 50 + "b" * 29
    assert {names[i] for i in labels["am_dawn-00002000-00003000"][:48]} == {"b"}
    assert "dusk-00001000-00002500" not in labels
