"""Which sound files the frames of a features folder were made from, so that frames of a replaced file are made anew.

sources.csv holds the size and the time of each utterance's file, and its segment of the file. It is written before the
frames, so frames that are whole belong to the files that it names.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path

from cpc.data import Segment
from cpc.files import write_bytes

SOURCES = "sources.csv"
_COLUMNS = ["utterance", "bytes", "mtime_ns", "segment"]
_Source = tuple[int, int, str]


def remove_stale(folder: Path, files: Iterable[tuple[Path | Segment, Path]]) -> list[str]:
    """Remove the frames whose sound file changed since they were made, and record the files as they are now.

    Frames without a record, of an earlier version, are stale if they are older than their sound file. Frames whose
    sound file is gone are kept.

    Args:
        folder: the features folder.
        files: the sound and the file of frames of each utterance, after which the latter is named.

    Returns:
        The utterances whose frames were removed.
    """
    known = _read(folder / SOURCES)
    now, stale = dict(known), []
    for sound, frames in files:
        utterance = frames.stem
        try:
            stat = os.stat(sound)
        except OSError:
            continue
        segment = f"{sound.start}-{sound.stop}" if isinstance(sound, Segment) else ""
        now[utterance] = (stat.st_size, stat.st_mtime_ns, segment)
        if not frames.exists():
            continue
        if utterance in known:
            changed = known[utterance] != now[utterance]
        else:
            changed = frames.stat().st_mtime_ns < stat.st_mtime_ns
        if changed:
            frames.unlink()
            stale.append(utterance)
    if now != known:
        _write(folder / SOURCES, now)
    return stale


def join_sources(parts: Iterable[Path], path: Path) -> None:
    """Write the records of several folders, where they have one, as that of the whole."""
    joined: dict[str, _Source] = {}
    for part in parts:
        joined |= _read(part)
    _write(path, joined)


def _read(path: Path) -> dict[str, _Source]:
    """Read what each utterance was made from; nothing if there is no record that can be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {  # earlier versions knew no segments
                row["utterance"]: (int(row["bytes"]), int(row["mtime_ns"]), row.get("segment") or "")
                for row in csv.DictReader(file)
            }
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}


def _write(path: Path, files: dict[str, _Source]) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows([utterance, *of] for utterance, of in files.items())
    write_bytes(path, buffer.getvalue().encode())
