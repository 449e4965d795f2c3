"""Phone intervals in seconds: reading them from TextGrid and CTM, writing them to TextGrid, CTM and label files.

An interval includes its start and excludes its end. A label is the phone of the interval that holds the label's centre
(`cpc.labels.phones`), and silence where there is no interval.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cpc.data import Manifest
from cpc.files import replacing, write_bytes
from cpc.labels.grid import (
    BORDER_TOLERANCE_HOPS,
    LABEL_FIRST_CENTRE_SECONDS,
    LABEL_HOP_SECONDS,
    LabelsError,
    num_labels,
)
from cpc.labels.phones import read_lines, write_labels, write_phones

SILENCE = "sil"
# What aligners (Montreal Forced Aligner, Kaldi, pocketsphinx) write where there is no phone. "spn", speech that the
# aligner could not name, is among them, since a probe should not have to predict it.
_NO_PHONES = {"", "sil", "sp", "spn", "nsn", "noise", "<eps>", "<sil>", "<unk>", "+spn+", "+nsn+", "h#", "pau"}


class Interval(NamedTuple):
    """A phone from `start` up to, not including, `end`, in seconds from the start of the utterance."""

    start: float
    end: float
    phone: str


def label_name(mark: str) -> str:
    """Return the name of a label as it stands, but in one word, as a file of names needs it; "sil" if it is empty."""
    return "_".join(mark.split()) or SILENCE


def phone_name(mark: str) -> str:
    """Return the phone of an aligner's mark, without stress or position: AH0, ah_B → ah; "sil" if it is no phone."""
    mark = label_name(mark).lower()
    if mark in _NO_PHONES:
        return SILENCE
    return re.sub(r"(_[bies])?$", "", mark).rstrip("0123456789") or mark


def read_textgrid(path: str | Path, *, tier: str = "phones") -> list[Interval]:
    """Read the intervals of one tier of a Praat TextGrid, such as the Montreal Forced Aligner writes.

    Raises:
        LabelsError: the file is missing, is not a TextGrid or has no such tier, or praatio is not installed.
    """
    path, textgrid = Path(path), _praatio()
    if not path.exists():
        raise LabelsError(f"{path}: no such TextGrid")
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True)
    except Exception as error:  # praatio does not wrap the errors of its parser
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise LabelsError(f"{path}: cannot be read as a TextGrid: {reason}") from None
    if tier not in grid.tierNames:
        raise LabelsError(f"{path}: no tier {tier!r}, it has {', '.join(grid.tierNames)}; pass --tier")
    return [Interval(float(start), float(end), label_name(mark)) for start, end, mark in grid.getTier(tier).entries]


def write_textgrid(intervals: Sequence[Interval], seconds: float, path: Path) -> None:
    """Write intervals as the tier "phones" of a Praat TextGrid, atomically.

    Args:
        intervals: the phones of an utterance.
        seconds: length of the utterance.
        path: the TextGrid.

    Raises:
        LabelsError: praatio is not installed.
    """
    textgrid = _praatio()
    grid = textgrid.Textgrid()
    grid.addTier(textgrid.IntervalTier("phones", list(intervals), 0, seconds))
    with replacing(path, sync=False) as unfinished:
        grid.save(str(unfinished), format="long_textgrid", includeBlankSpaces=True)


def read_ctm(path: str | Path) -> dict[str, list[Interval]]:
    """Read a CTM file, whose lines are `utterance channel start duration phone [confidence]`.

    Returns:
        The intervals of each utterance, sorted.

    Raises:
        LabelsError: the file is missing or empty, or a line is not as described.
    """
    found: dict[str, list[Interval]] = {}
    for number, line in enumerate(read_lines(path, "CTM file"), start=1):
        words = line.split()
        if not words or line.startswith(";;"):
            continue
        try:
            utterance, start, duration, mark = words[0], float(words[2]), float(words[3]), words[4]
        except (IndexError, ValueError):
            start = duration = -1.0
        if not (start >= 0 and duration >= 0 and start + duration < float("inf")):
            raise LabelsError(
                f"{path}, line {number}: found {line[:60]!r}, expected `utterance channel start duration phone`, "
                "times in seconds"
            )
        found.setdefault(utterance, []).append(Interval(start, round(start + duration, 6), label_name(mark)))
    if not found:
        raise LabelsError(f"{path}: empty; expected lines `utterance channel start duration phone`")
    return {utterance: sorted(intervals) for utterance, intervals in found.items()}


