"""ABX: items, their frames, and errors that are known or found by a loop over all triplets."""

import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pandas
import pytest

from cpc.features import Features, open_features
from cpc.labels import LabelGrid, LabelsError, PhoneLabels, num_labels
from cpc.probes import AbxResult, AbxScore, ProbeError, probe_abx
from cpc.probes.abx import CONDITIONS
from cpc.probes.items import Item, frames_of_items, items_of_file, items_of_labels
from tests.conftest import abx_result, exit_status

needs_fastabx = pytest.mark.skipif(
    importlib.util.find_spec("fastabx") is None, reason="fastabx is not installed; it needs Python 3.12 or later"
)
NAMES = {0: "sil", 1: "aa", 2: "b", 3: "iy"}
HEADER = "#file onset offset #phone prev-phone next-phone speaker"


class Speech:
    """Labelled utterances of some speakers; a function of each label makes the frames."""

    def __init__(self, num_speakers=2, num_each=4, num_runs=7, seed=0):
        rng = np.random.default_rng(seed)
        self.labels, rows = {}, []
        for s, j in itertools.product(range(num_speakers), range(num_each)):
            name, split = f"{s}-{j}", "dev" if j == num_each - 1 else "test"
            of = [0]
            for _ in range(num_runs):
                label = int(rng.choice([i for i in range(4) if i != of[-1]]))
                of += [label] * int(rng.integers(2, 5))
            self.labels[name] = np.array(of, np.int16)
            num_samples = 400 + 160 * (len(of) - 1)
            assert num_labels(num_samples) == len(of)
            rows.append([f"{name}.wav", num_samples, 16000, f"s{s}", name, split])
        self.table = pandas.DataFrame(
            rows, columns=["path", "num_samples", "sample_rate", "speaker", "utterance", "split"]
        )

    def write(self, folder: Path, frame_of, *, first_centre: float = 232.0) -> Features:
        """Write a frame for each label, as `cpc features` does."""
        (folder / "frames").mkdir(parents=True)
        for name, of in self.labels.items():
            frames = np.stack([frame_of(int(label)) for label in of]).astype(np.float32)
            np.save(folder / "frames" / f"{name}.npy", frames)
        self.table.to_csv(folder / "manifest.csv", index=False)
        meta = {"source": "cpc", "layer": "c", "dim": frames.shape[1], "dtype": "float32", "complete": True}
        meta |= {"sample_rate": 16000, "hop_samples": 160, "first_centre_samples": first_centre}
        (folder / "features.json").write_text(json.dumps(meta))
        return open_features(folder)

    @property
    def known(self) -> PhoneLabels:
        return PhoneLabels(self.labels, NAMES)


def drawn(dim, seed=0, signal=0.0):
    """Frames of noise, plus `signal` times a vector of the phone."""
    rng = np.random.default_rng(seed)
    means = signal * rng.standard_normal((4, dim))
    return lambda label: means[label] + rng.standard_normal(dim)


# --- items and their frames ---


def test_items_are_the_runs_of_a_label_with_their_neighbours(tmp_path):
    """Silence is a neighbour and no item; times are borders of labels, where label i is centred at 12.5 + 10 i ms."""
    speech = Speech(num_speakers=1, num_each=1)
    speech.labels = {"0-0": np.array([0, 0, 1, 1, 1, 2, 0, 3], np.int16)}
    speech.table["num_samples"] = 400 + 160 * 7
    features = speech.write(tmp_path / "f", drawn(3))
    expected = [
        ("aa", "sil", "b", 0.0275, 0.0575),
        ("b", "aa", "sil", 0.0575, 0.0675),
        ("iy", "sil", "#", 0.0775, 0.0875),
    ]
    items = items_of_labels(features, speech.known, "dev")
    assert [(i.phone, i.previous, i.following) for i in items] == [e[:3] for e in expected]
    assert [(i.onset, i.offset) for i in items] == [pytest.approx(e[3:]) for e in expected]
    assert {(i.utterance, i.speaker) for i in items} == {("0-0", "s0")}
    nameless = items_of_labels(features, PhoneLabels(speech.labels), "dev")
    assert [i.phone for i in nameless] == ["0", "1", "2", "0", "3"]


