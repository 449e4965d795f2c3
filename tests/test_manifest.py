"""Scan, read, write and split: nothing is lost, nothing is guessed, nothing leaks."""

import errno
import os
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import soundfile

from cpc.data import (
    SPLITS,
    By,
    Manifest,
    ManifestError,
    join_columns,
    read_manifest,
    read_utterance_list,
    refuse_leaks,
    refuse_missing_files,
    scan_folder,
    split_as_listed,
    split_manifest,
    write_manifest,
)
from cpc.data.scan import Scan
from tests.conftest import make_corpus, write_sound

pytestmark = pytest.mark.filterwarnings("error")


def noise(num_samples: int = 800, seed: int = 0) -> npt.NDArray[np.float32]:
    return 0.1 * np.random.default_rng(seed).standard_normal(num_samples).astype(np.float32)


def put(path: Path, wave: npt.NDArray[Any] | None = None, rate: int = 16000, **options: Any) -> Path:
    """Write a recording; by default, noise that differs from path to path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise(seed=crc32(path.name.encode())) if wave is None else wave, rate, **options)
    return path


def scan(folder: Path, speaker: str = "none") -> Scan:
    return scan_folder(folder, speaker=speaker, progress=False)


def table(num_rows: int, num_speakers: int = 4, num_chapters: int = 3) -> Manifest:
    i = np.arange(num_rows)
    return Manifest(
        Path("/corpus"),
        pd.DataFrame(
            {
                "path": [f"{n}.wav" for n in i],
                "num_samples": 800,
                "sample_rate": 16000,
                "speaker": [f"00{n % num_speakers}" for n in i],
                "utterance": [f"u{n}" for n in i],
                "chapter": [str(n // num_speakers % num_chapters) for n in i],
            }
        ),
    )


CSV = "path,num_samples,sample_rate,speaker,utterance\n"


# --- scan


@pytest.mark.parametrize("above", ["", "train-clean/", "Corpus/train-clean/"])
def test_the_default_pattern_reads_speaker_and_chapter_from_any_level_above(tmp_path: Path, above: str) -> None:
    put(tmp_path / f"{above}103/1240/103-1240-0000.flac")
    put(tmp_path / f"{above}0012/7/0012-7-0001.FLAC", format="FLAC", rate=8000)
    found = scan_folder(tmp_path, progress=False)
    rows = found.manifest.table
    assert found.left_out == []
    assert rows["path"].tolist() == [f"{above}0012/7/0012-7-0001.FLAC", f"{above}103/1240/103-1240-0000.flac"]
    assert rows["speaker"].tolist() == ["0012", "103"]
    assert rows["chapter"].tolist() == ["7", "1240"]
    assert rows["utterance"].tolist() == ["0012-7-0001", "103-1240-0000"]
    assert rows["num_samples"].tolist() == [800, 800]
    assert rows["sample_rate"].tolist() == [8000, 16000]
    assert found.manifest.audio_path(1).is_file()


def test_fields_within_a_file_name_become_columns(tmp_path: Path) -> None:
    put(tmp_path / "x" / "0_george_12_a.wav")
    row = scan(tmp_path, "{digit}_{speaker}_*").manifest.table.iloc[0]
    assert (row["digit"], row["speaker"]) == ("0", "george")


def test_a_field_that_comes_twice_must_be_the_same_text(tmp_path: Path) -> None:
    put(tmp_path / "bob" / "bob_1.wav")
    assert scan(tmp_path, "{speaker}/{speaker}_*").manifest.table["speaker"].tolist() == ["bob"]
    put(tmp_path / "bob" / "eve_1.wav")
    with pytest.raises(ManifestError, match="eve_1"):
        scan(tmp_path, "{speaker}/{speaker}_*")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{speaker}/{chapter}/*", r"a\.wav does not match .*1 of 1 files.*--pattern '\{speaker\}_\*'.*none"),
        ("(?P<speaker>a", "no regular expression: missing"),
        ("(?P<split>.*)", "split cannot be a field"),
        ("(?P<speaker>[0-9]+)", "does not match"),
        ("{speaker}{path}", "{path} cannot be a field"),
        ("{speaker}{a b}", "{a b} cannot be a field"),
        ("{speaker}}", "an unpaired brace"),
    ],
)
def test_a_pattern_that_does_not_fit_is_an_error_and_never_a_guess(tmp_path: Path, pattern: str, message: str) -> None:
    put(tmp_path / "a.wav")
    with pytest.raises(ManifestError, match=message):
        scan(tmp_path, pattern)


def test_a_pattern_needs_no_speaker(tmp_path: Path) -> None:
    put(tmp_path / "owl" / "7.wav")
    row = scan(tmp_path, "{species}/*").manifest.table.iloc[0]
    assert (row["species"], row["speaker"]) == ("owl", "unknown")


def test_a_regular_expression_with_names_reads_what_stars_cannot(tmp_path: Path) -> None:
    put(tmp_path / "site-a" / "owl20260401_seg3.wav")
    put(tmp_path / "site-b" / "robin20260402.wav")
    pattern = r"site-(?P<site>\w)/(?P<species>[a-z]+)(?P<date>\d+)(?:_seg(?P<segment>\d+))?"
    table = scan(tmp_path, pattern).manifest.table
    assert table[["site", "species", "date", "segment"]].to_numpy().tolist() == [
        ["a", "owl", "20260401", "3"],
        ["b", "robin", "20260402", ""],
    ]


@pytest.mark.parametrize("key", ["utterance", "path", "file"])
def test_columns_of_a_table_are_joined_by_utterance_or_path(tmp_path: Path, key: str) -> None:
    """Rows come in any order, what is on one side alone is named, and a column of the same name is replaced."""
    for name in "abc":
        put(tmp_path / "deep" / f"{name}.wav")
    manifest = scan(tmp_path, "none").manifest.with_column("call", ["old"] * 3)
    column, name = {"utterance": ("utterance", "{}"), "path": ("path", "deep/{}.wav"), "file": ("path", "{}.wav")}[key]
    rows = [("y", "b", 3), ("x", "a", 4), ("z", "q", 5)]
    lines = [f"call,{column},age", *(f"{call},{name.format(u)},{age}" for call, u, age in rows)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    joined = join_columns(manifest, tmp_path / "t.csv")
    assert joined.manifest.column("call") == ["x", "y", ""]
    assert joined.manifest.column("age") == ["4", "3", ""]
    assert (joined.columns, joined.without, joined.num_unknown) == (["call", "age"], ["c"], 1)
    assert "call: x 1, y 1, (empty) 1" in str(joined)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,call\na,x\n", r"no column utterance or path; it has name, call"),
        ("utterance,call\na,x\na,y\n", r"utterance 'a' appears twice"),
        ("utterance,call\nq,x\n", r"none of its 1 rows belongs to an utterance \(it has e.g. utterance 'q', the"),
        ("utterance,sample_rate\na,5\n", r"column sample_rate is what a scan measures"),
        ("utterance,speaker\na,\n", r"speaker is ''"),
        ("utterance,split\na,training\n", r"split is 'training'"),
        ("utterance,call\na,x,y\n", r"not a readable CSV table"),
        ("utterance,call,call\na,x,y\n", r"column 'call' appears twice"),
        ("utterance,call\n", r"no rows"),
        ("", r"empty, not even a header"),
    ],
)
def test_a_table_that_cannot_be_joined_is_refused(tmp_path: Path, text: str, says: str) -> None:
    put(tmp_path / "a.wav")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ManifestError, match=says):
        join_columns(scan(tmp_path, "none").manifest, tmp_path / "t.csv")
    with pytest.raises(ManifestError, match="no such table"):
        join_columns(scan(tmp_path, "none").manifest, tmp_path / "other.csv")


def test_an_optional_speaker_that_is_not_there_is_unknown(tmp_path: Path) -> None:
    put(tmp_path / "bob" / "1.wav")
    put(tmp_path / "2.wav")
    table = scan(tmp_path, r"(?:(?P<speaker>[a-z]+)/)?(?P<number>\d+)").manifest.table
    assert table[["speaker", "number"]].to_numpy().tolist() == [["unknown", "2"], ["bob", "1"]]


def test_sound_that_cannot_be_read_is_listed_and_stands_in_nobodys_way(tmp_path: Path) -> None:
    """A converted copy may lie beside its original."""
    put(tmp_path / "a.wav")
    (tmp_path / "a.m4a").write_bytes(b"")
    (tmp_path / "b.AAC").write_bytes(b"")
    found = scan(tmp_path, "none")
    assert found.manifest.utterances == ["a"]
    assert [path for path, _ in found.left_out] == ["a.m4a", "b.AAC"]
    assert "libsndfile cannot read .m4a; convert it" in str(found)


def test_missing_sound_files_are_named_at_once(tmp_path: Path) -> None:
    for i in range(30):
        put(tmp_path / f"{i:02d}.wav")
    paths = [tmp_path / f"{i:02d}.wav" for i in range(30)]
    refuse_missing_files(paths)
    for path in paths[3:28]:
        path.unlink()
    with pytest.raises(ManifestError, match=r"25 of 30 sound files do not exist: .*03\.wav, .*22\.wav and 5 more"):
        refuse_missing_files(paths)


def test_without_a_pattern_every_speaker_is_unknown(tmp_path: Path) -> None:
    put(tmp_path / "a.wav")
    assert scan(tmp_path, "none").manifest.table["speaker"].tolist() == ["unknown"]


def test_unusable_files_are_left_out_and_listed_with_their_reason(tmp_path: Path) -> None:
    put(tmp_path / "good.wav")
    put(tmp_path / "silent.wav", np.zeros(800, np.float32))
    put(tmp_path / "empty.wav", noise(0))
    put(tmp_path / "nan.wav", np.array([0.1, np.nan, 0.2], np.float32), subtype="FLOAT")
    (tmp_path / "text.wav").write_text("no sound")
    for name in ("cut.flac", "cut2.wav"):
        data = put(tmp_path / name, noise(80_000)).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    found = scan(tmp_path)
    assert found.manifest.table["path"].tolist() == ["good.wav"]
    reasons = {path: reason.split(",")[0].split(" (")[0] for path, reason in found.left_out}
    assert reasons == {
        "cut.flac": "truncated or damaged",
        "cut2.wav": "truncated",
        "empty.wav": "no samples; remove it or record it again",
        "nan.wav": "sample 1 is nan",
        "silent.wav": "silent",
        "text.wav": "not a sound file that libsndfile can read",
    }
    shown = str(found)
    assert shown.startswith("1 utterances, 1 speakers, 0.00 hours, 16000 Hz (1)\n")
    assert "left out: 6\n" in shown
    assert all(f"{path}: {reason}" in shown for path, reason in found.left_out)


def test_a_folder_without_usable_sound_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such folder"):
        scan(tmp_path / "nowhere")
    (tmp_path / "a.m4a").touch()
    with pytest.raises(ManifestError, match=r"no sound file, found 1 \.m4a; convert"):
        scan(tmp_path)
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(ManifestError, match=r"none of its 1 sound files is usable; the first, a\.wav: not a s"):
        scan(tmp_path)


def test_utterance_ids_are_unique_and_fit_for_file_names(tmp_path: Path) -> None:
    put(tmp_path / "a" / "one take.wav")
    put(tmp_path / "b" / "2.wav")
    assert scan(tmp_path).manifest.table["utterance"].tolist() == ["one_take", "2"]
    put(tmp_path / "b" / "one take.wav")
    assert scan(tmp_path).manifest.table["utterance"].tolist() == ["a_one_take", "b_2", "b_one_take"]
    put(tmp_path / "b" / "2.flac")
    with pytest.raises(ManifestError, match=r"b/2\.flac and b/2\.wav would both be utterance 'b_2'"):
        scan(tmp_path)


def test_a_linked_folder_is_followed_once(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "a.wav")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "corpus")
    assert scan(tmp_path / "corpus").manifest.table["path"].tolist() == ["link/a.wav"]


def test_the_same_samples_have_the_same_hash_in_another_format(tmp_path: Path) -> None:
    wave = np.arange(-800, 800, dtype=np.int16)
    put(tmp_path / "a.wav", wave)
    put(tmp_path / "b.flac", wave)
    put(tmp_path / "c.flac", wave + np.int16(1))
    a, b, c = scan(tmp_path).manifest.table["audio_hash"]
    assert a == b != c


# --- read and write


def test_written_and_read_again_it_is_the_same(tmp_path: Path) -> None:
    """Text that looks like a number or a missing value stays text, and further columns stay."""
    rows = table(5).table.assign(speaker=["0012", "NA", "nan", "1e5", "None"], note=["", "a,b", 'say "x"', "é", "NULL"])
    write_manifest(Manifest(tmp_path, rows), tmp_path / "m.csv")
    again = read_manifest(tmp_path / "m.csv")
    assert again.root == tmp_path
    assert again.table.columns.tolist() == rows.columns.tolist()
    assert again.table.to_numpy().tolist() == rows.to_numpy().tolist()


@pytest.mark.parametrize("where", ["corpus/m.csv", "m.csv", "out/deep/m.csv", "link/m.csv"])
def test_a_manifest_finds_its_audio_from_wherever_it_is_written(tmp_path: Path, where: str) -> None:
    audio = put(tmp_path / "corpus" / "s" / "a.wav")
    (tmp_path / "real" / "deeper").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deeper")
    write_manifest(scan(tmp_path / "corpus").manifest, tmp_path / where)
    found = read_manifest(tmp_path / where)
    assert not os.path.isabs(found.table["path"].iloc[0])
    assert found.audio_path(0).samefile(audio)


def test_a_full_disk_leaves_the_old_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.csv"
    write_manifest(Manifest(tmp_path, table(3).table), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ManifestError, match=r"m\.csv: could not be written \(No space left on device\)"):
        write_manifest(Manifest(tmp_path, table(4).table), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.csv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such manifest"),
        ("", "empty, not even a header"),
        (CSV, "no rows"),
        ("path;num_samples\na;1\n", "no column path, num_samples, sample_rate, speaker, utterance; it has"),
        ("path,num_samples,sample_rate,utterance\na,1,1,a\n", "no column speaker; it has path, num"),
        (CSV + "a,8,8,s,u\nb,8,8,s,v\nc,8,8,s,u\n", "utterance 'u' stands for both a and c"),
        (CSV + "a,8,8,s,u\nb,8.5,8,s,v\n", "line 3, num_samples is '8.5', expected a whole number"),
        (CSV + "a,8,8,s,u\nb,,8,s,v\n", "line 3, num_samples is ''"),
        (CSV + "a,8,0,s,u\n", "line 2, sample_rate is '0'"),
        (CSV + "a,inf,8,s,u\n", "line 2, num_samples is 'inf'"),
        (CSV + "a,8,8,,u\n", "line 2, speaker is '', expected some text"),
        (CSV + "a,8,8,s,u/v\n", "line 2, utterance is 'u/v', expected a name without"),
        (CSV + "a,8,8,s,u v\n", "line 2, utterance is 'u v', expected a name without"),
        (CSV + "a,8,8,s,u,extra\n", "not a readable CSV table"),
        (CSV + "a,8,8,s,u\nb,8,8,s,v,extra\n", "not a readable CSV table"),
        (CSV + "a,8,8,s,\xff\n", "not a readable CSV table"),
        (CSV + "a,8,8,s,u\nb,8,8,s\n", "line 3 has 4 cells, expected 5: path, num_samples"),
        (CSV.strip() + ",age,age\na,8,8,s,u,1,2\n", "column 'age' appears twice"),
        (CSV + "a,1e15,8,s,u\n", "line 2, num_samples is '1e15', expected a whole number from 1 to 1e+12"),
        (CSV + "a,8,100000000,s,u\n", "line 2, sample_rate is '100000000', expected a whole number from 1 to 1e+07"),
        (CSV.strip() + ",split\na,8,8,s,u,Train\n", "line 2, split is 'Train', expected train, dev, test, or nothing"),
        (CSV.strip() + ",split\na,8,8,s,u,train\nb,8,8,s,v, dev\n", "line 3, split is ' dev'"),
        (CSV.strip() + ",split\na,8,8,s,u,valid\n", "line 2, split is 'valid'"),
    ],
)
def test_a_manifest_with_a_fault_is_refused_in_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "m.csv"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_select_keeps_one_split_and_names_those_present() -> None:
    whole = table(3)
    with pytest.raises(ManifestError, match=r"no split column.*cpc manifest --split"):
        whole.select("train")
    parts = Manifest(whole.root, whole.table.assign(split=["train", "dev", "train"]))
    assert parts.select("train").table["utterance"].tolist() == ["u0", "u2"]
    assert parts.select("train").table.index.tolist() == [0, 1]
    with pytest.raises(ManifestError, match="'test': no such row, the manifest has 'dev', 'train'"):
        parts.select("test")


# --- split


def readings(num_sentences: int = 30, num_speakers: int = 6, per_speaker: int = 10) -> Manifest:
    """Speakers who read sentences of one text, some sentences more often than others."""
    rng = np.random.default_rng(0)
    rows = [
        {"path": f"{s}/{i}.wav", "num_samples": 8, "sample_rate": 8, "speaker": f"s{s}", "utterance": f"{s}-{i}"}
        | {"sentence": f"t{int(sentence)}"}
        for s in range(num_speakers)
        for i, sentence in enumerate(rng.permutation(num_sentences)[:per_speaker])
    ]
    return Manifest(Path(), pd.DataFrame(rows))


@pytest.mark.parametrize("seed", range(5))
def test_split_by_a_column_shares_speakers_and_no_value_of_the_column(seed: int) -> None:
    whole = readings()
    parts = split_manifest(whole, by="sentence", seed=seed).table
    assert (parts.groupby("sentence")["split"].nunique() == 1).all()
    assert set(parts["speaker"][parts["split"] == "train"]) == set(whole.speakers)
    sizes = parts["split"].value_counts()
    largest = parts["sentence"].value_counts().max()
    for name, share in (("dev", 0.1), ("test", 0.1)):
        assert share * len(parts) - largest < sizes[name] <= share * len(parts)
    assert parts.groupby("split")["speaker"].nunique().min() >= 5
    again = split_manifest(
        Manifest(whole.root, whole.table.sample(frac=1, random_state=seed)), by="sentence", seed=seed
    )
    assert of(again) == dict(zip(parts["utterance"], parts["split"], strict=True))


def test_another_seed_gives_another_split_by_a_column() -> None:
    whole = readings()
    assert of(split_manifest(whole, by="sentence", seed=0)) != of(split_manifest(whole, by="sentence", seed=1))


def test_every_speaker_is_in_every_split_by_a_column_where_the_sentences_allow_it() -> None:
    """All speakers read the same ten sentences, so each sentence brings all of them."""
    rows = readings(num_sentences=10).table
    parts = split_manifest(Manifest(Path(), rows), by="sentence", fractions=(0.6, 0.2, 0.2)).table
    assert parts.groupby("split")["speaker"].nunique().to_dict() == {"train": 6, "dev": 6, "test": 6}


def test_a_split_by_a_column_that_takes_a_speaker_out_of_train_is_refused_in_one_line() -> None:
    """Each speaker has one dialect, so whatever goes to test is missing from train."""
    rows = readings().table
    dialects = Manifest(Path(), rows.assign(dialect=["d" + speaker for speaker in rows["speaker"]]))
    with pytest.raises(
        ManifestError, match=r"split by dialect: speaker 's0' would be missing from train, .* or speaker"
    ):
        split_manifest(dialects, by="dialect")


def test_a_column_that_cannot_be_split_by_is_refused() -> None:
    whole = readings()
    with pytest.raises(ManifestError, match=r"split by text: the manifest has no text column, it has path, .*\{text\}"):
        split_manifest(whole, by="text")
    gaps = Manifest(whole.root, whole.table.assign(sentence=["", *whole.table["sentence"][1:]]))
    with pytest.raises(ManifestError, match=r"split by sentence: 1 utterances have no sentence, e\.g\. 0-0"):
        split_manifest(gaps, by="sentence")


def of(parts: Manifest) -> dict[str, str]:
    return dict(zip(parts.table["utterance"], parts.table["split"], strict=True))


@pytest.mark.parametrize("by", ["utterance", "chapter", "speaker"])
def test_a_split_depends_on_the_seed_and_not_on_the_order_of_rows(by: By) -> None:
    whole = table(240, num_speakers=20)
    shuffled = Manifest(whole.root, whole.table.sample(frac=1, random_state=0))
    parts = split_manifest(whole, by=by)
    assert of(parts) == of(split_manifest(shuffled, by=by)) == of(split_manifest(parts, by=by))
    assert of(parts) != of(split_manifest(whole, by=by, seed=1))
    assert "split" not in whole.table


def test_a_split_is_the_same_in_every_version() -> None:
    parts = of(split_manifest(table(20), by="utterance"))
    assert sorted(name for name, split in parts.items() if split != "train") == ["u1", "u19", "u3", "u5"]


def test_split_by_utterance_shares_every_speaker_alike() -> None:
    parts = split_manifest(table(300, num_speakers=3), by="utterance").table
    counts = parts.groupby(["speaker", "split"]).size().unstack()
    assert counts.to_dict("index") == {f"00{s}": {"train": 80, "dev": 10, "test": 10} for s in range(3)}


@pytest.mark.parametrize(("by", "units"), [("chapter", ["speaker", "chapter"]), ("speaker", ["speaker"])])
def test_a_unit_is_never_in_two_splits(by: By, units: list[str]) -> None:
    parts = split_manifest(table(240, num_speakers=20), by=by).table
    assert (parts.groupby(units)["split"].nunique() == 1).all()
    assert parts.groupby(units)["split"].first().value_counts(normalize=True).to_dict() == pytest.approx(
        {"train": 0.8, "dev": 0.1, "test": 0.1}
    )


@pytest.mark.parametrize(
    ("num_units", "fractions", "expected"),
    [
        (3, (0.8, 0.1, 0.1), (1, 1, 1)),
        (6, (0.8, 0.1, 0.1), (4, 1, 1)),
        (30, (0.8, 0.1, 0.1), (24, 3, 3)),
        (2, (0.9, 0.0, 0.1), (1, 0, 1)),
        (7, (0.0, 0.5, 0.5), (0, 4, 3)),
        (100, (0.29, 0.29, 0.42), (29, 29, 42)),
        (5, (1.0, 0.0, 0.0), (5, 0, 0)),
    ],
)
def test_shares_are_exact_to_one_unit_and_no_wanted_split_is_empty(
    num_units: int, fractions: tuple[float, float, float], expected: tuple[int, int, int]
) -> None:
    parts = split_manifest(table(num_units, num_speakers=num_units), by="speaker", fractions=fractions).table
    counts = parts["split"].value_counts()
    assert tuple(counts.get(name, 0) for name in SPLITS) == expected


def test_too_few_units_are_an_error_that_counts_them() -> None:
    with pytest.raises(ManifestError, match="split by speaker: 2 of these for 3 splits, test would be empty"):
        split_manifest(table(40, num_speakers=2), by="speaker")
    with pytest.raises(ManifestError, match="no chapter column"):
        split_manifest(Manifest(Path(), table(40).table.drop(columns="chapter")), by="chapter")
    with pytest.raises(ManifestError, match="add up to 1"):
        split_manifest(table(40), by="speaker", fractions=(0.8, 0.1, 0.2))


def test_one_recording_under_two_names_goes_to_one_split() -> None:
    whole = table(60)
    rows = whole.table.assign(audio_hash=[f"{i % 30:x}" for i in range(60)])
    parts = split_manifest(Manifest(whole.root, rows), by="utterance").table
    assert (parts.groupby("audio_hash")["split"].nunique() == 1).all()


@pytest.mark.parametrize(
    ("by", "change", "what"),
    [
        ("utterance", {"utterance": "same"}, "utterance, same"),
        ("utterance", {"path": "a.wav"}, "sound file, "),
        ("utterance", {"path": "link.wav"}, "sound file, "),
        ("utterance", {"path": "folder/a.wav"}, "sound file, "),
        ("utterance", {"audio_hash": "same"}, "recording, same"),
        ("chapter", {"speaker": "s", "chapter": "1"}, "chapter, s/1"),
        ("speaker", {"speaker": "s", "chapter": "2"}, "speaker, s"),
        ("utterance", {"speaker": "s", "chapter": "1"}, None),
        ("chapter", {"speaker": "s", "chapter": "2"}, None),
        ("chapter", {"speaker": "t", "chapter": "1"}, None),
        ("speaker", {"audio_hash": ""}, None),
    ],
)
def test_what_two_splits_share_is_refused(tmp_path: Path, by: By, change: dict[str, str], what: str | None) -> None:
    put(tmp_path / "a.wav")
    (tmp_path / "link.wav").symlink_to("a.wav")
    (tmp_path / "folder").symlink_to(".")
    first = {"path": "a.wav", "speaker": "s", "utterance": "same", "chapter": "1", "audio_hash": "same"}
    second = {"path": "b.wav", "speaker": "t", "utterance": "v", "chapter": "2", "audio_hash": "v"}
    if change.get("audio_hash") == "":
        first["audio_hash"] = ""
    rows = pd.DataFrame([first | {"split": "train"}, second | change | {"split": "test"}])
    if what is None:
        refuse_leaks(Manifest(tmp_path, rows), by=by)
        return
    with pytest.raises(ManifestError, match=f"a.wav .train. and .* .test. share one {what}"):
        refuse_leaks(Manifest(tmp_path, rows), by=by)
    refuse_leaks(Manifest(tmp_path, rows.assign(split="train")), by=by)


def test_lists_give_train_and_test_and_dev_is_taken_out_of_train_the_same_way_every_time(tmp_path):
    table = read_manifest(make_corpus(tmp_path, speakers=3, utterances=7))
    names = table.table["utterance"].tolist()
    test, train, neither = names[::3], [n for i, n in enumerate(names) if i % 3 and n != names[1]], names[1]
    (tmp_path / "train.txt").write_text("\n".join(reversed(train)) + "\n\n")
    (tmp_path / "test.txt").write_text("".join(f"{name}.flac\n" for name in test))
    lists = [read_utterance_list(tmp_path / name) for name in ("train.txt", "test.txt")]
    result = split_as_listed(table, *lists, dev_fraction=0.2)
    of = dict(zip(result.table["utterance"], result.table["split"], strict=True))
    assert {name for name, split in of.items() if split == "test"} == set(test)
    assert {name for name, split in of.items() if split != "test"} == set(train)
    assert sum(split == "dev" for split in of.values()) == round(0.2 * len(train))
    assert neither not in of
    again = split_as_listed(table, sorted(train), test, dev_fraction=0.2)
    assert again.table.equals(result.table)


def test_lists_that_do_not_fit_are_refused(tmp_path):
    table = read_manifest(make_corpus(tmp_path, speakers=2, utterances=3))
    names = table.table["utterance"].tolist()
    with pytest.raises(ManifestError, match=r"list of test names 'x-1', which the manifest lacks \(1 of 2 such"):
        split_as_listed(table, names[:4], [names[4], "x-1"])
    with pytest.raises(ManifestError, match=r"is in the list of train and in that of test \(1 such"):
        split_as_listed(table, names[:4], names[3:])
    path = tmp_path / "list.txt"
    for text, message in (("a\nb\na\n", "names utterance 'a' 2 times"), ("\n", "empty")):
        path.write_text(text)
        with pytest.raises(ManifestError, match=message):
            read_utterance_list(path)
    with pytest.raises(ManifestError, match=r"none\.txt: not a readable list"):
        read_utterance_list(tmp_path / "none.txt")


@pytest.mark.parametrize("name", ["a\rb", "a\nb", "a\u2028b"])
def test_a_name_with_a_line_break_is_left_out_and_listed(tmp_path, name):
    root = tmp_path / "corpus"
    for stem in ("good", name):
        write_sound(root / "s" / f"{stem}.wav", 0.1, seed=0)
    scan = scan_folder(root, speaker="{speaker}/*", progress=False)
    assert scan.manifest.utterances == ["good"]
    assert "holds a line break; rename it" in str(scan)
    assert len(str(scan).splitlines()[-1].split("holds a line break")) == 2


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    root = tmp_path / "corpus"
    write_sound(root / "s" / "a.wav", 0.1, seed=0)
    (root / "closed").mkdir()
    scandir = os.scandir

    def denies(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denies)
    with pytest.raises(ManifestError, match=r"closed: permission denied; its files cannot be listed"):
        scan_folder(root, speaker="none", progress=False)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_stratified_split_has_each_class_in_each_split_and_each_group_in_one(seed: int) -> None:
    """100 patients of 1 to 4 recordings, 30 of them ill: 24, 3 and 3 of these in train, dev and test."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"p{p}-{i}", f"p{p}", "ill" if p % 10 < 3 else "well") for p in range(100) for i in range(rng.integers(1, 5))
    ]
    table = pd.DataFrame(rows, columns=["utterance", "patient", "diagnosis"])
    table = table.assign(path=table["utterance"] + ".wav", num_samples=16000, sample_rate=16000, speaker="unknown")
    split = split_manifest(Manifest(Path(), table), by="patient", seed=seed, stratify="diagnosis").table
    assert (split.groupby("patient")["split"].nunique() == 1).all()
    patients = split.drop_duplicates("patient")
    counts = patients.groupby(["diagnosis", "split"]).size().to_dict()
    assert counts == {
        **{("ill", "train"): 24, ("ill", "dev"): 3, ("ill", "test"): 3},
        **{("well", "train"): 56, ("well", "dev"): 7, ("well", "test"): 7},
    }
    with pytest.raises(ManifestError, match="the manifest has no weather column"):
        split_manifest(Manifest(Path(), table), by="patient", stratify="weather")
