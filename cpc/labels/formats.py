"""Labels as corpora have them: reading TextGrid, CTM, .phn, HTK and three-column files, and converting them to ours.

| format | file | a line |
|---|---|---|
| textgrid | UTTERANCE.TextGrid | one tier of a Praat TextGrid |
| phn | UTTERANCE.phn | `start end phone`, sample numbers at 16 kHz |
| htk | UTTERANCE.lab | `start end phone [score …]`, units of 100 ns |
| seconds | UTTERANCE.txt | `start end phone`, seconds; with tabs, as Audacity exports labels, which may have blanks |
| seconds | UTTERANCE[.Table.1].selections.txt | Raven's selection table, known by its header |
| ctm | one file for all | `utterance channel start duration phone [confidence]`, seconds |
"""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from cpc.data import Manifest
from cpc.files import claim
from cpc.labels.grid import LABEL_SAMPLE_RATE, LABEL_WINDOW_SECONDS, LabelsError
from cpc.labels.intervals import (
    SILENCE,
    Interval,
    label_name,
    phone_name,
    read_ctm,
    read_textgrid,
    write_interval_labels,
)
from cpc.labels.phones import read_lines, read_phones

_RECORD = "imported.json"
LabelFormat = Literal["textgrid", "phn", "htk", "seconds", "ctm"]
Naming = Literal["verbatim", "arpabet"]
_NAMES: dict[Naming, Callable[[str], str]] = {"verbatim": label_name, "arpabet": phone_name}

# Endings of files that hold one utterance each, in the order in which a folder is searched. Text files come last, since
# transcripts stand beside .phn files.
_SUFFIXES: dict[LabelFormat, str] = {"textgrid": ".TextGrid", "phn": ".phn", "htk": ".lab", "seconds": ".txt"}
# The units of their lines, by name and in seconds; TextGrid and CTM are in seconds by definition.
_SECONDS = ("seconds", 1.0)
_UNITS = {"phn": (f"samples at {LABEL_SAMPLE_RATE} Hz", 1 / LABEL_SAMPLE_RATE), "htk": ("units of 100 ns", 1e-7)}
# Of Raven's selection tables.
_BEGIN, _END = "Begin Time (s)", "End Time (s)"
_LABEL_COLUMNS = ("annotation", "label", "species", "class", "call", "call type")
_LEAST_SHARE = 0.05  # of every utterance; below it, intervals are taken to be in another unit


class Imported(NamedTuple):
    """What an import found.

    Attributes:
        counts: how many labels each class has, the most frequent one first.
        without: the manifest's utterances without intervals.
    """

    counts: dict[str, int]
    without: list[str]


def import_labels(
    manifest: Manifest,
    source: Path,
    out: Path,
    *,
    label_format: LabelFormat | None = None,
    tier: str = "phones",
    phones: Path | None = None,
    fold: Path | None = None,
    naming: Naming = "verbatim",
) -> Imported:
    """Convert labels of another tool or corpus to label files.

    Args:
        manifest: the utterances.
        source: a CTM file, or a folder with a file for each utterance, also in folders below it. A file belongs to the
            utterance of its name, or of its name joined with those of the folders above it: DR1/FCJF0/SA1.PHN to SA1,
            FCJF0_SA1 or DR1_FCJF0_SA1, as `scan_folder` names them.
        out: folder to write to (`write_interval_labels`): new, empty, or of an earlier import, which is replaced.
        label_format: the format; by default, a file is CTM, and a folder has that of its files' ending.
        tier: the tier of the TextGrids to read.
        phones: file of the phones' ids (`read_phones`); by default silence is 0, and the others follow by name.
        fold: table of the phones that share a label (`read_folding`), under their names after `naming`.
        naming: "verbatim" keeps the labels as they stand. "arpabet" takes an aligner's marks to phones (`phone_name`):
            lower case, without stress and position, and its marks of noise are silence.

    Raises:
        LabelsError: a file cannot be read, does not fit the manifest, or seems to be in another unit.
        ClaimError: the folder holds something else.
    """
    names_of_files = _names_of_files(manifest)
    chosen, found, _ = read_intervals(
        {*manifest.utterances, *names_of_files}, source, label_format=label_format, tier=tier
    )
    by_utterance = {**_intervals_of_segments(manifest, names_of_files, found), **found}
    _check_unit(manifest, by_utterance, chosen)
    by_utterance = {
        utterance: [interval._replace(phone=_NAMES[naming](interval.phone)) for interval in intervals]
        for utterance, intervals in by_utterance.items()
    }
    if fold is not None:
        by_utterance = _folded(by_utterance, read_folding(fold), fold)
    names: list[str] = []
    if phones is not None:
        by_id = read_phones(phones)
        if sorted(by_id) != list(range(len(by_id))):
            raise LabelsError(f"{phones}: ids {min(by_id)} to {max(by_id)} with gaps, expected 0 to {len(by_id) - 1}")
        names = [by_id[i] for i in range(len(by_id))]
    claimed = claim(out, {"from": "intervals"}, record=_RECORD, what="imported labels")
    counts = write_interval_labels(manifest, by_utterance, out, names)
    claimed.finish()
    return Imported(counts, [utterance for utterance in manifest.utterances if utterance not in by_utterance])


