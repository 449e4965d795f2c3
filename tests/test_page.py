"""The page of a run is complete and self-contained, names what is missing, and refuses foreign results."""

import base64
import html.parser
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cpc.cli import main
from cpc.config import (
    AudioConfig,
    CriterionConfig,
    EncoderConfig,
    NegativeSet,
    TrainConfig,
    config_digest,
    read_config,
    write_config,
)
from cpc.data import list_folder, read_audio, read_manifest, read_segments, scan_listing, write_manifest
from cpc.features import extract_features, extractor_of_run, open_features
from cpc.labels import LabelGrid, PhoneLabels, num_labels, read_labels, read_phone_labels
from cpc.probes import Options, Result, probe_column, probe_number, probe_phones, probe_speakers
from cpc.report import ReportError, write_page
from cpc.report.about import introduction
from cpc.report.findings import Finding, write_findings
from cpc.report.projections import SIDE, phone_map, speaker_map
from cpc.report.results import Results, _row, phone_result
from cpc.report.sounds import Sounds
from cpc.report.viewer import Frames, viewer_data
from cpc.train import train
from tests.conftest import make_corpus, tiny_config, write_sound

PHONE_CLASSES = Path(__file__).resolve().parents[1] / "data" / "phone_classes.csv"
UNITS = ("accuracy", "utterance_accuracy")
NAMES = ["sil", "aa", "p", "<s>"]  # HTML would take the last name for a tag


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with features and probe results, and labels beside it; the speakers' names need escaping."""
    root = tmp_path_factory.mktemp("page")
    manifest = read_manifest(make_corpus(root / "corpus"))
    manifest = manifest.with_column("speaker", [f"{speaker} & <b>co</b>" for speaker in manifest.speakers])
    kinds = ["<a>" if i % 3 else "b" for i in range(len(manifest))]
    manifest = manifest.with_column("utterance_kind", kinds)
    write_manifest(manifest, root / "corpus" / "manifest.csv")
    return make_run(root, manifest)


