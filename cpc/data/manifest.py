"""The manifest: one row an utterance, in a CSV file that every later stage starts from.

Columns: `path` (relative to the manifest's folder), `num_samples` and `sample_rate` (the file's own),
`speaker`, `utterance`; any further column is kept. `scan` adds the fields of the speaker pattern and
`audio_hash` (of the decoded samples, so one recording under two names shows); `split` adds `split`: train,
dev or test.
"""

import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from cpc.data.audio import EXTENSIONS, AudioError, audio_blocks, audio_info
from cpc.files import replacing

COLUMNS = ("path", "num_samples", "sample_rate", "speaker", "utterance")


class ManifestError(ValueError):
    """A manifest, or a folder to make one of, that cannot be used; one line: where, what, the way out."""


@dataclass(frozen=True, eq=False)
class Manifest:
    """A table of utterances, in the domain's words; nobody outside this room names the columns of `table`.

    The sound files are not opened before they are needed. Rows are numbered 0 … len − 1.

    Attributes:
        root: the folder that relative paths start from.
        table: one row an utterance.
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
        """Utterance ids, one a row."""
        return self.column("utterance")

    @cached_property
    def speakers(self) -> list[str]:
        """Speakers, one a row."""
        return self.column("speaker")

    @cached_property
    def speaker_of(self) -> dict[str, str]:
        """The speaker of each utterance."""
        return dict(zip(self.utterances, self.speakers, strict=True))

    @cached_property
    def paths(self) -> list[str]:
        """Paths of the sound files relative to `root`, one a row."""
        return self.column("path")

    @cached_property
    def num_samples(self) -> NDArray[np.int64]:
        """(U,) lengths in samples, each at the file's own rate."""
        return self.table["num_samples"].to_numpy(np.int64)

    @cached_property
    def sample_rates(self) -> NDArray[np.int64]:
        """(U,) Hz, of the files."""
        return self.table["sample_rate"].to_numpy(np.int64)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """(U,) lengths in seconds."""
        return self.num_samples / self.sample_rates

    def num_samples_at(self, sample_rate: int) -> NDArray[np.int64]:
        """(U,) lengths in samples after resampling to `sample_rate`, Hz."""
        lengths: NDArray[np.int64] = -(-self.num_samples * sample_rate // self.sample_rates)
        return lengths

    def column(self, name: str) -> list[str]:
        """The text of one column, one a row.

        Raises:
            ManifestError: no such column; the message lists those that there are.
        """
        if name not in self.table:
            raise ManifestError(f"column {name!r}: the manifest has none, it has {', '.join(self.columns)}")
        return [str(value) for value in self.table[name].tolist()]

    def audio_path(self, i: int) -> Path:
        """Path of the sound file of row i."""
        return self.root / self.paths[i]

    @property
    def splits(self) -> dict[str, int]:
        """The number of utterances in each split; empty without a split column."""
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

    def keep(self, rows: NDArray[np.bool_] | Sequence[bool]) -> "Manifest":
        """Keep the rows for which `rows` (U,) is true, in their order."""
        return Manifest(self.root, self.table[np.asarray(rows, bool)].reset_index(drop=True))

    def with_column(self, name: str, values: Sequence[str]) -> "Manifest":
        """Add a column, or replace it: one value a row."""
        return Manifest(self.root, self.table.assign(**{name: list(values)}))


@dataclass(frozen=True, eq=False)
class Scan:
    """What `scan` found."""

    manifest: Manifest
    left_out: list[tuple[str, str]]  # (path relative to the scanned folder, reason)


# --- read and write


def read_manifest(path: str | Path) -> Manifest:
    """Read and check a manifest. Text stays text: speaker "0012" is "0012", and "NA" is a name.

    The sound files are not looked for.

    Raises:
        ManifestError: missing file, not a CSV table, a missing column, no rows, an empty or unusable cell, an
            utterance id twice.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # index_col: else a file with one cell too many a row would lose its first column to the index.
            table = pd.read_csv(path, dtype=str, na_filter=False, index_col=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such manifest; make it by cpc manifest FOLDER -o {path}") from None
    except pd.errors.EmptyDataError:
        raise ManifestError(f"{path}: empty, not even a header; make it again by cpc manifest FOLDER") from None
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(f"{path}: not a readable CSV table ({reason}); see cpc manifest") from error
    _validate(path, table)
    return Manifest(path.parent, table)


def _validate(path: Path, table: pd.DataFrame) -> None:
    """Check the table and turn its counts into int64, in place."""
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
        good = np.isfinite(numbers) & (numbers >= 1) & (numbers == np.floor(numbers))
        _refuse(path, table, name, ~good, "a whole number of 1 or more")
        table[name] = numbers.astype(np.int64)
    for name in ("path", "speaker", "utterance"):
        _refuse(path, table, name, (table[name] == "").to_numpy(), "some text")
    # Later stages name files after utterances, and label files separate them by blanks.
    unsafe = table["utterance"].str.contains(r"[/\s\0]").to_numpy(bool)
    _refuse(path, table, "utterance", unsafe, "a name without '/' and blanks")
    twice = table["utterance"].duplicated()
    if twice.any():
        name = table["utterance"][twice].iloc[0]
        first, second = table["path"][table["utterance"] == name].iloc[:2]
        raise ManifestError(f"{path}: utterance {name!r} stands for both {first} and {second}; rename one")


def _refuse(path: Path, table: pd.DataFrame, name: str, bad: Any, expected: str) -> None:
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ManifestError(
            f"{path}: line {row + 2}, {name} is {table[name].iloc[row]!r}, expected {expected} "
            f"({int(bad.sum())} such rows)"
        )


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest, its relative paths now relative to the new file's folder.

    All or nothing: an interrupted write leaves an older file as it was.

    Raises:
        ManifestError: the file cannot be written.
    """
    path = Path(path)
    try:
        with replacing(path) as unfinished, open(unfinished, "x", encoding="utf-8", newline="") as file:
            # Through real paths: ".." after a symbolic link leads elsewhere than its text says.
            prefix = os.path.relpath(os.path.realpath(manifest.root), os.path.realpath(path.parent))
            table = manifest.table
            if prefix != ".":
                table = table.assign(path=[os.path.normpath(os.path.join(prefix, p)) for p in table["path"]])
            table.to_csv(file, index=False, lineterminator="\n")
    except OSError as error:
        raise ManifestError(f"{path}: could not be written ({error.strerror or error}); nothing changed") from error


# --- scan


def scan_folder(folder: str | Path, *, speaker: str = "{speaker}/{chapter}/*", progress: bool = True) -> Scan:
    """List the sound files below a folder, decoding each one once to see that it is whole.

    Utterance ids are the files' names without suffix, if no two are the same; else their paths within the
    folder without suffix, "/" turned to "_". Blanks become "_".

    Args:
        folder: where to look, in all subfolders, linked ones too; files are known by `audio.EXTENSIONS`.
        speaker: where the speaker's name stands in a path. Compared, without suffix, with the last parts of
            the path: as many as the pattern has. `*` is any text within one part, `{name}` some text (as
            little as fits) that becomes column `name`; a name that comes twice must be the same text twice.
            "{speaker}/{chapter}/*" reads 103/1240/103-1240-0000.flac, "{digit}_{speaker}_*" 0_george_12.wav.
            The word "none": nothing is known, every speaker is "unknown".
        progress: draw a bar on standard error.

    Returns:
        The manifest, sorted by path, and the files left out, each with its reason: unreadable, truncated,
        empty, silent, NaN.

    Raises:
        ManifestError: no such folder, no sound file, none usable, a path that does not match the pattern, two
            files that would get one utterance id.
    """
    folder = Path(folder)
    paths = _find(folder)
    fields = _fields(folder, paths, speaker)
    utterances = _utterances(folder, paths)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # libsndfile decodes outside the interpreter lock
        found = pool.map(lambda path: _inspect(folder, path), paths)
        facts = list(tqdm(found, total=len(paths), unit="file", desc="scan", disable=not progress))
    left_out = [(path, fact) for path, fact in zip(paths, facts, strict=True) if isinstance(fact, str)]
    rows = [
        {"path": path, **fact, "speaker": "unknown", "utterance": utterance, **field}
        for path, fact, utterance, field in zip(paths, facts, utterances, fields, strict=True)
        if not isinstance(fact, str)
    ]
    if not rows:
        raise ManifestError(
            f"{folder}: none of its {len(paths)} sound files is usable; the first, {paths[0]}: {facts[0]}"
        )
    hashes = [row.pop("audio_hash") for row in rows]  # last: of least interest to a reader
    return Scan(Manifest(folder, pd.DataFrame(rows).assign(audio_hash=hashes)), left_out)


def scan_summary(scan: Scan) -> str:
    """Describe a scan in a few lines: what is in, one utterance as an example, what was left out and why."""
    table = scan.manifest.table
    hours = (table["num_samples"] / table["sample_rate"]).sum() / 3600
    rates = ", ".join(f"{rate} Hz ({n})" for rate, n in table["sample_rate"].value_counts().sort_index().items())
    first = table.iloc[0]
    names = [name for name in table.columns if name not in {"num_samples", "sample_rate", "audio_hash"}]
    lines = [
        f"{len(table)} utterances, {table['speaker'].nunique()} speakers, {hours:.2f} hours, {rates}",
        "the first: " + ", ".join(f"{name} {first[name]}" for name in names),
        f"left out: {len(scan.left_out)}",
    ]
    return "\n".join(lines + [f"  {path}: {reason}" for path, reason in scan.left_out])


def _find(folder: Path) -> list[str]:
    """List the sound files below a folder, relative to it, "/" between the parts, sorted."""
    if not folder.is_dir():
        what = "a file" if folder.exists() else "no such folder"
        raise ManifestError(f"{folder}: {what}, expected a folder of sound files")
    paths: list[str] = []
    others: Counter[str] = Counter()
    visited: set[str] = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # a link in a circle, or to a folder that is listed elsewhere
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
                others[suffix] += 1
    if not paths:
        seen = ", ".join(f"{n} {suffix or 'without suffix'}" for suffix, n in others.most_common(3)) or "nothing"
        known = " ".join(sorted(EXTENSIONS))
        raise ManifestError(f"{folder}: no sound file, found {seen}; convert to one of {known}")
    return sorted(paths)


def _inspect(folder: Path, path: str) -> dict[str, Any] | str:
    """Decode a file to its end; return its columns, or why it cannot be used."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    file = folder / path
    try:
        rate = audio_info(file).sample_rate
        num_samples, low, high, digest = 0, np.inf, -np.inf, blake2b(digest_size=8)
        for block in audio_blocks(file, sample_rate=rate, resample=False, block_samples=1 << 17):
            num_samples += len(block)
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            digest.update(block.tobytes())
    except AudioError as error:
        return str(error).removeprefix(f"{file}: ")
    if low == high:
        return f"silent, all {num_samples} samples are {low:g}"
    return {"num_samples": num_samples, "sample_rate": rate, "audio_hash": digest.hexdigest()}


def _fields(folder: Path, paths: list[str], pattern: str) -> list[dict[str, str]]:
    """Match every path with the speaker pattern."""
    if pattern == "none":
        return [{} for _ in paths]
    names = re.findall(r"\{([^{}]*)\}", pattern)
    taken = {"path", "num_samples", "sample_rate", "utterance", "audio_hash", "split"}
    if "speaker" not in names:
        raise ManifestError(f"speaker pattern {pattern!r}: no {{speaker}} in it; without names, use --speaker none")
    wrong = [name for name in names if not name.isidentifier() or name in taken]
    if wrong or re.search(r"[{}]", re.sub(r"\{[^{}]*\}", "", pattern)):
        what = f"{{{wrong[0]}}} cannot be a field" if wrong else "an unpaired brace"
        raise ManifestError(f"speaker pattern {pattern!r}: {what}; a field is {{word}}, none of {sorted(taken)}")
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
    compiled = re.compile(f"(?:.*/)?{expression}", re.DOTALL)
    found = [compiled.fullmatch(os.path.splitext(path)[0]) for path in paths]
    unmatched = [path for path, match in zip(paths, found, strict=True) if match is None]
    if unmatched:
        depth = unmatched[0].count("/")
        hint = "'{speaker}_*' if file names start with it" if depth == 0 else "'{speaker}" + "/*" * depth + "'"
        raise ManifestError(
            f"{folder}: {unmatched[0]} does not match the speaker pattern {pattern!r} ({len(unmatched)} of "
            f"{len(paths)} files do not); say where the speaker's name stands, as --speaker {hint}, "
            "or --speaker none if nothing is known"
        )
    return [match.groupdict() for match in found if match is not None]


def _utterances(folder: Path, paths: list[str]) -> list[str]:
    """Name every file, uniquely and so that the name can be a file name and a word in a label file."""
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