def read_intervals(
    names: Collection[str], source: Path, *, label_format: LabelFormat | None = None, tier: str = "phones"
) -> tuple[LabelFormat, dict[str, list[Interval]], list[str]]:
    """Read the intervals of some utterances or sound files.

    Args:
        names: their names; see `import_labels` for the names of files.
        source: a CTM file, or a folder.
        label_format: the format, or None to find it out.
        tier: the tier of the TextGrids to read.

    Returns:
        The format, the intervals by name, and what has another name: files, or recordings of a CTM file.

    Raises:
        LabelsError: a file cannot be read, or none belongs to a name.
    """
    if source.is_dir():
        chosen, paths = _label_files(source, label_format)
        files = _by_utterance(names, source, paths)
        unknown = [str(path.relative_to(source)) for path in sorted(set(paths).difference(files.values()))]
        return chosen, {name: _read(path, chosen, tier) for name, path in files.items()}, unknown
    if label_format not in (None, "ctm"):
        raise LabelsError(f"{source}: --format {label_format} reads a folder with a file for each utterance")
    found = read_ctm(source)
    known = {name: intervals for name, intervals in found.items() if name in names}
    return "ctm", known or found, sorted(set(found).difference(known))


def _names_of_files(manifest: Manifest) -> list[str]:
    """Name the file of each segment; "" for whole files.

    A name is the file's stem, joined with as many of the folders above it as it takes to be the only one.
    """
    parts = {path: [re.sub(r"\s+", "_", part) for part in Path(path).with_suffix("").parts] for path in manifest.paths}
    counts = Counter("_".join(of[-k:]) for of in parts.values() for k in range(1, len(of) + 1))
    names = {
        path: next((name for k in range(1, len(of) + 1) if counts[name := "_".join(of[-k:])] == 1), "_".join(of))
        for path, of in parts.items()
    }
    return [names[path] if start >= 0 else "" for path, start in zip(manifest.paths, manifest.starts, strict=True)]


def _intervals_of_segments(
    manifest: Manifest, names_of_files: Sequence[str], found: Mapping[str, Sequence[Interval]]
) -> dict[str, list[Interval]]:
    """Cut the intervals of whole files to their segments; times then count from the start of the segment."""
    result = {}
    starts, lengths = (manifest.starts / manifest.sample_rates).tolist(), manifest.seconds.tolist()
    for utterance, file, start, length in zip(manifest.utterances, names_of_files, starts, lengths, strict=True):
        if file in found:
            shifted = [(max(0.0, i.start - start), min(length, i.end - start), i.phone) for i in found[file]]
            result[utterance] = [Interval(*interval) for interval in shifted if interval[0] < interval[1]]
    if result and not any(result.values()):
        file = next(file for file in names_of_files if file in found)
        raise LabelsError(
            f"{file}: its intervals until {max(i.end for i in found[file]):.6g} s lie in no segment of it, as in all "
            "files; are they in seconds, and of these recordings?"
        )
    return result


