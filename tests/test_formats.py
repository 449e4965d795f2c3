"""Labels as corpora have them: every format gives the same labels, and wrong units, names and lines are refused."""

from pathlib import Path

import pytest

from cpc.data import read_manifest, scan_folder, split_manifest, write_manifest
from cpc.features import SpectralExtractor, extract_features
from cpc.files import ClaimError
from cpc.labels import LabelsError, import_labels, read_labels, read_phones, write_labels
from cpc.labels.formats import read_folding
from cpc.labels.intervals import Interval, phones_at_labels, write_ctm, write_textgrid
from tests.conftest import exit_status, write_sound

FOLDING = Path(__file__).parents[1] / "data" / "timit_39.csv"
# The phones of every utterance of a second, with a gap; times are whole numbers of samples.
SPOKEN = [Interval(0.0, 0.15, "h#"), Interval(0.15, 0.4, "ix"), Interval(0.4, 0.55, "q"), Interval(0.6, 0.99, "zh")]
UNITS = {"phn": 1 / 16000, "htk": 1e-7, "seconds": 1.0}
SUFFIXES = {"phn": ".PHN", "htk": ".lab", "seconds": ".txt"}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """A tree as TIMIT's, where two speakers have files of one name."""
    root = tmp_path_factory.mktemp("tree")
    for i, name in enumerate(["TRAIN/DR1/FCJF0/SA1", "TRAIN/DR1/FCJF0/SX37", "TEST/DR1/MREB0/SA1"]):
        write_sound(root / f"{name}.WAV", 1.0, i)
    table = scan_folder(root, speaker="{part}/{dialect}/{speaker}/*", progress=False).manifest
    assert table.utterances[-1] == "TRAIN_DR1_FCJF0_SX37"
    return table


def write_lines(path: Path, unit: float, spoken=SPOKEN) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    number = (lambda x: f"{x:.3f}") if unit == 1 else (lambda x: str(round(x / unit)))
    path.write_text("".join(f"{number(i.start)} {number(i.end)} {i.phone}\n" for i in spoken))


def write_source(manifest, folder: Path, label_format: str) -> Path:
    if label_format == "ctm":
        write_ctm(dict.fromkeys(manifest.utterances, SPOKEN), folder / "all.ctm")
        return folder / "all.ctm"
    for path in manifest.paths:
        if label_format == "textgrid":
            write_textgrid(SPOKEN, 1.0, folder / Path(path).with_suffix(".TextGrid"))
        else:
            write_lines(folder / Path(path).with_suffix(SUFFIXES[label_format]), UNITS[label_format])
    return folder


def labels_of(out: Path) -> dict[str, list[str]]:
    names = read_phones(out / "phones.txt")
    return {u: [names[i] for i in of.tolist()] for u, of in read_labels(out / "phone_labels.txt").items()}


@pytest.mark.parametrize("label_format", ["textgrid", "phn", "htk", "seconds", "ctm"])
def test_every_format_gives_the_phone_at_each_label(manifest, tmp_path, label_format):
    """A loop over 98 centres and the intervals gives the same; the format is told from the files."""
    if label_format == "textgrid":
        pytest.importorskip("praatio")
    source = write_source(manifest, tmp_path / "in", label_format)
    assert import_labels(manifest, source, tmp_path / "out").without == []
    expected = []
    for i in range(98):
        inside = [p.phone for p in SPOKEN if p.start <= 0.0125 + 0.01 * i < p.end]
        expected.append(inside[0] if inside else "sil")
    assert labels_of(tmp_path / "out") == dict.fromkeys(manifest.utterances, expected)


