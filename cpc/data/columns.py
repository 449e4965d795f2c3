"""Join columns of another table, such as diagnoses or classes of clips, to a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cpc.data.manifest import MEASURED, SEGMENT, Manifest, ManifestError, check_table, read_table

_KEYS = ("utterance", "path")


class Joined(NamedTuple):
    """A manifest with more columns.

    Attributes:
        manifest: all rows of the manifest that was given, in their order.
        columns: names of the columns that were added or replaced.
        without: utterances that the table does not have; their values are empty.
        num_unknown: rows of the table that belong to no utterance.
    """

    manifest: Manifest
    columns: list[str]
    without: list[str]
    num_unknown: int

    def __str__(self) -> str:
        """Say what was joined, with each column's values if they are few."""
        lines = [f"joined {', '.join(self.columns)}: {len(self.manifest) - len(self.without)} utterances"]
        if self.without:
            lines.append(f"  not in the table: {len(self.without)} utterances, e.g. {self.without[0]}")
        if self.num_unknown:
            lines.append(f"  not in the manifest: {self.num_unknown} rows of the table")
        for name in self.columns:
            counts = pd.Series(self.manifest.column(name)).value_counts()
            if len(counts) <= 50:
                lines.append(f"  {name}: " + ", ".join(f"{value or '(empty)'} {n}" for value, n in counts.items()))
        return "\n".join(lines)


def join_columns(manifest: Manifest, path: str | Path) -> Joined:
    """Add the columns of a table to the utterances that it names.

    Args:
        manifest: the utterances; columns of the same names are replaced.
        path: a CSV table, or TSV by its suffix, with a column "utterance", or a column "path" as in the manifest. A
            path may also be the file's name alone, where that is unique.

    Raises:
        ManifestError: the file is no such table, names an utterance twice, or names none of the manifest's.
    """
    path = Path(path)
    key, table = read_columns(path)
    names = table[key]
    keys = keys_of(manifest.utterances, manifest.paths, key, set(names))
    place = {name: i for i, name in enumerate(names)}
    rows = [place.get(name, -1) for name in keys]
    found = [row for row in rows if row >= 0]
    if not found:
        raise ManifestError(
            f"{path}: none of its {len(table)} rows belongs to an utterance (it has e.g. {key} {names.iloc[0]!r}, the "
            f"manifest {keys[0]!r})"
        )
    columns = [str(name) for name in table.columns if name not in _KEYS]
    result = manifest
    for name in columns:
        values = [*table[name], ""]
        result = result.with_column(name, [values[row] for row in rows])
    without = [u for u, row in zip(manifest.utterances, rows, strict=True) if row < 0]
    check_table(path, result.table.copy())
    return Joined(result, columns, without, len(table) - len(set(found)))


def read_columns(path: Path, *, of_segments: bool = False) -> tuple[str, pd.DataFrame]:
    """Read a table to be joined, and check all of it that does not depend on the manifest.

    Args:
        path: the table.
        of_segments: whether a row is a segment of an utterance or file, which then may have several; it needs the
            columns start and end.

    Returns:
        The column by which it is joined, and the table.

    Raises:
        ManifestError: as `join_columns`.
    """
    table = read_table(path, "\t" if path.suffix.lower() == ".tsv" else ",")
    if table.empty:
        raise ManifestError(f"{path}: no rows")
    # A segment's utterance may be its own, not the file's.
    key = next((name for name in (_KEYS[::-1] if of_segments else _KEYS) if name in table), None)
    if key is None:
        raise ManifestError(f"{path}: no column utterance or path; it has {', '.join(map(str, table.columns))}")
    if fixed := sorted(MEASURED & set(table)):
        raise ManifestError(f"{path}: column {fixed[0]} is what a scan measures; take it out of the table")
    if of_segments and (missing := sorted(SEGMENT - set(table))):
        raise ManifestError(f"{path}: no column {missing[0]}; a segment has start and end, in seconds")
    if not of_segments and (segment := sorted(SEGMENT & set(table))):
        raise ManifestError(f"{path}: column {segment[0]} belongs to segments; pass the table as --segments")
    table = table.apply(lambda column: column.str.strip())
    if not of_segments and (twice := table[key].duplicated()).any():
        raise ManifestError(f"{path}: {key} {table[key][twice].iloc[0]!r} appears twice; expected each once")
    return key, table


def keys_of(utterances: list[str], paths: list[str], key: str, names: set[str]) -> list[str]:
    """Return what a table with these names in its column `key` would call each utterance."""
    if key == "utterance":
        return utterances
    files = [path.rpartition("/")[2] for path in paths]
    if names.isdisjoint(paths) and len(set(files)) == len(set(paths)):
        return files
    return paths
