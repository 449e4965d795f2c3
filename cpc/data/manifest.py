"""The manifest: a CSV file with one row for each utterance, from which every later stage starts.

The columns are `path` (relative to the manifest's folder), `num_samples` and `sample_rate` (those of the file),
`speaker` and `utterance`. With columns `start` and `end`, in seconds, an utterance is that segment of its file, and
`num_samples` is the segment's; where both are empty, it is the whole file. Any further column is kept. `scan_folder`
adds the fields of the speaker pattern, `file_hash`, which tells whether a file changed, and `audio_hash`, a hash of the
decoded samples that reveals one recording under two names; `split_manifest` adds `split`: train, dev or test.
"""

import csv
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cpc.data.audio import MAX_SAMPLE_RATE, Segment, Sound
from cpc.data.resampling import num_resampled
from cpc.files import replacing

COLUMNS = ("path", "num_samples", "sample_rate", "speaker", "utterance")
SPLITS = ("train", "dev", "test")
SEGMENT = frozenset({"start", "end"})  # seconds
MEASURED = frozenset({"num_samples", "sample_rate", "file_hash", "audio_hash"})  # by a scan
_LARGEST = {"num_samples": 10**12, "sample_rate": MAX_SAMPLE_RATE}  # years of sound; beyond them, a table is wrong
_MOST_NAMED = 20  # missing files in a message