def test_labels_are_taken_verbatim_unless_arpabet_is_asked_for(manifest, tmp_path):
    """Classes that differ by a number, by case or by an ending stay apart, and noise is a class as any other."""
    marks = ["call1", "call2", "Call1", "hum_b", "noise", "AH0"]
    lines = "".join(f"{i / 10} {(i + 1) / 10} {mark}\n" for i, mark in enumerate(marks))
    for path in manifest.paths:
        (tmp_path / "in" / path).with_suffix(".txt").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path).with_suffix(".txt").write_text(lines)
    found = import_labels(manifest, tmp_path / "in", tmp_path / "out")
    assert set(found.counts) == {*marks, "sil"} == set(read_phones(tmp_path / "out" / "phones.txt").values())
    assert sum(found.counts.values()) == sum(map(len, read_labels(tmp_path / "out" / "phone_labels.txt").values()))
    assert list(found.counts.values()) == sorted(found.counts.values(), reverse=True)
    assert found.counts["call1"] == 9 * len(manifest.paths)  # centres from 12.5 to 92.5 ms
    phones = import_labels(manifest, tmp_path / "in", tmp_path / "out", naming="arpabet")
    assert set(phones.counts) == {"call", "hum", "ah", "sil"}


def test_selections_of_raven_and_labels_of_audacity_are_read(manifest, tmp_path):
    """Raven lists a selection once for each view; Audacity separates by tabs, so a label may have blanks."""
    first, second, *rest = manifest.utterances
    header = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tAnnotation\n"
    rows = "".join(
        f"{i}\t{view}\t1\t{start}\t{end}\t300\t{label}\n"
        for i, (start, end, label) in enumerate([(0.5, 0.75, "song B"), (0.0, 0.25, "call")])
        for view in ("Waveform 1", "Spectrogram 1")
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"{first}.Table.1.selections.txt").write_text(header + rows)
    (tmp_path / "in" / f"{second}.txt").write_text(
        "0.000000\t0.250000\tcall\n\\\t100.0\t3000.0\n0.500000\t0.750000\tsong B\n"
    )
    third, *rest = rest
    (tmp_path / "in" / f"{third}.txt").write_text("0.0 0.25\tcall\n0.5\t\t0.75 song_B rest\n")  # tabs for blanks
    assert import_labels(manifest, tmp_path / "in", tmp_path / "out").without == rest
    labels = labels_of(tmp_path / "out")
    expected = ["call"] * 24 + ["sil"] * 25 + ["song_B"] * 25 + ["sil"] * 24
    assert labels[first] == labels[second] == labels[third] == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Begin Time (s)\tEnd Time (s)\tSex\n0\t1\tf\n", r"a column for the label .*; it has .*Sex"),
        ("Begin Time (s)\tAnnotation\n0\tx\n", r"expected a selection table with Begin Time"),
        ("Begin Time (s)\tEnd Time (s)\tAnnotation\n3\t1\tx\n", r"line 2: expected Begin Time .*, got 3 and 1"),
    ],
)
def test_a_selection_table_that_cannot_be_read_is_refused(manifest, tmp_path, text, says):
    (tmp_path / f"{manifest.utterances[0]}.txt").write_text(text)
    with pytest.raises(LabelsError, match=says):
        import_labels(manifest, tmp_path, tmp_path / "out")


def test_labels_that_an_import_did_not_write_are_never_replaced(manifest, tmp_path):
    source, out = write_source(manifest, tmp_path / "in", "phn"), tmp_path / "out"
    out.mkdir()
    (out / "phone_labels.txt").write_text("a 1 2 3\n")
    with pytest.raises(ClaimError, match="not empty, and holds no imported labels"):
        import_labels(manifest, source, out)
    assert (out / "phone_labels.txt").read_text() == "a 1 2 3\n"
    (out / "phone_labels.txt").unlink()
    for fold in (None, FOLDING):  # the second import replaces the first
        import_labels(manifest, source, out, fold=fold)