def read_interval_lines(path: Path, unit_seconds: float) -> list[Interval]:
    """Read a file with lines `start end phone`; further words in a line are ignored.

    Args:
        path: the file of one utterance.
        unit_seconds: length of the unit of start and end, in seconds.

    Raises:
        LabelsError: the file is missing or empty, or a line is not as described.
    """
    intervals = []
    for number, line in enumerate(read_lines(path, "label file"), start=1):
        words = _cells(line)
        if not words or words[0] == "\\":  # Audacity's second line of a label: its frequencies
            continue
        try:
            start, end, mark = float(words[0]), float(words[1]), words[2]
        except (IndexError, ValueError):
            start, end, mark = 0.0, -1.0, ""
        if not 0 <= start <= end < math.inf:
            raise LabelsError(
                f"{path}, line {number}: found {line[:60]!r}, expected `start end phone` with start ≤ end"
            )
        intervals.append(Interval(round(start * unit_seconds, 7), round(end * unit_seconds, 7), label_name(mark)))
    if not intervals:
        raise LabelsError(f"{path}: empty; expected lines `start end phone`")
    return intervals


def _cells(line: str) -> list[str]:
    """Split a line at its tabs if it is `start TAB end TAB label`, whose label may have blanks; else at blanks."""
    cells = [cell.strip() for cell in line.split("\t")]
    if len(cells) == 3 and all(re.fullmatch(r"[-+.\deE]+", cell) for cell in cells[:2]) and cells[2]:
        return cells
    return line.split()


def read_selections(path: Path) -> list[Interval]:
    """Read a selection table of Raven: tab-separated, a selection a row, possibly once for each view.

    The label is in the first of the columns Annotation, Label, Species, Class, Call and Call Type that there is.

    Raises:
        LabelsError: a column is missing, or a time is no number.
    """
    rows = list(csv.DictReader(read_lines(path, "selection table"), delimiter="\t"))
    columns = list(rows[0]) if rows else []
    label = next((name for wanted in _LABEL_COLUMNS for name in columns if name.strip().lower() == wanted), None)
    if label is None or _END not in columns:
        raise LabelsError(
            f"{path}: expected a selection table with {_BEGIN}, {_END} and a column for the label "
            f"({', '.join(_LABEL_COLUMNS)}); it has {', '.join(columns) or 'no rows'}"
        )
    found = {}
    for number, row in enumerate(rows, start=2):
        try:
            start, end = float(row[_BEGIN]), float(row[_END])
        except (TypeError, ValueError):
            start, end = 0.0, -1.0
        if not 0 <= start <= end < math.inf:
            raise LabelsError(f"{path}, line {number}: expected {_BEGIN} ≤ {_END}, got {row[_BEGIN]} and {row[_END]}")
        found[row.get("Selection", number)] = Interval(start, end, label_name(row[label] or ""))
    return sorted(found.values())


def read_folding(path: Path) -> dict[str, str]:
    """Read which phones share a label: a CSV table with the columns `phone` and `folded`.

    Returns:
        The label of each phone. A phone without one, such as the glottal stop in the usual 39 classes, is no class of
        its own: its frames become silence.

    Raises:
        LabelsError: the file is missing or not such a table.
    """
    rows = list(csv.DictReader(read_lines(path, "table of folded phones")))
    if not rows or set(rows[0]) != {"phone", "folded"} or any(None in (*row, *row.values()) for row in rows):
        raise LabelsError(f"{path}: expected a CSV table with the columns phone,folded")
    return {label_name(row["phone"]): label_name(row["folded"]) for row in rows}


def _folded(
    by_utterance: Mapping[str, Sequence[Interval]], folding: Mapping[str, str], where: Path
) -> dict[str, list[Interval]]:
    found = {interval.phone for intervals in by_utterance.values() for interval in intervals} - {SILENCE}
    if unknown := sorted(found.difference(folding)):
        raise LabelsError(f"{where}: no row for {', '.join(unknown)}; it folds {', '.join(sorted(folding))}")
    return {
        utterance: [interval._replace(phone=folding.get(interval.phone, SILENCE)) for interval in intervals]
        for utterance, intervals in by_utterance.items()
    }


