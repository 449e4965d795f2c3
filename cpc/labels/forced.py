"""Forced alignment: which phone is spoken when, from the words, with pocketsphinx's English model.

OUT holds, when it is done:

    phone_labels.txt, phones.txt    a phone every 10 ms (`cpc.alignment`): silence and ARPAbet's 39
    intervals.ctm                   the same as intervals in seconds
    left_out.csv                    utterances without labels, and why
    alignment.json                  what it was made from

pocketsphinx's frames are 25.6 ms every 10 ms without padding, so frame i is centred 0.3 ms behind label i.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cpc.data import AudioError, Manifest, read_audio
from cpc.files import write_bytes
from cpc.labels.intervals import SILENCE, Interval, read_ctm, write_ctm, write_labels, write_textgrid
from cpc.labels.phones import LABEL_SAMPLE_RATE, LabelsError

ARPABET = [
    "aa", "ae", "ah", "ao", "aw", "ay", "b", "ch", "d", "dh", "eh", "er", "ey", "f", "g", "hh", "ih", "iy", "jh", "k",
    "l", "m", "n", "ng", "ow", "oy", "p", "r", "s", "sh", "t", "th", "uh", "uw", "v", "w", "y", "z", "zh",
]  # fmt: skip
PHONES = (SILENCE, *ARPABET)
_HOP, _HALF_WINDOW = 0.010, 0.0128  # seconds, of pocketsphinx's frames


@dataclass(frozen=True)
class Summary:
    """What an alignment came to."""

    num_aligned: int
    left_out: dict[str, str]  # utterance → why

    def __str__(self) -> str:
        """In a few lines, for a terminal."""
        lines = [f"aligned: {self.num_aligned} utterances; left out: {len(self.left_out)}"]
        reasons = Counter(re.sub(r": .*", "", why) for why in self.left_out.values())
        lines += [f"  {count} × {reason}" for reason, count in reasons.most_common()]
        return "\n".join(lines)


def read_transcripts(source: str | Path) -> dict[str, str]:
    """The words of each utterance.

    Args:
        source: a text file with `utterance-id words …` a line; or a folder: of each *.trans.txt below it the lines are
            such, and any other STEM.txt holds the words of utterance STEM.

    Raises:
        LabelsError: nothing there, or an utterance that is named twice.
    """
    source = Path(source)
    if not source.exists():
        raise LabelsError(f"{source}: no such file or folder of transcripts")
    found: dict[str, str] = {}
    for path in sorted(source.rglob("*.txt")) if source.is_dir() else [source]:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise LabelsError(f"{path}: cannot be read as a transcript: {error}") from None
        if source.is_dir() and not path.name.endswith(".trans.txt"):
            lines = [f"{path.stem} {' '.join(text.split())}"]
        else:
            lines = [line for line in text.splitlines() if line.strip()]
        for line in lines:
            utterance, _, words = line.strip().partition(" ")
            if utterance in found:
                raise LabelsError(f"{path}: utterance {utterance} has been there before; expected each one once")
            found[utterance] = words.strip()
    if not found:
        raise LabelsError(f"{source}: no transcript in it; expected `utterance-id words …` a line, or UTTERANCE.txt")
    return found


def align(
    manifest: Manifest,
    transcripts: Mapping[str, str],
    out: Path,
    *,
    jobs: int = 1,
    dictionary: Path | None = None,
    resample: bool = False,
) -> Summary:
    """Align every utterance of a manifest that has a transcript, all of whose words the dictionary has.

    What is done is kept in OUT/aligned.jsonl: the same call goes on from there, and a finished one returns at once.

    Args:
        manifest: the utterances, at 16 kHz.
        transcripts: words by utterance, in any case, with or without punctuation.
        out: folder to write to.
        jobs: processes.
        dictionary: further words, `word P H O N E S` a line, as CMUdict has them.
        resample: bring files of another rate to 16 kHz; otherwise they are an error.

    Returns:
        How many were aligned, and which were left out.

    Raises:
        LabelsError: no utterance has a transcript, none could be aligned, the folder holds another alignment, a
            dictionary that is missing or wrong, or pocketsphinx is not installed.
        AudioError: a file that cannot be read, or is of another rate.
    """
    table = manifest.table
    utterances = [str(u) for u in table["utterance"]]
    if not set(utterances) & transcripts.keys():
        raise LabelsError(
            f"no utterance of the manifest (e.g. {utterances[0] if utterances else 'none at all'}) has a transcript "
            f"(e.g. {next(iter(transcripts), 'none at all')}); are they of another corpus?"
        )
    if jobs < 1:
        raise LabelsError(f"jobs: got {jobs}, expected 1 or more")
    if not resample and (wrong := np.flatnonzero(table["sample_rate"] != LABEL_SAMPLE_RATE)).size:
        rate = table["sample_rate"].iloc[wrong[0]]
        raise AudioError(
            f"{manifest.audio_path(int(wrong[0]))}: {rate} Hz, the acoustic model's is {LABEL_SAMPLE_RATE}; pass "
            "--resample"
        )
    extra = read_dictionary(dictionary) if dictionary else {}
    _pocketsphinx()

    lengths = [int(n) for n in table["num_samples"]]
    texts = [transcripts.get(u) for u in utterances]
    identity = hashlib.blake2b(json.dumps([utterances, lengths, texts, extra]).encode(), digest_size=12).hexdigest()
    record, partial = out / "alignment.json", out / "aligned.jsonl"
    done = _read_partial(partial, identity)
    if record.exists():
        there = json.loads(record.read_text())
        if there["identity"] != identity:
            raise LabelsError(
                f"{out}: holds an alignment of other utterances or words; pass another --out or remove it"
            )
        return Summary(there["num_aligned"], there["left_out"])

    tasks = [
        (u, str(manifest.audio_path(i)), text, resample)
        for i, (u, text) in enumerate(zip(utterances, texts, strict=True))
        if text is not None and u not in done
    ]
    out.mkdir(parents=True, exist_ok=True)
    num_transcribed = sum(text is not None for text in texts)
    with (
        partial.open("a") as f,
        tqdm(total=num_transcribed, initial=num_transcribed - len(tasks), unit="utterance", desc="align") as bar,
    ):
        for line in _aligned(tasks, jobs, extra):
            f.write(json.dumps(line) + "\n")
            f.flush()
            done[line["utterance"]] = line
            bar.update()

    left_out = {u: "no transcript" for u, text in zip(utterances, texts, strict=True) if text is None}
    left_out |= {u: line["left_out"] for u, line in done.items() if "left_out" in line}
    by_utterance = {
        u: [Interval(*i) for i in done[u]["intervals"]] for u in utterances if "intervals" in done.get(u, {})
    }
    write_bytes(
        out / "left_out.csv",
        pd.DataFrame(left_out.items(), columns=["utterance", "reason"]).to_csv(index=False).encode(),
    )
    if not by_utterance:
        reason = next(iter(left_out.values()))
        raise LabelsError(
            f"none of {len(utterances)} utterances could be aligned (e.g. {reason}); see {out / 'left_out.csv'}"
        )
    write_labels(manifest, by_utterance, out, PHONES)
    write_ctm(by_utterance, out / "intervals.ctm")
    summary = {"identity": identity, "num_aligned": len(by_utterance), "left_out": left_out}
    write_bytes(record, json.dumps(summary, indent=1).encode())
    partial.unlink()
    return Summary(len(by_utterance), left_out)


def write_textgrids(manifest: Manifest, out: Path) -> None:
    """Write OUT/textgrids/UTTERANCE.TextGrid from what `align` left in OUT.

    Raises:
        LabelsError: no intervals.ctm, or praatio is not installed.
    """
    by_utterance, table = read_ctm(out / "intervals.ctm"), manifest.table
    columns = zip(table["utterance"].astype(str), table["num_samples"], table["sample_rate"], strict=True)
    for utterance, num_samples, rate in columns:
        if utterance in by_utterance:
            write_textgrid(
                by_utterance[utterance], int(num_samples) / int(rate), out / "textgrids" / f"{utterance}.TextGrid"
            )


def read_dictionary(path: Path) -> dict[str, str]:
    """Words and their phones: `word P H O N E S` a line, stress digits allowed.

    Raises:
        LabelsError: no such file, or a line that is not as described.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise LabelsError(f"{path}: no such dictionary") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"{path}: cannot be read as a dictionary: {error}") from None
    words = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith(";;;"):
            continue
        word, *phones = line.split()
        phones = [phone.rstrip("012").upper() for phone in phones]
        wrong = [phone for phone in phones if phone.lower() not in ARPABET]
        if not phones or wrong:
            raise LabelsError(
                f"{path}, line {number}: found {line[:60]!r}, expected `word P H O N E S` of ARPAbet's 39 phones"
            )
        words[word.lower()] = " ".join(phones)
    return words