def make_run(root: Path, manifest) -> Path:
    """Train a tiny run on a manifest with splits, and make its labels, features, probes and findings."""
    run = train(tiny_config(root / "corpus" / "manifest.csv"), root / "run")
    rng = np.random.default_rng(0)
    lines = []
    for name, n in zip(manifest.utterances, manifest.num_samples, strict=True):
        labels = np.repeat(rng.integers(0, 4, 99), 9)[: num_labels(n)]
        lines.append(" ".join([name, *map(str, labels)]))
    (root / "phone_labels.txt").write_text("\n".join(lines) + "\n")
    (root / "phones.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(NAMES)))
    opened = open_features(
        extract_features(extractor_of_run(run, "c"), manifest, run / "features" / "cpc_c", progress=False)
    )
    labels = read_phone_labels(root / "phone_labels.txt", names=root / "phones.txt", classes=PHONE_CLASSES)
    options, probes = Options(Cs=(0.1,), max_frames=2000), run / "probes"
    predictions = probes / "phone-cpc_c-test.predictions.txt"
    probe_phones(opened, labels, options, predictions=predictions).save(probes / "phone-cpc_c-test.json")
    probe_speakers(opened, options).save(probes / "speaker-cpc_c-test.json")
    probe_column(opened, "utterance_kind", options).save(probes / "utterance_kind-cpc_c-test.json")
    probe_number(opened, "num_samples", options).save(probes / "length.json")
    write_findings(run, [Finding("chance level", "ok", "the loss is below log N")])
    return run


def labels_of(run):
    """Read the labels beside a run."""
    return read_phone_labels(run.parent / "phone_labels.txt", names=run.parent / "phones.txt")


@pytest.fixture(scope="module")
def written(run):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cpc.report.projections.NUM_FRAMES", 100)  # t-SNE of more takes half a minute
        assert write_page(run, run / "report.html", labels=labels_of(run), num_utterances=2) == []
    return run / "report.html"


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def utterances_of(text):
    return data_of(text)["utterances"]


def sound_of(url):
    """Decode a sound of the page: its samples and its rate."""
    return soundfile.read(io.BytesIO(base64.b64decode(url.removeprefix("data:audio/ogg;base64,"))))


class Wellformed(html.parser.HTMLParser):
    """Check that every tag is closed, in order, and that no two elements share an id."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.ids = [], [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href", "xlink:href") and value]
        self.ids += [value for name, value in attributes if name == "id"]
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href", "xlink:href") and value]
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_complete_and_needs_nothing_from_outside(written):
    text = written.read_text()
    parser = Wellformed()
    parser.feed(text)
    assert not parser.open
    assert len(parser.ids) == len(set(parser.ids))
    local = [source.removeprefix("#") for source in parser.sources if source.startswith("#")]
    assert set(local) <= set(parser.ids)
    assert {"results", "utterances", "training", "phones", "maps", "settings"} <= set(local)
    assert all(source.startswith(("data:", "#")) for source in parser.sources)
    outside = re.sub(r"data:[a-z/]+;base64,[A-Za-z0-9+/=]+|xmlns(:xlink)?=\"[^\"]*\"", "", text)
    assert not re.search(r"(https?:)?//[a-z]|@import|url\((?!#)", outside)
    assert "<title>run: report of a CPC run</title>" in text
    assert len(text) < 5_000_000


def test_text_from_files_is_escaped(written):
    text = written.read_text()
    assert "<b>co</b>" not in text
    assert "<s>" not in text
    assert "&lt;s&gt;" in text
    assert {one["name"].partition(" (")[2] for one in utterances_of(text)} <= {
        f"speaker {s} & <b>co</b>)" for s in (1, 2, 3)
    }


def test_downloads_are_the_results_and_the_settings(run, written, tmp_path):
    text = written.read_text()
    found = re.findall(r'<a download="(.*?)" href="data:[a-z/]+;base64,(.*?)">', text)
    files = {name: base64.b64decode(content).decode() for name, content in found}
    assert set(files) == {"results.csv", "results.json", "config.toml"}
    result = Result.read(run / "probes" / "phone-cpc_c-test.json")
    assert f"phone-cpc_c-test,phone,test,accuracy,{result.accuracy}\n" in files["results.csv"]
    assert json.loads(files["results.json"])["phone-cpc_c-test"]["confusion"] == result.confusion
    (tmp_path / "again.toml").write_text(files["config.toml"])
    assert read_config(tmp_path / "again.toml") == read_config(run / "config.toml")


def test_tables_have_captions_and_headings_of_rows_and_columns(written):
    tables = re.findall(r"<table>(.*?)</table>", written.read_text(), re.S)
    assert len(tables) == 8
    for table in tables:
        assert "<caption>" in table
        assert '<th scope="col">' in table
        num_rows = len(re.findall("<tr>", table))
        assert len(re.findall('<th scope="row">', table)) == num_rows - 1
        assert "<th>" not in table


def test_what_made_the_numbers_is_named(run, written):
    text = written.read_text()
    origin = Result.read(run / "probes" / "phone-cpc_c-test.json").features
    assert f"<dd>{run}</dd>" in text
    assert f"identity {origin.identity}" in text
    assert origin.corpus in text
    assert len(re.findall(r"cpc \S+, torch [0-9.]+", text)) == 3  # of training, probing and the page


def test_intervals_agree_with_labels_and_frames(run, written):
    """Each spoken interval covers the centres of equal labels; each predicted one covers those of equal frames."""
    labels = read_labels(run.parent / "phone_labels.txt")
    predicted = read_labels(run / "probes" / "phone-cpc_c-test.predictions.txt")
    opened = open_features(run / "features" / "cpc_c")
    for one in utterances_of(written.read_text()):
        name = one["utterance"]
        for intervals, phones, times in (
            (one["spoken"], labels[name], 0.0125 + 0.01 * np.arange(len(labels[name]))),
            (one["heard"], predicted[name], opened.times(len(predicted[name]))),
        ):
            found = [next(p for start, end, p in intervals if start <= time < end) for time in times]
            assert found == [NAMES[i] for i in phones]
        assert one["seconds"] >= one["spoken"][-1][1]


def test_results_are_shown_with_their_intervals(run, written):
    result = Result.read(run / "probes" / "phone-cpc_c-test.json")
    low, high = result.accuracy_interval
    assert f"{100 * result.accuracy:.1f} <small>{100 * low:.1f}–{100 * high:.1f}</small>" in written.read_text()


def cells_of(text):
    """Read the tables by caption: rows of cells, each without its interval."""
    plain = re.sub(r" <small>.*?</small>", "", text)
    return {
        re.search("<caption>(.*?)</caption>", table)[1]: [
            re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table, re.S)
        ]
        for table in re.findall(r"<table>(.*?)</table>", plain, re.S)
    }


def test_other_columns_and_numbers_have_tables_of_their_own(written):
    tables = cells_of(written.read_text(encoding="utf-8"))
    assert tables["Other columns of the manifest, in %"][1][:2] == ["utterance_kind, test", "CPC c"]
    assert tables["Numbers: R² and mean absolute error"][1][:2] == ["num_samples, test", "CPC c"]


def test_a_page_plays_and_draws_the_segment_and_not_the_beginning_of_its_file(tmp_path):
    write_sound(tmp_path / "long.wav", 4.0, seed=0)
    (tmp_path / "t.csv").write_text("path,start,end\nlong.wav,2.0,3.0\n")
    listing = list_folder(tmp_path, "none").cut(read_segments(tmp_path / "t.csv"), tmp_path / "t.csv")
    manifest = scan_listing(listing, progress=False).manifest
    waveform = Sounds(manifest, 16000).waveform(manifest.utterances[0], 0.5)
    np.testing.assert_array_equal(waveform, read_audio(tmp_path / "long.wav", sample_rate=16000)[32000:40000])


def test_pooled_results_say_so_and_have_no_accuracy_by_frame(run, tmp_path):
    """An utterance was classified by one vector, so they are no row of the paper's speaker table."""
    speaker = Result.read(run / "probes" / "speaker-cpc_c-test.json")
    replace(speaker, pooling="mean_deviation").save(tmp_path / "speaker-cpc_c-test.json")
    (table,) = Results.read(tmp_path).tables()
    assert table.rows[0][0] == "speaker, test, pooled by mean and deviation"
    assert table.rows[0][3] != "–"
    assert table.rows[0][6:] == ["–"] * 3


def test_each_row_has_the_majority_class_of_its_own_labels(run, tmp_path):
    """Results of different splits have tables of their own; probes with other labels have another majority class."""
    linear = Result.read(run / "probes" / "phone-cpc_c-test.json")
    speaker = Result.read(run / "probes" / "speaker-cpc_c-test.json")
    of_speakers = dict(zip(UNITS, (0.02, 0.03), strict=True))
    made_up = {
        "phone-cpc_c-test": replace(linear, accuracy=0.66, majority={"accuracy": 0.16}),
        "phone-cpc_c_mlp-test": replace(linear, accuracy=0.7, classifier="mlp", majority={"accuracy": 0.16}),
        "phone-spectral-test": replace(linear, accuracy=0.63, majority={"accuracy": 0.16}),
        "phone-spectral_mlp-test": replace(linear, accuracy=0.77, classifier="mlp", majority={"accuracy": 0.16}),
        "phone-other-test": replace(linear, accuracy=0.5, majority={"accuracy": 0.3}),
        "speaker-mfcc-dev": replace(
            speaker,
            evaluate="dev",
            accuracy=0.4,
            utterance_accuracy=0.9,
            majority=of_speakers,
        ),
    }
    for stem, result in made_up.items():
        result.save(tmp_path / "probes" / f"{stem}.json")
    write_page(run, tmp_path / "report.html", probes=tmp_path / "probes", features=tmp_path / "none")
    text = (tmp_path / "report.html").read_text()
    tables = {caption: table for caption, table in cells_of(text).items() if "accuracy in % on" in caption}
    assert tables == {
        "Phone, accuracy in % on test": [
            ["features", "linear", "hidden layer", "majority class"],
            ["strongest spectral", "63.0", "77.0", "16.0"],
            ["CPC c", "66.0", "70.0", "16.0"],
            ["other", "50.0", "–", "30.0"],
        ],
        "Speaker by frame, accuracy in % on dev": [["features", "linear", "majority class"], ["MFCC", "40.0", "2.0"]],
        "Speaker by utterance, accuracy in % on dev": [
            ["features", "linear", "majority class"],
            ["MFCC", "90.0", "3.0"],
        ],
    }
    assert "The strongest spectral features are MFCC stacked" in text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"run_identity": "0123456789abcdef", "run": "runs/other"}, "of another run, runs/other; this page is of"),
        ({"corpus": "0123456789abcdef"}, "of another corpus than"),
        ({"identity": "0123456789abcdef"}, "of other weights than"),
        ({"source": "mfcc", "layer": None, "run_identity": None, "corpus": "0123"}, "of another corpus than"),
    ],
    ids=["run", "corpus", "weights", "spectral"],
)
def test_a_result_of_another_run_or_corpus_is_refused_with_one_line(run, tmp_path, monkeypatch, capsys, changes, says):
    monkeypatch.setattr("cpc.report.page._maps", lambda found: {})
    own = Result.read(run / "probes" / "phone-cpc_c-test.json")
    own.save(tmp_path / "probes" / "phone-cpc_c-test.json")
    foreign = replace(own, accuracy=0.999, features=replace(own.features, **changes))
    foreign.save(tmp_path / "probes" / "phone-foreign-test.json")
    page = ["report", str(run), "-o", str(tmp_path / "page.html"), "--probes", str(tmp_path / "probes")]
    monkeypatch.setattr(sys, "argv", ["cpc", *page])
    main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"left out: {tmp_path / 'probes' / 'phone-foreign-test.json'}: {says}")
    text = (tmp_path / "page.html").read_text()
    assert html.unescape(text).count(line.removeprefix("left out: ")) == 1
    assert [row[0] for row in cells_of(text)["Phone, accuracy in % on test"]] == ["features", "CPC c"]
    assert "99.9" not in text