def test_items_come_from_the_evaluated_split_and_follow_the_grid_of_the_labels(tmp_path):
    speech = Speech()
    features = speech.write(tmp_path / "f", drawn(3))
    for split in ("dev", "test"):
        used = {item.utterance for item in items_of_labels(features, speech.known, split)}
        assert used == set(features.manifest.select(split).utterances)
    shifted = PhoneLabels(speech.labels, NAMES, grid=LabelGrid(0.01, 0.0025))
    pairs = zip(items_of_labels(features, speech.known, "dev"), items_of_labels(features, shifted, "dev"), strict=True)
    assert all(b.onset == pytest.approx(max(0, a.onset - 0.01)) for a, b in pairs)
    with pytest.raises(ProbeError, match=r"no dev utterance has labels"):
        items_of_labels(features, PhoneLabels({"0-0": speech.labels["0-0"]}), "dev")
    with pytest.raises(LabelsError, match=r"0-0: 3 labels"):
        items_of_labels(features, PhoneLabels({"0-0": np.zeros(3, np.int16)}), "dev")


@pytest.mark.parametrize("first_centre", [80.0, 200.0, 232.0])
def test_the_frames_of_an_item_lie_between_its_onset_and_offset(tmp_path, first_centre):
    """The frames' own times count, both borders included; a loop over frames finds the same."""
    speech = Speech()
    features = speech.write(tmp_path / "f", drawn(3), first_centre=first_centre)
    rng = np.random.default_rng(1)
    items = [Item("0-0", 0.005, 0.015, "aa", "b", "b", "s0"), Item("1-0", 5.0, 6.0, "aa", "b", "b", "s1")]
    for utterance in features.manifest.utterances:
        times = rng.uniform(0, 0.1, (4, 2))
        times.sort(axis=1)
        items += [Item(utterance, float(a), float(b), "aa", "b", "b", "s0") for a, b in times]
    kept, frames, lengths = frames_of_items(features, items)
    begin = 0
    for item, length in zip(kept, lengths.tolist(), strict=True):
        all_frames = features.frames(item.utterance)
        expected = [
            frame for i, frame in enumerate(all_frames) if item.onset <= (first_centre + 160 * i) / 16000 <= item.offset
        ]
        assert np.array_equal(frames[begin : begin + length], expected)
        begin += length
    assert begin == len(frames)
    assert items[1] not in kept
    with pytest.raises(ProbeError, match=r"none of 1 items has a frame"):
        frames_of_items(features, [items[1]])


def test_an_item_file_is_read_and_files_without_frames_are_counted_and_named(tmp_path):
    features = Speech().write(tmp_path / "f", drawn(3))
    path = tmp_path / "a.item"
    path.write_text(f"{HEADER}\n0-0 0.1 0.25 aa sil b s0\n\n1-0 0.30 0.4 b aa sil s1\n")
    assert items_of_file(path, features) == [
        Item("0-0", 0.1, 0.25, "aa", "sil", "b", "s0"),
        Item("1-0", 0.3, 0.4, "b", "aa", "sil", "s1"),
    ]
    path.write_text(f"{HEADER}\n" + "".join(f"{name} 0 1 aa sil b s0\n" for name in ("0-0", "x", "y", "z", "w")))
    with pytest.raises(ProbeError, match=r"a.item: 4 of 5 files have no frames in .*: w, x, y, …; extract"):
        items_of_file(path, features)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no column #file, onset"),
        ("#file onset offset #phone speaker\n", "no column prev-phone, next-phone; expected the header"),
        (f"{HEADER}\n", "no item"),
        (f"{HEADER}\n0-0 0 1 aa b b\n", "line 2: found '0-0 0 1 aa b b'"),
        (f"{HEADER}\n0-0 0 1 aa b b s0\n0-0 2 1 aa b b s0\n", "line 3"),
        (f"{HEADER}\n0-0 x 1 aa b b s0\n", "line 2"),
    ],
)
def test_an_error_in_an_item_file_says_where(tmp_path, text, says):
    features = Speech().write(tmp_path / "f", drawn(3))
    (tmp_path / "a.item").write_text(text)
    with pytest.raises(ProbeError, match=says):
        items_of_file(tmp_path / "a.item", features)
    with pytest.raises(ProbeError, match="cannot be read as an item file"):
        items_of_file(tmp_path / "none.item", features)


def test_a_result_comes_back_as_it_was_saved(tmp_path):
    result = abx_result(AbxScore(0.1, 500), AbxScore(0.2, 900), AbxScore(None, 0), AbxScore(0.5, 3))
    result.save(tmp_path / "abx.json")
    assert AbxResult.read(tmp_path / "abx.json") == result
    assert json.loads((tmp_path / "abx.json").read_text())["across_speaker_any_context"]["error"] == 0.2
    assert list(result.errors.values()) == [0.1, 0.2, None, None]  # three cells say nothing
    text = str(result)
    for says in ("any context: 10.00 % wrong in 500 cells\n", "no cell", "3 cells, too few to tell", "3 of 9 speakers"):
        assert says in text
    assert "left out: 3 items without a frame" in text
    (tmp_path / "other.json").write_text('{"task": "phone"}')
    for name in ("other", "none"):
        with pytest.raises(ProbeError, match=rf"{name}.json: not the result of `cpc probe abx`"):
            AbxResult.read(tmp_path / f"{name}.json")


