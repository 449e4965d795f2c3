"""Forced alignment: which phone is spoken when, found from the words with pocketsphinx's English model.

A finished folder holds

    phone_labels.txt, phones.txt    one phone every 10 ms (`cpc.labels.phones`): silence and ARPAbet's 39
    intervals.ctm                   the same as intervals in seconds
    left_out.csv                    the utterances without labels, and why
    alignment.json                  the identity of the alignment

An unfinished one keeps what is done in aligned.jsonl, one line for each utterance.

pocketsphinx's frames are 25.6 ms long, every 10 ms and without padding, so frame i is centred 0.3 ms after label i.
"""

from __future__ import annotations

import json
import multiprocessing
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from cpc.data import AudioError, Manifest, read_audio
from cpc.files import Claim, claim, locked, write_bytes
from cpc.labels.grid import LABEL_SAMPLE_RATE, LabelsError
from cpc.labels.intervals import SILENCE, Interval, read_ctm, write_ctm, write_interval_labels, write_textgrid
from cpc.labels.words import ARPABET, read_dictionary
from cpc.processes import end_with_parent

PHONES = (SILENCE, *ARPABET)
_HOP, _HALF_WINDOW = 0.010, 0.0128  # seconds, geometry of pocketsphinx's frames
_RECORD, _PARTIAL = "alignment.json", "aligned.jsonl"


@dataclass(frozen=True)
class Summary:
    """The result of an alignment.

    Attributes:
        num_aligned: number of utterances with labels.
        left_out: the reason of each utterance without labels.
    """

    num_aligned: int
    left_out: dict[str, str]

    def __str__(self) -> str:
        """Summarise in a few lines for a terminal."""
        lines = [f"aligned: {self.num_aligned} utterances; left out: {len(self.left_out)}"]
        reasons = Counter(re.sub(r": .*", "", why) for why in self.left_out.values())
        lines += [f"  {count} × {reason}" for reason, count in reasons.most_common()]
        return "\n".join(lines)


class _Task(NamedTuple):
    """An utterance to align."""

    utterance: str
    path: str
    text: str
    resample: bool


def align(
    manifest: Manifest,
    transcripts: Mapping[str, str],
    out: Path,
    *,
    jobs: int = 1,
    dictionary: Path | None = None,
    resample: bool = False,
) -> Summary:
    """Align every utterance of a manifest whose transcript has only words that the dictionary has.

    An interrupted call resumes after the last utterance that it finished. A finished alignment is not repeated.

    Args:
        manifest: the utterances, at 16 kHz.
        transcripts: the words of each utterance, in any case, with or without punctuation.
        out: folder to write to.
        jobs: number of processes.
        dictionary: file of further words (`read_dictionary`).
        resample: whether files of another rate are resampled to 16 kHz; otherwise they are an error.

    Returns:
        The number of aligned utterances, and those that were left out.

    Raises:
        LabelsError: no utterance has a transcript or none could be aligned, the dictionary cannot be read, or
            pocketsphinx is not installed.
        ClaimError: the folder holds something else, or the alignment of other utterances or words.
        AudioError: a file cannot be read or has another rate.
    """
    if jobs < 1:
        raise LabelsError(f"jobs: got {jobs}, expected 1 or more")
    texts = {utterance: transcripts.get(utterance) for utterance in manifest.utterances}
    if all(text is None for text in texts.values()):
        raise LabelsError(
            f"no utterance of the manifest (e.g. {next(iter(texts), 'none at all')}) has a transcript "
            f"(e.g. {next(iter(transcripts), 'none at all')}); are they of another corpus?"
        )
    if not resample:
        _refuse_other_rates(manifest)
    words = read_dictionary(dictionary) if dictionary else {}
    _pocketsphinx()
    if words:  # a word that cannot be added is refused here, and not by every process
        _start(words)

    with locked(out, "folder of labels"):
        claimed = _claim(out, manifest, texts, words)
        if claimed.complete:
            return Summary(claimed.content["num_aligned"], claimed.content["left_out"])
        tasks = [
            _Task(utterance, str(manifest.audio_path(i)), text, resample)
            for i, (utterance, text) in enumerate(texts.items())
            if text is not None
        ]
        done = _align_all(tasks, out / _PARTIAL, jobs, words)
        summary = _write(manifest, done, out)
        claimed.finish(num_aligned=summary.num_aligned, left_out=summary.left_out)
        (out / _PARTIAL).unlink()
        return summary