class ManifestError(ValueError):
    """A manifest that cannot be used or made. The message is one line: where, what is wrong, the way out."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """A table of utterances. Other rooms ask its methods and never name the columns of `table`.

    Rows are numbered 0 … len − 1; U is their number. Sound files are not opened.

    Attributes:
        root: the folder that relative paths start from.
        table: one row for each utterance.
    """

    root: Path
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)

    @property
    def columns(self) -> list[str]:
        """Names of all columns."""
        return [str(name) for name in self.table.columns]

    @cached_property
    def utterances(self) -> list[str]:
        """Utterance id of each row."""
        return self.column("utterance")

    @cached_property
    def speakers(self) -> list[str]:
        """Speaker of each row."""
        return self.column("speaker")

    @cached_property
    def speaker_of(self) -> dict[str, str]:
        """Speaker by utterance id."""
        return dict(zip(self.utterances, self.speakers, strict=True))

    @cached_property
    def paths(self) -> list[str]:
        """Path of each row's sound file, relative to `root`."""
        return self.column("path")

    @cached_property
    def num_samples(self) -> NDArray[np.int64]:
        """Length of each utterance in samples, at its file's rate: (U,)."""
        return self.table["num_samples"].to_numpy(np.int64)

    @cached_property
    def sample_rates(self) -> NDArray[np.int64]:
        """Sample rate of each file, Hz: (U,)."""
        return self.table["sample_rate"].to_numpy(np.int64)

    @cached_property
    def file_hashes(self) -> list[str]:
        """Digest of each sound file, to notice one that changed; "" where the manifest has none."""
        return self.column("file_hash") if "file_hash" in self.table else [""] * len(self)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Length of each utterance in seconds: (U,)."""
        return self.num_samples / self.sample_rates

    def num_samples_at(self, sample_rate: int) -> NDArray[np.int64]:
        """Return the length of each utterance in samples after resampling to `sample_rate`, Hz: (U,)."""
        return num_resampled(self.num_samples, self.sample_rates, sample_rate)

    def column(self, name: str) -> list[str]:
        """Return one column's value in each row, as text.

        Raises:
            ManifestError: there is no such column; the message lists the columns that exist.
        """
        if name not in self.table:
            raise ManifestError(f"column {name!r}: the manifest has none, it has {', '.join(self.columns)}")
        return [str(value) for value in self.table[name].tolist()]

    def audio_path(self, i: int) -> Path:
        """Return the path of row i's sound file."""
        return self.root / self.paths[i]

    def sound(self, i: int) -> Path | Segment:
        """Return row i's sound: its file, or its segment of the file."""
        path, start = self.audio_path(i), self.starts[i]
        return path if start < 0 else Segment(str(path), int(start), int(start + self.num_samples[i]))

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First sample of each segment in its file, −1 where an utterance is the whole file: (U,)."""
        if "start" not in self.table:
            return np.full(len(self), -1)
        seconds = pd.to_numeric(self.table["start"], errors="coerce").to_numpy(np.float64)
        return np.where(np.isnan(seconds), -1, np.rint(seconds * self.sample_rates)).astype(np.int64)

    @property
    def splits(self) -> dict[str, int]:
        """Number of utterances in each split; empty without a split column."""
        if "split" not in self.table:
            return {}
        return {str(name): int(count) for name, count in self.table["split"].value_counts().items()}

    def select(self, split: str) -> "Manifest":
        """Keep the rows of one split.

        Raises:
            ManifestError: there is no split column, or no row of this split.
        """
        if "split" not in self.table:
            raise ManifestError(f"split {split!r}: the manifest has no split column; make it by cpc manifest --split")
        rows = self.table["split"] == split
        if not rows.any():
            present = ", ".join(sorted(map(repr, self.table["split"].unique())))
            raise ManifestError(f"split {split!r}: no such row, the manifest has {present}; see cpc manifest --split")
        return self.keep(rows.to_numpy())

    def digest(self, columns: Sequence[str] = (), *, in_order: bool = True) -> str:
        """Identify the rows: their utterances, lengths, rates, speakers, and sounds, if a scan has hashed these.

        Where the files lie does not count, so a corpus that moved keeps its digest.

        Args:
            columns: further columns that count.
            in_order: whether the order of the rows counts.
        """
        names = ["utterance", "num_samples", "sample_rate", "speaker", "start", "end", "audio_hash", *columns]
        rows = self.table[[name for name in dict.fromkeys(names) if name in self.table]]
        if not in_order:
            rows = rows.sort_values("utterance")
        return blake2b(rows.to_csv(index=False, lineterminator="\n").encode(), digest_size=16).hexdigest()

    def keep(self, rows: NDArray[np.bool_] | Sequence[bool]) -> "Manifest":
        """Keep the rows for which `rows`, (U,), is true, in their order."""
        return Manifest(self.root, self.table[np.asarray(rows, bool)].reset_index(drop=True))

    def with_column(self, name: str, values: Sequence[str]) -> "Manifest":
        """Add or replace a column, with one value for each row."""
        return Manifest(self.root, self.table.assign(**{name: list(values)}))


def read_manifest(path: str | Path) -> Manifest:
    """Read and check a manifest.

    Text stays text: speaker "0012" is "0012", and "NA" is a name. The sound files need not exist.

    Raises:
        ManifestError: the file is missing or not a CSV table, lacks a column, has no rows, has an empty or unusable
            cell, or has an utterance id twice.
    """
    path = Path(path)
    if not path.exists():
        raise ManifestError(f"{path}: no such manifest; make it by cpc manifest FOLDER -o {path}")
    table = read_table(path)
    check_table(path, table)
    return Manifest(path.parent, table)


def read_table(path: Path, separator: str = ",") -> pd.DataFrame:
    """Read a table of texts whose rows all have as many cells as its header.

    Raises:
        ManifestError: the file is missing or no such table.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Without index_col=False, a file with one cell too many in each row loses its first column to the index.
            table = pd.read_csv(path, sep=separator, dtype=str, na_filter=False, index_col=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such table") from None
    except pd.errors.EmptyDataError:
        raise ManifestError(f"{path}: empty, not even a header; make it again by cpc manifest FOLDER") from None
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(f"{path}: not a readable CSV table ({reason}); see cpc manifest") from error
    try:
        _refuse_ragged(path, separator)
    except csv.Error as error:
        raise ManifestError(f"{path}: not a readable CSV table ({error}); see cpc manifest") from error
    return table


def _refuse_ragged(path: Path, separator: str) -> None:
    """Refuse rows without all their cells, which pandas fills, and columns of one name, which it renames."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=separator)
        header = next(rows)
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise ManifestError(f"{path}: column {twice[0]!r} appears twice; expected each name once")
        for row in rows:
            if row and len(row) != len(header):
                raise ManifestError(
                    f"{path}: line {rows.line_num} has {len(row)} cells, expected {len(header)}: {', '.join(header)}"
                )


def check_table(path: Path, table: pd.DataFrame) -> None:
    """Check the table of a manifest, and convert its counts to int64 in place; errors name `path`."""
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ManifestError(
            f"{path}: no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}, "
            f"a manifest needs {', '.join(COLUMNS)}"
        )
    if table.empty:
        raise ManifestError(f"{path}: no rows; a manifest needs at least one utterance")
    for name in ("num_samples", "sample_rate"):
        numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        good = np.isfinite(numbers) & (numbers >= 1) & (numbers <= _LARGEST[name]) & (numbers == np.floor(numbers))
        _refuse(path, table, name, ~good, f"a whole number from 1 to {_LARGEST[name]:.0e}")
        table[name] = numbers.astype(np.int64)
    _check_segments(path, table)
    check_names(path, table)


def check_names(path: Path, table: pd.DataFrame) -> None:
    """Check that each row has a path, a speaker, a split if any, and an utterance id of its own; errors name `path`."""
    if "split" in table:
        unknown = ~table["split"].isin([*SPLITS, ""])
        _refuse(path, table, "split", unknown.to_numpy(bool), f"{', '.join(SPLITS)}, or nothing")
    for name in ("path", "speaker", "utterance"):
        _refuse(path, table, name, (table[name] == "").to_numpy(), "some text")
    # Later stages name files after utterances, and blanks separate them from their labels in label files.
    unsafe = table["utterance"].str.contains(r"[/\s\0]").to_numpy(bool)
    _refuse(path, table, "utterance", unsafe, "a name without '/' and blanks")
    twice = table["utterance"].duplicated()
    if twice.any():
        name = table["utterance"][twice].iloc[0]
        first, second = table["path"][table["utterance"] == name].iloc[:2]
        raise ManifestError(f"{path}: utterance {name!r} stands for both {first} and {second}; rename one")


def _check_segments(path: Path, table: pd.DataFrame) -> None:
    """Check that the columns start and end, if there are any, hold seconds that fit num_samples, or nothing."""
    if SEGMENT.isdisjoint(table):
        return
    if not set(table) >= SEGMENT:
        raise ManifestError(f"{path}: of the columns start and end it has one; a segment needs both")
    start, end = (pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64) for name in ("start", "end"))
    rate, num_samples = table["sample_rate"].to_numpy(np.int64), table["num_samples"].to_numpy(np.int64)
    fits = (start >= 0) & (np.rint(end * rate) - np.rint(start * rate) == num_samples)  # false for NaN
    is_whole = ((table["start"] == "") & (table["end"] == "")).to_numpy()
    _refuse(path, table, "end", ~(fits | is_whole), "seconds, num_samples after start, or neither")


def _refuse(path: Path, table: pd.DataFrame, name: str, bad: Any, expected: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ManifestError(
            f"{path}: line {row + 2}, {name} is {table[name].iloc[row]!r}, expected {expected} "
            f"({int(bad.sum())} such rows)"
        )


def refuse_missing_files(paths: Iterable[Sound]) -> None:
    """Check that sound files exist, before hours of work end at the first one that does not.

    Raises:
        ManifestError: naming those that do not, up to 20 of them.
    """
    files = {os.fspath(path) for path in paths}
    missing = sorted(path for path in files if not os.path.exists(path))
    if missing:
        more = f" and {len(missing) - _MOST_NAMED} more" if len(missing) > _MOST_NAMED else ""
        raise ManifestError(
            f"{len(missing)} of {len(files)} sound files do not exist: {', '.join(missing[:_MOST_NAMED])}{more}; check "
            "the paths, or run cpc manifest again if files moved"
        )


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest atomically, with its paths relative to the new file's folder.

    Raises:
        ManifestError: the file cannot be written; an older one stays as it was.
    """
    path = Path(path)
    try:
        with replacing(path) as unfinished, open(unfinished, "x", encoding="utf-8", newline="") as file:
            # Use real paths, since ".." after a symbolic link leads elsewhere than the text says.
            prefix = os.path.relpath(os.path.realpath(manifest.root), os.path.realpath(path.parent))
            table = manifest.table
            if prefix != ".":
                table = table.assign(path=[os.path.normpath(os.path.join(prefix, p)) for p in table["path"]])
            table.to_csv(file, index=False, lineterminator="\n")
    except OSError as error:
        raise ManifestError(f"{path}: could not be written ({error.strerror or error}); nothing changed") from error