def test_results_of_a_topline_belong_to_the_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr("cpc.report.page._maps", lambda found: {})
    topline = replace(read_config(run / "config.toml"), seed=7)
    write_config(topline, tmp_path / "run" / "config.toml")  # not yet the topline of anything
    own = Result.read(run / "probes" / "phone-cpc_c-test.json")
    of_topline = replace(own, features=replace(own.features, run_identity=config_digest(topline), identity="other"))
    of_topline.save(tmp_path / "probes" / "phone-supervised-test.json")
    assert len(write_page(run, tmp_path / "page.html", probes=tmp_path / "probes")) == 1
    write_config(topline, run / "topline" / "phone" / "config.toml")
    try:
        assert write_page(run, tmp_path / "page.html", probes=tmp_path / "probes") == []
    finally:
        (run / "topline" / "phone" / "config.toml").unlink()


def test_results_of_earlier_versions_are_shown_and_say_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr("cpc.report.page._maps", lambda found: {})
    saved = json.loads((run / "probes" / "phone-cpc_c-test.json").read_text())
    del saved["versions"]
    saved["features"] = {key: saved["features"][key] for key in ("source", "layer", "dim")}
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "phone-cpc_c-test.json").write_text(json.dumps(saved))
    assert write_page(run, tmp_path / "page.html", probes=tmp_path / "probes") == []
    text = (tmp_path / "page.html").read_text()
    assert "1 of the results do not say which run and corpus they are of" in text
    assert "Phone, accuracy in % on test" in text