def _refuse_other_rates(manifest: Manifest) -> None:
    other = np.flatnonzero(manifest.sample_rates != LABEL_SAMPLE_RATE)
    if other.size:
        i = int(other[0])
        raise AudioError(
            f"{manifest.audio_path(i)}: {manifest.sample_rates[i]} Hz, the acoustic model's is {LABEL_SAMPLE_RATE}; "
            "pass --resample"
        )


def _claim(out: Path, manifest: Manifest, texts: Mapping[str, str | None], words: Mapping[str, str]) -> Claim:
    """Claim the folder for these utterances, transcripts and words of the dictionary."""
    utterances, lengths, spoken = manifest.utterances, manifest.num_samples.tolist(), list(texts.values())
    identity = {
        "utterances": _digest([utterances, lengths]),
        "transcripts": _digest(spoken),
        "dictionary": _digest(words),
    }
    record = out / _RECORD
    # An earlier version recorded a single digest.
    if record.is_file() and record.read_text(encoding="utf-8", errors="replace").startswith('{\n "identity"'):
        identity = {"identity": _digest([utterances, lengths, spoken, words])}
    return claim(out, identity, record=_RECORD, what="aligned labels")


def _digest(value: Any) -> str:
    return blake2b(json.dumps(value).encode(), digest_size=12).hexdigest()


