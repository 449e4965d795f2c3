"""Tables of settings: one base configuration, and what each row changes in it.

A table is TOML:

    title = "Steps predicted"                  # optional
    base = "small"                             # a preset, or a TOML file beside this one
    seeds = [0, 1]
    set = { "train.num_updates" = 1000 }       # for every row; fields as in `cpc train --help`, or NAMES below

    [[row]]
    name = "2 steps"
    set = { "criterion.num_steps" = 2 }
    paper = 28.5                               # phone accuracy in % in the paper, optional

    [grid]                                     # instead of rows: every combination of the values
    "optim.lr" = [1e-3, 4e-3]
    "batches.num_windows" = [8, 16]
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpc.config import (
    Config,
    ConfigError,
    config_from_dict,
    config_to_dict,
    parse_as,
    read_config,
    read_toml,
    refuse_unknown,
)
from cpc.files import dotted

NAMES = {  # common names of fields of the configuration
    "batch_size": "batches.num_windows",
    "learning_rate": "optim.lr",
    "embedding_dim": "autoregressor.hidden",  # dimension of c, which is probed
    "num_negatives": "criterion.num_negatives",
    "temperature": "loss.temperature",
}

_TAKEN = {
    "baselines",
    "results.csv",
    "results.json",
    "table.md",
    "table.png",
    "table.tex",
    "tradeoff.png",
}  # what else an ablation's folder holds


@dataclass(frozen=True)
class _RowFile:
    name: str
    set: dict[str, Any] = field(default_factory=dict)
    paper: float | None = None


@dataclass(frozen=True)
class _TableFile:
    title: str = ""
    base: str = "small"
    seeds: list[int] = field(default_factory=lambda: [0])
    set: dict[str, Any] = field(default_factory=dict)
    row: list[_RowFile] = field(default_factory=list)
    grid: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    name: str
    config: Config
    """The configuration, whose seed is replaced by each of the table's."""
    paper: float | None
    """Phone accuracy in % in the paper; None if it has no such row."""

    @property
    def folder(self) -> str:
        """The name as the name of a folder: never one that leads elsewhere, or is hidden."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", self.name).strip("-").lstrip("-.")


@dataclass(frozen=True)
class Ablation:
    """A table of settings to compare."""

    title: str
    rows: list[Row]
    seeds: list[int]


def read_ablation(path: str | Path, *, manifest_csv: str = "", labels: str = "") -> Ablation:
    """Read and check a table, before anything runs.

    Args:
        path: TOML file.
        manifest_csv: manifest to use instead of the base's.
        labels: phone labels for rows that train on phones and name no labels.

    Raises:
        ConfigError: a missing file, a file that is not TOML, an unknown key, a value that cannot work, or two rows with
            one name.
    """
    path = Path(path)
    values = read_toml(path, missing="no such table of ablations")
    for number, row in enumerate(values["row"] if isinstance(values.get("row"), list) else [], start=1):
        if isinstance(row, dict):
            refuse_unknown(row, _RowFile, f"{path}: row {row.get('name', number)}")
    table = parse_as(_TableFile, values, where=str(path))
    if bool(table.grid) == bool(table.row):
        raise ConfigError(f"{path}: expected either [[row]] tables or one [grid]")
    base = read_config(path.parent / table.base if table.base.endswith(".toml") else table.base)
    if manifest_csv:
        base = override(base, {"data.manifest": manifest_csv}, where="--manifest")
    rows = []
    for row in table.row or _combinations(table.grid):
        # TOML reads an unquoted `optim.lr = 1` as a table in a table.
        changes = {**dotted(table.set), **dotted(row.set)}
        if "seed" in changes:
            raise ConfigError(f"{path}: row {row.name}: seed: each row runs with all of the table's; set seeds = [...]")
        if changes.get("loss.target") == "phone" and labels:
            changes = {"loss.labels": labels, **changes}
        rows.append(Row(row.name, override(base, changes, where=f"{path}: row {row.name}"), row.paper))
    if not rows:
        raise ConfigError(f"{path}: grid: got a list without values, which leaves no row")
    folders = [row.folder for row in rows]
    if len(set(folders)) < len(folders) or not all(folders) or not _TAKEN.isdisjoint(folders):
        raise ConfigError(f"{path}: each row needs its own name, got {', '.join(row.name for row in rows)}")
    if not table.seeds or min(table.seeds) < 0:
        raise ConfigError(f"{path}: seeds: got {table.seeds}, expected a list of whole numbers from 0")
    return Ablation(table.title or path.stem, rows, table.seeds)


def override(base: Config, changes: Mapping[str, Any], *, where: str) -> Config:
    """Change some fields of a configuration.

    Args:
        base: the configuration to start from.
        changes: values by dotted name, or by one of NAMES: {"optim.lr": 1e-3}. A nested table changes the fields that
            it names: {"optim": {"lr": 1e-3}} is the same.
        where: the source of the changes, for messages.

    Raises:
        ConfigError: an unknown name, or a value that cannot work.
    """
    values = config_to_dict(base)
    for name, value in dotted(changes).items():
        *sections, key = NAMES.get(name, name).split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{where}: unknown key {name}")
        inner[key] = value
    return config_from_dict(values, where=where)


def _combinations(grid: Mapping[str, list[Any]]) -> list[_RowFile]:
    """Make a row of every combination of the grid's values."""
    changes = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [_RowFile(", ".join(f"{key} {value}" for key, value in change.items()), change) for change in changes]
