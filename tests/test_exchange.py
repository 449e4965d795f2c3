"""Tables of other tools: what Kaldi, lhotse and Hugging Face say of sounds becomes a manifest, or one clear line."""

import gzip
import json
import re

import numpy as np
import pytest
import soundfile

from cpc.data import ManifestError, list_other, read_audio, read_manifest
from tests.conftest import cpc, write_sound


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A working folder with two recordings."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(["rec1", "rec2"]):
        write_sound(tmp_path / "wav" / f"{name}.flac", 2.0, seed)
    return tmp_path


def write_kaldi(folder, **files):
    """Write a data folder as Kaldi's scripts do, with some files replaced."""
    texts = {
        "wav.scp": "r1 wav/rec1.flac\nr2 flac -c -d -s wav/rec2.flac |\n",
        "segments": "a-1 r1 0.00 0.75\na-2 r1 0.75 -1\nb-1 r2 0.5 2.3\n",
        "utt2spk": "a-1 anna\na-2 anna\nb-1 bert\n",
        "utt2lang": "a-1 fi\nb-1 sv\n",
        "spk2gender": "anna f\nbert m\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {**texts, **{key.replace("_", "."): text for key, text in files.items()}}.items():
        if text is not None:
            (folder / name).write_text(text)
    return folder


def test_a_data_folder_of_kaldi_becomes_a_manifest(tree):
    """Segments with -1 or up to half a second after the file's end end with it; utt2… and spk2gender are columns."""
    cpc("manifest", str(write_kaldi(tree / "data")), "-o", "m.csv")
    found = read_manifest(tree / "m.csv")
    assert found.utterances == ["a-1", "a-2", "b-1"]
    assert found.paths == ["wav/rec1.flac", "wav/rec1.flac", "wav/rec2.flac"]
    assert found.num_samples.tolist() == [12000, 20000, 24000]
    assert (found.speakers, found.column("gender"), found.column("lang")) == (
        ["anna", "anna", "bert"], ["f", "f", "m"], ["fi", "", "sv"],
    )  # fmt: skip
    whole = read_audio(tree / "wav" / "rec1.flac", sample_rate=16000)
    np.testing.assert_array_equal(read_audio(found.sound(1), sample_rate=16000), whole[12000:])


def test_a_data_folder_without_segments_has_whole_files(tree):
    cpc("manifest", str(write_kaldi(tree / "data", segments=None, utt2spk=None)), "-o", "m.csv")
    found = read_manifest(tree / "m.csv")
    assert (found.utterances, found.speakers) == (["r1", "r2"], ["unknown", "unknown"])
    assert found.starts.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"wav_scp": "r1 sox wav/rec1.flac -t wav - rate 8k |\n"}, "wav.scp, line 1: 'sox .*is a command"),
        ({"wav_scp": "r1\n"}, "wav.scp, line 1: found 'r1', expected a name and a value"),
        ({"segments": "a-1 r9 0 1\n"}, "segments, line 1: got 'a-1 r9 0 1', expected"),
        ({"segments": "a-1 r1 1 0.5\n"}, "segments, line 1"),
        ({"segments": "a-1 r1 zero 1\n"}, "segments, line 1"),
        ({"segments": "a-1 r1 0 1\na-1 r1 1 2\n"}, "utterance 'a-1' stands for both"),
        ({"segments": "a-1 r1 0 inf\n"}, "segments, line 1"),
        ({"segments": "\n"}, "names no sound"),
        ({"wav_scp": "r1 wav/rec1.flac\nr1 wav/rec2.flac\n"}, "wav.scp, line 2: r1 appears a second time"),
        ({"utt2spk": "a-1 anna\na-1 bert\n"}, "utt2spk, line 2: a-1 appears a second time"),
        ({"utt2split": "a-1 val\n"}, "split is 'val', expected train, dev, test"),
    ],
)
def test_a_wrong_data_folder_is_refused_naming_the_line(tree, files, message):
    with pytest.raises(ManifestError, match=message):
        list_other(write_kaldi(tree / "data", **files), tree / "sounds")


RECORDING = {
    "id": "rec1", "sources": [{"type": "file", "channels": [0], "source": "wav/rec1.flac"}],
    "sampling_rate": 16000, "num_samples": 32000, "duration": 2.0, "channel_ids": [0],
}  # fmt: skip


def cut(**changes):
    """A cut as lhotse writes it."""
    supervision = {
        "id": "s", "recording_id": "rec1", "start": 0.0, "duration": 1.0, "channel": 0, "text": "yes",
        "speaker": "anna", "language": "fi", "custom": {"dialect": "savo"},
    }  # fmt: skip
    return {
        "id": "rec1/0 a", "start": 0.5, "duration": 1.25, "channel": 0, "supervisions": [supervision],
        "recording": RECORDING, "type": "MonoCut", **changes,
    }  # fmt: skip