def _read_partial(path: Path, identity: str) -> dict[str, dict[str, Any]]:
    """What an interrupted alignment did; a torn last line is dropped. Starts the file where there is none."""
    head = json.dumps({"identity": identity})
    lines = path.read_text().split("\n") if path.exists() else []
    whole = [line for line in lines[:-1] if line]  # what is behind the last newline is torn
    if whole and whole[0] != head:
        raise LabelsError(
            f"{path.parent}: holds an unfinished alignment of other utterances or words; pass another --out or remove "
            "it"
        )
    if not (path.parent / "alignment.json").exists():
        write_bytes(path, ("\n".join(whole or [head]) + "\n").encode())
    return {line["utterance"]: line for line in map(json.loads, whole[1:])}


def _aligned(tasks: list[Any], jobs: int, extra: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The tasks' results, in their order."""
    if jobs == 1 or len(tasks) < 2:
        _start(extra)
        yield from map(_align_one, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, _start, (extra,)) as pool:
        yield from pool.imap(_align_one, tasks, chunksize=4)


_decoders: list[Any] = []  # of this process; each takes half a second to load
# What the search may drop, by how much less likely it is than the best: pocketsphinx's own; and, for an utterance that
# is lost so, hardly anything.
_BEAMS: tuple[dict[str, float], ...] = ({}, {"beam": 1e-200, "pbeam": 1e-200, "wbeam": 1e-150})


def _start(extra: dict[str, str]) -> None:
    _decoders.clear()
    for beams in _BEAMS:
        decoder = _pocketsphinx().Decoder(samprate=LABEL_SAMPLE_RATE, bestpath=False, loglevel="FATAL", **beams)
        for word, phones in extra.items():
            if decoder.lookup_word(word) is None:
                decoder.add_word(word, phones, False)
        _decoders.append(decoder)


def _align_one(task: tuple[str, str, str, bool]) -> dict[str, Any]:
    """One utterance's intervals, or why there are none."""
    utterance, path, text, resample = task
    words, unknown = _words(text)
    if unknown:
        return {"utterance": utterance, "left_out": f"not in the dictionary: {' '.join(unknown)}"}
    if not words:
        return {"utterance": utterance, "left_out": "no word in its transcript"}
    waveform = read_audio(path, sample_rate=LABEL_SAMPLE_RATE, resample=resample)
    peak = max(1.0, float(np.abs(waveform).max(initial=0)))
    pcm = np.round(waveform / peak * 32767).astype("<i2").tobytes()
    found = next(filter(None, (_phones(decoder, words, pcm) for decoder in _decoders)), None)
    if found is None:
        return {"utterance": utterance, "left_out": "the words do not fit the sound"}
    borders = [0.0, *(round(_HOP * start + _HALF_WINDOW - _HOP / 2, 4) for _, start, _ in found[1:])]
    ends = [*borders[1:], round(len(waveform) / LABEL_SAMPLE_RATE, 4)]
    names = [name.lower() if name.lower() in ARPABET else SILENCE for name, _, _ in found]
    return {"utterance": utterance, "intervals": list(zip(borders, ends, names, strict=True))}


def _phones(decoder: Any, words: list[str], pcm: bytes) -> list[tuple[str, int, int]]:
    """Phones with their first frame and their length; none if the search lost the way to the last word."""

    def decode() -> None:
        decoder.reinit_feat()  # else its running estimates of noise and mean come from the utterances before
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()

    try:
        decoder.set_align_text(" ".join(words))
        decode()
        decoder.set_alignment()  # the words are found; now their phones
        decode()
        return [(phone.name, phone.start, phone.duration) for word in decoder.get_alignment() for phone in word]
    except (RuntimeError, TypeError):  # TypeError: get_alignment() gives None
        return []


def _words(text: str) -> tuple[list[str], list[str]]:
    """A transcript's words as the dictionary has them, and those that it lacks."""
    words, unknown = [], []
    for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*'?|'[^\W_]+", text.lower().replace("’", "'")):
        known = next((form for form in (word, word.strip("'")) if _decoders[0].lookup_word(form) is not None), None)
        if known is None:
            unknown.append(word)
        else:
            words.append(known)
    return words, unknown


def _pocketsphinx() -> Any:
    try:
        import pocketsphinx
    except ImportError:
        raise LabelsError("forced alignment needs pocketsphinx: pip install 'cpc-audio[align]'") from None
    return pocketsphinx