def test_features_of_another_run_are_refused(run, tmp_path):
    write_config(replace(read_config(run / "config.toml"), seed=7), tmp_path / "other" / "config.toml")
    (tmp_path / "other" / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    with pytest.raises(ReportError, match=f"cpc_c: features of another run, {run}; this page is of {tmp_path}/other"):
        write_page(tmp_path / "other", tmp_path / "page.html", features=run / "features" / "cpc_c")


@pytest.mark.parametrize("rate", [8000, 44_100, 96_000])
def test_a_page_without_labels_plays_sound_of_any_rate(tmp_path, rate):
    """Names of utterances, the top of the spectrogram and the hop are those of the run; nothing else is needed."""
    manifest = read_manifest(make_corpus(tmp_path / "corpus", speakers=2, utterances=4, rate=rate))
    manifest = manifest.with_column("split", ["train", "train", "dev", "test"] * 2)
    write_manifest(manifest, tmp_path / "corpus" / "manifest.csv")
    config = tiny_config(tmp_path / "corpus" / "manifest.csv", audio=AudioConfig(sample_rate=rate))
    config = replace(config, encoder=EncoderConfig(channels=8, strides=(5, 4, 4)), train=TrainConfig(num_updates=1))
    write_page(train(config, tmp_path / "run"), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    data = data_of(text)
    assert len(data["utterances"]) == 5
    for one, seconds in zip(data["utterances"], (1, 1, 1.2, 1.2, 1.4), strict=True):
        sound, played = sound_of(data["sounds"][one["utterance"]])
        assert played == min(rate, 48_000)
        assert len(sound) / played == pytest.approx(seconds, abs=0.001)
        assert np.abs(sound).max() == pytest.approx(0.8, abs=0.19)
        assert one["hertz"] == rate / 2
        assert one["spoken"] == one["heard"] == []
    assert ("The sound is played at 48 kHz" in text) == (rate > 48_000)
    assert f"one frame every {80_000 / rate:.4g} ms of {rate / 1000:g} kHz sound" in text


def test_labels_of_another_convention_lie_where_their_grid_says(run):
    opened = open_features(run / "features" / "cpc_c")
    utterance = opened.manifest.utterances[0]
    labels = PhoneLabels({utterance: np.array([0, 0, 1, 1])}, grid=LabelGrid(0.02, 0.03))
    sounds = Sounds(opened.manifest, opened.sample_rate)
    (one,) = viewer_data(sounds, Frames(0.0125, 0.01), labels, None, 3)
    assert one["spoken"] == [(0.02, 0.06, "0"), (0.06, 0.1, "1")]


def test_sound_files_that_are_gone_are_counted_and_named(run, tmp_path):
    manifest = open_features(run / "features" / "cpc_c").manifest
    moved = replace(manifest, root=tmp_path)
    sounds = Sounds(moved, 16000)
    assert viewer_data(sounds, Frames(0.0125, 0.01), None, None, 3) == []
    assert len(sounds.left_out) == 4
    assert all("no such file" in line for line in sounds.left_out)


def test_a_run_with_everything_has_all_figures_and_tables(written):
    text = written.read_text()
    figures = re.findall('<figure class="picture" id="figure-(.*?)">', text)
    assert figures == ["learning", "steps", "confusion", "accuracies", "speakers", "phones"]
    assert list(cells_of(text)) == [
        "Phone, accuracy in % on test",
        "Speaker by frame, accuracy in % on test",
        "Speaker by utterance, accuracy in % on test",
        "Other columns of the manifest, in %",
        "Numbers: R² and mean absolute error",
        "Phones by manner",
        "Phones by place",
        "Phones by voicing",
    ]
    assert 'class="missing"' not in text


def test_text_in_pictures_stays_text_in_the_colours_of_the_page(written):
    pictures = re.findall(r"<svg.*?</svg>", written.read_text(), re.S)
    assert len(pictures) == 7  # with the waveform
    learning = next(picture for picture in pictures if "learning curves" in picture)
    assert re.search("<text[^>]*>loss \\(nats\\)</text>", learning)
    assert re.search(r"stroke: var\(--blue, #0072b2\)", learning)
    unthemed = re.sub(r"var\(--[a-z]+, #[0-9a-f]{6}\)", "", learning)
    assert not re.search("(fill|stroke): #", unthemed)


def test_a_map_of_too_few_points_is_refused(run, monkeypatch):
    """The page then says so in its place: of recordings of a word each, none has a second."""
    opened = open_features(run / "features" / "cpc_c")
    monkeypatch.setattr("cpc.report.projections.CHUNK_SECONDS", 1000.0)
    with pytest.raises(ReportError, match="the utterances have 0 whole seconds, too few to place"):
        speaker_map(opened)
    with pytest.raises(ReportError, match="0 frames have labels"):
        phone_map(opened, PhoneLabels({}))


def test_each_point_of_a_map_stands_for_a_second_of_its_speaker_or_around_its_phone(run, written, monkeypatch):
    monkeypatch.setattr("cpc.report.projections.NUM_FRAMES", 60)
    opened, labels = open_features(run / "features" / "cpc_c"), labels_of(run)
    speakers, phones = speaker_map(opened), phone_map(opened, labels)
    assert len(speakers.points) == 12  # of each speaker's five utterances, the shortest has no second of frames
    for point in speakers.points:
        assert speakers.names[point.group] == opened.manifest.speaker_of[point.utterance]
        assert point.start == 0
    for point in phones.points:
        middle = np.array([point.start + 0.5])
        if point.start > 0:  # otherwise the second does not lie around the frame
            assert phones.names[point.group] == labels.name(int(labels.at(point.utterance, middle)[0]))
    assert all(0 < value < SIDE for point in (*speakers.points, *phones.points) for value in (point.x, point.y))
    data = data_of(written.read_text())
    assert {utterance for points in data["maps"].values() for _, utterance, _ in points} <= set(data["sounds"])


def test_each_speaker_is_heard_before_any_is_heard_twice(run):
    opened = open_features(run / "features" / "cpc_c")
    labels, sounds = labels_of(run), Sounds(opened.manifest, opened.sample_rate)
    entries = viewer_data(sounds, Frames(0.0125, 0.01), labels, labels.of, 7)
    speakers = [one["name"].partition(" (")[2] for one in entries]
    assert len(set(speakers[:3])) == 3
    assert speakers == [*speakers[:3], *speakers[:3], speakers[0]]


def test_rows_are_named_after_the_features_and_the_control(run):
    result = Result.read(run / "probes" / "phone-cpc_c-test.json")
    control = replace(result, control="shuffled labels")
    assert _row("phone-cpc_c-test", result) == "cpc_c"
    assert _row("phone", result) == "cpc_c"
    assert _row("phone-mine_mlp-test", replace(result, classifier="mlp")) == "mine"
    assert _row("phone-cpc_c-test", control) == "CPC c (shuffled labels)"


def test_the_page_shows_the_linear_phone_probe_of_c(run):
    result = Result.read(run / "probes" / "phone-cpc_c-test.json")
    others = {
        "control": replace(result, control="shuffled labels"),
        "mfcc": replace(result, features=replace(result.features, source="mfcc", layer=None)),
        "mlp": replace(result, classifier="mlp"),
    }
    assert phone_result({**others, "linear": result}) is result
    assert phone_result(others) is others["mlp"]
    assert phone_result({"control": others["control"]}) is None


def test_the_introduction_says_where_negatives_come_from_and_how_many_are_drawn(corpus, tmp_path):
    for drawn, says in (
        (0, "with all negatives under the scheme mixed_speaker."),
        (5, "with 5 negatives drawn under the scheme mixed_speaker."),
    ):
        config = tiny_config(corpus, criterion=CriterionConfig(num_steps=3, num_negatives=drawn))
        run = train(replace(config, train=TrainConfig(num_updates=2)), tmp_path / str(drawn))
        assert f"predicts 3 steps up to k = 3, {says}" in introduction(run, config)
    sets = (NegativeSet("current_sequence", number=8), NegativeSet("mixed_speaker", steps=(2,)))
    config = replace(config, criterion=CriterionConfig(num_steps=3, scheme="sets", negatives=sets))
    says = "with 8 negatives drawn under the scheme current_sequence and all negatives under the scheme mixed_speaker."
    assert says in introduction(run, config)


def test_a_missing_run_folder_is_refused(tmp_path):
    with pytest.raises(ReportError, match="no such run folder; `cpc train"):
        write_page(tmp_path / "none", tmp_path / "report.html")


def test_the_page_is_written_without_loading_torch(run, tmp_path):
    """Reading files needs no network; loading torch would take longer than writing the page."""
    script = (
        "import sys; from cpc.report import write_page; write_page(*sys.argv[1:]); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script, run, tmp_path / "report.html"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_missing_parts_are_named_with_the_command_that_makes_them(corpus, tmp_path):
    """A run of six updates without a dev measurement, features or probes still has a page."""
    config = tiny_config(corpus)
    run = train(replace(config, train=replace(config.train, num_updates=6)), tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("".join(line + "\n" for line in lines if '"train"' in line))
    write_page(run, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    for part in (
        "No probe results yet",
        "No phone probe yet",
        "No features of c yet",
        "no dev measurement yet",
    ):
        assert part in text
    assert f"cpc features {run}" in text
    assert len(utterances_of(text)) == 5
