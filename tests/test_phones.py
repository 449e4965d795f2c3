"""Label files and the label of each moment: reading, writing, checking and placing labels in time."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas
import pytest

from cpc.data import Manifest
from cpc.labels import (
    LABEL_FIRST_CENTRE_SECONDS,
    LABEL_HOP_SAMPLES,
    LABEL_WINDOW_SAMPLES,
    LabelGrid,
    LabelsError,
    PhoneLabels,
    labelled_utterances,
    labels_at,
    num_labels,
    read_labels,
    read_phones,
    write_labels,
    write_phones,
)


def slow_labels_at(
    labels: list[int], times: list[Fraction], hop: Fraction = Fraction(10), first: Fraction = Fraction(25, 2)
) -> list[int]:
    """Search all labels in exact arithmetic for the nearest centre; take the later one of two. Hop and first in ms."""
    result = []
    for time in times:
        best, best_distance = -1, hop / 2000
        for i, label in enumerate(labels):
            centre = (first + i * hop) / 1000
            if centre == time + hop / 2000 or abs(centre - time) < best_distance:
                best, best_distance = label, abs(centre - time)
        result.append(best)
    return result


def make_manifest(utterances: dict[str, tuple[int, int]]) -> Manifest:
    """A manifest of utterances with (num_samples, sample_rate)."""
    table = pandas.DataFrame(
        [
            {"path": f"{u}.wav", "num_samples": n, "sample_rate": rate, "speaker": "s", "utterance": u}
            for u, (n, rate) in utterances.items()
        ],
        columns=["path", "num_samples", "sample_rate", "speaker", "utterance"],
    )
    return Manifest(Path("corpus"), table)


@pytest.mark.parametrize(("first_centre", "hop"), [(232, 160), (79, 160), (20, 160), (200, 160), (120, 160), (50, 97)])
def test_labels_at_equals_the_search_for_the_nearest_centre(first_centre: int, hop: int) -> None:
    labels = np.random.default_rng(0).integers(0, 41, size=50)
    centres = [first_centre + hop * i for i in range(-3, 50 * 160 // hop + 5)]
    times = np.array(centres) / 16000
    expected = slow_labels_at(labels.tolist(), [Fraction(centre, 16000) for centre in centres])
    assert labels_at(labels, times).tolist() == expected
    assert set(expected[:1] + expected[-1:]) == {-1}


def test_labels_at_equals_the_search_at_arbitrary_times() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 41, size=30)
    times = rng.uniform(-0.05, 0.4, size=500)
    expected = slow_labels_at(labels.tolist(), [Fraction(float(time)) for time in times])
    assert labels_at(labels, times).tolist() == expected


def test_a_frame_midway_between_labels_takes_the_later_one_everywhere_in_a_long_file() -> None:
    """Rounding of seconds to float64 must not repeat one label and lose the next."""
    labels = np.arange(20_000)
    midway = (200 + 80 + 160 * np.arange(20_000 - 1)) / 16000
    assert np.array_equal(labels_at(labels, midway), labels[1:])
    assert labels_at(labels, np.array([120 / 16000]))[0] == 0
    assert labels_at(labels, np.array([(200 + 160 * 19_999 + 80) / 16000]))[0] == -1


def test_every_frame_keeps_its_place_and_nothing_is_trimmed_or_repeated() -> None:
    times = np.array([-1.0, 0.0074, 0.0076, 0.0174, 0.0176, 0.0274, 0.0276, 9.0])
    assert labels_at(np.array([7, 8]), times).tolist() == [-1, -1, 7, 7, 8, 8, -1, -1]
    assert labels_at(np.array([], dtype=np.int16), np.array([0.0125])).tolist() == [-1]
    assert labels_at(np.array([3], dtype=np.int16), np.array([])).dtype == np.int64


@pytest.mark.parametrize(
    ("num_samples", "sample_rate", "expected"),
    [
        (399, 16000, 0),
        (400, 16000, 1),
        (559, 16000, 1),
        (560, 16000, 2),
        (179360, 16000, 1119),
        (81520, 16000, 508),
        (200, 8000, 1),
        (199, 8000, 0),
        (280, 8000, 2),
        (44100, 44100, 98),
        (1103, 44100, 1),
        (1102, 44100, 1),
    ],
)
def test_num_labels_counts_the_windows_that_fit(num_samples: int, sample_rate: int, expected: int) -> None:
    resampled = next(n for n in range(num_samples * 3) if n * sample_rate >= num_samples * 16000)
    windows = sum(1 for start in range(0, resampled, 160) if start + 400 <= resampled)
    assert num_labels(num_samples, sample_rate) == expected == windows


def test_constants_are_those_of_the_label_files() -> None:
    assert (LABEL_WINDOW_SAMPLES, LABEL_HOP_SAMPLES) == (400, 160)
    assert LABEL_FIRST_CENTRE_SECONDS == 200 / 16000


def test_read_labels_skips_blank_lines_and_accepts_tabs(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("a-1 0 40 3\n\nb-2  7\t8 \nc-3 32767")
    labels = read_labels(file)
    assert {u: values.tolist() for u, values in labels.items()} == {"a-1": [0, 40, 3], "b-2": [7, 8], "c-3": [32767]}


def test_written_labels_and_phones_come_back_as_they_were(tmp_path: Path) -> None:
    """Lists and arrays are written alike, in the order given, over an older file."""
    (tmp_path / "labels.txt").write_text("old 1\n")
    write_labels(tmp_path / "labels.txt", {"b": np.array([3, 0, 40], np.int16), "a": [1, 2]})
    assert (tmp_path / "labels.txt").read_text() == "b 3 0 40\na 1 2\n"
    assert {u: of.tolist() for u, of in read_labels(tmp_path / "labels.txt").items()} == {"b": [3, 0, 40], "a": [1, 2]}
    write_phones(tmp_path / "phones.txt", ["sil", "aa", "é"])
    assert (tmp_path / "phones.txt").read_text(encoding="utf-8") == "0 sil\n1 aa\n2 é\n"
    assert read_phones(tmp_path / "phones.txt") == {0: "sil", 1: "aa", 2: "é"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a 1 2\nb 1 x 2\n", "line 2, utterance b: found 'x'"),
        ("a 1 2.5\n", "line 1, utterance a: found '2.5'"),
        ("a 1 -2\n", "line 1, utterance a: found label -2"),
        ("a 1 99999999999999999999\n", "line 1, utterance a: found label"),
        ("a 40000\n", "found label 40000, expected 0 to 32767"),
        ("a 1 1_0\n", "found '1_0'"),
        ("a 1\nb 2\n\na 3\n", "line 4, utterance a: appears a second time"),
        ("a 1\nb\n", "line 2, utterance b: found no label"),
        ("", "empty"),
        ("\n \n", "empty"),
    ],
)
def test_read_labels_says_where_and_what_is_wrong(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "labels.txt"
    file.write_text(text)
    with pytest.raises(LabelsError) as caught:
        read_labels(file)
    assert expected in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_read_labels_of_no_file_or_no_text_is_a_labels_error(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="no such label file"):
        read_labels(tmp_path / "nothing.txt")
    (tmp_path / "binary").write_bytes(b"a 1\n\xff\xfe\x00")
    with pytest.raises(LabelsError, match="cannot be read"):
        read_labels(tmp_path / "binary")
    with pytest.raises(LabelsError, match="cannot be read"):
        read_labels(tmp_path)


def test_read_phones_returns_names_by_integer_or_says_which_line_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "phones.txt"
    file.write_text("0 sil\n10 aa\n\n2  zh ")
    assert read_phones(file) == {0: "sil", 10: "aa", 2: "zh"}
    for text, expected in [
        ("0 a\nb 1\n", "line 2: found 'b 1'"),
        ("0 a b", "line 1"),
        ("0 a\n0 b", "line 2"),
        ("", "empty"),
    ]:
        file.write_text(text)
        with pytest.raises(LabelsError, match=expected):
            read_phones(file)
    with pytest.raises(LabelsError, match="no such file"):
        read_phones(tmp_path / "nothing.txt")


def test_labelled_utterances_keeps_the_manifests_order_and_leaves_out_those_without_labels() -> None:
    manifest = make_manifest({"c": (560, 16000), "x": (999, 16000), "a": (200, 8000)})
    labels = {
        "a": np.zeros(1, dtype=np.int16),
        "c": np.zeros(2, dtype=np.int16),
        "z": np.zeros(9, dtype=np.int16),
    }
    assert labelled_utterances(manifest, labels) == ["c", "a"]


def test_a_wrong_length_is_an_error_that_names_utterance_and_both_lengths() -> None:
    manifest = make_manifest({"a": (560, 16000), "b": (560, 16000)})
    labels = {"a": np.zeros(2, dtype=np.int16), "b": np.zeros(3, dtype=np.int16)}
    with pytest.raises(LabelsError, match=r"b: 3 labels, expected 2 for 560 samples.*1 of 2 .*another version"):
        labelled_utterances(manifest, labels)


def test_labels_of_another_corpus_are_an_error_that_shows_both_sides() -> None:
    with pytest.raises(LabelsError, match=r"e\.g\. here-1.*e\.g\. there-1.*another corpus"):
        labelled_utterances(make_manifest({"here-1": (560, 16000)}), {"there-1": np.zeros(2, dtype=np.int16)})
    with pytest.raises(LabelsError, match="none at all"):
        labelled_utterances(make_manifest({}), {"there-1": np.zeros(2, dtype=np.int16)})


@pytest.mark.parametrize(("hop", "first"), [(10, 5), (10, 0), (20, 12.5), (12.5, 5)])
def test_labels_on_another_grid_are_placed_by_their_own_hop_and_first_centre(hop: float, first: float) -> None:
    labels = np.random.default_rng(2).integers(0, 41, size=40)
    centres = [232 + 160 * i for i in range(-2, 90)]
    expected = slow_labels_at(labels.tolist(), [Fraction(c, 16000) for c in centres], Fraction(hop), Fraction(first))
    known = PhoneLabels({"u": labels}, grid=LabelGrid(hop / 1000, first / 1000))
    assert known.at("u", np.array(centres) / 16000).tolist() == expected
    assert expected != labels_at(labels, np.array(centres) / 16000).tolist()


@pytest.mark.parametrize(
    ("extra", "hop", "first"), [(0, "10", "5"), (1, "10", "0"), (160, "20", "12.5"), (-7, "", ""), (1000, "", "")]
)
def test_lengths_of_another_convention_are_refused_and_the_options_that_accept_them_are_named(
    extra: int, hop: str, first: str
) -> None:
    """The named options do accept these labels."""
    lengths = {"a": 16000, "b": 17779, "c": 32111}
    count = {u: 1 + (n - 400) // 320 if extra == 160 else n // 160 + extra for u, n in lengths.items()}
    manifest = make_manifest({u: (n, 16000) for u, n in lengths.items()})
    labels = {u: np.zeros(n, dtype=np.int16) for u, n in count.items()}
    options = rf"--label-hop {hop} --label-first-centre {first}$" if hop else "another version"
    with pytest.raises(LabelsError, match=options):
        PhoneLabels(labels).utterances_of(manifest)
    if hop:
        grid = LabelGrid(float(hop) / 1000, float(first) / 1000)
        assert PhoneLabels(labels, grid=grid).utterances_of(manifest) == ["a", "b", "c"]


@pytest.mark.parametrize("change", [1, -1])
def test_one_label_more_or_fewer_than_the_convention_is_accepted_when_asked(change: int) -> None:
    manifest = make_manifest({"a": (16000, 16000), "b": (8100, 8000)})
    labels = {"a": np.zeros(98 + change, np.int16), "b": np.zeros(num_labels(8100, 8000) + change, np.int16)}
    says = f"one {'more' if change > 0 else 'less'} than"
    with pytest.raises(LabelsError, match=says + r".*--label-hop 10 --label-first-centre 12.5"):
        labelled_utterances(manifest, labels)
    assert labelled_utterances(manifest, labels, LabelGrid()) == ["a", "b"]


@pytest.mark.parametrize("wrong", [96, 104, 50, 200])
def test_a_grid_that_is_asked_for_must_still_fit_the_audio(wrong: int) -> None:
    manifest, grid = make_manifest({"a": (16000, 16000)}), LabelGrid(0.010, 0.005)  # 100 centres in a second
    with pytest.raises(LabelsError, match=rf"a: {wrong} labels, expected 100"):
        labelled_utterances(manifest, {"a": np.zeros(wrong, np.int16)}, grid)
    for accepted in (97, 103):
        assert labelled_utterances(manifest, {"a": np.zeros(accepted, np.int16)}, grid) == ["a"]


@pytest.mark.parametrize("values", [(0.0, 0.005), (-0.01, 0.005), (0.01, -0.001), (float("nan"), 0.0)])
def test_a_grid_out_of_range_is_an_error(values: tuple[float, float]) -> None:
    with pytest.raises(LabelsError, match="expected a hop above 0"):
        LabelGrid(*values)


def test_a_byte_order_mark_does_not_hide_the_first_utterance(tmp_path):
    (tmp_path / "labels.txt").write_text("a 1 2\nb 3\n", encoding="utf-8-sig")
    (tmp_path / "phones.txt").write_text("1 one\n2 two\n", encoding="utf-8-sig")
    assert sorted(read_labels(tmp_path / "labels.txt")) == ["a", "b"]
    assert read_phones(tmp_path / "phones.txt") == {1: "one", 2: "two"}


def test_a_name_that_two_phones_have_is_refused(tmp_path):
    (tmp_path / "phones.txt").write_text("0 sil\n1 a\n2 a\n")
    with pytest.raises(LabelsError, match=r"phones.txt, line 3: the name a appears a second time"):
        read_phones(tmp_path / "phones.txt")
