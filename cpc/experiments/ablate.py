"""Ablations: one base run, some overrides a row, several seeds; a table beside the paper's values.

A table is TOML:

    title = "Steps predicted"                  # optional
    base = "small"                             # a preset, or a TOML file beside this one
    seeds = [0, 1]
    set = { "train.num_updates" = 1000 }       # for every row; fields as in `cpc train --help`, or NAMES below

    [[row]]
    name = "2 steps"
    set = { "criterion.num_steps" = 2 }
    paper = 28.5                               # phone accuracy in % in the paper, optional

    [grid]                                     # instead of rows: every combination
    "optim.lr" = [1e-3, 4e-3]
    "batches.num_windows" = [8, 16]

Each row and seed is a run of its own in OUT/<row>/seed-<n>: trained, its c extracted, its phones and speakers probed.
What is finished is skipped, what was interrupted goes on.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
import re
import shutil
import statistics
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
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
from cpc.data import read_manifest
from cpc.features import extract_features, extractor_of_run, open_features
from cpc.files import replacing, write_bytes
from cpc.labels import read_labels
from cpc.probes import Evaluate, probe_phones, probe_speakers
from cpc.runs import read_checkpoint

NAMES = {  # that people know, for the fields of the configuration
    "batch_size": "batches.num_windows",
    "learning_rate": "optim.lr",
    "embedding_dim": "autoregressor.hidden",  # of c, which is probed
    "num_negatives": "criterion.num_negatives",
    "temperature": "loss.temperature",
}


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
    """One row of the table: a configuration but for its seed, and the paper's phone accuracy in % where it has one."""

    name: str
    config: Config
    paper: float | None


@dataclass(frozen=True)
class Ablation:
    """What is compared."""

    title: str
    rows: list[Row]
    seeds: list[int]


def read_ablation(path: str | Path, *, manifest_csv: str = "", labels: str = "") -> Ablation:
    """Read and check a table, before anything is run.

    Args:
        path: TOML file.
        manifest_csv: the utterances, instead of those that the base names.
        labels: phone labels for rows that train on phones and name none.

    Raises:
        ConfigError: missing file, not TOML, an unknown key, a value that cannot work, two rows of one name.
    """
    path = Path(path)
    values = read_toml(path, missing="no such table of ablations")
    for number, row in enumerate(values["row"] if isinstance(values.get("row"), list) else [], start=1):
        if isinstance(row, dict):
            refuse_unknown(row, _RowFile, f"{path}: row {row.get('name', number)}")
    given = parse_as(_TableFile, values, where=str(path))
    rows = [_RowFile(name=name, set=changes) for name, changes in _combinations(given.grid)] or given.row
    if bool(given.grid) == bool(given.row):
        raise ConfigError(f"{path}: expected [[row]] tables, or one [grid], and not both")
    base = read_config(path.parent / given.base if given.base.endswith(".toml") else given.base)
    if manifest_csv:
        base = override(base, {"data.manifest": manifest_csv}, where="--manifest")
    read_rows = []
    for row in rows:
        changes = {**given.set, **row.set}
        if changes.get("loss.target") == "phone" and labels:
            changes = {"loss.labels": labels, **changes}
        read_rows.append(Row(row.name, override(base, changes, where=f"{path}: row {row.name}"), row.paper))
    folders = [_slug(row.name) for row in read_rows]
    if len(set(folders)) < len(folders) or not all(folders):
        raise ConfigError(f"{path}: rows need names of their own: {', '.join(row.name for row in read_rows)}")
    if not given.seeds or min(given.seeds) < 0:
        raise ConfigError(f"{path}: seeds: got {given.seeds}, expected a list of whole numbers from 0")
    return Ablation(given.title or path.stem, read_rows, given.seeds)


