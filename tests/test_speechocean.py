"""recipes/speechocean762 on small trees of its two layouts."""

import json
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cpc.data import read_manifest
from cpc.labels import PHONES
from tests.conftest import TINY, recipe_script, write_sound

SCRIPT = Path(__file__).resolve().parents[1] / "recipes" / "speechocean762" / "run.py"
NUM_EACH, SECONDS = 10, 1.2  # utterances of a speaker, and their length
SPEAKERS = {"0003": ("f", "6"), "0036": ("f", "21"), "2450": ("m", "28")}  # gender, age
CONFIG = f"{TINY}validate_batches = 2\n"


@pytest.fixture(scope="module")
def recipe():
    """The script as a module."""
    with recipe_script(SCRIPT) as script:
        yield script


def own_layout(root: Path) -> Path:
    """Write the corpus as it is distributed: some of its tables have tabs, some have blanks; parts share no speaker."""
    corpus = root / "speechocean762"
    for part, speakers in (("train", ("0036", "2450")), ("test", ("0003",))):
        tables = {name: [] for name in ("text", "wav.scp", "utt2spk", "spk2gender", "spk2age")}
        for speaker in speakers:
            for i in range(NUM_EACH):
                utterance = f"{int(speaker):05d}{i:04d}"
                path = f"WAVE/SPEAKER{speaker}/{utterance}.WAV"
                write_sound(corpus / path, SECONDS, 100 * int(speaker) + i)
                tables["text"].append(f"{utterance}\tWORD NUMBER {i}")
                tables["wav.scp"].append(f"{utterance}\t{path}")
                tables["utt2spk"].append(f"{utterance} {speaker}")
            for name, value in zip(("spk2gender", "spk2age"), SPEAKERS[speaker], strict=True):
                tables[name].append(f"{speaker} {value}")
        (corpus / part).mkdir()
        for name, lines in tables.items():
            (corpus / part / name).write_text("\n".join(lines) + "\n")
    return corpus


def librispeech_layout(root: Path) -> Path:
    """Write a selection of speakers: their numbers without zeros, .trans.txt, and speakers.csv."""
    corpus = root / "selection"
    lines = ["speaker,gender,age"]
    for speaker, (gender, age) in SPEAKERS.items():
        number = int(speaker)
        lines.append(f"{number},{gender},{age}")
        folder, words = corpus / str(number) / "1", []
        for i in range(NUM_EACH):
            write_sound(folder / f"{number}-1-{i:04d}.flac", SECONDS, 100 * number + i)
            words.append(f"{number}-1-{i:04d} WORD NUMBER {i}")
        (folder / f"{number}-1.trans.txt").write_text("\n".join(words) + "\n")
    (corpus / "speakers.csv").write_text("\n".join(lines) + "\n")
    return corpus


LAYOUTS = {"own": own_layout, "librispeech": librispeech_layout}


@pytest.fixture
def aligner(recipe, monkeypatch):
    """Replace the aligner, whose tests are tests/test_forced.py: it writes three phones in turn; return its words."""
    given = {}

    def align(manifest, transcripts, out, *, jobs):
        given.update(transcripts)
        out.mkdir()
        lengths = manifest.num_samples_at(16000)
        rows = {u: np.arange(1 + (n - 400) // 160) // 20 % 3 for u, n in zip(manifest.utterances, lengths, strict=True)}
        text = "\n".join(f"{utterance} {' '.join(map(str, row))}" for utterance, row in rows.items())
        (out / "phone_labels.txt").write_text(text + "\n")
        (out / "phones.txt").write_text("\n".join(f"{i} {name}" for i, name in enumerate(PHONES)) + "\n")
        return f"aligned: {len(rows)}"

    monkeypatch.setattr(recipe, "align", align)
    return given


def run(recipe, monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--jobs", "1", *map(str, arguments)])
    recipe.main()


def refused(recipe, monkeypatch, capsys, *arguments) -> str:
    """Run the script and return its one line of error."""
    with pytest.raises(SystemExit) as stop:
        run(recipe, monkeypatch, *arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_layouts_give_the_same_utterances_words_and_speakers(layout, recipe, tmp_path):
    """Each speaker is in every split; gender and age are columns; words do not carry the separator of the table."""
    corpus = LAYOUTS[layout](tmp_path)
    recipe.make_manifest(corpus, tmp_path / "out" / "manifest.csv", seed=0)
    manifest = read_manifest(tmp_path / "out" / "manifest.csv")
    assert len(manifest) == NUM_EACH * len(SPEAKERS)
    assert set(manifest.utterances) == recipe.read_words(corpus).keys()
    assert set(recipe.read_words(corpus).values()) == {f"WORD NUMBER {i}" for i in range(NUM_EACH)}
    found = set(zip(manifest.speakers, manifest.column("gender"), manifest.column("age"), strict=True))
    names = {speaker if layout == "own" else str(int(speaker)): facts for speaker, facts in SPEAKERS.items()}
    assert found == {(name, *facts) for name, facts in names.items()}
    for split in ("train", "dev", "test"):
        assert set(manifest.select(split).speakers) == set(names)
    assert all(manifest.audio_path(i).is_file() for i in range(len(manifest)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_corpus_is_found_from_above_and_at_it(layout, recipe, tmp_path):
    corpus = LAYOUTS[layout](tmp_path)
    assert recipe.find(corpus) == corpus
    assert recipe.find(tmp_path) == (corpus if layout == "own" else None)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_from_the_corpus_to_the_table(layout, recipe, aligner, tmp_path, monkeypatch, capsys):
    """All stages in small; a second call makes nothing again."""
    corpus, out, preset = LAYOUTS[layout](tmp_path), tmp_path / "run", tmp_path / "tiny.toml"
    preset.write_text(CONFIG)
    monkeypatch.setattr("cpc.report.projections.NUM_FRAMES", 200)
    arguments = ("--root", corpus, "--out", out, "--preset", preset, "--updates", 4)
    run(recipe, monkeypatch, *arguments)
    assert aligner == recipe.read_words(corpus)
    shown = capsys.readouterr()
    for text in ("Accuracy in %, test split", "majority class", "MFCC", "CPC c"):
        assert text in shown.out
    results = json.loads((out / "results.json").read_text())
    assert results["evaluate"] == "test"
    for task in ("phone", "speaker"):
        assert {"majority", "untrained", "mfcc", "cpc_z", "cpc_c"} <= set(results[task])
    assert results["phone"]["majority"]["accuracy"] == pytest.approx(1 / 3, abs=0.1)  # three phones in turn
    assert (out / "report.html").exists()

    made = {path: path.stat().st_mtime_ns for path in (out / "last.pt", *(out / "probes").iterdir())}
    run(recipe, monkeypatch, *arguments)
    assert capsys.readouterr().err.count(": done") == 6
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_what_is_missing_is_named(recipe, tmp_path, monkeypatch, capsys):
    """No corpus, a sound file or a transcript without the other, and a speaker without gender or age: one line each."""
    out = ("--out", tmp_path / "run")
    line = refused(recipe, monkeypatch, capsys, "--root", tmp_path, *out)
    assert f"{tmp_path}: no speechocean762 in it" in line
    assert "--download to fetch it" in line

    corpus = own_layout(tmp_path)
    age = corpus / "test" / "spk2age"
    age.write_text("")
    line = refused(recipe, monkeypatch, capsys, "--root", tmp_path, *out)
    assert "the age of 1 speakers (e.g. 0003) is not listed" in line
    age.write_text("0003 6\n")

    victim = sorted(corpus.rglob("*.WAV"))[0]
    victim.unlink()
    line = refused(recipe, monkeypatch, capsys, "--root", tmp_path, *out)
    assert f"1 utterances have a sound file or a transcript but not both (e.g. {victim.stem})" in line


def stop_here(*_):
    raise ValueError("after the download")


def test_a_download_is_counted_before_it_is_taken_for_the_corpus(recipe, tmp_path, monkeypatch, capsys):
    """The archive has no published checksum, so the numbers of utterances and speakers decide."""
    corpus = own_layout(tmp_path / "packed")
    archive = tmp_path / "speechocean762.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(corpus, arcname="speechocean762")
    urls = []

    def transfer(url, target):
        urls.append(url)
        Path(target).write_bytes(archive.read_bytes())

    monkeypatch.setattr("torch.hub.download_url_to_file", transfer)
    arguments = ("--root", tmp_path / "root", "--download", "--out", tmp_path / "run")
    line = refused(recipe, monkeypatch, capsys, *arguments)
    assert "30 utterances of 3 speakers, expected 5000 of 250" in line
    assert recipe.find(tmp_path / "root") is None

    layouts = sys.modules["layouts"]
    monkeypatch.setattr(layouts, "NUM_UTTERANCES", NUM_EACH * len(SPEAKERS))
    monkeypatch.setattr(layouts, "NUM_SPEAKERS", len(SPEAKERS))
    monkeypatch.setattr(recipe, "make_manifest", stop_here)
    line = refused(recipe, monkeypatch, capsys, *arguments)
    assert line == "speechocean762: error: after the download"
    assert recipe.find(tmp_path / "root") == tmp_path / "root" / "speechocean762"
    assert urls == ["https://www.openslr.org/resources/101/speechocean762.tar.gz"]
    assert soundfile.info(next((tmp_path / "root").rglob("*.WAV"))).samplerate == 16000
