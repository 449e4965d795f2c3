"""Synthesise minispeech with espeak-ng: English speech of many speakers with exact phone times, without a download.

    python recipes/minispeech/synthesise.py OUT [--seed 0] [--minutes 60] [--speakers N] [--partners random]

    speakers, sentences → espeak-ng (22050 Hz, phone events) → 16 kHz → channel → noise → FLAC, labels

OUT has the layout of LibriSpeech, with phone labels in the CPC authors' format:

    OUT/<speaker>/<chapter>/<speaker>-<chapter>-<nnnn>.flac    16 kHz, one channel, 16 bit
    OUT/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt      UTTERANCE-ID TEXT IN CAPITALS
    OUT/phone_labels.txt                                       utterance-id l_0 l_1 ...
    OUT/phones.txt                                             id phone
    OUT/corpus.json                                            the settings, and whether the corpus is complete
"""

import argparse
import csv
import ctypes
import hashlib
import importlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args

import numpy as np
import soundfile
from numpy.typing import NDArray
from scipy.signal import resample_poly, sosfilt
from tqdm import tqdm

from cpc.experiments import errors_in_one_line
from cpc.files import claim, replacing, write_bytes
from cpc.labels import (
    LABEL_HOP_SAMPLES,
    LABEL_SAMPLE_RATE,
    LABEL_WINDOW_SAMPLES,
    num_labels,
    read_transcripts,
    write_labels,
    write_phones,
)

DATA = Path(__file__).resolve().parents[2] / "data" / "minispeech"
ESPEAK_RATE = 22050  # Hz, the rate of espeak-ng's built-in voices
SAMPLE_RATE = LABEL_SAMPLE_RATE  # Hz, the rate of the corpus
SENTENCES_PER_UTTERANCE = 2  # about 6 s, so that an utterance holds several windows of 1.28 s
MIN_CLOSURE_SAMPLES = ESPEAK_RATE * 10 // 1000
CLOSURE_REACH_SAMPLES = ESPEAK_RATE * 10 // 1000  # a burst may begin some ms before its event
HALF_UTTERANCE_SECONDS = 2.6  # half the mean utterance; a chapter ends where it comes closest to its length
PLACEMENT_DB = 9.0  # largest gain or loss of each filter that stands for an utterance's microphone placement
PLACEMENT_BANDS_HZ = ((200, 700), (700, 2000), (2000, 6000))  # one resonance lies in each band
PLACEMENT_SNR_DB = 4.0  # largest deviation from the speaker's signal-to-noise ratio
SPEECH_RMS = 0.05  # share of full scale before the gain of the utterance; leaves 26 dB for peaks

Partners = Literal["random", "fixed"]  # which two sentences make an utterance: any two, or always the same two


@dataclass(frozen=True)
class Speaker:
    """One line of speakers.csv."""

    speaker: int  # id, unique
    gender: str  # "F" or "M"; for information only, the variant decides the sound
    accent: str  # espeak-ng language
    variant: str  # espeak-ng voice variant
    pitch: int  # 0 to 100; 50 is the variant's own pitch
    pitch_range: int  # 0 (monotone) to 100
    rate: int  # words per minute
    formant_shift: float  # factor on every frequency of the voice, for the length of the vocal tract
    tilt_db: float  # high shelf above 1 kHz
    peak1_hz: float  # first resonance of the channel
    peak1_db: float
    peak2_hz: float  # second resonance of the channel
    peak2_db: float
    snr_db: float  # speech power over noise power
    pink: float  # share of pink noise in the noise's amplitude, 0 to 1; the rest is white