def _combinations(grid: dict[str, list[Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Every combination of a grid's values, with a name."""
    if not grid:
        return []
    changes = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [(", ".join(f"{key} {value}" for key, value in change.items()), change) for change in changes]


def override(base: Config, changes: dict[str, Any], *, where: str) -> Config:
    """A configuration with some fields changed, by dotted names or one of NAMES: {"optim.lr": 1e-3}.

    Raises:
        ConfigError: an unknown name or a value that cannot work.
    """
    values = config_to_dict(base)
    for key, value in changes.items():
        *sections, field = NAMES.get(key, key).split(".")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{where}: unknown key {key}")
        inner[field] = value
    return config_from_dict(values, where=where)


def run_ablation(
    table: Ablation,
    out: str | Path,
    *,
    labels: str | Path,
    evaluate: Evaluate = "test",
    max_frames: int = 30_000,
    jobs: int = 1,
) -> Path:
    """Run what is not finished yet, and render the table.

    Args:
        table: what to compare.
        out: folder: runs, results.json, table.md, table.png.
        labels: phone labels (`alignment.read_labels`).
        evaluate: split of the probes; "dev" while you still choose.
        max_frames: train frames of each probe.
        jobs: runs side by side, each with its share of the cores.

    Returns:
        The path of table.md.

    Raises:
        ValueError: one line; what is finished stays.
    """
    out = Path(out)
    if jobs < 1:
        raise ConfigError(f"jobs: got {jobs}, expected 1 or more")
    read_labels(labels)  # a wrong file is told now, not after the first run
    tasks = [
        (dataclasses.replace(row.config, seed=seed), folder_of(out, row, seed), Path(labels), evaluate, max_frames)
        for seed in table.seeds
        for row in table.rows
    ]
    waiting = [task for task in tasks if not _is_finished(*task)]
    print(f"ablate: {len(tasks)} runs, {len(tasks) - len(waiting)} finished, {len(waiting)} to go")
    if jobs == 1:
        for number, task in enumerate(waiting, start=1):
            print(f"== {number} of {len(waiting)}: {task[1].relative_to(out)}", flush=True)
            _run_one(*task)
            render(table, out, evaluate)
    elif waiting:
        context = multiprocessing.get_context("spawn")
        threads = max(1, (os.cpu_count() or 1) // jobs)
        with ProcessPoolExecutor(jobs, context, initializer=_limit_threads, initargs=(threads,)) as pool:
            queue, num_done = iter(waiting), 0
            running = {pool.submit(_run_one, *task): task[1] for task in itertools.islice(queue, jobs)}
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    future.result()  # if it failed, what is under way ends and nothing else begins
                    num_done += 1
                    print(f"== {num_done} of {len(waiting)} done: {running.pop(future).relative_to(out)}", flush=True)
                    render(table, out, evaluate)
                    running |= {pool.submit(_run_one, *task): task[1] for task in itertools.islice(queue, 1)}
    return render(table, out, evaluate)


def folder_of(out: Path, row: Row, seed: int) -> Path:
    """Folder of one run."""
    return out / _slug(row.name) / f"seed-{seed}"


def render(table: Ablation, out: Path, evaluate: Evaluate) -> Path:
    """Write results.json, table.md and table.png from what is finished."""
    rows: list[dict[str, Any]] = []
    for of in table.rows:
        found = [
            json.loads(path.read_text())
            for seed in table.seeds
            if (path := folder_of(out, of, seed) / f"result-{evaluate}.json").exists()
        ]
        rows.append({"name": of.name, "paper": of.paper, "num_updates": of.config.train.num_updates, "runs": found})
    write_bytes(out / "results.json", json.dumps({"title": table.title, "rows": rows}, indent=1).encode())
    updates = sorted({row["num_updates"] for row in rows})
    minutes = [run["seconds"] / 60 for row in rows for run in row["runs"]]
    lines = [
        f"**{table.title}**: accuracy in % on {evaluate}, mean ± sd over seeds {', '.join(map(str, table.seeds))}; "
        f"{updates[0]}{f' to {updates[-1]}' if len(updates) > 1 else ''} updates"
        + (f", {min(minutes):.1f} to {max(minutes):.1f} minutes of training a run" if minutes else ""),
        "",
    ]
    has_paper = any(row["paper"] is not None for row in rows)
    columns = ["phone", *["paper, phone"] * has_paper, "speaker, frame", "speaker, utterance", "runs"]
    lines += [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for row in rows:
        phone, *speaker = (
            _mean_sd([run[key] for run in row["runs"]]) for key in ("phone", "speaker", "speaker_utterance")
        )
        paper = "" if row["paper"] is None else f"{row['paper']:.1f}"
        cells = [row["name"], phone, *[paper] * has_paper, *speaker, str(len(row["runs"]))]
        lines.append(f"| {' | '.join(cells)} |")
    write_bytes(out / "table.md", ("\n".join(lines) + "\n").encode())
    _draw(table.title, rows, out / "table.png")
    return out / "table.md"


def _run_one(config: Config, folder: Path, labels: Path, evaluate: Evaluate, max_frames: int) -> None:
    """Train, extract, probe; each step is skipped where it is done."""
    from cpc.train import complete

    seconds = read_checkpoint(complete(config, folder) / "last.pt")[1]["seconds"]
    probed = probe(config, folder, folder / "c", labels, evaluate, max_frames)
    result = {**probed, "seconds": seconds, "seed": config.seed, "max_frames": max_frames}
    write_bytes(folder / f"result-{evaluate}.json", json.dumps(result).encode())


def probe(
    config: Config, run: Path, frames: Path, labels: Path, evaluate: Evaluate, max_frames: int
) -> dict[str, float | list[float]]:
    """Accuracies of c: phones, with their interval, and speakers by frame and by utterance.

    Args:
        config: of the run.
        run: its folder, or one of its checkpoints.
        frames: where c is kept meanwhile.
        labels: phone labels.
        evaluate: split.
        max_frames: train frames of each probe.
    """
    utterances = read_manifest(config.data.manifest)
    opened = open_features(
        extract_features(extractor_of_run(run, "c"), utterances, frames, resample=config.audio.resample)
    )
    options: dict[str, Any] = {"max_frames": max_frames, "Cs": (0.01, 0.1, 1.0), "evaluate": evaluate}
    phone = probe_phones(opened, read_labels(labels), **options)
    speaker = probe_speakers(opened, **options)
    shutil.rmtree(frames)  # they take more room than everything else, and are quickly made again
    return {
        "phone": phone["accuracy"], "speaker": speaker["accuracy"], "speaker_utterance": speaker["utterance_accuracy"],
        "phone_interval": phone["accuracy_interval"],
    }  # fmt: skip


def _is_finished(config: Config, folder: Path, labels: Path, evaluate: Evaluate, max_frames: int) -> bool:
    """Whether the run is there; a folder of another configuration is refused rather than mixed in."""
    if (folder / "config.toml").exists() and read_config(folder / "config.toml") != config:
        raise ConfigError(f"{folder}: holds a run of another configuration; pass another --out, or remove it")
    path = folder / f"result-{evaluate}.json"
    return path.exists() and json.loads(path.read_text())["max_frames"] == max_frames


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


def _mean_sd(values: list[float]) -> str:
    if not values:
        return "–"
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def _draw(title: str, rows: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for i, row in enumerate(rows):
        values = [100 * run["phone"] for run in row["runs"]]
        axes.plot(values, [i] * len(values), "o", color="#0072B2", label="ours, one seed" if i == 0 else None)
        if row["paper"] is not None:
            axes.plot(row["paper"], i, "|", markersize=14, color="#D55E00", label="paper" if i == 0 else None)
    axes.set(
        yticks=range(len(rows)), yticklabels=[row["name"] for row in rows], xlabel="phone accuracy, %", title=title
    )
    axes.invert_yaxis()
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
