"""Ablations: train and probe every row of a table of settings with several seeds, and compare with the paper.

Each row and seed is a run in OUT/<row>/seed-<n>: it is trained, c is extracted, and phones and speakers are probed.
Finished runs are skipped and interrupted ones resume. If the labels or the probes' options have changed, runs are
probed again without being trained again; if the data that they were trained on have changed, they are refused.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpc.config import Config, ConfigError, config_to_dict, read_config
from cpc.data import read_manifest
from cpc.experiments.evaluate import evaluate_once
from cpc.experiments.settings import Ablation
from cpc.experiments.stages import digest_of
from cpc.features import extractor_of_run
from cpc.files import difference, write_bytes, write_json
from cpc.labels import read_labels, read_phone_labels
from cpc.probes import Evaluate, Options
from cpc.report import markdown_table, mean_and_deviation, save_figure
from cpc.runs import read_checkpoint
from cpc.train import complete

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CS = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class _Run:
    """One row with one seed."""

    config: Config
    folder: Path
    labels: Path
    options: Options
    trained_on: dict[str, str]
    """Digests of the data that the run learns from."""
    probed_with: dict[str, Any]
    """Digests and options that decide the results, apart from the run itself."""

    @property
    def result(self) -> Path:
        return self.folder / f"result-{self.options.evaluate}.json"

    def read(self) -> dict[str, Any] | None:
        """Read the result; None if there is none for these labels, this manifest and these options."""
        if not self.result.exists() or self.outdated():
            return None
        found: dict[str, Any] = json.loads(self.result.read_text())
        return found

    def outdated(self) -> str:
        """Say what the result was made with that has changed since; empty if nothing has, or if there is no result."""
        if not self.result.exists():
            return ""
        before = json.loads(self.result.read_text()).get("probed_with")
        if before is None:  # a result of an earlier version
            return "the result does not say which labels it was probed with"
        return difference(before, self.probed_with)

    def refuse_mixing(self) -> None:
        """Refuse a folder whose run has other settings or was trained on other data.

        Raises:
            ConfigError: naming what differs.
        """
        there, record = self.folder / "config.toml", self.folder / "trained_on.json"
        differs = ""
        if there.exists():
            differs = difference(config_to_dict(read_config(there)), config_to_dict(self.config))
        if not differs and record.exists():  # runs of earlier versions have none
            before = json.loads(record.read_text())
            changed = [name for name, digest in self.trained_on.items() if before.get(name) != digest]
            differs = f"the {' and the '.join(changed)} changed since it was trained" if changed else ""
        if differs:
            raise ConfigError(f"{self.folder}: holds another run: {differs}; pass another --out, or remove it")

    def make(self) -> None:
        """Train, extract, probe; skip or resume what exists."""
        write_json(self.folder / "trained_on.json", self.trained_on)
        complete(self.config, self.folder)
        results = evaluate_once(
            extractor_of_run(self.folder, "c"),
            read_manifest(self.config.data.manifest),
            read_phone_labels(self.labels),
            {"phone": self.options, "speaker": self.options},
            frames=self.folder / "c",
            resample=self.config.audio.resample,
        )
        phone, speaker = results["phone"], results["speaker"]
        row = {
            "phone": phone.accuracy,
            "speaker": speaker.accuracy,
            "speaker_utterance": speaker.utterance_accuracy,
            "phone_interval": phone.accuracy_interval,
            "seconds": read_checkpoint(self.folder / "last.pt")[1]["seconds"],
            "seed": self.config.seed,
            "max_frames": self.options.max_frames,
            "probed_with": self.probed_with,
        }
        write_json(self.result, row)


def run_ablation(
    table: Ablation,
    out: str | Path,
    *,
    labels: str | Path,
    evaluate: Evaluate = "dev",
    max_frames: int = 30_000,
    jobs: int = 1,
) -> Path:
    """Run what is not finished yet, and write the table.

    Args:
        table: the settings to compare.
        out: folder to write: a run for each row and seed, results.json, table.md, table.png.
        labels: phone labels (`cpc.labels.read_labels`).
        evaluate: split on which the probes are scored; "test" only once nothing is chosen any more.
        max_frames: train frames of each probe.
        jobs: number of runs side by side, each with its share of the cores.

    Returns:
        The path of table.md.

    Raises:
        ValueError: one line; finished runs stay.
    """
    out = Path(out)
    if jobs < 1:
        raise ConfigError(f"jobs: got {jobs}, expected 1 or more")
    runs = _runs(table, out, Path(labels), Options(evaluate=evaluate, max_frames=max_frames, Cs=CS))
    for run in runs:
        run.refuse_mixing()
    waiting = [run for run in runs if run.read() is None]
    if outdated := list(filter(None, (run.outdated() for run in runs))):
        print(f"ablate: {len(outdated)} runs are probed again ({outdated[0]})")
    print(f"ablate: {len(runs)} runs, {len(runs) - len(waiting)} finished, {len(waiting)} to go")
    if jobs == 1:
        for number, run in enumerate(waiting, start=1):
            print(f"== {number} of {len(waiting)}: {run.folder.relative_to(out)}", flush=True)
            run.make()
            _write(table, out, runs)
    elif waiting:
        _run_side_by_side(waiting, jobs, done=lambda: _write(table, out, runs))
    return _write(table, out, runs)


def _runs(table: Ablation, out: Path, labels: Path, options: Options) -> list[_Run]:
    """List the runs of a table; their data are read once here, so that a wrong file is refused at the start."""
    configs = [row.config for row in table.rows]
    if any(not config.data.manifest for config in configs):
        raise ConfigError("data.manifest: got none; pass --manifest, a CSV file made by `cpc manifest`")
    digests: dict[str, str] = {}
    for path in {config.data.manifest for config in configs}:
        read_manifest(path)
        digests[path] = digest_of(Path(path))
    for path in {str(labels), *(config.loss.labels for config in configs if _trains_on_phones(config))}:
        read_labels(path)
        digests[path] = digest_of(Path(path))
    runs = []
    for seed, row in itertools.product(table.seeds, table.rows):
        config = dataclasses.replace(row.config, seed=seed)
        trained_on = {"manifest": digests[config.data.manifest]}
        if _trains_on_phones(config):
            trained_on["labels"] = digests[config.loss.labels]
        probed_with = {
            "manifest": trained_on["manifest"],
            "labels": digests[str(labels)],
            "options": dataclasses.asdict(options),
        }
        runs.append(_Run(config, out / row.folder / f"seed-{seed}", labels, options, trained_on, probed_with))
    return runs


def _trains_on_phones(config: Config) -> bool:
    return config.loss.name in ("supervised", "sup_con") and config.loss.target == "phone"


def _run_side_by_side(runs: Sequence[_Run], jobs: int, done: Callable[[], object]) -> None:
    """Make some runs in parallel; call `done` after each. After an error no further run begins."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=_limit_threads, initargs=(threads,)) as pool:
        queue, num_done = iter(runs), 0
        running = {pool.submit(run.make): run for run in itertools.islice(queue, jobs)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                num_done += 1
                print(f"== {num_done} of {len(runs)} done: {running.pop(future).folder}", flush=True)
                done()
                running |= {pool.submit(run.make): run for run in itertools.islice(queue, 1)}


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _write(table: Ablation, out: Path, runs: Sequence[_Run]) -> Path:
    """Write results.json, table.md and table.png from the finished runs; return the path of table.md."""
    finished = [(run.folder.parent.name, result) for run in runs if (result := run.read())]
    rows = [
        {
            "name": row.name,
            "paper": row.paper,
            "num_updates": row.config.train.num_updates,
            "runs": [result for folder, result in finished if folder == row.folder],
        }
        for row in table.rows
    ]
    write_json(out / "results.json", {"title": table.title, "rows": rows})
    text = f"{_caption(table, runs[0].options.evaluate, rows)}\n\n{_table(rows)}\n"
    write_bytes(out / "table.md", text.encode())
    save_figure(_figure(table.title, rows), out / "table.png")
    return out / "table.md"


def _caption(table: Ablation, evaluate: Evaluate, rows: Sequence[Mapping[str, Any]]) -> str:
    """Say what the table shows, and how long training took."""
    seeds = ", ".join(map(str, table.seeds))
    updates = sorted({row["num_updates"] for row in rows})
    span = f"{updates[0]}{f' to {updates[-1]}' if len(updates) > 1 else ''} updates"
    minutes = [run["seconds"] / 60 for row in rows for run in row["runs"]]
    took = f", {min(minutes):.1f} to {max(minutes):.1f} minutes of training per run" if minutes else ""
    return f"**{table.title}**: accuracy in % on {evaluate}, mean ± standard deviation over seeds {seeds}; {span}{took}"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the rows as Markdown: the mean over seeds with its deviation, beside the paper's value."""
    has_paper = any(row["paper"] is not None for row in rows)
    lines = [["", "phone", *["paper, phone"] * has_paper, "speaker, frame", "speaker, utterance", "runs"]]
    for row in rows:
        phone, *speaker = (
            mean_and_deviation([100 * run[key] for run in row["runs"]])
            for key in ("phone", "speaker", "speaker_utterance")
        )
        paper = "" if row["paper"] is None else f"{row['paper']:.1f}"
        lines.append([row["name"], phone, *[paper] * has_paper, *speaker, str(len(row["runs"]))])
    return markdown_table(lines)


def _figure(title: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the phone accuracy of each run, and the paper's."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    ours = [(100 * run["phone"], i) for i, row in enumerate(rows) for run in row["runs"]]
    paper = [(row["paper"], i) for i, row in enumerate(rows) if row["paper"] is not None]
    axes.plot([x for x, _ in ours], [y for _, y in ours], "o", color="#0072B2", label="ours, one seed")
    if paper:
        axes.plot([x for x, _ in paper], [y for _, y in paper], "|", markersize=14, color="#D55E00", label="paper")
    names = [row["name"] for row in rows]
    axes.set(yticks=range(len(rows)), yticklabels=names, xlabel="phone accuracy, %", title=title)
    axes.invert_yaxis()
    axes.legend()
    return figure