def test_folded_phones_share_a_label_and_the_glottal_stop_becomes_silence(manifest, tmp_path):
    source = write_source(manifest, tmp_path / "in", "phn")
    import_labels(manifest, source, tmp_path / "out", fold=FOLDING)
    folded = {"h#": "sil", "ix": "ih", "q": "sil", "zh": "sh"}
    expected = phones_at_labels([i._replace(phone=folded[i.phone]) for i in SPOKEN], 98)
    assert labels_of(tmp_path / "out")[manifest.utterances[0]] == expected
    assert set(expected) == {"sil", "ih", "sh"}
    (tmp_path / "few.csv").write_text("phone,folded\nh#,sil\nix,ih\nq,\n")
    with pytest.raises(LabelsError, match=r"few.csv: no row for zh; it folds h#, ix, q"):
        import_labels(manifest, source, tmp_path / "out", fold=tmp_path / "few.csv")


def test_the_table_folds_timits_61_marks_into_39_classes():
    rows = [line.split(",") for line in FOLDING.read_text().splitlines()[1:]]
    assert len({mark for mark, _ in rows}) == len(rows) == 61
    assert len({label for _, label in rows if label}) == 39
    assert [mark for mark, label in rows if not label] == ["q"]
    folding = read_folding(FOLDING)
    for marks, label in [("aa ao", "aa"), ("ax-h ax ah", "ah"), ("el l", "l"), ("bcl pau epi h#", "sil"), ("nx", "n")]:
        assert {folding.get(mark, "sil") for mark in marks.split()} == {label}


