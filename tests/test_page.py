"""The page of a run is complete and self-contained, names what is missing, and works in a real browser."""

import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpc.config import CriterionConfig, NegativeSet, TrainConfig
from cpc.data import read_manifest, write_manifest
from cpc.features import extract_features, extractor_of_run, open_features
from cpc.labels import PhoneLabels, num_labels, read_labels, read_phone_labels
from cpc.probes import Options, Result, probe_column, probe_number, probe_phones, probe_speakers
from cpc.report import ReportError, write_page
from cpc.report.findings import Finding, write_findings
from cpc.report.page import _introduction, _phone_result
from cpc.report.projections import phone_map_figure, speaker_map_figure
from cpc.report.results import _row
from cpc.report.viewer import viewer_data
from cpc.train import train
from tests.conftest import make_corpus, tiny_config

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")
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


@pytest.fixture(scope="module")
def written(run):
    write_page(run, run / "report.html", labels=run.parent / "phone_labels.txt", num_utterances=2)
    return run / "report.html"


def utterances_of(text):
    return json.loads(re.search(r'id="utterances">(.*?)</script>', text, re.S)[1])


class Wellformed(html.parser.HTMLParser):
    """Check that every tag is closed, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href") and value]
        if tag not in ("meta", "img", "path", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag == "path"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_complete_and_needs_nothing_from_outside(written):
    text = written.read_text()
    parser = Wellformed()
    parser.feed(text)
    assert not parser.open
    assert parser.sources
    assert all(source.startswith("data:") for source in parser.sources)
    outside = re.sub(r"data:[a-z/]+;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"(https?:)?//[a-z]|@import|url\(", outside)
    assert "$" not in outside
    assert len(text) < 5_000_000


def test_text_from_files_is_escaped(written):
    text = written.read_text()
    assert "<b>co</b>" not in text
    assert "&lt;s&gt;" in text or "\\u003cs>" in text
    assert {one["name"].partition(" (")[2] for one in utterances_of(text)} <= {
        f"speaker {s} & <b>co</b>)" for s in (1, 2, 3)
    }


def test_intervals_agree_with_labels_and_frames(run, written):
    """Each spoken interval covers the centres of equal labels; each predicted one covers those of equal frames."""
    labels = read_labels(run.parent / "phone_labels.txt")
    predicted = read_labels(run / "probes" / "phone-cpc_c-test.predictions.txt")
    opened = open_features(run / "features" / "cpc_c")
    for one in utterances_of(written.read_text()):
        name = one["name"].split()[0]
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
    """Read the tables of results: a list of rows of cells, each without its interval."""
    tables = [table for table in re.findall(r"<table>(.*?)</table>", text, re.S) if "accuracy in % on" in table]
    plain = [re.sub(r" <small>.*?</small>", "", table) for table in tables]
    return [
        [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", table)] for table in plain
    ]


def test_other_columns_and_numbers_have_tables_of_their_own(written):
    text = written.read_text(encoding="utf-8")
    rows = re.findall(r"<tr><td>(utterance_kind, test|num_samples, test)</td><td>(.*?)</td>", text)
    assert rows == [("utterance_kind, test", "CPC c"), ("num_samples, test", "CPC c")]


def test_each_split_has_a_table_with_a_column_a_classifier_and_its_own_majority_class(run, tmp_path):
    """Results of different splits have different majority classes; so have results of different labels."""
    linear = Result.read(run / "probes" / "phone-cpc_c-test.json")
    speaker = Result.read(run / "probes" / "speaker-cpc_c-test.json")
    made_up = {
        "phone-cpc_c-test": replace(linear, accuracy=0.66, majority={"accuracy": 0.16}),
        "phone-cpc_c_mlp-test": replace(linear, accuracy=0.7, classifier="mlp", majority={"accuracy": 0.16}),
        "phone-spectral-test": replace(linear, accuracy=0.63, majority={"accuracy": 0.16}),
        "phone-spectral_mlp-test": replace(linear, accuracy=0.77, classifier="mlp", majority={"accuracy": 0.16}),
        "phone-other-test": replace(linear, accuracy=0.5, majority={"accuracy": 0.3}),
        "speaker-mfcc-dev": replace(
            speaker, evaluate="dev", accuracy=0.4, utterance_accuracy=0.9, majority=dict.fromkeys(UNITS, 0.02)
        ),
    }
    for stem, result in made_up.items():
        result.save(tmp_path / "probes" / f"{stem}.json")
    write_page(run, tmp_path / "report.html", probes=tmp_path / "probes", features=tmp_path / "none")
    by_split = {table[0][0]: table for table in cells_of((tmp_path / "report.html").read_text())}
    assert by_split == {
        "accuracy in % on test": [
            ["accuracy in % on test", "phone, linear", "phone, hidden layer"],
            ["majority class", "16.0 or 30.0", "16.0"],
            ["strongest spectral", "63.0", "77.0"],
            ["CPC c", "66.0", "70.0"],
            ["other", "50.0", "–"],
        ],
        "accuracy in % on dev": [
            ["accuracy in % on dev", "speaker by frame, linear", "speaker by utterance, linear"],
            ["majority class", "2.0", "2.0"],
            ["MFCC", "40.0", "90.0"],
        ],
    }
    assert "The strongest spectral features are MFCC stacked" in (tmp_path / "report.html").read_text()


def test_a_run_with_everything_has_all_figures_and_tables(written):
    text = written.read_text()
    assert text.count('<figure class="picture">') == 6
    headers = re.findall(r"<thead><tr><th>(.*?)</th>", text)
    assert headers == ["accuracy in % on test", "column, in %", "number", "manner", "place"]
    assert 'class="missing"' not in text


def test_a_map_of_too_few_points_is_refused(run, monkeypatch):
    """The page then says so in its place: of recordings of a word each, none has a second."""
    opened = open_features(run / "features" / "cpc_c")
    monkeypatch.setattr("cpc.report.projections.CHUNK_SECONDS", 1000.0)
    with pytest.raises(ReportError, match="the utterances have 0 whole seconds, too few to place"):
        speaker_map_figure(opened)
    with pytest.raises(ReportError, match="0 frames have labels"):
        phone_map_figure(opened, PhoneLabels({}))


def test_each_speaker_is_heard_before_any_is_heard_twice(run):
    opened = open_features(run / "features" / "cpc_c")
    labels = read_phone_labels(run.parent / "phone_labels.txt")
    speakers = [one["name"].partition(" (")[2] for one in viewer_data(opened, labels, labels.of, 7)]
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
    assert _phone_result({**others, "linear": result}) is result
    assert _phone_result(others) is others["mlp"]
    assert _phone_result({"control": others["control"]}) is None


def test_the_introduction_says_where_negatives_come_from_and_how_many_are_drawn(corpus, tmp_path):
    for drawn, says in (
        (0, "with all negatives under the scheme mixed_speaker."),
        (5, "with 5 negatives drawn under the scheme mixed_speaker."),
    ):
        config = tiny_config(corpus, criterion=CriterionConfig(num_steps=3, num_negatives=drawn))
        run = train(replace(config, train=TrainConfig(num_updates=2)), tmp_path / str(drawn))
        assert f"predicts 3 steps up to k = 3, {says}" in _introduction(run, config)
    sets = (NegativeSet("current_sequence", number=8), NegativeSet("mixed_speaker", steps=(2,)))
    config = replace(config, criterion=CriterionConfig(num_steps=3, scheme="sets", negatives=sets))
    says = "with 8 negatives drawn under the scheme current_sequence and all negatives under the scheme mixed_speaker."
    assert says in _introduction(run, config)


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
        "No utterances yet",
        "no dev measurement yet",
    ):
        assert part in text
    assert f"cpc features {run}" in text
    assert utterances_of(text) == []


def browsed(written, tmp_path, script, *, width=1000, flags=()):
    """Open the page in a headless browser, run `script`, and return what it put into `result`."""
    watch = "<script>window.errors = []; addEventListener('error', (e) => errors.push(String(e.message)));</script>"
    ask = (
        "<script>addEventListener('load', () => setTimeout(async () => { const result = {}; "
        f"{script}; result.errors = errors;"
        "document.documentElement.dataset.result = JSON.stringify(result); }, 200));"
        "</script>"
    )
    text = written.read_text().replace("<head>", "<head>" + watch).replace("</body>", ask + "</body>")
    (tmp_path / "asked.html").write_text(text)
    offline = "--disable-background-networking --disable-component-update --disable-sync --disable-quic"
    headless = "--headless --no-sandbox --disable-gpu --no-first-run --hide-scrollbars --virtual-time-budget=5000"
    folder, size = f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900"
    page = (tmp_path / "asked.html").as_uri()
    command = [CHROMIUM, *headless.split(), *offline.split(), folder, size, *flags, "--dump-dom", page]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)}
    )
    found = re.search(r'data-result="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    result = json.loads(html.unescape(found[1]))
    assert result.pop("errors") == []
    return result


@in_browser
def test_phones_share_one_time_axis_and_a_click_moves_the_cursor(written, tmp_path):
    script = """
      const axis = document.querySelector(".axis"), box = axis.getBoundingClientRect();
      const places = (track) => [...document.querySelectorAll(track + " span")].map((one) => {
        const b = one.getBoundingClientRect();
        return [(b.left - box.left) / box.width, b.width / box.width, Number(one.dataset.start),
                Number(one.dataset.end), b.height > 0, one.textContent];
      });
      result.spoken = places(".spoken"); result.heard = places(".heard");
      result.options = document.querySelector("select").options.length;
      axis.dispatchEvent(new MouseEvent("click", { clientX: box.left + box.width / 2, bubbles: true }));
      result.after_click = [document.querySelector(".cursor").style.left, axis.getAttribute("aria-valuenow")];
      axis.dispatchEvent(new KeyboardEvent("keydown", { key: "Home", bubbles: true }));
      result.after_home = axis.getAttribute("aria-valuenow");
      const select = document.querySelector("select");
      select.value = 1; select.dispatchEvent(new Event("change"));
      result.second = document.querySelector(".end").textContent;
      result.source = document.querySelector("audio").src.slice(0, 14)
    """
    result = browsed(written, tmp_path, script)
    first, second = utterances_of(written.read_text())
    assert result["options"] == 2
    for name in ("spoken", "heard"):
        assert len(result[name]) == len(first[name])
        for (left, width, start, end, visible, text), (_, _, phone) in zip(result[name], first[name], strict=True):
            assert (left, width) == (
                pytest.approx(start / first["seconds"], abs=0.005),
                pytest.approx((end - start) / first["seconds"], abs=0.005),
            )
            assert visible
            assert text == phone
    assert float(result["after_click"][0].rstrip("%")) == pytest.approx(50, abs=2)
    assert float(result["after_click"][1]) == pytest.approx(first["seconds"] / 2, abs=0.05)
    assert float(result["after_home"]) == 0
    assert result["second"] == f"{second['seconds']:.2f} s"
    assert result["source"] == "data:audio/wav"


@in_browser
@pytest.mark.parametrize("width", [500, 1000])
def test_nothing_overflows_and_both_themes_have_contrast(written, tmp_path, width):
    script = """
      result.overflow = document.documentElement.scrollWidth - innerWidth;
      const linear = (v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
      const light = (color) => {
        const [r, g, b] = color.match(/[0-9.]+/g).map((v) => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = () => getComputedStyle(document.body).backgroundColor;
      const contrast = (selector) => {
        const a = light(getComputedStyle(document.querySelector(selector)).color), b = light(ground());
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      };
      result.themes = [];
      for (const _ of [0, 1]) {
        result.themes.push([ground(), contrast("h1"), contrast(".dim"), contrast("td small")]);
        document.getElementById("theme").click();
      }
    """
    result = browsed(written, tmp_path, script, width=width)
    assert result["overflow"] <= 0
    assert len({theme[0] for theme in result["themes"]}) == 2
    assert min(min(theme[1:]) for theme in result["themes"]) >= 4.5
