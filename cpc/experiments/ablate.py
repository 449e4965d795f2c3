"""Ablations: train and probe every row of a table of settings with several seeds, and compare with the paper.

Each row and seed is a run in OUT/<row>/seed-<n>: it is trained, c is extracted, and phones and speakers are probed.
The baselines of the corpus, in OUT/baselines, are probed once for all rows and seeds. Finished runs are skipped and
interrupted ones resume. If the labels or the probes' options have changed, runs are probed again without being trained
again; if the data that they were trained on have changed, they are refused.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpc.config import Config, ConfigError
from cpc.data import read_manifest
from cpc.experiments.measured import Baselines, Measured, Run
from cpc.experiments.parallel import run_side_by_side
from cpc.experiments.settings import Ablation
from cpc.experiments.stages import digest_of
from cpc.files import write_bytes, write_json
from cpc.labels import read_labels
from cpc.probes import Evaluate, Options
from cpc.report import ROWS, latex_table, markdown_table, mean_and_deviation, notes_on, save_figure, tidy_csv

if TYPE_CHECKING:
    from cpc.report import Figure

CS = (0.01, 0.1, 1.0)
COLUMNS = {  # of the table, and of results.json
    "phone, linear": "phone",
    "phone, hidden layer": "phone_mlp",
    "speaker, frame": "speaker",
    "speaker, utterance": "speaker_utterance",
}


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
        out: folder to write: a run for each row and seed, baselines, results.json and results.csv, table.md and
            table.tex, table.png, tradeoff.png.
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
    runs, baselines = _plan(table, out, Path(labels), Options(evaluate=evaluate, max_frames=max_frames, Cs=CS))
    for run in runs:
        run.refuse_mixing()
    waiting = [run for run in runs if run.read() is None]
    if outdated := list(filter(None, (run.outdated() for run in runs))):
        print(f"ablate: {len(outdated)} runs are probed again ({outdated[0]})")
    print(f"ablate: {len(runs)} runs, {len(runs) - len(waiting)} finished, {len(waiting)} to go")
    tasks: list[Measured] = [*(one for one in baselines if one.read() is None), *waiting]

    def done(i: int) -> None:
        print(f"== done: {tasks[i].folder.relative_to(out)}", flush=True)
        _write(table, out, runs, baselines)

    run_side_by_side([task.make for task in tasks], jobs, done=done)
    return _write(table, out, runs, baselines)


def _plan(table: Ablation, out: Path, labels: Path, options: Options) -> tuple[list[Run], list[Baselines]]:
    """List the runs of a table and the baselines of its corpora.

    Their data are read once here, so that a wrong file is refused at the start.
    """
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
    runs: list[Run] = []
    baselines: dict[Path, Baselines] = {}  # by folder, since rows may name different manifests
    for seed, row in itertools.product(table.seeds, table.rows):
        config = dataclasses.replace(row.config, seed=seed)
        manifest = digests[config.data.manifest]
        trained_on = {"manifest": manifest}
        if _trains_on_phones(config):
            trained_on["labels"] = digests[config.loss.labels]
        probed = {"manifest": manifest, "labels": digests[str(labels)]}
        runs.append(Run(config, out / row.folder / f"seed-{seed}", labels, options, probed, trained_on))
        folder = out / "baselines" / f"{manifest[:8]}-{config.audio.sample_rate}"
        baselines.setdefault(folder, Baselines(config, folder, labels, options, probed))
    return runs, list(baselines.values())


def _trains_on_phones(config: Config) -> bool:
    return config.loss.name in ("supervised", "sup_con") and config.loss.target == "phone"


def _write(table: Ablation, out: Path, runs: Sequence[Run], baselines: Sequence[Baselines]) -> Path:
    """Write the results, the tables and the pictures from what is finished; return the path of table.md."""
    finished = [(run.folder.parent.name, result) for run in runs if (result := run.read())]
    rows: list[dict[str, Any]] = [
        {
            "name": row.name,
            "paper": row.paper,
            "num_updates": row.config.train.num_updates,
            "runs": [result for folder, result in finished if folder == row.folder],
        }
        for row in table.rows
    ]
    compared = [
        {
            "name": ROWS[key] + (f" of {one.config.data.manifest}" if len(baselines) > 1 else ""),
            "row": key,
            "accuracies": accuracies,
        }
        for one in baselines
        for key, accuracies in (one.read() or {"rows": {}})["rows"].items()
    ]
    write_json(out / "results.json", {"title": table.title, "baselines": compared, "rows": rows})
    tidy: dict[tuple[str, ...], Any] = {(baseline["name"], ""): baseline["accuracies"] for baseline in compared}
    for row in rows:
        tidy |= {(row["name"], str(run["seed"])): run for run in row["runs"]}
    write_bytes(out / "results.csv", tidy_csv(("row", "seed"), tidy).encode())
    lines = _table(rows, compared)
    write_bytes(out / "table.tex", (latex_table(lines) + "\n").encode())
    parts = [_caption(table, runs[0].options.evaluate, rows), markdown_table(lines)]
    parts.append(notes_on([baseline["row"] for baseline in compared]))
    write_bytes(out / "table.md", ("\n\n".join(filter(None, parts)) + "\n").encode())
    save_figure(_figure(table.title, rows, compared), out / "table.png")
    save_figure(_trade_off(table.title, rows, compared), out / "tradeoff.png")
    return out / "table.md"


def _caption(table: Ablation, evaluate: Evaluate, rows: Sequence[Mapping[str, Any]]) -> str:
    """Say what the table shows, and how long training took."""
    seeds = ", ".join(map(str, table.seeds))
    updates = sorted({row["num_updates"] for row in rows})
    span = f"{updates[0]}{f' to {updates[-1]}' if len(updates) > 1 else ''} updates"
    minutes = [run["seconds"] / 60 for row in rows for run in row["runs"]]
    took = f", {min(minutes):.1f} to {max(minutes):.1f} minutes of training per run" if minutes else ""
    return (
        f"**{table.title}**: accuracy in % on {evaluate}, mean ± standard deviation over seeds {seeds}; {span}{took}. "
        "Speakers are probed with a linear classifier."
    )


def _table(rows: Sequence[Mapping[str, Any]], baselines: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Format the rows' cells: the mean over seeds with its deviation, beside the paper's value."""
    first, *others = COLUMNS
    has_paper = any(row["paper"] is not None for row in rows)
    lines = [["accuracy in %", first, *["paper, phone"] * has_paper, *others, "runs"]]
    for baseline in baselines:
        phone, *rest = (f"{100 * baseline['accuracies'][key]:.1f}" for key in COLUMNS.values())
        lines.append([baseline["name"], phone, *[""] * has_paper, *rest, ""])
    for row in rows:
        phone, *rest = (mean_and_deviation([100 * run[key] for run in row["runs"]]) for key in COLUMNS.values())
        paper = "" if row["paper"] is None else f"{row['paper']:.1f}"
        lines.append([row["name"], phone, *[paper] * has_paper, *rest, str(len(row["runs"]))])
    return lines


