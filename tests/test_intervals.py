"""Phone intervals: reading and writing TextGrid and CTM, and the phone at the centre of each label."""

import numpy as np
import pytest

from cpc.data import read_manifest
from cpc.labels import LabelsError, import_labels, labelled_utterances, read_labels, read_phones
from cpc.labels.intervals import (
    Interval,
    label_name,
    phone_name,
    phones_at_labels,
    read_ctm,
    read_textgrid,
    write_ctm,
    write_textgrid,
)


@pytest.fixture(scope="module")
def manifest(corpus):
    return read_manifest(corpus)


def drawn(seed, seconds):
    """Random phones end to end, with gaps."""
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, seconds, 12)).round(3)
    pairs = zip(times[::2], times[1::2], strict=True)
    return [Interval(float(a), float(b), str(rng.choice(["aa", "b", "sil"]))) for a, b in pairs]


@pytest.mark.parametrize("seed", range(5))
def test_each_label_is_the_phone_at_its_centre(seed):
    """A loop over labels and intervals in exact tenths of a millisecond gives the same."""
    given = drawn(seed, 1.0)
    expected = []
    for i in range(98):
        centre = 125 + 100 * i
        inside = [p.phone for p in given if round(10_000 * p.start) <= centre < round(10_000 * p.end)]
        expected.append(inside[0] if inside else "sil")
    assert phones_at_labels(given, 98) == expected


def test_a_border_on_a_centre_gives_the_label_to_the_phone_that_begins():
    assert phones_at_labels([Interval(0, 0.0225, "aa"), Interval(0.0225, 0.1, "b")], 3) == ["aa", "b", "b"]


def test_overlapping_intervals_are_refused():
    with pytest.raises(LabelsError, match=r"aa until 0.500 s and b from 0.300 s overlap"):
        phones_at_labels([Interval(0, 0.5, "aa"), Interval(0.3, 1, "b")], 9)


@pytest.mark.parametrize(
    ("mark", "phone"),
    [
        ("AH0", "ah"),
        ("aa_B", "aa"),
        ("", "sil"),
        ("sp", "sil"),
        ("SPN", "sil"),
        ("SIL", "sil"),
        (" zh ", "zh"),
        ("1", "1"),
    ],
)
def test_marks_become_phones(mark, phone):
    assert phone_name(mark) == phone


def test_textgrids_come_back_as_they_were_written(tmp_path):
    pytest.importorskip("praatio")
    given = [Interval(0, 0.25, "sil"), Interval(0.25, 0.3125, "aa"), Interval(0.3125, 1.5, "b")]
    write_textgrid(given, 1.5, tmp_path / "deep" / "a.TextGrid")
    assert read_textgrid(tmp_path / "deep" / "a.TextGrid") == given
    with pytest.raises(LabelsError, match=r"no tier 'words', it has phones; pass --tier"):
        read_textgrid(tmp_path / "deep" / "a.TextGrid", tier="words")
    with pytest.raises(LabelsError, match=r"b.TextGrid: no such TextGrid"):
        read_textgrid(tmp_path / "b.TextGrid")
    (tmp_path / "c.TextGrid").write_text("no grid")
    with pytest.raises(LabelsError, match=r"c.TextGrid: cannot be read as a TextGrid"):
        read_textgrid(tmp_path / "c.TextGrid")


def test_ctm_comes_back_as_it_was_written(tmp_path):
    given = {"u": [Interval(0, 0.25, "sil"), Interval(0.25, 0.3, "aa")], "v": [Interval(0.1, 0.2, "b")]}
    write_ctm(given, tmp_path / "a.ctm")
    assert read_ctm(tmp_path / "a.ctm") == given


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("u 1 0.1 0.2\n", r"a.ctm, line 1: found 'u 1 0.1 0.2', expected"),
        ("u 1 0 1 aa\nu 1 x 0.2 aa\n", r"line 2"),
        ("u 1 -1 0.2 aa\n", r"line 1"),
        (";; a comment\n", r"a.ctm: empty"),
    ],
)
def test_an_error_in_a_ctm_names_its_line(tmp_path, text, says):
    (tmp_path / "a.ctm").write_text(text)
    with pytest.raises(LabelsError, match=says):
        read_ctm(tmp_path / "a.ctm")


