"""Find the phones of one utterance, given its words, with pocketsphinx.

pocketsphinx's frames are 25.6 ms long, every 10 ms and without padding, so frame i is centred 0.3 ms after label i.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cpc.data import Segment, read_audio
from cpc.labels.grid import LABEL_SAMPLE_RATE, LabelsError
from cpc.labels.intervals import SILENCE
from cpc.labels.words import ARPABET
from cpc.processes import end_with_parent

_HOP, _HALF_WINDOW = 0.010, 0.0128  # seconds, geometry of pocketsphinx's frames


class Task(NamedTuple):
    """An utterance to align."""

    utterance: str
    sound: Path | Segment
    seconds: int  # rounded
    text: str
    resample: bool


def start_worker(words: dict[str, str]) -> None:
    """Prepare a process that ends with its parent."""
    end_with_parent()
    start(words)


_decoders: list[Any] = []  # those of this process; each takes half a second to load
# The search drops what is less likely than the best hypothesis by these factors: first by pocketsphinx's own, then, for
# an utterance that is lost with them, by factors that drop hardly anything.
_BEAMS: tuple[dict[str, float], ...] = ({}, {"beam": 1e-200, "pbeam": 1e-200, "wbeam": 1e-150})


def start(words: dict[str, str]) -> None:
    """Load this process's decoders, one for each set of beams, with further words in their dictionaries."""
    _decoders.clear()
    for beams in _BEAMS:
        decoder = require_pocketsphinx().Decoder(samprate=LABEL_SAMPLE_RATE, bestpath=False, loglevel="FATAL", **beams)
        for word, phones in words.items():
            try:
                if decoder.lookup_word(word) is None:
                    decoder.add_word(word, phones, False)
            except RuntimeError:
                raise LabelsError(f"dictionary: {word} cannot be added; a variant needs its word beside it") from None
        _decoders.append(decoder)


def align_one(task: Task) -> dict[str, Any]:
    """Find an utterance's intervals, or the reason why there are none."""
    words, unknown = _words(task.text)
    if unknown:
        return {"utterance": task.utterance, "left_out": f"not in the dictionary: {' '.join(unknown)}"}
    if not words:
        return {"utterance": task.utterance, "left_out": "no word in its transcript"}
    waveform = read_audio(task.sound, sample_rate=LABEL_SAMPLE_RATE, resample=task.resample)
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


def require_pocketsphinx() -> Any:
    """Import pocketsphinx.

    Raises:
        LabelsError: it is not installed.
    """
    try:
        import pocketsphinx
    except ImportError:
        raise LabelsError("forced alignment needs pocketsphinx: pip install 'cpc-audio[align]'") from None
    return pocketsphinx
