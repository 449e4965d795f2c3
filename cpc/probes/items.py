"""The items of ABX: stretches of speech with their phone, its neighbours and their speaker.

They come from phone labels, or from an .item file as ZeroSpeech distributes them: a header and one item a line,
`#file onset offset #phone prev-phone next-phone speaker`, times in seconds.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cpc.labels import SILENCE, STANDARD_GRID, PhoneLabels, phone_name
from cpc.probes.frames import read_frames
from cpc.probes.options import Evaluate, ProbeError

if TYPE_CHECKING:
    from cpc.features import Features

EDGE = "#"  # the neighbour of an utterance's first and last phone
_COLUMNS = ("#file", "onset", "offset", "#phone", "prev-phone", "next-phone", "speaker")
_TIME_TOLERANCE_SECONDS = 1e-7  # the last bit of a float64 must not decide whether a frame is on a border


class Item(NamedTuple):
    """A phone that was spoken."""

    utterance: str
    onset: float  # seconds
    offset: float  # seconds
    phone: str
    previous: str
    following: str
    speaker: str


def items_of_labels(features: Features, labels: PhoneLabels, evaluate: Evaluate) -> list[Item]:
    """List the phones of a split's labelled utterances, from where each begins to where it ends.

    Silence is no item, but it is a neighbour. Without names, every label counts as a phone.

    Raises:
        ProbeError: no utterance of the split has labels.
        ManifestError: there is no such split.
        LabelsError: the labels do not fit the manifest.
    """
    manifest, known = features.manifest, set(labels.utterances_of(features.manifest))
    utterances = sorted(known.intersection(manifest.select(evaluate).utterances))
    if not utterances:
        raise ProbeError(f"{features.folder}: no {evaluate} utterance has labels; ABX has no items")
    grid = labels.grid or STANDARD_GRID
    names = {int(label): labels.name(int(label)) for u in utterances for label in np.unique(labels.of[u])}
    silent = {name for name in names.values() if phone_name(name) == SILENCE}
    items = []
    for utterance in utterances:
        of = np.asarray(labels.of[utterance])
        starts = np.concatenate([[0], 1 + np.flatnonzero(np.diff(of))])
        borders = grid.first_centre_seconds + grid.hop_seconds * (np.append(starts, len(of)) - 0.5)
        phones = [EDGE, *(names[int(label)] for label in of[starts]), EDGE]
        for i, (onset, offset) in enumerate(itertools.pairwise(borders.tolist())):
            previous, phone, following = (SILENCE if name in silent else name for name in phones[i : i + 3])
            if phone != SILENCE:
                speaker = manifest.speaker_of[utterance]
                items.append(Item(utterance, max(0.0, onset), offset, phone, previous, following, speaker))
    return items


def items_of_file(path: Path, features: Features) -> list[Item]:
    """Read an .item file.

    Raises:
        ProbeError: the file is missing, a line is not as described, or files of it have no frames; the message counts
            and names them.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ProbeError(f"{path}: cannot be read as an item file: {error}") from None
    header = lines[0].split() if lines else []
    if missing := [name for name in _COLUMNS if name not in header]:
        raise ProbeError(f"{path}: no column {', '.join(missing)}; expected the header {' '.join(_COLUMNS)}")
    at = [header.index(name) for name in _COLUMNS]
    items = []
    for number, line in enumerate(lines[1:], start=2):
        words = line.split()
        if not words:
            continue
        try:
            utterance, onset, offset, *rest = (words[i] for i in at)
            item = Item(utterance, float(onset), float(offset), *rest)
        except (IndexError, ValueError):
            item = Item("", 0.0, -1.0, "", "", "", "")
        if not 0 <= item.onset <= item.offset < float("inf"):
            raise ProbeError(f"{path}, line {number}: found {line[:60]!r}, expected {' '.join(_COLUMNS)}")
        items.append(item)
    if not items:
        raise ProbeError(f"{path}: no item; expected a line for each phone")
    files = {item.utterance for item in items}
    if unknown := sorted(files.difference(features.manifest.utterances)):
        raise ProbeError(
            f"{path}: {len(unknown)} of {len(files)} files have no frames in {features.folder}: "
            f"{', '.join(unknown[:3])}{', …' if len(unknown) > 3 else ''}; extract features of these utterances"
        )
    return items


def frames_of_items(
    features: Features, items: Sequence[Item]
) -> tuple[list[Item], NDArray[np.float32], NDArray[np.int64]]:
    """Read the frames of items: those whose centre lies from onset to offset, both included, as fastabx has it.

    Returns:
        The items that have a frame, sorted by utterance; the frames (n, D) of all, one item after the other; and the
        number of frames of each item.

    Raises:
        ProbeError: no item has a frame, or a value is not finite.
    """
    kept: list[Item] = []
    frames, lengths = [], []
    for utterance, group in itertools.groupby(sorted(items), key=lambda item: item.utterance):
        here = list(group)
        times = features.times_of(utterance)
        first = np.searchsorted(times, np.array([item.onset for item in here]) - _TIME_TOLERANCE_SECONDS)
        last = np.searchsorted(times, np.array([item.offset for item in here]) + _TIME_TOLERANCE_SECONDS)
        some = np.flatnonzero(last > first)
        if not some.size:
            continue
        kept += [here[i] for i in some]
        lengths.append((last - first)[some])
        indices = np.concatenate([np.arange(first[i], last[i]) for i in some])
        frames.append(read_frames(features, utterance, indices))
    if not kept:
        raise ProbeError(f"{features.folder}: none of {len(items)} items has a frame; are their times in seconds?")
    return kept, np.concatenate(frames), np.concatenate(lengths).astype(np.int64)