def test_a_missing_ctm_is_an_error(tmp_path):
    with pytest.raises(LabelsError, match="no such CTM file"):
        read_ctm(tmp_path / "a.ctm")


@pytest.mark.parametrize("form", ["ctm", "textgrids"])
def test_an_import_fits_the_manifest_and_names_the_utterances_without_intervals(manifest, tmp_path, form):
    """Labels have the lengths that the probe asks for; silence is 0, and the other phones follow by name."""
    names = manifest.utterances
    given = {u: [Interval(0.1, 0.5, "zh"), Interval(0.5, 0.8, "aa")] for u in names[1:]}
    source = tmp_path / "a.ctm"
    if form == "ctm":
        write_ctm(given, source)
    else:
        pytest.importorskip("praatio")
        source = tmp_path / "grids"
        for u, of in given.items():
            write_textgrid(of, float(manifest.seconds[names.index(u)]), source / u[0] / f"{u}.TextGrid")
    assert import_labels(manifest, source, tmp_path / "out").without == names[:1]
    labels = read_labels(tmp_path / "out" / "phone_labels.txt")
    assert labelled_utterances(manifest, labels) == names[1:]
    assert read_phones(tmp_path / "out" / "phones.txt") == {0: "sil", 1: "aa", 2: "zh"}
    assert labels[names[1]][:9].tolist() == [0] * 9  # up to 0.0925 s
    assert labels[names[1]][9:49].tolist() == [2] * 40
    assert labels[names[1]][49:79].tolist() == [1] * 30


def test_given_ids_are_used_and_a_phone_without_one_is_refused(manifest, tmp_path):
    utterance = manifest.utterances[0]
    write_ctm({utterance: [Interval(0.1, 0.5, "zh")]}, tmp_path / "a.ctm")
    (tmp_path / "phones.txt").write_text("0 sil\n1 aa\n2 zh\n")
    import_labels(manifest, tmp_path / "a.ctm", tmp_path / "out", phones=tmp_path / "phones.txt")
    assert set(read_labels(tmp_path / "out" / "phone_labels.txt")[utterance]) == {0, 2}
    (tmp_path / "phones.txt").write_text("0 sil\n1 aa\n")
    with pytest.raises(LabelsError, match=r"phones zh have no id; allowed: sil, aa"):
        import_labels(manifest, tmp_path / "a.ctm", tmp_path / "out", phones=tmp_path / "phones.txt")


def test_intervals_of_another_corpus_or_longer_than_the_audio_are_refused(manifest, tmp_path):
    utterance = manifest.utterances[0]
    write_ctm({"other": [Interval(0, 1, "aa")]}, tmp_path / "a.ctm")
    with pytest.raises(LabelsError, match=r"has intervals \(e.g. other\); are they of another corpus"):
        import_labels(manifest, tmp_path / "a.ctm", tmp_path / "out")
    write_ctm({utterance: [Interval(0, 9, "aa")]}, tmp_path / "b.ctm")
    with pytest.raises(LabelsError, match=r"intervals until 9 s, read as seconds; its audio ends at 1.00 s; are they"):
        import_labels(manifest, tmp_path / "b.ctm", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabelsError, match=r"no label file below it \(\*.TextGrid"):
        import_labels(manifest, tmp_path / "empty", tmp_path / "out")


def test_a_mark_with_blanks_becomes_a_name_that_a_file_of_phones_can_hold():
    assert label_name(" Glottal  stop\t") == "Glottal_stop"
    assert phone_name(" Glottal  stop\t") == "glottal_stop"
