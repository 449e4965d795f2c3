"""Phone intervals in seconds: from TextGrid and CTM, to TextGrid, CTM and label files.

An interval holds its start and not its end. A label file has a phone every 10 ms, that of the interval in which the
label's centre lies (`cpc.alignment`); what no interval covers is silence.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cpc.data import Manifest
from cpc.files import write_bytes
from cpc.labels.phones import (
    BORDER_TOLERANCE_HOPS,
    LABEL_FIRST_CENTRE_SECONDS,
    LABEL_HOP_SECONDS,
    LabelsError,
    num_labels,
    read_phones,
)

SILENCE = "sil"
# How aligners write what is no phone: Montreal Forced Aligner, Kaldi, pocketsphinx. "spn", speech that it could not
# name, is among them: a probe should not be asked for it.
_NO_PHONES = {"", "sil", "sp", "spn", "nsn", "noise", "<eps>", "<sil>", "<unk>", "+spn+", "+nsn+", "h#", "pau"}


class Interval(NamedTuple):
    """A phone from `start` up to, not including, `end`, in seconds from the start of the utterance."""

    start: float
    end: float
    phone: str


def phone_name(mark: str) -> str:
    """An aligner's mark as a phone: lower case, without stress or position (AH0, ah_B → ah); what is none is "sil"."""
    mark = mark.strip().lower()
    if mark in _NO_PHONES:
        return SILENCE
    return re.sub(r"(_[bies])?$", "", mark).rstrip("0123456789") or mark


def read_textgrid(path: str | Path, *, tier: str = "phones") -> list[Interval]:
    """The intervals of a tier of a Praat TextGrid, as the Montreal Forced Aligner writes it.

    Raises:
        LabelsError: no such file or tier, not a TextGrid, or praatio is not installed.
    """
    path, textgrid = Path(path), _praatio()
    if not path.exists():
        raise LabelsError(f"{path}: no such TextGrid")
    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True)
    except Exception as error:  # praatio lets whatever its parser stumbles over through
        raise LabelsError(f"{path}: cannot be read as a TextGrid: {type(error).__name__} {error}") from None
    if tier not in grid.tierNames:
        raise LabelsError(f"{path}: no tier {tier!r}; there are: {', '.join(grid.tierNames)}; pass --tier")
    return [Interval(float(start), float(end), phone_name(mark)) for start, end, mark in grid.getTier(tier).entries]


def write_textgrid(intervals: Sequence[Interval], seconds: float, path: Path) -> None:
    """Write the intervals of an utterance of some seconds as the tier "phones" of a Praat TextGrid.

    Raises:
        LabelsError: praatio is not installed.
    """
    textgrid = _praatio()
    grid = textgrid.Textgrid()
    grid.addTier(textgrid.IntervalTier("phones", list(intervals), 0, seconds))
    temporary = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.save(str(temporary), format="long_textgrid", includeBlankSpaces=True)
    temporary.replace(path)


def read_ctm(path: str | Path) -> dict[str, list[Interval]]:
    """The intervals of each utterance in a CTM file: `utterance channel start duration phone [confidence]` a line.

    Raises:
        LabelsError: no such file, or a line that is not as described.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise LabelsError(f"{path}: no such CTM file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"{path}: cannot be read as a CTM file: {error}") from None
    found: dict[str, list[Interval]] = {}
    for number, line in enumerate(lines, start=1):
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
        found.setdefault(utterance, []).append(Interval(start, round(start + duration, 6), phone_name(mark)))
    if not found:
        raise LabelsError(f"{path}: empty; expected `utterance channel start duration phone` a line")
    return {utterance: sorted(intervals) for utterance, intervals in found.items()}


def write_ctm(by_utterance: Mapping[str, Sequence[Interval]], path: Path) -> None:
    """Write `utterance 1 start duration phone` lines, times in seconds."""
    lines = (
        f"{utterance} 1 {i.start:.4f} {i.end - i.start:.4f} {i.phone}\n"
        for utterance, intervals in by_utterance.items()
        for i in intervals
    )
    write_bytes(path, "".join(lines).encode())


def phones_at_labels(intervals: Sequence[Interval], count: int) -> list[str]:
    """The phone at the centre of each of `count` labels; silence where there is no interval.

    Raises:
        LabelsError: intervals that overlap by more than rounding.
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