def write_ctm(by_utterance: Mapping[str, Sequence[Interval]], path: Path) -> None:
    """Write a CTM file with lines `utterance 1 start duration phone`, times in seconds."""
    lines = (
        f"{utterance} 1 {i.start:.4f} {i.end - i.start:.4f} {i.phone}\n"
        for utterance, intervals in by_utterance.items()
        for i in intervals
    )
    write_bytes(path, "".join(lines).encode())


def phones_at_labels(intervals: Sequence[Interval], count: int) -> list[str]:
    """Return the phone at the centre of each of `count` labels; silence where there is no interval.

    Raises:
        LabelsError: intervals overlap by more than a rounding error.
    """
    intervals = sorted(i for i in intervals if i.end > i.start)
    for before, after in itertools.pairwise(intervals):
        if after.start < before.end - LABEL_HOP_SECONDS / 2:
            raise LabelsError(
                f"{before.phone} until {before.end:.3f} s and {after.phone} from {after.start:.3f} s overlap; expected "
                "one phone at a time"
            )
    if not intervals:
        return [SILENCE] * count
    centres = LABEL_FIRST_CENTRE_SECONDS + LABEL_HOP_SECONDS * (np.arange(count) + BORDER_TOLERANCE_HOPS)
    at = np.searchsorted([i.start for i in intervals], centres, side="right") - 1
    return [
        intervals[i].phone if i >= 0 and time < intervals[i].end else SILENCE
        for i, time in zip(at.tolist(), centres.tolist(), strict=True)
    ]


def write_interval_labels(
    manifest: Manifest, by_utterance: Mapping[str, Sequence[Interval]], out: Path, phones: Sequence[str] = ()
) -> dict[str, int]:
    """Write OUT/phone_labels.txt and OUT/phones.txt for the manifest's utterances that have intervals.

    Args:
        manifest: the utterances; their lengths give the number of labels.
        by_utterance: the intervals of some utterances.
        out: folder to write to.
        phones: names of phones 0, 1, …; by default silence is 0, and the other phones that occur follow by name.

    Returns:
        How many labels each phone has, the most frequent one first.

    Raises:
        LabelsError: no utterance of the manifest has intervals; some overlap; or a phone is not in `phones`.
    """
    columns = zip(manifest.utterances, manifest.num_samples.tolist(), manifest.sample_rates.tolist(), strict=True)
    rows = [row for row in columns if row[0] in by_utterance]
    if not rows:
        here = f"e.g. {manifest.utterances[0]}" if len(manifest) else "none at all"
        raise LabelsError(
            f"no utterance of the manifest ({here}) has intervals "
            f"(e.g. {next(iter(by_utterance), 'none at all')}); are they of another corpus?"
        )
    named = {utterance: _named(utterance, by_utterance[utterance], length, rate) for utterance, length, rate in rows}
    found = {interval.phone for utterance in named for interval in by_utterance[utterance]} | {SILENCE}
    names = list(phones) or [SILENCE, *sorted(found - {SILENCE})]
    if unknown := sorted(found.difference(names)):
        raise LabelsError(f"phones {', '.join(unknown)} have no id; allowed: {', '.join(names)}")
    ids = {name: i for i, name in enumerate(names)}
    write_labels(out / "phone_labels.txt", {u: [ids[phone] for phone in spoken] for u, spoken in named.items()})
    write_phones(out / "phones.txt", names)
    return dict(Counter(itertools.chain.from_iterable(named.values())).most_common())


def _named(utterance: str, intervals: Sequence[Interval], num_samples: int, sample_rate: int) -> list[str]:
    """Return the phone at each of an utterance's labels; name the utterance in errors."""
    try:
        return phones_at_labels(intervals, num_labels(num_samples, sample_rate))
    except LabelsError as error:
        raise LabelsError(f"{utterance}: {error}") from None


def _praatio() -> Any:
    try:
        from praatio import textgrid
    except ImportError:
        raise LabelsError("reading and writing TextGrids needs praatio: pip install 'cpc-audio[align]'") from None
    return textgrid