@pytest.mark.parametrize("text", ["", "phone\naa\n", "phone,folded\naa\n", "phone,folded\naa,b,c\n"])
def test_a_file_that_is_no_folding_is_refused(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(LabelsError, match=r"t.csv: expected a CSV table with the columns phone,folded"):
        read_folding(tmp_path / "t.csv")


@pytest.mark.parametrize("true", ["phn", "htk", "seconds"])
@pytest.mark.parametrize("read_as", ["phn", "htk", "seconds"])
def test_a_wrong_unit_is_refused_and_the_right_format_is_named(manifest, tmp_path, true, read_as):
    source = write_source(manifest, tmp_path / "in", true)
    if true == read_as:
        assert import_labels(manifest, source, tmp_path / "out", label_format=read_as).without == []
        return
    with pytest.raises(
        LabelsError, match=rf"its audio ends at 1.00 s; the numbers look like .*; pass --format {true}$"
    ):
        import_labels(manifest, source, tmp_path / "out", label_format=read_as)


@pytest.mark.parametrize(("unit", "name"), [(1e-3, "milliseconds"), (1e-2, "frames of 10 ms")])
def test_a_unit_that_no_format_has_is_named(manifest, tmp_path, unit, name):
    for path in manifest.paths:
        write_lines(tmp_path / Path(path).with_suffix(".txt"), unit)
    with pytest.raises(LabelsError, match=rf"the numbers look like {name}; convert them"):
        import_labels(manifest, tmp_path, tmp_path / "out")


def test_intervals_may_end_a_window_after_the_audio_and_not_later(manifest, tmp_path):
    for end in (1.024, 1.027):
        write_ctm({manifest.utterances[0]: [Interval(0.1, end, "aa")]}, tmp_path / "a.ctm")
        if end < 1.025:
            import_labels(manifest, tmp_path / "a.ctm", tmp_path / "out")
        else:
            with pytest.raises(LabelsError, match=r"until 1.027 s, .* are they labels of another recording"):
                import_labels(manifest, tmp_path / "a.ctm", tmp_path / "out")


def test_transcripts_beside_phn_files_are_not_read_and_a_given_format_reads_any_ending(manifest, tmp_path):
    source = write_source(manifest, tmp_path / "a", "phn")
    (source / "TRAIN/DR1/FCJF0/SA1.TXT").write_text("0 46797 She had your dark suit\n")
    assert import_labels(manifest, source, tmp_path / "out").without == []
    for path in manifest.paths:
        write_lines(tmp_path / "b" / Path(path).with_suffix(".lab"), 1.0)
    assert import_labels(manifest, tmp_path / "b", tmp_path / "out", label_format="seconds").without == []


def test_a_file_belongs_to_the_utterance_that_its_path_ends_in(manifest, tmp_path):
    """The folder may begin above the corpus; an utterance with two files is refused, as are files of nobody."""
    name = manifest.utterances[-1]  # TRAIN_DR1_FCJF0_SX37
    write_lines(tmp_path / "in" / "v1" / f"{name}.phn", 1 / 16000)
    assert import_labels(manifest, tmp_path / "in", tmp_path / "out").without == manifest.utterances[:-1]
    write_lines(tmp_path / "in" / "v2" / "TRAIN/DR1/FCJF0/SX37.phn", 1 / 16000)
    with pytest.raises(LabelsError, match=rf"are both named as utterance {name}"):
        import_labels(manifest, tmp_path / "in", tmp_path / "out")
    write_lines(tmp_path / "other" / "x.phn", 1 / 16000)
    with pytest.raises(LabelsError, match=r"no file is named as an utterance .*x.phn and TEST_DR1_MREB0_SA1"):
        import_labels(manifest, tmp_path / "other", tmp_path / "out")


@pytest.mark.parametrize("text", ["0 16000\n", "0 x aa\n", "5 3 aa\n", "-1 3 aa\n", "0 inf aa\n", "0 nan aa\n"])
def test_an_error_in_a_label_file_names_its_line(manifest, tmp_path, text):
    name = manifest.utterances[0]
    (tmp_path / f"{name}.phn").write_text(f"0 1 aa\n\n{text}")
    with pytest.raises(LabelsError, match=rf"{name}.phn, line 3: found .*expected `start end phone`"):
        import_labels(manifest, tmp_path, tmp_path / "out")
    (tmp_path / f"{name}.phn").write_text("\n")
    with pytest.raises(LabelsError, match=rf"{name}.phn: empty"):
        import_labels(manifest, tmp_path, tmp_path / "out")


def test_a_file_where_a_folder_is_needed_and_the_reverse_are_refused(manifest, tmp_path):
    write_ctm({manifest.utterances[0]: SPOKEN}, tmp_path / "a.ctm")
    with pytest.raises(LabelsError, match=r"--format htk reads a folder"):
        import_labels(manifest, tmp_path / "a.ctm", tmp_path / "out", label_format="htk")
    with pytest.raises(LabelsError, match=r"a folder, but CTM is one file"):
        import_labels(manifest, tmp_path, tmp_path / "out", label_format="ctm")


def test_the_commands_import_phn_files_and_probe_labels_of_another_convention(corpus, tmp_path, monkeypatch, capfd):
    """`cpc probe` refuses S // 160 labels, names two options, and accepts the labels with them."""
    table = split_manifest(read_manifest(corpus), by="utterance", fractions=(0.6, 0.2, 0.2))
    write_manifest(table, tmp_path / "m.csv")
    for utterance, seconds in zip(table.utterances, table.seconds.tolist(), strict=True):
        half = [Interval(0, 0.5, "ao"), Interval(0.5, seconds, "bcl")]
        write_lines(tmp_path / "in" / f"{utterance}.phn", 1 / 16000, half)
    out = tmp_path / "out"
    align = ["align", "--manifest", tmp_path / "m.csv", "--intervals", tmp_path / "in", "--out", out]
    assert exit_status(*align, "--format", "phn", "--fold", FOLDING) == 0
    assert read_phones(out / "phones.txt") == {0: "sil", 1: "aa"}
    counts = zip(table.utterances, table.num_samples.tolist(), strict=True)
    write_labels(out / "other.txt", {u: [1] * 50 + [0] * (n // 160 - 50) for u, n in counts})
    extract_features(SpectralExtractor("mfcc", 16000), read_manifest(tmp_path / "m.csv"), tmp_path / "f")
    capfd.readouterr()
    probe = ["probe", "phone", tmp_path / "f", "--labels", out / "other.txt", "--Cs", "0.1"]
    assert exit_status(*probe) == 2
    assert "--label-hop 10 --label-first-centre 5" in capfd.readouterr().err
    assert exit_status(*probe, "--label-hop", "10", "--label-first-centre", "5") == 0
    assert "2 classes" in capfd.readouterr().out