def write_labels(
    manifest: Manifest, by_utterance: Mapping[str, Sequence[Interval]], out: Path, phones: Iterable[str] = ()
) -> list[str]:
    """Write OUT/phone_labels.txt and OUT/phones.txt for the manifest's utterances that have intervals.

    Args:
        manifest: the utterances; their lengths give the number of labels.
        by_utterance: intervals of some.
        out: folder.
        phones: names in the order of their ids, silence first; by default those found, silence first.

    Returns:
        The manifest's utterances without intervals.

    Raises:
        LabelsError: no utterance of the manifest has intervals; they end long after their audio, or overlap; a phone
            that `phones` does not name.
    """
    table = manifest.table
    rows = [
        (str(u), int(n), int(rate))
        for u, n, rate in zip(table["utterance"], table["num_samples"], table["sample_rate"], strict=True)
    ]
    known = [row for row in rows if row[0] in by_utterance]
    if not known:
        raise LabelsError(
            f"no utterance of the manifest (e.g. {rows[0][0] if rows else 'none at all'}) has intervals "
            f"(e.g. {next(iter(by_utterance), 'none at all')}); are they of another corpus?"
        )
    named: dict[str, list[str]] = {}
    for utterance, num_samples, rate in known:
        intervals = by_utterance[utterance]
        end, seconds = max((i.end for i in intervals), default=0.0), num_samples / rate
        if end > seconds + 0.1:
            raise LabelsError(f"{utterance}: intervals until {end:.2f} s, its audio ends at {seconds:.2f} s")
        try:
            named[utterance] = phones_at_labels(intervals, num_labels(num_samples, rate))
        except LabelsError as error:
            raise LabelsError(f"{utterance}: {error}") from None
    found = {i.phone for utterance in named for i in by_utterance[utterance]} | {SILENCE}
    names = list(phones) or [SILENCE, *sorted(found - {SILENCE})]
    ids = {name: i for i, name in enumerate(names)}
    unknown = sorted(found.difference(ids))
    if unknown:
        raise LabelsError(f"phones {', '.join(unknown)} have no id; allowed: {', '.join(names)}")
    lines = (" ".join([u, *(str(ids[phone]) for phone in of)]) + "\n" for u, of in named.items())
    write_bytes(out / "phone_labels.txt", "".join(lines).encode())
    write_bytes(out / "phones.txt", "".join(f"{i} {name}\n" for name, i in ids.items()).encode())
    return [row[0] for row in rows if row[0] not in named]


def import_labels(
    manifest: Manifest, source: Path, out: Path, *, tier: str = "phones", phones: Path | None = None
) -> list[str]:
    """Turn another aligner's output into label files: a CTM file, or a folder of TextGrids named by utterance.

    Args:
        manifest: the utterances.
        source: CTM file, or folder; TextGrids may lie in folders below it.
        out: folder to write to.
        tier: of the TextGrids.
        phones: the ids to use (`alignment.read_phones`); by default silence is 0, then the found ones by name.

    Returns:
        The manifest's utterances without intervals.

    Raises:
        LabelsError: see the functions above.
    """
    if source.is_dir():
        wanted = set(manifest.table["utterance"].astype(str))
        paths = sorted(path for path in source.rglob("*.TextGrid"))
        if not paths:
            raise LabelsError(f"{source}: no *.TextGrid below it")
        by_utterance = {path.stem: read_textgrid(path, tier=tier) for path in paths if path.stem in wanted}
    else:
        by_utterance = read_ctm(source)
    names: list[str] = []
    if phones is not None:
        by_id = read_phones(phones)
        if sorted(by_id) != list(range(len(by_id))):
            raise LabelsError(f"{phones}: ids {min(by_id)} to {max(by_id)} with gaps, expected 0 to {len(by_id) - 1}")
        names = [by_id[i] for i in range(len(by_id))]
    return write_labels(manifest, by_utterance, out, names)


def _praatio() -> Any:
    try:
        from praatio import textgrid
    except ImportError:
        raise LabelsError("TextGrids are read by praatio, which is missing: pip install 'cpc-audio[align]'") from None
    return textgrid