# --- the command ---


def write_label_files(speech: Speech, folder: Path) -> list[str]:
    (folder / "l.txt").write_text("".join(f"{u} {' '.join(map(str, of))}\n" for u, of in speech.labels.items()))
    (folder / "p.txt").write_text("".join(f"{i} {name}\n" for i, name in NAMES.items()))
    return ["--labels", str(folder / "l.txt"), "--phones", str(folder / "p.txt")]


@pytest.mark.skipif(importlib.util.find_spec("fastabx") is not None, reason="fastabx is installed")
def test_without_fastabx_one_line_says_what_it_needs(tmp_path, monkeypatch, capfd):
    speech = Speech()
    speech.write(tmp_path / "f", drawn(3))
    assert exit_status("probe", "abx", tmp_path / "f", *write_label_files(speech, tmp_path)) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "needs Python 3.12 or later (this is 3." in error
    assert "pip install 'cpc-audio[abx]'" in error


def test_options_that_abx_does_not_have_are_refused(tmp_path, monkeypatch, capfd):
    speech = Speech()
    speech.write(tmp_path / "f", drawn(3))
    labels = write_label_files(speech, tmp_path)
    for options, says in [
        (["--classifier", "mlp"], "pass only --evaluate and --seed"),
        (["--item", "a.item"], "pass either --labels or --item"),
    ]:
        assert exit_status("probe", "abx", tmp_path / "f", *labels, *options) == 2
        assert says in capfd.readouterr().err
    assert exit_status("probe", "abx", tmp_path / "f") == 2
    assert "pass --labels" in capfd.readouterr().err


@needs_fastabx
def test_the_command_prints_four_errors_and_saves_them(tmp_path, monkeypatch, capfd):
    speech = Speech(num_each=5)
    features = speech.write(tmp_path / "f", drawn(3))
    labels = write_label_files(speech, tmp_path)
    assert exit_status("probe", "abx", tmp_path / "f", *labels, "--seed", "3", "--out", tmp_path / "abx.json") == 0
    out = capfd.readouterr().out
    saved = AbxResult.read(tmp_path / "abx.json")
    for condition in CONDITIONS:
        assert str(getattr(saved, condition)) in out
    assert (saved.evaluate, saved.seed, saved.items) == ("test", 3, "labels")
    items = items_of_labels(features, speech.known, "test")
    lines = [f"{i.utterance} {i.onset!r} {i.offset!r} {i.phone} {i.previous} {i.following} {i.speaker}" for i in items]
    (tmp_path / "a.item").write_text("\n".join([HEADER, *lines]))
    assert exit_status("probe", "abx", tmp_path / "f", "--item", tmp_path / "a.item", "--out", tmp_path / "b.json") == 0
    of_file = AbxResult.read(tmp_path / "b.json")
    assert (of_file.evaluate, of_file.items) == (None, "a.item")
    for condition in CONDITIONS:
        assert getattr(of_file, condition) == getattr(saved, condition)


# --- errors that are known ---


@needs_fastabx
def test_frames_that_name_their_phone_have_no_error(tmp_path):
    """Frames at 200 samples are on the labels' own centres, so no frame is of a neighbour."""
    speech = Speech(num_speakers=3, num_each=6, num_runs=20)
    features = speech.write(tmp_path / "f", lambda label: np.eye(4)[label], first_centre=200.0)
    result = probe_abx(features, speech.known)
    for condition in CONDITIONS:
        score = getattr(result, condition)
        assert score.error == 0
        assert score.num_cells > 0


@needs_fastabx
def test_frames_of_noise_have_an_error_of_a_half(tmp_path):
    speech = Speech(num_speakers=3, num_each=10, num_runs=20)
    result = probe_abx(speech.write(tmp_path / "f", drawn(8)), speech.known)
    assert result.within_speaker_any_context.error == pytest.approx(0.5, abs=0.05)
    assert result.across_speaker_any_context.error == pytest.approx(0.5, abs=0.05)