def test_cuts_of_lhotse_become_a_manifest(tree):
    """Plain or gzipped; a cut of a whole recording is a whole file; ids become file names."""
    lines = [json.dumps(cut()), json.dumps(cut(id="all", start=0.0, duration=2.0, supervisions=[]))]
    with gzip.open("cuts.jsonl.gz", "wt") as file:
        file.write("\n".join(lines))
    cpc("manifest", "cuts.jsonl.gz", "-o", "m.csv")
    found = read_manifest(tree / "m.csv")
    assert (found.utterances, found.speakers) == (["rec1_0_a", "all"], ["anna", "unknown"])
    assert (found.column("language"), found.column("dialect")) == (["fi", ""], ["savo", ""])
    assert (found.starts.tolist(), found.num_samples.tolist()) == ([8000, -1], [20000, 32000])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "line 1: expected a MonoCut"),
        ("[]", "line 1: expected a MonoCut"),
        (json.dumps(cut(channel=1)), "cut rec1/0 a is not a part of one file with one channel"),
        (json.dumps(cut(duration=-1)), "cut rec1/0 a is not a part of one file"),
        (
            json.dumps(cut(recording={**RECORDING, "transforms": [{"name": "Speed"}]})),
            "not a part of one file",
        ),
        (json.dumps(cut(start=0.0, recording={**RECORDING, "sampling_rate": 0})), "expected a MonoCut"),
        ("{", "cannot be read as lhotse's cuts"),
        ("", "no cut in it"),
    ],
)
def test_cuts_that_are_no_part_of_a_file_are_refused(tree, line, message):
    (tree / "cuts.jsonl").write_text(line)
    with pytest.raises(ManifestError, match=message):
        list_other(tree / "cuts.jsonl", tree / "sounds")


def test_cuts_need_the_name_of_the_manifest(tree, capsys):
    (tree / "cuts.jsonl").write_text(json.dumps(cut()))
    with pytest.raises(SystemExit):
        cpc("manifest", "cuts.jsonl")
    assert "pass -o" in capsys.readouterr().err


def test_a_saved_dataset_becomes_a_manifest(tree):
    """Sounds that the dataset contains are written as they are; classes have their names; splits are ours."""
    datasets = pytest.importorskip("datasets")
    data = [(tree / "wav" / f"{name}.flac").read_bytes() for name in ("rec1", "rec2")]
    sounds = [{"bytes": each, "path": f"{i} x.flac"} for i, each in enumerate(data)]
    whole = datasets.Dataset.from_dict({"sound": sounds, "call": [1, 0], "speaker_id": [7, 8]})
    whole = whole.cast_column("sound", datasets.Audio()).cast_column(
        "call", datasets.ClassLabel(names=["song", "alarm"])
    )
    datasets.DatasetDict({"train": whole, "validation": whole.select([1])}).save_to_disk(str(tree / "ds"))
    cpc("manifest", str(tree / "ds"), "-o", "m.csv")
    found = read_manifest(tree / "m.csv")
    assert found.utterances == ["train-000000-0_x", "train-000001-1_x", "validation-000002-1_x"]
    assert (found.column("call"), found.speakers) == (["alarm", "song", "song"], ["7", "8", "8"])
    assert found.column("split") == ["train", "train", "dev"]
    assert (tree / "m_sounds" / "train-000000-0_x.flac").read_bytes() == data[0]
    assert soundfile.info(found.audio_path(1)).frames == 32000


def test_a_dataset_without_one_column_of_audio_is_refused(tree):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"x": [1, 2]}).save_to_disk(str(tree / "ds"))
    with pytest.raises(ManifestError, match=re.escape("0 columns of audio, expected one; it has x")):
        list_other(tree / "ds", tree / "sounds")


def test_a_dataset_that_was_saved_again_has_its_new_sounds(tree):
    """Also where they are as long as the old ones."""
    datasets = pytest.importorskip("datasets")
    found = []
    for name in ("rec1", "rec2"):
        soundfile.write("plain.wav", soundfile.read(tree / "wav" / f"{name}.flac")[0], 16000)
        sound = {"bytes": (tree / "plain.wav").read_bytes(), "path": None}
        saved = datasets.Dataset.from_dict({"sound": [sound]}).cast_column("sound", datasets.Audio())
        saved.save_to_disk(str(tree / f"ds-{name}"))
        listing = list_other(tree / f"ds-{name}", tree / "sounds")
        found.append((listing.root / listing.table["path"][0]).read_bytes())
    assert len(found[0]) == len(found[1])
    assert found[0] != found[1]


def test_a_data_folder_behind_a_link_is_read(tree):
    """`..` after a link leads elsewhere than the text says."""
    write_kaldi(tree / "deep" / "data")
    (tree / "link").symlink_to(tree / "deep" / "data")
    cpc("manifest", tree / "link", "-o", "m.csv")
    assert len(read_manifest(tree / "m.csv")) == 3