def _label_files(source: Path, label_format: LabelFormat | None) -> tuple[LabelFormat, list[Path]]:
    """Find the files of a folder that hold labels, and their format."""
    if label_format == "ctm":
        raise LabelsError(f"{source}: a folder, but CTM is one file; pass the file")
    found: dict[str, list[Path]] = {suffix.lower(): [] for suffix in _SUFFIXES.values()}
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in found:
            found[path.suffix.lower()].append(path)
    # With a format that is given, any ending will do: .lab files with seconds are common.
    order: list[LabelFormat] = [*([label_format] if label_format else []), *_SUFFIXES]
    for candidate in order:
        if paths := found[_SUFFIXES[candidate].lower()]:
            return label_format or candidate, paths
    endings = ", ".join(f"*{suffix}" for suffix in _SUFFIXES.values())
    raise LabelsError(f"{source}: no label file below it ({endings}); pass a CTM file or a folder of such files")


def _by_utterance(names: Collection[str], source: Path, paths: Sequence[Path]) -> dict[str, Path]:
    """Find each utterance's file."""
    wanted, files = set(names), dict[str, Path]()
    for path in paths:
        stem = re.sub(r"(\.Table\.\d+)?\.selections$", "", path.with_suffix("").name)  # Raven's names
        parts = [re.sub(r"\s+", "_", part) for part in path.relative_to(source).with_name(stem).parts]
        for utterance in wanted.intersection("_".join(parts[i:]) for i in range(len(parts))):
            if utterance in files:
                raise LabelsError(f"{source}: {files[utterance]} and {path} are both named as utterance {utterance}")
            files[utterance] = path
    if not files:
        raise LabelsError(
            f"{source}: no file is named as an utterance of the manifest (e.g. {paths[0].relative_to(source)} and "
            f"{min(filter(None, names), default='none at all')}); are they of another corpus?"
        )
    return files


def _read(path: Path, label_format: LabelFormat, tier: str) -> list[Interval]:
    if label_format == "textgrid":
        return read_textgrid(path, tier=tier)
    if label_format == "seconds" and _BEGIN in "".join(read_lines(path, "label file")[:1]).split("\t"):
        return read_selections(path)
    return read_interval_lines(path, _UNITS.get(label_format, _SECONDS)[1])


def _check_unit(manifest: Manifest, by_utterance: Mapping[str, Sequence[Interval]], label_format: LabelFormat) -> None:
    """Refuse intervals that end after their audio by more than a window, or that all end near its start."""
    columns = zip(manifest.utterances, manifest.seconds.tolist(), manifest.sample_rates.tolist(), strict=True)
    rows = [
        (utterance, max(interval.end for interval in by_utterance[utterance]), seconds, rate)
        for utterance, seconds, rate in columns
        if by_utterance.get(utterance)
    ]
    late = next((row for row in rows if row[1] > row[2] + LABEL_WINDOW_SECONDS), None)
    early = rows and all(end < _LEAST_SHARE * seconds for _, end, seconds, _ in rows)
    if not (late or early):
        return
    utterance, end, seconds, rate = late or rows[0]
    name, unit_seconds = _UNITS.get(label_format, _SECONDS)
    raise LabelsError(
        f"{utterance}: intervals until {end:.6g} s, read as {name}; its audio ends at {seconds:.2f} s; "
        + _likely_unit(end / unit_seconds, seconds, rate, label_format)
    )


def _likely_unit(end: float, seconds: float, sample_rate: int, label_format: LabelFormat) -> str:
    """Say in which unit an utterance would end at `end`, and how to read that unit."""
    formats = {unit: name for name, unit in {**_UNITS, "seconds": _SECONDS}.items()}
    others = [("milliseconds", 1e-3), ("frames of 10 ms", 1e-2), (f"samples at {sample_rate} Hz", 1 / sample_rate)]
    units = {*formats, *others} - {_UNITS.get(label_format, _SECONDS)}
    fitting = {unit: abs(math.log(end * unit[1] / seconds)) for unit in units if 0.5 <= end * unit[1] / seconds <= 1.05}
    if not fitting:
        return "are they labels of another recording?"
    unit = min(fitting, key=lambda unit: (fitting[unit], unit))
    readable = unit in formats and label_format not in ("ctm", "textgrid")
    return f"the numbers look like {unit[0]}; " + (f"pass --format {formats[unit]}" if readable else "convert them")