def _figure(title: str, rows: Sequence[Mapping[str, Any]], baselines: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the phone accuracy of each run with a linear classifier, the paper's, and the strongest baseline's."""
    from cpc.report import Figure

    figure = Figure(figsize=(7, 1.2 + 0.4 * len(rows)), layout="constrained")
    axes = figure.subplots()
    ours = [(100 * run["phone"], i) for i, row in enumerate(rows) for run in row["runs"]]
    paper = [(row["paper"], i) for i, row in enumerate(rows) if row["paper"] is not None]
    axes.plot([x for x, _ in ours], [y for _, y in ours], "o", color="#0072B2", label="ours, one seed")
    if paper:
        axes.plot([x for x, _ in paper], [y for _, y in paper], "|", markersize=14, color="#D55E00", label="paper")
    for baseline in baselines:
        if baseline["row"] == "spectral":
            accuracy = 100 * baseline["accuracies"]["phone"]
            axes.axvline(accuracy, color="#666666", linestyle="--", linewidth=1, label=baseline["name"])
    names = [row["name"] for row in rows]
    axes.set(yticks=range(len(rows)), yticklabels=names, xlabel="phone accuracy (linear), %", title=title)
    axes.invert_yaxis()
    axes.legend()
    return figure


def _trade_off(title: str, rows: Sequence[Mapping[str, Any]], baselines: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw what each row tells of speakers against what it tells of phones, and the strongest spectral features' lines.

    A point is a row's mean over seeds, and its bars are standard deviations.
    """
    from cpc.report import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    for number, row in enumerate((row for row in rows if row["runs"]), start=1):
        points = [[100 * run[key] for run in row["runs"]] for key in ("phone", "speaker")]
        (x, y), spread = map(statistics.mean, points), [statistics.stdev(p) if len(p) > 1 else 0.0 for p in points]
        colour = f"C{(number - 1) % 10}"
        axes.errorbar(x, y, spread[1], spread[0], fmt="o", color=colour, label=f"{number}  {row['name']}")
        axes.annotate(str(number), (x, y), xytext=(5, 5), textcoords="offset points", color=colour)
    for baseline in baselines:
        if baseline["row"] == "spectral":
            of = baseline["accuracies"]
            axes.axvline(100 * of["phone"], color="#666666", linestyle="--", linewidth=1, label=baseline["name"])
            axes.axhline(100 * of["speaker"], color="#666666", linestyle="--", linewidth=1)
    axes.set(xlabel="phone accuracy (linear), %", ylabel="speaker accuracy by frame (linear), %", title=title)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure
