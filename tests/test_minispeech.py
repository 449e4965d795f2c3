"""The synthetic corpus of recipes/minispeech."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from tests.conftest import load_script

pytest.importorskip("espeakng_loader", reason="minispeech is made by espeak-ng: pip install -e '.[demo]'")

SCRIPT = Path(__file__).resolve().parents[1] / "recipes" / "minispeech" / "synthesise.py"


@pytest.fixture(scope="module")
def minispeech() -> ModuleType:
    """Load the script as a module."""
    return load_script(SCRIPT)


@pytest.fixture(scope="module")
def corpus(minispeech: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make 1.5 minutes of six speakers."""
    out_dir: Path = tmp_path_factory.mktemp("minispeech")
    minispeech.synthesise(out_dir, minutes=1.5, seed=0, num_speakers=6)
    return out_dir


def read_labels(corpus: Path) -> dict[str, np.ndarray]:
    """Read phone_labels.txt: utterance id to (T,)."""
    lines = [line.split() for line in (corpus / "phone_labels.txt").read_text().splitlines()]
    return {utterance: np.array(labels, dtype=int) for utterance, *labels in lines}


def read_phones(corpus: Path) -> dict[str, int]:
    """Read phones.txt: phone to id."""
    return {phone: int(i) for i, phone in map(str.split, (corpus / "phones.txt").read_text().splitlines())}


def read_frames(corpus: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield speaker, labels (T,) and power spectra (T, 201), from 0 to 8 kHz in steps of 40 Hz."""
    for utterance, labels in read_labels(corpus).items():
        speaker, chapter, _ = utterance.split("-")
        waveform, _ = soundfile.read(corpus / speaker / chapter / f"{utterance}.flac")
        windows = np.lib.stride_tricks.sliding_window_view(waveform, 400)[::160] * np.hanning(400)
        yield speaker, labels, np.abs(np.fft.rfft(windows)) ** 2


def contents(corpus: Path) -> dict[str, bytes]:
    """Read every file of a corpus."""
    return {str(path.relative_to(corpus)): path.read_bytes() for path in corpus.rglob("*") if path.is_file()}


def test_same_seed_same_files(tmp_path: Path) -> None:
    """Two processes with the same seed write bitwise identical files; another seed changes every sound file."""
    made = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        arguments = ["--seed", str(seed), "--minutes", "0.5", "--speakers", "3"]
        command = [sys.executable, str(SCRIPT), str(tmp_path / name), *arguments]
        subprocess.run(command, check=True, capture_output=True)
        made.append(contents(tmp_path / name))
    assert made[0] == made[1]
    common = [path for path in made[0] if path.endswith(".flac") and path in made[2]]
    assert common
    assert all(made[0][path] != made[2][path] for path in common)


def test_chapter_is_pure(minispeech: ModuleType, corpus: Path, tmp_path: Path) -> None:
    """A chapter that is made alone, after others in the same process, equals that of the corpus."""
    speaker = minispeech.read_speakers()[4]
    chapter = 10 * speaker.speaker + 2
    minispeech.synthesise_chapter(tmp_path, speaker, chapter, 60 * 1.5 / 12, 0, tmp_path)
    folder = Path(str(speaker.speaker)) / str(chapter)
    assert contents(tmp_path / folder) == contents(corpus / folder)


def test_every_voice_is_deterministic(minispeech: ModuleType, tmp_path: Path) -> None:
    """Every voice of speakers.csv says the same text twice alike, whatever other voices say in between."""

    def say(speaker: object) -> np.ndarray:
        voice = f"{speaker.accent}+{speaker.variant}"  # type: ignore[attr-defined]
        espeak = minispeech.Espeak(voice, 50, tmp_path)
        waveform: np.ndarray = espeak.say("She sees a quiet fish.", 170, 50)[0]
        espeak.close()
        return waveform

    speakers = minispeech.read_speakers()
    first = [say(speaker) for speaker in speakers]
    second = [say(speaker) for speaker in reversed(speakers)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(np.abs(a).max() < 32767 / 32768 for a in first)  # no voice clips


def test_the_sentences_of_an_utterance_are_found_by_its_transcript(minispeech: ModuleType, corpus: Path) -> None:
    spoken = minispeech.sentences_spoken(corpus)
    assert sorted(spoken) == sorted(read_labels(corpus))
    lines = minispeech.read_sentences()
    for path in corpus.glob("*/*/*.trans.txt"):
        for line in path.read_text().splitlines():
            utterance, text = line.split(" ", 1)
            first, second = spoken[utterance]
            assert minispeech.words_of(f"{lines[first - 1]} {lines[second - 1]}") == text


def test_a_transcript_of_other_sentences_is_refused(minispeech: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "1" / "11").mkdir(parents=True)
    (tmp_path / "1" / "11" / "1-11.trans.txt").write_text("1-11-0000 NOBODY WROTE THIS\n")
    with pytest.raises(ValueError, match="1-11-0000 does not consist of two sentences"):
        minispeech.sentences_spoken(tmp_path)


def test_with_fixed_partners_no_sentence_has_two(minispeech: ModuleType, corpus: Path, tmp_path: Path) -> None:
    """So a split by sentence leaves no utterance out; with random partners, sentences have several."""
    minispeech.synthesise(tmp_path, minutes=1.5, seed=0, num_speakers=6, partners="fixed")
    pairs = set(minispeech.sentences_spoken(tmp_path).values())
    assert {second - first for first, second in pairs} == {1}
    assert all(first % 2 for first, _ in pairs)
    assert any(second - first != 1 for first, second in minispeech.sentences_spoken(corpus).values())


def test_a_corpus_with_other_partners_is_not_taken_for_ones_own(minispeech: ModuleType, tmp_path: Path) -> None:
    minispeech.synthesise(tmp_path / "fixed", minutes=0.1, num_speakers=1, partners="fixed")
    minispeech.synthesise(tmp_path / "random", minutes=0.1, num_speakers=1)
    with pytest.raises(ValueError, match="partners was 'fixed', is 'random'; pass another folder"):
        minispeech.synthesise(tmp_path / "fixed", minutes=0.1, num_speakers=1)
    with pytest.raises(ValueError, match='partners was not given, is "fixed"; pass another folder'):
        minispeech.synthesise(tmp_path / "random", minutes=0.1, num_speakers=1, partners="fixed")
    with pytest.raises(ValueError, match="partners: got 'none', allowed: random, fixed"):
        minispeech.synthesise(tmp_path / "none", minutes=0.1, num_speakers=1, partners="none")


def test_layout(corpus: Path) -> None:
    """Files have the layout of LibriSpeech: 16 kHz mono FLAC, two chapters a speaker, a transcript line each."""
    paths = sorted(corpus.glob("*/*/*.flac"))
    speakers = {path.parts[-3] for path in paths}
    assert len(speakers) == 6
    assert all(len(list((corpus / speaker).iterdir())) == 2 for speaker in speakers)
    transcribed = []
    for path in corpus.glob("*/*/*.trans.txt"):
        speaker, chapter = path.parts[-3:-1]
        assert path.name == f"{speaker}-{chapter}.trans.txt"
        lines = path.read_text().splitlines()
        for i, line in enumerate(lines):
            utterance, text = line.split(" ", 1)
            assert utterance == f"{speaker}-{chapter}-{i:04d}"
            assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ' ")
            assert len(text.split()) >= 10
            transcribed.append(utterance)
    assert sorted(transcribed) == [path.stem for path in sorted(paths, key=lambda path: path.stem)]
    for path in paths:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16000, 1, "FLAC", "PCM_16")
        assert info.frames > 20480  # longer than a window of the paper
    assert not list(corpus.rglob("*partial*"))


def test_minutes(corpus: Path) -> None:
    """The corpus has about the requested length."""
    seconds = sum(soundfile.info(path).duration for path in corpus.glob("*/*/*.flac"))
    assert abs(seconds - 90) < 12 * 2.6  # half an utterance for each of the chapters, if all of them erred alike


def test_labels_fit_files(corpus: Path) -> None:
    """Every file has 1 + (S - 400) // 160 labels, all in the table; every file starts and ends in silence."""
    labels = read_labels(corpus)
    paths = list(corpus.glob("*/*/*.flac"))
    assert sorted(labels) == sorted(path.stem for path in paths) == list(labels)
    phones = read_phones(corpus)
    assert phones["sil"] == 0
    assert sorted(phones.values()) == list(range(41))
    for path in paths:
        found = labels[path.stem]
        assert len(found) == 1 + (soundfile.info(path).frames - 400) // 160
        assert set(found) <= set(phones.values())
        assert found[0] == found[-1] == phones["sil"]


def test_phones_sound_as_labelled(corpus: Path) -> None:
    """In every speaker, /s/ has a larger share of energy above 4 kHz than vowels; silence is weaker than vowels."""
    phones = read_phones(corpus)
    vowels = [phones[vowel] for vowel in ("aa", "ae", "ah", "ao", "eh", "iy", "ow", "uw")]
    speakers: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for speaker, labels, power in read_frames(corpus):
        speakers.setdefault(speaker, []).append((labels, power))
    for frames in speakers.values():
        labels = np.concatenate([found for found, _ in frames])
        power = np.concatenate([power for _, power in frames])
        high = power[:, 100:].sum(1) / power.sum(1)
        level = 10 * np.log10(power.sum(1))
        is_vowel, is_s, is_silence = np.isin(labels, vowels), labels == phones["s"], labels == 0
        assert np.median(high[is_s]) > 5 * np.median(high[is_vowel])
        assert np.median(level[is_silence]) < np.median(level[is_vowel]) - 10


def test_labels_are_in_time(corpus: Path) -> None:
    """The labels explain every speaker's spectrum best where they are; shifted by a frame they explain it worse."""
    edges = [2, 6, 12, 20, 30, 45, 65, 90, 120, 160]
    speakers: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for speaker, labels, power in read_frames(corpus):
        bands = np.log(np.add.reduceat(power, edges, axis=1) + 1e-9)
        speakers.setdefault(speaker, []).append((labels, bands))
    for utterances in speakers.values():
        residuals = {}
        for shift in (-2, -1, 0, 1, 2):
            labels = np.concatenate([found[2 + shift : len(found) - 2 + shift] for found, _ in utterances])
            bands = np.concatenate([bands[2:-2] for _, bands in utterances])
            means = np.zeros((41, bands.shape[1]))
            for phone in np.unique(labels):
                means[phone] = bands[labels == phone].mean(0)
            residuals[shift] = ((bands - means[labels]) ** 2).sum()
        assert min(residuals, key=lambda shift: residuals[shift]) == 0


def test_closure_belongs_to_plosive(minispeech: ModuleType) -> None:
    """The silence before a burst belongs to the plosive; a pause before it stays a pause; a short gap is ignored."""
    waveform = np.ones(10000)
    waveform[2000:2950] = 0  # closure; the burst comes 50 samples before its event at 3000
    waveform[5000:6000] = 0  # pause
    waveform[7900:8000] = 0  # 4.5 ms
    phones = [(0, "a"), (3000, "t"), (5000, "_:"), (6000, "k"), (8000, "i:")]
    expected = [(0, "a"), (2000, "t"), (5000, "_:"), (6000, "k"), (8000, "i:")]
    assert minispeech.move_closures(waveform, phones) == expected


def test_label_is_phone_at_centre(minispeech: ModuleType) -> None:
    """Label i is the phone at sample 160 i + 200; a phone starts with its first sample."""
    starts = [(0.0, "_"), (360.0, "s"), (521.0, "i:")]
    ids = {"_": 0, "s": 1, "i:": 2}
    assert minispeech.frame_labels(starts, 400 + 3 * 160 + 159, ids).tolist() == [0, 1, 1, 2]


def test_unknown_symbol_is_an_error(minispeech: ModuleType) -> None:
    """A symbol that is not in phones.csv is named, not taken for silence."""
    with pytest.raises(ValueError, match=r"spoke \['x'\]"):
        minispeech.frame_labels([(0.0, "_"), (100.0, "x")], 1600, {"_": 0})


def test_speakers_differ(minispeech: ModuleType) -> None:
    """There are at least 40 speakers, women and men, with unique ids and no two alike."""
    speakers = minispeech.read_speakers()
    assert len(speakers) >= 40
    assert len({speaker.speaker for speaker in speakers}) == len(speakers)
    assert {speaker.gender for speaker in speakers} == {"F", "M"}
    assert len({(speaker.accent, speaker.variant) for speaker in speakers}) == len(speakers)
    assert all(15 <= speaker.snr_db <= 30 for speaker in speakers)


def test_sentences_differ(minispeech: ModuleType) -> None:
    """There are at least 400 sentences, no two alike in their words, each of 5 to 15 words."""
    sentences = minispeech.read_sentences()
    assert len(sentences) >= 400
    assert len({sentence.lower().rstrip(".?!") for sentence in sentences}) == len(sentences)
    assert all(5 <= len(sentence.split()) <= 15 for sentence in sentences)


def test_finished_corpus_is_not_remade(minispeech: ModuleType, corpus: Path) -> None:
    """Asking for a finished corpus again changes nothing; asking for another one in its place is an error."""
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    minispeech.synthesise(corpus, minutes=1.5, seed=0, num_speakers=6)
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before
    with pytest.raises(ValueError, match="seed was 0, is 1; pass another folder"):
        minispeech.synthesise(corpus, minutes=1.5, seed=1, num_speakers=6)


def test_corpus_of_an_earlier_version_is_finished(minispeech: ModuleType, corpus: Path, tmp_path: Path) -> None:
    """Earlier versions wrote corpus.json last and without the key `complete`."""
    record = json.loads((corpus / "corpus.json").read_text())
    del record["complete"]
    (tmp_path / "corpus.json").write_text(json.dumps(record))
    minispeech.synthesise(tmp_path, minutes=1.5, seed=0, num_speakers=6)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.json"]


def test_half_made_corpus_is_completed(minispeech: ModuleType, tmp_path: Path) -> None:
    """A corpus whose synthesis was interrupted ends as if it had not been."""
    minispeech.synthesise(tmp_path, minutes=0.1, num_speakers=2)
    whole = contents(tmp_path)
    record = json.loads((tmp_path / "corpus.json").read_text())
    (tmp_path / "corpus.json").write_text(json.dumps({**record, "complete": False}))
    next(tmp_path.glob("*/*/*.flac")).unlink()
    (tmp_path / "phone_labels.txt").unlink()
    minispeech.synthesise(tmp_path, minutes=0.1, num_speakers=2)
    assert contents(tmp_path) == whole


def test_foreign_folder_is_left_alone(minispeech: ModuleType, tmp_path: Path) -> None:
    """A folder that holds something else is refused."""
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        minispeech.synthesise(tmp_path, minutes=0.1, num_speakers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_missing_espeak_is_one_clear_line(
    minispeech: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without espeakng-loader, the error says what to install, and nothing is written."""
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ValueError, match=r"minispeech needs espeak-ng: pip install -e '\.\[demo\]'"):
        minispeech.synthesise(tmp_path, minutes=0.1, num_speakers=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"minutes": 0}, "minutes"), ({"seed": -1}, "seed"), ({"num_speakers": 1000}, "speakers")],
)
def test_arguments_out_of_range(minispeech: ModuleType, tmp_path: Path, arguments: dict[str, int], named: str) -> None:
    """Each bad argument is named."""
    with pytest.raises(ValueError, match=named):
        minispeech.synthesise(tmp_path, **arguments)
