"""The sounds that a manifest is to have, before any of them is decoded: the files of a folder, or segments of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd

from cpc.data.audio import EXTENSIONS
from cpc.data.columns import keys_of, read_columns
from cpc.data.manifest import MEASURED, SEGMENT, ManifestError, check_names

# Sound that libsndfile does not decode. It is listed, so that nobody misses it later.
_OTHER_SOUND = frozenset({".3gp", ".aac", ".amr", ".ape", ".m4a", ".m4b", ".mka", ".mp4", ".webm", ".wma", ".wv"})


@dataclass(frozen=True, eq=False)
class Listing:
    """Sounds to be scanned.

    Attributes:
        root: the folder that relative paths start from.
        table: a row for each utterance with texts in the columns path, speaker and utterance; with start and end, in
            seconds, where a segment of the file is meant; and any further columns.
        others: sound files of formats that cannot be read.
    """

    root: Path
    table: pd.DataFrame
    others: list[str]

    @property
    def utterances(self) -> list[str]:
        """Utterance id of each row."""
        return [str(name) for name in self.table["utterance"]]

    def identity(self) -> dict[str, str]:
        """State where the files are, and digest their names, sizes, times of change and segments."""
        digest = blake2b(digest_size=12)
        for path in self.table["path"]:
            try:
                found = (self.root / path).stat()
                stamp = f"{found.st_size} {found.st_mtime_ns}"
            except OSError:  # a broken link, of which the scan says more
                stamp = "unreadable"
            digest.update(f"{path} {stamp}\n".encode(errors="surrogateescape"))
        if "start" in self.table:
            digest.update(self.table[["utterance", "start", "end"]].to_csv(index=False).encode())
        return {"folder": str(self.root.resolve()), "files": digest.hexdigest()}

    def cut(self, segments: pd.DataFrame, where: Path) -> Listing:
        """Take segments of the listed files for utterances.

        Args:
            segments: texts, a row for each segment: start and end in seconds; path, or utterance as it is listed; and
                further columns. With both, utterance names the segment; otherwise its name is the file's with start and
                end in milliseconds.
            where: the table's file, for errors.

        Returns:
            The segments alone.

        Raises:
            ManifestError: a column is missing, a file is not listed, or two segments have one name.
        """
        if segments.empty:
            raise ManifestError(f"{where}: no segment in it")
        key = "path" if "path" in segments else "utterance"
        keys = keys_of(self.utterances, self.table["path"].tolist(), key, set(segments[key]))
        row_of = {name: i for i, name in enumerate(keys)}
        if unknown := [name for name in segments[key] if name not in row_of]:
            raise ManifestError(
                f"{where}: {key} {unknown[0]!r} is no sound file of {self.root}, whose first is {keys[0]!r} "
                f"({len(unknown)} of {len(segments)} such)"
            )
        files = self.table.iloc[[row_of[name] for name in segments[key]]].reset_index(drop=True)
        segments = segments.reset_index(drop=True)
        names = _segment_names(files["utterance"].tolist(), segments, where)
        if key == "utterance" or "utterance" not in segments:
            segments = segments.assign(utterance=names)
        table = files.assign(**{str(name): segments[name] for name in segments if name != "path"})
        check_names(where, table)
        return Listing(self.root, table, self.others)


def list_folder(folder: Path, pattern: str) -> Listing:
    """List the sound files of a folder; see `scan_folder`.

    Raises:
        ManifestError: as `scan_folder`.
    """
    paths, others = _find(folder)
    columns = {"path": paths, "speaker": "unknown", "utterance": _utterances(folder, paths)}
    return Listing(folder, pd.DataFrame(columns).assign(**_fields(folder, paths, pattern)), others)


def read_segments(path: Path) -> pd.DataFrame:
    """Read a table of segments, CSV, or TSV by its suffix; see `Listing.cut`.

    Raises:
        ManifestError: the file is no such table.
    """
    return read_columns(path, of_segments=True)[1]


def _segment_names(files: list[str], segments: pd.DataFrame, where: Path) -> list[str]:
    """Name segments after their files, with start and end in milliseconds, so that they sort by time.

    Args:
        files: the utterance that each file would be.
        segments: start and end of each, in seconds.
        where: the table, for errors.

    Raises:
        ManifestError: a time is not a number of 0 or more.
    """
    times = {name: pd.to_numeric(segments[name], errors="coerce").to_numpy(np.float64) for name in ("start", "end")}
    for name, values in times.items():
        wrong = np.flatnonzero(~((values >= 0) & (values < 1e9)))
        if wrong.size:
            row = int(wrong[0])
            raise ManifestError(
                f"{where}: row {row + 1}, {name} is {segments[name].iloc[row]!r}, expected seconds of 0 or more"
            )
    milliseconds = [np.rint(1000 * values).astype(int).tolist() for values in times.values()]
    return [f"{file}-{start:08d}-{end:08d}" for file, start, end in zip(files, *milliseconds, strict=True)]


def _find(folder: Path) -> tuple[list[str], list[str]]:
    """List the sound files below a folder that can be read, and those that cannot.

    Returns:
        Paths relative to the folder with "/" between their parts, sorted.
    """
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no such folder"
        raise ManifestError(f"{folder}: {what}, expected a folder of sound files")
    paths: list[str] = []
    unreadable: list[str] = []
    others: Counter[str] = Counter()
    visited: set[str] = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True, onerror=_refuse_unreadable):
        real = os.path.realpath(parent)
        if real in visited:  # a circular link, or one to a folder that is listed elsewhere
            subfolders.clear()
            continue
        visited.add(real)
        subfolders.sort()
        within = Path(parent).relative_to(folder)
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in EXTENSIONS:
                paths.append((within / name).as_posix())
            else:
                if suffix in _OTHER_SOUND:
                    unreadable.append((within / name).as_posix())
                others[suffix] += 1
    if not paths:
        seen = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in others.most_common(3)) or "nothing"
        known = " ".join(sorted(EXTENSIONS))
        raise ManifestError(f"{folder}: no sound file, found {seen}; convert to one of {known}")
    return sorted(paths), sorted(unreadable)


def _refuse_unreadable(error: OSError) -> None:
    """Refuse a folder that cannot be listed: its files would be missing without a word."""
    raise ManifestError(f"{error.filename}: {(error.strerror or str(error)).lower()}; its files cannot be listed")


def _fields(folder: Path, paths: list[str], pattern: str) -> dict[str, list[str]]:
    """Match every path with the pattern; return the columns of its fields."""
    if pattern == "none":
        return {}
    compiled = _compile(pattern)
    found = [compiled.fullmatch(os.path.splitext(path)[0]) for path in paths]
    unmatched = [path for path, match in zip(paths, found, strict=True) if match is None]
    if unmatched:
        depth = unmatched[0].count("/")
        hint = "'{speaker}_*' if file names start with it" if depth == 0 else "'{speaker}" + "/*" * depth + "'"
        raise ManifestError(
            f"{folder}: {unmatched[0]} does not match the pattern {pattern!r} ({len(unmatched)} of "
            f"{len(paths)} files do not); say where the speaker's name stands, as --pattern {hint}, "
            "or --pattern none if nothing is known"
        )
    fields = [match.groupdict(default="") for match in found if match is not None]
    columns = {name: [of[name] for of in fields] for name in fields[0]}
    if "speaker" in columns:
        columns["speaker"] = [speaker or "unknown" for speaker in columns["speaker"]]
    return columns


def _compile(pattern: str) -> re.Pattern[str]:
    """Turn a pattern of paths, or a regular expression with named groups, into an expression for whole paths."""
    taken = {"path", "utterance", "split", *SEGMENT, *MEASURED}
    if "(?P<" in pattern:
        try:
            compiled = re.compile(f"(?:.*?/)??(?:{pattern})", re.DOTALL)
        except re.error as error:
            raise ManifestError(f"pattern {pattern!r}: no regular expression: {error}") from None
        if wrong := sorted(taken & set(compiled.groupindex)):
            raise ManifestError(
                f"pattern {pattern!r}: {wrong[0]} cannot be a field; a field is none of {sorted(taken)}"
            )
        return compiled
    names = re.findall(r"\{([^{}]*)\}", pattern)
    wrong = [name for name in names if not name.isidentifier() or name in taken]
    if wrong or re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", pattern)):
        what = f"{{{wrong[0]}}} cannot be a field" if wrong else "an unpaired brace"
        raise ManifestError(f"pattern {pattern!r}: {what}; a field is {{word}}, none of {sorted(taken)}")
    expression, seen = "", set()
    for token in re.findall(r"\{[^{}]*\}|\*|[^{*]+", pattern):
        if token == "*":
            expression += "[^/]*"
        elif token[0] != "{":
            expression += re.escape(token)
        else:
            name = token[1:-1]
            expression += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
    return re.compile(f"(?:.*/)?{expression}", re.DOTALL)


def _utterances(folder: Path, paths: list[str]) -> list[str]:
    """Give every file a unique id that can be a file name and a word in a label file."""
    whole = [re.sub(r"\s+", "_", os.path.splitext(path)[0]) for path in paths]
    stems = [path.rpartition("/")[2] for path in whole]
    if len(set(stems)) == len(stems):
        return stems
    joined = [path.replace("/", "_") for path in whole]
    name, count = Counter(joined).most_common(1)[0]
    if count > 1:
        first, second = [path for path, other in zip(paths, joined, strict=True) if other == name][:2]
        raise ManifestError(
            f"{folder}: {first} and {second} would both be utterance {name!r}; rename one or move it away"
        )
    return joined