def _align_all(tasks: list[_Task], partial: Path, jobs: int, words: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Align what `partial` does not hold yet; return the results by utterance."""
    done = _read_partial(partial)
    missing = [task for task in tasks if task.utterance not in done]
    with (
        partial.open("a", encoding="utf-8") as f,
        tqdm(total=len(tasks), initial=len(tasks) - len(missing), unit="utterance", desc="align") as bar,
    ):
        for result in _results(missing, jobs, words):
            f.write(json.dumps(result) + "\n")
            f.flush()
            done[result["utterance"]] = result
            bar.update()
    return done


def _read_partial(path: Path) -> dict[str, dict[str, Any]]:
    """Read the results of an interrupted call, and drop a last line that is incomplete."""
    if not path.exists():
        return {}
    *whole, _ = path.read_text(encoding="utf-8").split("\n")  # text behind the last newline is an incomplete line
    write_bytes(path, "".join(f"{line}\n" for line in whole).encode())
    return {result["utterance"]: result for result in map(json.loads, whole)}


def _write(manifest: Manifest, done: Mapping[str, Mapping[str, Any]], out: Path) -> Summary:
    """Write the labels, the intervals and the list of what was left out.

    Raises:
        LabelsError: nothing could be aligned.
    """
    left_out = {u: "no transcript" for u in manifest.utterances if u not in done}
    left_out |= {u: result["left_out"] for u, result in done.items() if "left_out" in result}
    by_utterance = {
        u: [Interval(*interval) for interval in done[u]["intervals"]] for u in manifest.utterances if u not in left_out
    }
    reasons = pd.DataFrame(left_out.items(), columns=["utterance", "reason"])
    write_bytes(out / "left_out.csv", reasons.to_csv(index=False).encode())
    if not by_utterance:
        reason = next(iter(left_out.values()))
        raise LabelsError(
            f"none of {len(manifest)} utterances could be aligned (e.g. {reason}); see {out / 'left_out.csv'}"
        )
    write_interval_labels(manifest, by_utterance, out, PHONES)
    write_ctm(by_utterance, out / "intervals.ctm")
    return Summary(len(by_utterance), left_out)


def write_textgrids(manifest: Manifest, out: Path) -> None:
    """Write OUT/textgrids/UTTERANCE.TextGrid for the utterances that `align` aligned in OUT.

    Raises:
        LabelsError: there is no intervals.ctm, or praatio is not installed.
    """
    by_utterance = read_ctm(out / "intervals.ctm")
    for utterance, seconds in zip(manifest.utterances, manifest.seconds.tolist(), strict=True):
        if utterance in by_utterance:
            write_textgrid(by_utterance[utterance], seconds, out / "textgrids" / f"{utterance}.TextGrid")


def _results(tasks: list[_Task], jobs: int, words: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Align tasks in `jobs` processes; yield their results in order."""
    if jobs == 1 or len(tasks) < 2:
        _start(words)
        yield from map(_align_one, tasks)
        return
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(jobs, context, initializer=_start_worker, initargs=(words,)) as pool:
            yield from pool.map(_align_one, tasks, chunksize=4)
    except BrokenProcessPool:
        raise LabelsError(
            f"one of {jobs} processes died or could not start, as happens when memory runs out; what is aligned stays: "
            "run the same command again, with fewer --jobs"
        ) from None


def _start_worker(words: dict[str, str]) -> None:
    end_with_parent()
    _start(words)


_decoders: list[Any] = []  # those of this process; each takes half a second to load
# The search drops what is less likely than the best hypothesis by these factors: first by pocketsphinx's own, then, for
# an utterance that is lost with them, by factors that drop hardly anything.
_BEAMS: tuple[dict[str, float], ...] = ({}, {"beam": 1e-200, "pbeam": 1e-200, "wbeam": 1e-150})


def _start(words: dict[str, str]) -> None:
    """Load this process's decoders, one for each set of beams, with further words in their dictionaries."""
    _decoders.clear()
    for beams in _BEAMS:
        decoder = _pocketsphinx().Decoder(samprate=LABEL_SAMPLE_RATE, bestpath=False, loglevel="FATAL", **beams)
        for word, phones in words.items():
            try:
                if decoder.lookup_word(word) is None:
                    decoder.add_word(word, phones, False)
            except RuntimeError:
                raise LabelsError(f"dictionary: {word} cannot be added; a variant needs its word beside it") from None
        _decoders.append(decoder)


def _align_one(task: _Task) -> dict[str, Any]:
    """Find an utterance's intervals, or the reason why there are none."""
    words, unknown = _words(task.text)
    if unknown:
        return {"utterance": task.utterance, "left_out": f"not in the dictionary: {' '.join(unknown)}"}
    if not words:
        return {"utterance": task.utterance, "left_out": "no word in its transcript"}
    waveform = read_audio(task.path, sample_rate=LABEL_SAMPLE_RATE, resample=task.resample)
    peak = max(1.0, float(np.abs(waveform).max(initial=0)))
    pcm = np.round(waveform / peak * 32767).astype("<i2").tobytes()
    found = next(filter(None, (_phones(decoder, words, pcm) for decoder in _decoders)), None)
    if found is None:
        return {"utterance": task.utterance, "left_out": "the words do not fit the sound"}
    borders = [0.0, *(round(_HOP * start + _HALF_WINDOW - _HOP / 2, 4) for _, start, _ in found[1:])]
    ends = [*borders[1:], round(len(waveform) / LABEL_SAMPLE_RATE, 4)]
    names = [name.lower() if name.lower() in ARPABET else SILENCE for name, _, _ in found]
    return {"utterance": task.utterance, "intervals": list(zip(borders, ends, names, strict=True))}


def _phones(decoder: Any, words: list[str], pcm: bytes) -> list[tuple[str, int, int]]:
    """Find the phones, each with its first frame and its number of frames.

    The result is empty if the search lost the way to the last word.
    """

    def decode() -> None:
        decoder.reinit_feat()  # otherwise its running estimates of noise and mean come from earlier utterances
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()

    try:
        decoder.set_align_text(" ".join(words))
        decode()
        decoder.set_alignment()  # the first pass found the words; the second finds their phones
        decode()
        return [(phone.name, phone.start, phone.duration) for word in decoder.get_alignment() for phone in word]
    except (RuntimeError, TypeError):  # TypeError: get_alignment() returned None
        return []


def _words(text: str) -> tuple[list[str], list[str]]:
    """Split a transcript into words as the dictionary has them, and words that it lacks."""
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