def read_speakers() -> list[Speaker]:
    """Read speakers.csv in the file's order, in which women and men alternate."""
    with open(DATA / "speakers.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    types = Speaker.__annotations__
    return [Speaker(**{name: types[name](value) for name, value in row.items()}) for row in rows]


def read_sentences() -> list[str]:
    """Read sentences.txt, one sentence a line."""
    return (DATA / "sentences.txt").read_text(encoding="utf-8").splitlines()


def read_phone_map() -> dict[str, str]:
    """Read phones.csv: the phone of each of espeak-ng's symbols, which have no stress mark here."""
    with open(DATA / "phones.csv", newline="", encoding="utf-8") as file:
        return {row["symbol"]: row["phone"] for row in csv.DictReader(file)}


def phone_table() -> list[str]:
    """List the phones by id: silence first, then the others in alphabetical order."""
    return ["sil", *sorted(set(read_phone_map().values()) - {"sil"})]


class EspeakEvent(ctypes.Structure):
    """espeak_EVENT of espeak-ng's speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),  # since the start of this call
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),  # a phoneme event's symbol; a union in C
    ]


class Espeak:
    """One voice of espeak-ng.

    The library keeps the phase of its oscillators and its noise in static variables that initialisation does not clear,
    so it says the same text differently the second time. Each object therefore loads its own copy of the library, with
    its own static variables: its output depends on its own calls alone.

    Args:
        voice: language and variant, "en-us+f2".
        pitch_range: 0 to 100.
        folder: folder for the copy of the library; it must outlive the object.

    Raises:
        ValueError: espeakng-loader is not installed, or has no such voice.
    """

    OUTPUT_SYNCHRONOUS = 2
    PHONEME_EVENTS, DONT_EXIT = 0x0001, 0x8000  # flags of espeak_Initialize
    RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4  # espeak_PARAMETER
    LIST_END_EVENT, PHONEME_EVENT = 0, 7  # espeak_EVENT_TYPE
    CHARS_UTF8 = 1
    Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(EspeakEvent))

    def __init__(self, voice: str, pitch_range: int, folder: Path) -> None:
        espeakng_loader = load_espeakng_loader()
        data_folder = Path(espeakng_loader.get_data_path())
        # espeak-ng itself silently ignores a variant that it does not have.
        if not (data_folder / "voices" / "!v" / voice.partition("+")[2]).is_file():
            raise ValueError(f"speakers.csv: espeak-ng has no variant {voice!r}")

        self._samples: list[NDArray[np.int16]] = []
        self._phones: list[tuple[int, str]] = []
        copy = Path(tempfile.mkdtemp(dir=folder)) / Path(espeakng_loader.get_library_path()).name
        shutil.copyfile(espeakng_loader.get_library_path(), copy)
        self._library = ctypes.CDLL(str(copy))
        self._library.espeak_Synth.argtypes = [
            *(ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint),
            *(ctypes.c_void_p, ctypes.c_void_p),
        ]
        rate = self._library.espeak_Initialize(
            self.OUTPUT_SYNCHRONOUS, 0, str(data_folder).encode(), self.PHONEME_EVENTS | self.DONT_EXIT
        )
        assert rate == ESPEAK_RATE, rate
        self._callback = self.Callback(self._collect)  # kept: ctypes does not own it
        self._library.espeak_SetSynthCallback(self._callback)
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"speakers.csv: espeak-ng has no voice {voice!r}")
        self._library.espeak_SetParameter(self.RANGE, pitch_range, 0)
        self._library.espeak_SetParameter(self.VOLUME, 40, 0)  # at 100, the default, loud vowels clip

    def _collect(
        self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, events: "ctypes.Array[EspeakEvent]"
    ) -> int:
        if samples and count:
            self._samples.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        i = 0
        while events[i].type != self.LIST_END_EVENT:
            if events[i].type == self.PHONEME_EVENT:
                symbol = events[i].id.decode().lstrip("',%=")  # stress marks
                self._phones.append((events[i].sample, symbol))
            i += 1
        return 0

    def say(self, text: str, rate: int, pitch: int) -> tuple[NDArray[np.float64], list[tuple[int, str]]]:
        """Speak a text.

        Args:
            text: English text.
            rate: words per minute.
            pitch: 0 to 100.

        Returns:
            The waveform (S,) at 22050 Hz in [-1, 1), and the phones as pairs (first sample, espeak-ng's symbol).
        """
        self._samples.clear()
        self._phones = []  # a new list, because the caller owns the last one
        self._library.espeak_SetParameter(self.RATE, rate, 0)
        self._library.espeak_SetParameter(self.PITCH, pitch, 0)
        ctypes.CDLL(None).srand(0)  # the Klatt voices take their noise from C's rand, which all copies share
        encoded = text.encode()
        status = self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, self.CHARS_UTF8, None, None)
        assert status == 0, status
        return np.concatenate(self._samples) / 32768, self._phones

    def close(self) -> None:
        """Free the library's memory."""
        self._library.espeak_Terminate()


def load_espeakng_loader() -> ModuleType:
    """Import espeakng_loader, which contains espeak-ng's library and data.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module("espeakng_loader")
    except ImportError:
        raise ValueError("minispeech needs espeak-ng: pip install -e '.[demo]'") from None


def move_closures(waveform: NDArray[np.float64], phones: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Assign the silence before a plosive to the plosive.

    espeak-ng reports a plosive at its burst, so its closure, which is digital silence, would count as part of the
    preceding vowel. A phone after such a gap therefore starts with the gap, unless the gap follows a pause.

    Args:
        waveform: (S,), espeak-ng's output without noise.
        phones: pairs (first sample, symbol) in order.

    Returns:
        The same phones, some of which start earlier.
    """
    moved = phones[:1]
    for (previous, previous_symbol), (start, symbol) in pairwise(phones):
        silent = np.pad(waveform[previous:start] == 0, 1)
        begins, ends = np.flatnonzero(np.diff(silent.astype(int))).reshape(-1, 2).T  # runs of zeros
        # begins > 0, because a phone that is silent from its start is itself a closure.
        is_closure = (begins > 0) & (ends - begins >= MIN_CLOSURE_SAMPLES)
        is_closure &= ends >= start - previous - CLOSURE_REACH_SAMPLES
        if is_closure.any() and not previous_symbol.startswith("_"):
            start = previous + int(begins[is_closure][0])
        moved.append((start, symbol))
    return moved


def peaking(frequency: float, gain_db: float) -> NDArray[np.float64]:
    """Design a biquad (6,) that raises one octave around a frequency in Hz (Bristow-Johnson's cookbook)."""
    a, w = 10 ** (gain_db / 40), 2 * np.pi * frequency / SAMPLE_RATE
    alpha = np.sin(w) / (2 * np.sqrt(2))
    section = [1 + alpha * a, -2 * np.cos(w), 1 - alpha * a, 1 + alpha / a, -2 * np.cos(w), 1 - alpha / a]
    return np.asarray(np.array(section) / section[3])


def high_shelf(frequency: float, gain_db: float) -> NDArray[np.float64]:
    """Design a biquad (6,) that raises everything above a frequency in Hz (same source, slope 1)."""
    a, w = 10 ** (gain_db / 40), 2 * np.pi * frequency / SAMPLE_RATE
    cos, beta = np.cos(w), np.sqrt(2 * a) * np.sin(w)
    b = [
        a * (a + 1 + (a - 1) * cos + beta),
        -2 * a * (a - 1 + (a + 1) * cos),
        a * (a + 1 + (a - 1) * cos - beta),
    ]
    section = [*b, a + 1 - (a - 1) * cos + beta, 2 * (a - 1 - (a + 1) * cos), a + 1 - (a - 1) * cos - beta]
    return np.asarray(np.array(section) / section[3])


def make_noise(num_samples: int, pink: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw noise (num_samples,) with unit power, between white (pink = 0) and 1/f (pink = 1)."""
    white = rng.standard_normal(num_samples)
    spectrum = np.fft.rfft(white)
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    coloured = np.fft.irfft(spectrum, num_samples)
    mix = (1 - pink) * white + pink * coloured / coloured.std()
    return np.asarray(mix / mix.std())


def make_utterance(
    espeak: Espeak, speaker: Speaker, text: str, rng: np.random.Generator
) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    """Speak a text with the speaker's voice, over the speaker's channel.

    Args:
        espeak: the speaker's voice.
        speaker: pitch, rate, channel and noise.
        text: one or more sentences.
        rng: draws small changes of rate and pitch, the silence at both ends, the microphone placement, noise and gain.

    Returns:
        The waveform (S,) at 16 kHz in [-1, 1], and the phones as pairs (first sample at 16 kHz, espeak-ng's symbol).
    """
    rate = round(speaker.rate * rng.uniform(0.92, 1.08))
    pitch = int(np.clip(speaker.pitch + rng.integers(-5, 6), 0, 100))
    speech, phones = espeak.say(text, rate, pitch)
    phones = move_closures(speech, phones)

    # Resampling from a rate that is not the voice's own shifts pitch and formants together.
    divisor = np.gcd(ESPEAK_RATE, SAMPLE_RATE)
    up, down = SAMPLE_RATE // divisor, round(ESPEAK_RATE / divisor * speaker.formant_shift)
    speech = resample_poly(speech, up, down)  # zero phase, so times only scale by up / down
    lead, tail = (round(SAMPLE_RATE * seconds) for seconds in rng.uniform(0.1, 0.4, size=2))
    speech = np.pad(speech, (lead, tail))
    starts = [(0.0, "_")] + [(lead + sample * up / down, symbol) for sample, symbol in phones]

    # The channel is the speaker's, the microphone placement changes with every utterance. Without the latter, the mean
    # spectrum of an utterance would always identify its speaker, whatever the voice.
    placed = [high_shelf(1000, rng.uniform(-PLACEMENT_DB, PLACEMENT_DB))]
    for low, high in PLACEMENT_BANDS_HZ:
        frequency = low * (high / low) ** rng.uniform()
        placed.append(peaking(frequency, rng.uniform(-PLACEMENT_DB, PLACEMENT_DB)))
    channel = [
        high_shelf(1000, speaker.tilt_db),
        peaking(speaker.peak1_hz, speaker.peak1_db),
        peaking(speaker.peak2_hz, speaker.peak2_db),
    ]
    speech = sosfilt(np.stack(channel + placed), speech)
    speech /= np.sqrt((speech[speech != 0] ** 2).mean())
    snr_db = speaker.snr_db + rng.uniform(-PLACEMENT_SNR_DB, PLACEMENT_SNR_DB)
    noise = make_noise(len(speech), speaker.pink, rng) * 10 ** (-snr_db / 20)
    gain = SPEECH_RMS * 10 ** (rng.uniform(-6, 6) / 20)
    waveform = gain * (speech + noise)
    return waveform / max(1.0, np.abs(waveform).max() / 0.99), starts


def frame_labels(starts: list[tuple[float, str]], num_samples: int, phone_ids: dict[str, int]) -> NDArray[np.int64]:
    """Label each frame with the phone at the centre of its window.

    Args:
        starts: pairs (first sample, espeak-ng's symbol) in order, the first at 0.
        num_samples: S, the length of the utterance.
        phone_ids: the phone id of each of espeak-ng's symbols.

    Returns:
        (1 + (S - 400) // 160,) phone ids; label i is the phone at sample 160 i + 200.

    Raises:
        ValueError: phones.csv lacks a symbol.
    """
    unknown = sorted({symbol for _, symbol in starts} - phone_ids.keys())
    if unknown:
        raise ValueError(f"{DATA / 'phones.csv'}: espeak-ng spoke {unknown}, which are not in this table; add them")
    centres = LABEL_HOP_SAMPLES * np.arange(num_labels(num_samples)) + LABEL_WINDOW_SAMPLES // 2
    spoken = np.searchsorted([start for start, _ in starts], centres, side="right") - 1
    return np.array([phone_ids[symbol] for _, symbol in starts])[spoken]


def shuffled_forever(texts: list[str], rng: np.random.Generator) -> Iterator[str]:
    """Yield the texts in random order; each comes once before any comes again."""
    while True:
        for i in rng.permutation(len(texts)):
            yield texts[i]


def utterance_texts(partners: Partners, rng: np.random.Generator) -> Iterator[str]:
    """Yield what one chapter's utterances say, two sentences each.

    Random partners tie nearly all sentences together, utterance by utterance, so that no split could keep a sentence
    to itself. With fixed partners, the 1st and the 2nd sentence always come together, the 3rd and the 4th, and so on.
    """
    sentences = read_sentences()
    if partners == "fixed":
        yield from shuffled_forever(list(map(" ".join, zip(sentences[::2], sentences[1::2], strict=True))), rng)
    drawn = shuffled_forever(sentences, rng)
    while True:
        yield " ".join(next(drawn) for _ in range(SENTENCES_PER_UTTERANCE))


def words_of(text: str) -> str:
    """Write a text as transcripts have it: in capitals, without punctuation."""
    return " ".join(re.sub(r"[^A-Z' ]", " ", text.upper()).split())


def sentences_spoken(corpus: Path) -> dict[str, tuple[int, int]]:
    """Find the two sentences of each utterance by its transcript, as line numbers of sentences.txt from 1.

    Raises:
        ValueError: a transcript does not consist of two of the sentences.
    """
    numbers = {words_of(sentence): number for number, sentence in enumerate(read_sentences(), start=1)}
    found = {}
    for path in sorted(corpus.glob("*/*/*.trans.txt")):
        for utterance, text in read_transcripts(path).items():
            words = text.split()
            halves = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
            pair = next(((numbers[a], numbers[b]) for a, b in halves if a in numbers and b in numbers), None)
            if pair is None:
                raise ValueError(f"{path}: {utterance} does not consist of two sentences of {DATA / 'sentences.txt'}")
            found[utterance] = pair
    return found


def synthesise_chapter(
    out_dir: Path,
    speaker: Speaker,
    chapter: int,
    seconds: float,
    seed: int,
    library_folder: Path,
    partners: Partners = "random",
) -> dict[str, NDArray[np.int64]]:
    """Write the sound files and the transcript of one chapter; they depend on the arguments and the data files alone.

    Args:
        out_dir: folder of the corpus.
        speaker: the reader.
        chapter: id of the chapter.
        seconds: length of the chapter, to within about half an utterance; a chapter has at least one utterance.
        seed: seed of the corpus.
        library_folder: folder for temporary copies of espeak-ng's library.
        partners: which two sentences make an utterance.

    Returns:
        The phone ids (T,) of each utterance.
    """
    ids = {phone: i for i, phone in enumerate(phone_table())}
    phone_ids = {symbol: ids[phone] for symbol, phone in read_phone_map().items()}
    espeak = Espeak(f"{speaker.accent}+{speaker.variant}", speaker.pitch_range, library_folder)
    folder = out_dir / str(speaker.speaker) / str(chapter)
    rng = np.random.default_rng([seed, chapter])
    texts = utterance_texts(partners, np.random.default_rng([seed, chapter, 1]))
    labels: dict[str, NDArray[np.int64]] = {}
    transcript, made_samples = [], 0
    while not labels or made_samples < (seconds - HALF_UTTERANCE_SECONDS) * SAMPLE_RATE:
        utterance = f"{speaker.speaker}-{chapter}-{len(labels):04d}"
        text = next(texts)
        waveform, starts = make_utterance(espeak, speaker, text, rng)
        labels[utterance] = frame_labels(starts, len(waveform), phone_ids)
        with replacing(folder / f"{utterance}.flac") as temporary:
            soundfile.write(temporary, waveform, SAMPLE_RATE, subtype="PCM_16", format="FLAC")
        transcript.append(f"{utterance} {words_of(text)}\n")
        made_samples += len(waveform)
    espeak.close()
    write_bytes(folder / f"{speaker.speaker}-{chapter}.trans.txt", "".join(transcript).encode())
    return labels


def data_digest() -> str:
    """Digest the files that the corpus is made from."""
    digest = hashlib.sha256()
    for name in ("phones.csv", "sentences.txt", "speakers.csv"):
        digest.update((DATA / name).read_bytes())
    return digest.hexdigest()


def synthesise(
    out_dir: Path,
    *,
    minutes: float = 60,
    seed: int = 0,
    num_speakers: int | None = None,
    partners: Partners = "random",
) -> None:
    """Make the corpus; return at once if it is complete already.

    Args:
        out_dir: a new or empty folder, or one that holds the same corpus; an incomplete corpus is completed.
        minutes: approximate length of the corpus; it is longer if this is less than one utterance for each chapter.
        seed: seed of everything that is drawn; the same seed gives the same files, bit for bit.
        num_speakers: take this many speakers from the top of speakers.csv; None takes all.
        partners: which two sentences make an utterance: any two, or always the same two.

    Raises:
        ValueError: an argument is out of range, out_dir holds something else, or espeakng-loader is missing.
    """
    speakers = read_speakers()
    num_speakers = len(speakers) if num_speakers is None else num_speakers
    if not 1 <= num_speakers <= len(speakers):
        raise ValueError(f"speakers: got {num_speakers}, expected 1 to {len(speakers)}, as speakers.csv has")
    if not minutes > 0:
        raise ValueError(f"minutes: got {minutes}, expected more than 0")
    if seed < 0:
        raise ValueError(f"seed: got {seed}, expected 0 or more")
    if partners not in get_args(Partners):
        raise ValueError(f"partners: got {partners!r}, allowed: {', '.join(get_args(Partners))}")
    if not (out_dir / "corpus.json").exists():
        load_espeakng_loader()  # if it is missing, refuse before anything is written
    settings = {"minutes": float(minutes), "seed": seed, "num_speakers": num_speakers, "data_sha256": data_digest()}
    if partners != "random":  # corpora of earlier versions do not name it
        settings["partners"] = partners
    ours = claim(out_dir, settings, record="corpus.json", what="minispeech data")
    if partners == "random" and "partners" in ours.content:
        raise ValueError(
            f"{out_dir}: holds other minispeech data: partners was {ours.content['partners']!r}, is 'random'; pass "
            "another folder"
        )
    if ours.complete:
        return

    chapters = [(speaker, 10 * speaker.speaker + part) for speaker in speakers[:num_speakers] for part in (1, 2)]
    labels: dict[str, NDArray[np.int64]] = {}
    with tempfile.TemporaryDirectory() as library_folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        seconds, folder = 60 * minutes / len(chapters), Path(library_folder)

        def make(chapter: tuple[Speaker, int]) -> dict[str, NDArray[np.int64]]:
            return synthesise_chapter(out_dir, *chapter, seconds, seed, folder, partners)

        for made in tqdm(pool.map(make, chapters), total=len(chapters), desc="minispeech", unit="chapter"):
            labels |= made
    write_labels(out_dir / "phone_labels.txt", dict(sorted(labels.items())))
    write_phones(out_dir / "phones.txt", phone_table())
    ours.finish()


def main() -> None:
    """Read the command line and make the corpus."""
    parser = argparse.ArgumentParser(description="Synthesise the minispeech corpus.")
    parser.add_argument("out", type=Path, help="folder of the corpus")
    parser.add_argument("--minutes", type=float, default=60, help="approximate length of the corpus (60)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files (0)")
    parser.add_argument("--speakers", type=int, help="number of speakers, from the top of speakers.csv (all)")
    parser.add_argument(
        "--partners", choices=get_args(Partners), default="random", help="any two sentences make an utterance (random)"
    )
    options = parser.parse_args()
    with errors_in_one_line("synthesise"):
        synthesise(
            options.out,
            minutes=options.minutes,
            seed=options.seed,
            num_speakers=options.speakers,
            partners=options.partners,
        )


if __name__ == "__main__":
    main()