def angular_dtw(x, y):
    """Mean angle over π along the cheapest path; a diagonal step is preferred, then the cheaper side."""
    cost = np.zeros((len(x), len(y)))
    steps = np.ones((len(x), len(y)), int)
    for i, j in np.ndindex(*cost.shape):
        cosine = x[i] @ y[j] / np.linalg.norm(x[i]) / np.linalg.norm(y[j])
        before = [(a, b) for a, b in [(i - 1, j - 1), (i - 1, j), (i, j - 1)] if a >= 0 and b >= 0]
        best = min(before, key=lambda at: cost[at], default=None)
        cost[i, j] = np.arccos(np.clip(cosine, -1, 1)) / np.pi + (cost[best] if best else 0)
        steps[i, j] = 1 + (steps[best] if best else 0)
    return cost[-1, -1] / steps[-1, -1]


def slow_abx(items, distance, across, same_context):
    """Average triplets in each cell, then contexts, speakers and pairs of phones."""
    cells = {}
    indices = range(len(items))
    for a, b, x in itertools.product(indices, repeat=3):
        A, B, X = items[a], items[b], items[x]
        if A.phone != X.phone or A.phone == B.phone or a == x or A.speaker != B.speaker:
            continue
        if (A.speaker != X.speaker) != across:
            continue
        contexts = {(i.previous, i.following) for i in (A, B, X)}
        if same_context and len(contexts) > 1:
            continue
        context = contexts.pop() if same_context else ()
        difference = distance[x, a] - distance[x, b]
        wrong = 0.5 if difference == 0 else float(difference > 0)
        cells.setdefault((A.phone, B.phone, A.speaker, context, X.speaker), []).append(wrong)
    by_speaker, by_pair = {}, {}
    for (p, q, speaker, *_), wrong in cells.items():
        by_speaker.setdefault((p, q, speaker), []).append(np.mean(wrong))
    for (p, q, _), errors in by_speaker.items():
        by_pair.setdefault((p, q), []).append(np.mean(errors))
    return np.mean([np.mean(errors) for errors in by_pair.values()]), len(cells)


@needs_fastabx
@pytest.mark.parametrize("seed", [0, 1])
def test_a_loop_over_all_triplets_finds_the_same_errors(tmp_path, seed):
    speech = Speech(num_speakers=3, num_each=4, num_runs=9, seed=seed)
    features = speech.write(tmp_path / "f", drawn(5, seed, signal=0.7))
    result = probe_abx(features, speech.known, max_items=1000)
    items, frames, lengths = frames_of_items(features, items_of_labels(features, speech.known, "test"))
    pieces = np.split(frames.astype(np.float64), np.cumsum(lengths)[:-1])
    distance = np.array([[angular_dtw(x, y) for y in pieces] for x in pieces])
    for condition in CONDITIONS:
        error, num_cells = slow_abx(items, distance, "across" in condition, "same" in condition)
        score = getattr(result, condition)
        assert score.error == pytest.approx(error, abs=1e-4)
        assert score.num_cells == num_cells
    assert 0.05 < result.within_speaker_any_context.error < 0.45


@needs_fastabx
def test_cells_and_speakers_are_bounded_and_the_draw_follows_the_seed(tmp_path, monkeypatch):
    speech = Speech(num_speakers=4, num_each=6, num_runs=20)
    features = speech.write(tmp_path / "f", drawn(5, signal=0.5))
    few = [probe_abx(features, speech.known, max_items=2, seed=seed) for seed in (0, 0, 1)]
    assert few[0].within_speaker_any_context == few[1].within_speaker_any_context
    assert few[0].within_speaker_any_context.error != few[2].within_speaker_any_context.error
    monkeypatch.setattr("cpc.probes.abx.MAX_SPEAKERS", 2)
    lines: list[str] = []
    result = probe_abx(features, speech.known, progress=lines.append)
    assert (result.num_speakers, result.num_available_speakers) == (2, 4)
    assert len(lines) == 4
    with pytest.raises(ProbeError, match=r"max_items: got 1, expected at least 2"):
        probe_abx(features, speech.known, max_items=1)


@needs_fastabx
def test_a_condition_without_a_cell_has_no_error_and_none_at_all_is_refused(tmp_path):
    speech = Speech(num_speakers=1, num_each=4)
    result = probe_abx(speech.write(tmp_path / "f", drawn(3)), speech.known)
    assert result.across_speaker_any_context == AbxScore(None, 0)
    assert result.within_speaker_any_context.error is not None
    speech.labels = {name: np.zeros_like(of) + 1 for name, of in speech.labels.items()}
    with pytest.raises(ProbeError, match=r"items, but no speaker says one phone twice and another once"):
        probe_abx(speech.write(tmp_path / "g", drawn(3)), speech.known)
